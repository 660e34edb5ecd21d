"""Sessions that cannot be set up: each reason, what the player is told, the one line in the log and the counters."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.accounting import Account
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay import Accepted
from sniproxy.session import UNRECOGNIZED_NAME, _introduce, refuse
from sniproxy.settings import Listener
from tests.support.certificates import NAME, player_context
from tests.support.files import open_files, settled_files
from tests.support.gateway import MOVED_BY, Objects, certificate, open_gateway, route
from tests.support.hellos import message, named, padded, record, records
from tests.support.names import resolving
from tests.support.peers import Peer, TlsPeer, tcp_pair

pytestmark = pytest.mark.anyio

DEADLINE = 10  # seconds for one test, for when something hangs
MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
TERMINATE = Listener(address="127.0.0.1:0", tls=True)
PASSTHROUGH = Listener(address="127.0.0.1:0", tls_passthrough=True)
PLAIN = Listener(address="127.0.0.1:0")
HELLO = named(NAME.encode())
TIMES = {"started", "duration_ms", "hello_ms"}
VOLATILE = {"event", "level", "session", "client", "detail", *TIMES}


@dataclass(frozen=True)
class Case:
    """What a player sends, and how the session must end. Objects with a port of None: where nobody listens."""

    name: str
    says: bytes
    reason: CloseReason
    detail: str
    objects: Objects = field(default_factory=dict)
    listener: Listener = MIXED
    told: bytes = b""
    then: str = "waits"  # or: ends, resets
    members: Mapping[str, Any] = field(default_factory=dict)  # of the line, where they are not None


PASSED: dict[str, Any] = {"sni": NAME, "route": "1", "tls": "passthrough"}
PASS: dict[str, Any] = {"sni": NAME, "tls_passthrough": True}

CASES = [
    Case("half a hello", HELLO[:40], CloseReason.HELLO_ABANDONED, "closed", then="ends"),
    Case("reset", HELLO[:40], CloseReason.HELLO_ABANDONED, "reset by peer", then="resets"),
    Case("HTTP", b"GET / HTTP/1.1\r\n\r\n", CloseReason.HELLO_NOT_TLS, "not_tls_http: "),
    Case("SSH", b"SSH-2.0-OpenSSH_9.9\r\n", CloseReason.HELLO_NOT_TLS, "not_tls_ssh: "),
    Case("noise", bytes(range(200, 250)), CloseReason.HELLO_NOT_TLS, "not_tls_"),
    Case("noise on TLS only", b"\0" * 9, CloseReason.HELLO_NOT_TLS, "not_tls_", listener=TERMINATE),
    Case("alert first", UNRECOGNIZED_NAME, CloseReason.HELLO_BROKEN, "record_type: "),
    Case("bad name", named(b"a\nb\x1b[2J"), CloseReason.HELLO_BROKEN, "name_characters: "),
    Case(
        "no hello",
        record(b"\x02" + bytes(40)),
        CloseReason.HELLO_BROKEN,
        "handshake_type: ",
        listener=PASSTHROUGH,
    ),
    Case(
        "too long",
        records(padded(16 * 1024 + 1), (2000,))[:2000],
        CloseReason.HELLO_TOO_LARGE,
        "too_large: ",
    ),
    Case(
        "no objects",
        HELLO,
        CloseReason.NO_ROUTE,
        "",
        told=UNRECOGNIZED_NAME,
        members={"sni": NAME},
    ),
    Case(
        "no name",
        record(message()),
        CloseReason.NO_ROUTE,
        "",
        {"stream_routes/1": route(None, sni=NAME)},
        PASSTHROUGH,
        told=UNRECOGNIZED_NAME,
    ),
    Case("plain, other port", b"", CloseReason.NO_ROUTE, "", listener=PLAIN),
    Case(
        "no certificate",
        HELLO,
        CloseReason.NO_CERTIFICATE,
        "",
        {"stream_routes/1": route(9, sni=NAME), "ssls/1": certificate("other.example.com")},
        told=UNRECOGNIZED_NAME,
        members={"sni": NAME, "route": "1"},
    ),
    Case(
        "no certificate, TLS only",
        HELLO,
        CloseReason.NO_CERTIFICATE,
        "",
        {"stream_routes/1": route(9, **PASS)},
        TERMINATE,
        told=UNRECOGNIZED_NAME,
        members={"sni": NAME, "route": "1"},
    ),
    Case(
        "no upstream",
        HELLO,
        CloseReason.NO_UPSTREAM,
        "the route has no upstream, or what it names is not there",
        {"stream_routes/1": route(None, **PASS)},
        members=PASSED,
    ),
    Case(
        "an upstream that is not there",
        HELLO,
        CloseReason.NO_UPSTREAM,
        "the route has no upstream, or what it names is not there",
        {"stream_routes/1": route(None, upstream_id="gone", **PASS)},
        members=PASSED,
    ),
    Case(
        "weight 0",
        HELLO,
        CloseReason.NO_UPSTREAM,
        "no node with a weight above 0",
        {"stream_routes/1": {"upstream": {"nodes": {"127.0.0.1:9": 0}}, **PASS}},
        members=PASSED,
    ),
    Case(
        "nobody listens",
        HELLO,
        CloseReason.UPSTREAM_REFUSED,
        ": Connection refused",
        {"stream_routes/1": route(1, host="127.0.0.77", **PASS)},
        members=PASSED,
    ),
    Case(
        "nobody listens, plain",
        b"",
        CloseReason.UPSTREAM_REFUSED,
        ": Connection refused",
        {"stream_routes/1": route(1, host="127.0.0.77")},
        PLAIN,
        members={"route": "1"},
    ),
    Case(
        "where nobody may be connected to",
        HELLO,
        CloseReason.UPSTREAM_DENIED,
        "169.254.169.254:80: 169.254.169.254: link-local",
        {"stream_routes/1": route(80, host="169.254.169.254", **PASS)},
        members=PASSED,
    ),
    Case(
        "unknown name",
        HELLO,
        CloseReason.UPSTREAM_NAME,
        "gone.example: DNS knows no such name (NXDOMAIN): correct the name in the upstream",
        {"stream_routes/1": route(9, host="gone.example", **PASS)},
        members=PASSED,
    ),
    Case(
        "no handshake",
        HELLO + record(b"\x02\x50", kind=21),
        CloseReason.HANDSHAKE_FAILED,
        "no shared cipher" if MOVED_BY == "trio" else "sent alert ",
        {"stream_routes/1": route(9, sni=NAME), "ssls/1": certificate()},
        told=b"...",
        members={"sni": NAME, "route": "1"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_session_that_cannot_be_set_up(case: Case) -> None:
    with trio.fail_after(DEADLINE), resolving({}):
        async with open_gateway(case.listener, case.objects, max_hello=16 * 1024) as gateway:
            player = gateway.dial()
            client = "{}:{}".format(*player.sock.getsockname())
            await player.send(case.says)
            if case.then == "ends":
                await player.end()
            elif case.then == "resets":
                await trio.testing.wait_all_tasks_blocked()
                player.reset()
            line = await gateway.lines.next()
            if case.then != "resets":
                told = await player.read_all()
                assert told == case.told or (case.told == b"..." and told)
            player.close()
            assert gateway.lines.sessions == [line]
            assert line["client"] == client
            assert line["reason"] == case.reason
            assert case.detail in line.get("detail", "")
            assert bool(case.detail) == ("detail" in line)
            assert_members(line, case)
            assert gateway.closed() == {case.reason: 1}
            assert gateway.counted() == {"opened": 1, "active": 0, "in": 0, "out": 0}


def assert_members(line: Mapping[str, Any], case: Case) -> None:
    """Whether the line says what was known when the session ended, no less and no more."""
    expected = {
        "reason": case.reason.value,
        "listener": "127.0.0.1:0",
        **dict.fromkeys(("sni", "alpn", "route", "node", "node_address", "source", "tls")),
        "bytes_in": 0,
        "bytes_out": 0,
        **case.members,
    }
    assert {name: line[name] for name in line if name not in VOLATILE} == expected


@pytest.mark.parametrize("listener", [MIXED, TERMINATE, PASSTHROUGH])
async def test_a_real_client_learns_that_its_name_is_unknown(listener: Listener) -> None:
    with trio.fail_after(DEADLINE):
        async with open_gateway(listener) as gateway:
            player = TlsPeer(gateway.dial().sock, player_context())
            with pytest.raises(OSError, match=r"(?i)unrecognized.name"):
                await player.handshake()
            player.close()


class Defective:
    """A relay with a defect."""

    name = "defective"
    front = None

    def settle(self, *_: object) -> None:
        raise NotImplementedError

    async def accept_tls(self, *_: object) -> Any:
        raise ZeroDivisionError("a\nb\x1b[31m")

    connect_tls = accept_tls

    def drain(self, *_: object) -> None:
        raise NotImplementedError

    undrain = drain

    def shed(self) -> int:
        raise NotImplementedError

    held = shed

    def start(self, *_: object) -> Any:
        raise ZeroDivisionError("not reached")


async def test_a_defect_of_ours_ends_one_session_and_is_logged_with_its_traceback() -> None:
    objects = {"stream_routes/1": route(9, sni=NAME), "ssls/1": certificate()}
    with trio.fail_after(DEADLINE):
        async with open_gateway(TERMINATE, objects, relay=Defective()) as gateway:
            for turn in (1, 2):
                player = gateway.dial()
                await player.send(HELLO)
                line = await gateway.lines.next()
                assert await player.read_all() == b""
                player.close()
                assert line["reason"] == "internal_error"
                assert "ZeroDivisionError" in line["detail"]
                assert gateway.closed() == {CloseReason.INTERNAL_ERROR: turn}
            assert gateway.worker.limits.active == 0
            failed = [line for line in gateway.lines.all if line["event"] == "session failed"]
            sessions = [line["session"] for line in gateway.lines.sessions]
    assert [line["session"] for line in failed] == sessions
    assert all(line["level"] == "error" and line["exception"] for line in failed)


async def test_a_shutdown_ends_what_is_being_set_up() -> None:
    with trio.fail_after(DEADLINE):
        async with open_gateway() as gateway:
            player = gateway.dial()
            await player.send(HELLO[:100])
            while not gateway.counted()["opened"]:
                await trio.testing.wait_all_tasks_blocked()
        assert await player.read_all() == b""
        player.close()
    (line,) = gateway.lines.sessions
    assert line["reason"] == "shutdown"
    assert gateway.closed() == {CloseReason.SHUTDOWN: 1}
    assert gateway.counted() == {"opened": 1, "active": 0, "in": 0, "out": 0}


async def test_a_connection_that_may_not_be_served_is_closed_and_counted() -> None:
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as listening:
        async with open_gateway() as gateway:
            player = socket.create_connection(listening.getsockname())
            sock, peer = listening.accept()
            gateway.worker.metrics.counts.opened += 1
            gateway.worker.limits.enter()
            accepted = Accepted(MIXED, sock, peer, trio.current_time())
            refuse(gateway.worker, accepted, CloseReason.SESSION_LIMIT)
            with player:
                assert player.recv(1) == b""
            line = await gateway.lines.next()
            assert line["reason"] == "session_limit"
            assert gateway.closed() == {CloseReason.SESSION_LIMIT: 1}
            assert gateway.counted() == {"opened": 1, "active": 0, "in": 0, "out": 0}


async def test_no_descriptor_is_left_after_sessions_that_were_not_set_up() -> None:
    objects = {
        "stream_routes/1": route(9, **PASS),
        "stream_routes/2": route(9, sni="tls.example.com"),
        "ssls/1": certificate(),
    }
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, objects) as gateway:
            await trio.testing.wait_all_tasks_blocked()  # it listens
            before = settled_files()
            for case in CASES * 3:
                player = gateway.dial()
                await player.send(case.says or b"\0")
                await player.end()
                await gateway.lines.next()
                player.close()
            await trio.testing.wait_all_tasks_blocked()
            assert open_files() == before


async def test_a_proxy_header_that_does_not_arrive() -> None:
    sock, upstream = tcp_pair()
    Peer(sock).reset()
    with trio.fail_after(DEADLINE), upstream:
        await trio.lowlevel.wait_readable(upstream)
        where = ("127.0.0.1", 1)
        with pytest.raises(SessionEnded, match="upstream_reset: "):
            await _introduce(upstream, "v1", where, where, Account("", "", 0.0))
