"""Sessions that are set up: what reaches the game server, over every kind of listener, and what is said of it."""

import io
import json
import socket
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.logs import open_log
from sniproxy.networks import peer_text
from sniproxy.relay import Accepted
from sniproxy.session import serve
from sniproxy.settings import Listener
from sniproxy.worker_state import Worker
from tests.support.certificates import NAME, player_context
from tests.support.gateway import Gateway, certificate, open_gateway, route
from tests.support.hellos import message, named, post_quantum, record, records, server_name
from tests.support.peers import Peer, TlsPeer, game_server

pytestmark = pytest.mark.anyio

DEADLINE = 10  # seconds for one test, for when something hangs
MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
TERMINATE = Listener(address="127.0.0.1:0", tls=True)
PASSTHROUGH = Listener(address="127.0.0.1:0", tls_passthrough=True)
PLAIN = Listener(address="127.0.0.1:0")

HELLO = named(b"not.looked.at")


def objects(port: int, **members: Any) -> dict[str, dict[str, Any]]:
    """One route and a certificate for it."""
    return {"stream_routes/1": route(port, **members), "ssls/1": certificate()}


@pytest.mark.parametrize(
    "hello",
    [
        named(NAME.encode()),
        post_quantum(NAME.encode()),
        records(message([server_name(NAME.upper().encode() + b".")]), (1, 2, 30)),
        record(message([server_name(NAME.encode())]), version=0x0303),
    ],
    ids=["plain", "post-quantum", "split and upper case", "other record version"],
)
@pytest.mark.parametrize("cut", [1, 7, 1 << 20], ids=["by bytes", "by sevens", "whole"])
async def test_a_hello_is_passed_through_byte_for_byte(hello: bytes, cut: int) -> None:
    """And what comes behind it, in the same segment or later."""
    sent = hello + b"early data" * 50
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            wanted = objects(game.port, sni=NAME, tls_passthrough=True)
            async with open_gateway(MIXED, wanted) as gateway:
                player = gateway.dial()
                for start in range(0, len(sent), cut):
                    await player.send(sent[start : start + cut])
                assert await player.read(len(sent)) == sent
                await player.send(b"and on")
                assert await player.read(6) == b"and on"
                await player.end()
                assert await player.read_all() == b""
                line = await gateway.lines.next()
                player.close()
            assert game.heard == [sent + b"and on"]
    assert (line["reason"], line["tls"], line["sni"]) == ("client_closed", "passthrough", NAME)


@pytest.mark.parametrize("cut", [1, 1 << 20], ids=["by bytes", "whole"])
async def test_a_terminated_stream_reaches_the_server_in_clear(cut: int) -> None:
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            async with open_gateway(MIXED, objects(game.port, sni=NAME)) as gateway:
                player = await join(gateway, cut=cut)
                await player.send(b"hello, game")
                assert await player.read(11) == b"hello, game"
                await player.end()
                assert await player.read_all() == b""
                assert player.goodbye
                line = await gateway.lines.next()
                player.close()
            assert game.heard == [b"hello, game"]
    assert (line["reason"], line["tls"]) == ("client_closed", "TLSv1.3")


async def join(gateway: Gateway, *, cut: int = 1 << 20) -> TlsPeer:
    """A player over TLS, whose hello comes in pieces of `cut` bytes."""
    player = TlsPeer(gateway.dial().sock, player_context())
    hello = player.hello()
    for start in range(0, len(hello), cut):
        await player.wire.send(hello[start : start + cut])
    await player.handshake()
    return player


async def test_the_line_and_the_counters_of_a_session_that_was_played() -> None:
    with trio.fail_after(DEADLINE):
        async with (
            game_server() as game,
            open_gateway(TERMINATE, objects(game.port, sni=NAME)) as gateway,
        ):
            player = await join(gateway)
            await player.send(bytes(1000))
            await player.read(1000)
            played = {"opened": 1, "active": 1, "in": 1000, "out": 1000}
            while gateway.counted() != played:  # noqa: ASYNC110  # a thread of the relay counts
                await trio.sleep(0.001)
            assert gateway.lines.all == []
            await player.end()
            line = await gateway.lines.next()
            client = "{}:{}".format(*player.sock.getsockname())
            player.close()
            assert gateway.counted() == {"opened": 1, "active": 0, "in": 1000, "out": 1000}
            assert gateway.closed() == {"client_closed": 1}
            assert gateway.lines.all == [line]
    durations = [line.pop(f"{name}_ms") for name in ("hello", "handshake", "connect", "duration")]
    assert all(duration >= 0 for duration in durations)
    assert sum(durations[:3]) <= durations[3] + 0.01
    assert len(line.pop("session")) == 16
    assert line.pop("started").endswith("Z")
    assert line.pop("source").startswith("127.0.0.1:")
    assert line == {
        "event": "session",
        "level": "info",
        "reason": "client_closed",
        "client": client,
        "listener": "127.0.0.1:0",
        "sni": NAME,
        "alpn": None,
        "route": "1",
        "node": f"127.0.0.1:{game.port}",
        "node_address": f"127.0.0.1:{game.port}",
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "resumed": False,
        "bytes_in": 1000,
        "bytes_out": 1000,
    }


@pytest.mark.parametrize(
    ("listener", "asked", "tls"),
    [
        (MIXED, True, "passthrough"),
        (MIXED, False, "TLSv1.3"),
        (TERMINATE, True, "TLSv1.3"),
        (TERMINATE, False, "TLSv1.3"),
        (PASSTHROUGH, True, "passthrough"),
        (PASSTHROUGH, False, "passthrough"),
    ],
)
async def test_the_route_decides_where_the_listener_offers_both(
    listener: Listener, asked: bool, tls: str
) -> None:
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            wanted = objects(game.port, sni=NAME, tls_passthrough=asked)
            async with open_gateway(listener, wanted) as gateway:
                player = TlsPeer(gateway.dial().sock, player_context())
                hello = player.hello()
                await player.wire.send(hello)
                if tls == "passthrough":  # it gets its own hello back
                    assert await player.wire.read(len(hello)) == hello
                else:
                    await player.handshake()
                player.close()
                line = await gateway.lines.next()
    assert line["tls"] == tls


async def test_a_listener_for_plain_tcp_reads_nothing_and_routes_by_address() -> None:
    """A ClientHello is bytes like any other."""
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            wanted = objects(game.port, remote_addr="127.0.0.0/8")
            async with open_gateway(PLAIN, wanted) as gateway:
                player = gateway.dial()
                await player.send(HELLO)
                assert await player.read(len(HELLO)) == HELLO
                player.close()
                line = await gateway.lines.next()
    assert (line["sni"], line["route"], line["tls"]) == (None, "1", None)
    assert "hello_ms" not in line


@pytest.mark.parametrize(
    ("address", "host", "remote_addr", "client"),
    [
        ("[::1]:0", "::1", "::1", "[::1]:"),
        ("[::1]:0", "::1", "::/0", "[::1]:"),
        ("[::]:0", "127.0.0.1", "127.0.0.0/8", "127.0.0.1:"),
        ("[::]:0", "::1", "::1/128", "[::1]:"),
        ("0.0.0.0:0", "127.0.0.1", "127.0.0.1", "127.0.0.1:"),
    ],
)
async def test_addresses_of_both_families(
    address: str, host: str, remote_addr: str, client: str
) -> None:
    """A player over IPv4 is one, also on a socket that takes both."""
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            wanted = objects(game.port, remote_addr=remote_addr, server_addr=remote_addr)
            async with open_gateway(Listener(address=address), wanted) as gateway:
                player = gateway.dial(host)
                await player.send(b"x")
                assert await player.read(1) == b"x"
                player.close()
                line = await gateway.lines.next()
    assert line["client"].startswith(client)


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1]:80"),
    ],
)
def test_a_players_address_as_text(peer: tuple[Any, ...], text: str) -> None:
    assert peer_text(peer) == text


async def test_a_node_without_a_port_gets_the_one_that_the_player_chose() -> None:
    """Here the server is on another address, where that port is free."""
    with trio.fail_after(DEADLINE):
        wanted = {"stream_routes/1": {"upstream": {"nodes": {"127.0.0.2": 1}}}}
        async with open_gateway(PLAIN, wanted) as gateway:
            with socket.create_server(("127.0.0.2", gateway.address[1])) as listening:
                player = gateway.dial()
                await trio.lowlevel.wait_readable(listening)
                listening.accept()[0].close()
                player.close()
                line = await gateway.lines.next()
    assert line["node"] == f"127.0.0.2:{gateway.address[1]}"


class Defective:
    """A relay whose defect has a client's control characters in its message."""

    name = "defective"
    front = None

    def settle(self, *_: object) -> None:
        raise NotImplementedError

    async def accept_tls(self, *_: object) -> Any:
        raise ValueError('a\nb\r\n{"event": "forged"}\x1b[31m\u2028\0')

    connect_tls = accept_tls

    def drain(self, *_: object) -> None:
        raise NotImplementedError

    undrain = drain

    def shed(self) -> int:
        raise NotImplementedError

    held = shed

    def start(self, *_: object) -> Any:
        raise NotImplementedError


async def test_control_characters_do_not_leave_their_line() -> None:
    out = io.StringIO()
    log = open_log("proxy", out)
    with trio.fail_after(DEADLINE):
        async with open_gateway(
            TERMINATE, objects(9, sni=NAME), relay=Defective(), log=log
        ) as gateway:
            for hello in (named(b"a\nb\x1b[31m\0"), b"\n\r\x1b[2J\n", named(NAME.encode())):
                player = gateway.dial()
                await player.send(hello)
                assert await player.read_all() == b""
                player.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["session"] * 2 + ["session failed", "session"]
    assert [line.get("reason") for line in lines] == [
        "hello_broken",
        "hello_not_tls",
        None,
        "internal_error",
    ]
    assert not set(out.getvalue()) & set("\x1b\0\r\u2028")


async def test_a_shutdown_ends_sessions_that_the_relay_has() -> None:
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            async with open_gateway(PLAIN, objects(game.port)) as gateway:
                player: Peer = gateway.dial()
                await player.send(b"x")
                assert await player.read(1) == b"x"
            assert await player.read_all() == b""
            player.close()
    (line,) = gateway.lines.sessions
    assert (line["reason"], line["bytes_in"], line["bytes_out"]) == ("shutdown", 1, 1)


async def test_players_who_came_together_are_not_asked_together_whether_they_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = list[int]()

    async def note(worker: Worker, accepted: Accepted) -> None:
        found.append(accepted.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        await serve(worker, accepted)

    monkeypatch.setattr("sniproxy.reception.serve", note)
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, objects(9, sni="somebody.else")) as gateway:
            players = [gateway.dial() for _ in range(80)]
            for player in players:
                await player.send(HELLO)
                await gateway.lines.next()
                player.close()
    assert len(found) == 80
    assert min(found) >= 240
    assert max(found) <= 300
    assert len(set(found)) > 10
