"""What stays of those who were refused, over real sockets: a log line now and then, and their first flights.

On virtual time.
"""

from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from sniproxy.proxy_protocol import encode_local_v2, encode_v1
from sniproxy.refusals import NOT_TLS_KEPT, OVERHEAD, PROXY_KEPT
from sniproxy.settings import Listener
from tests.support.certificates import NAME
from tests.support.clocks import relay_clock
from tests.support.gateway import Gateway, Objects, certificate, route
from tests.support.hellos import named, record
from tests.support.stage import HELLO, MIXED, PROXIED, PROXIED_TLS, Stage, open_stage

pytestmark = pytest.mark.anyio

HEADER = encode_v1(("192.0.2.7", 4242), ("198.51.100.1", 443))
BROKEN = named(b"a\nb\x1b[2J")
UNKNOWN = named(b"nobody.example.com")
PASSWORD = b"hunter2"
HTTP = b"POST / HTTP/1.1\r\nhost: play.example.com\r\nauthorization: Basic xyz\r\n\r\n" + PASSWORD
ALERT = record(b"\x02\x50", kind=21)
NOT_ME = {"ip-restriction": {"blacklist": ["127.0.0.0/8", "192.0.2.0/24"]}}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


def denying(listener: Listener, network: str) -> Listener:
    """The same, for all but that network."""
    return Listener(**{**listener.model_dump(), "deny": (network,)})


async def turned_away(stage: Stage, says: bytes, times: int = 1, **where: str) -> None:
    """Players who say that, one after another; whether there is a line for them or not."""
    for _ in range(times):
        player = await stage.dial(says, **where)
        await player.read_all()


def told(gateway: Gateway) -> list[tuple[str, int]]:
    """Reason and `left_out` of every line."""
    return [(line["reason"], line.get("left_out", 0)) for line in gateway.lines.sessions]


async def test_a_flood_of_one_reason_is_one_line_per_interval() -> None:
    """Each is counted; the next line says how many had none."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_log_interval=5)
        await turned_away(stage, UNKNOWN, 5)
        assert told(gateway) == [("no_route", 0)]
        assert "left_out" not in gateway.lines.sessions[0]
        assert gateway.closed() == {"no_route": 5}
        await trio.sleep(4)
        await turned_away(stage, UNKNOWN)
        assert told(gateway) == [("no_route", 0)]
        await trio.sleep(1)
        await turned_away(stage, UNKNOWN, 2)
        assert told(gateway) == [("no_route", 0), ("no_route", 5)]
        await trio.sleep(5)
        await turned_away(stage, UNKNOWN)
        assert told(gateway)[2:] == [("no_route", 1)]
        await trio.sleep(5)
        await turned_away(stage, UNKNOWN)
        assert told(gateway)[3:] == [("no_route", 0)]
        assert gateway.closed() == {"no_route": 10}


async def test_five_refusals_then_one_more_after_the_interval() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_log_interval=5)
        await turned_away(stage, HTTP, 5)
        await trio.sleep(5)
        await turned_away(stage, HTTP)
        assert told(gateway) == [("hello_not_tls", 0), ("hello_not_tls", 4)]
        assert gateway.closed() == {"hello_not_tls": 6}


async def test_each_reason_has_lines_of_its_own() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_log_interval=5)
        for says in (UNKNOWN, BROKEN, UNKNOWN, HTTP, BROKEN, UNKNOWN):
            await turned_away(stage, says)
        assert told(gateway) == [("no_route", 0), ("hello_broken", 0), ("hello_not_tls", 0)]
        assert gateway.closed() == {"no_route": 3, "hello_broken": 2, "hello_not_tls": 1}
        await trio.sleep(5)
        for says in (HTTP, BROKEN, UNKNOWN):
            await turned_away(stage, says)
        assert told(gateway)[3:] == [("hello_not_tls", 0), ("hello_broken", 1), ("no_route", 2)]


async def test_only_refusals_are_left_out() -> None:
    """Served sessions, and failures on our side of the door, have a line each."""
    objects = {"stream_routes/1": route(1, host="127.0.0.77", sni=NAME, tls_passthrough=True)}
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, objects, refused_log_interval=3600)
        for _ in range(3):
            await stage.refused(HELLO)
        assert told(gateway) == [("upstream_refused", 0)] * 3
        stage.change({"stream_routes/1": route(stage.port, tls_passthrough=True)})
        for _ in range(3):
            await stage.leave(*await stage.join(HELLO))
        assert told(gateway)[3:] == [("client_closed", 0)] * 3


async def test_without_an_interval_every_refusal_has_its_line() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_log_interval=0)
        await turned_away(stage, UNKNOWN, 5)
        assert told(gateway) == [("no_route", 0)] * 5


async def test_a_line_that_was_left_out_does_not_leave_its_first_flight_out() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_log_interval=5)
        await turned_away(stage, UNKNOWN, 3)
        assert [one.flight for one in gateway.worker.recorder] == [UNKNOWN] * 3


def routes(stage: Stage) -> Objects:
    """One that terminates TLS, one that passes it through, one that lets nobody in."""
    return {
        "stream_routes/1": route(stage.port, sni=NAME),
        "stream_routes/2": route(stage.port, sni="pass.example.com", tls_passthrough=True),
        "stream_routes/3": route(9, sni="private.example.com", plugins=NOT_ME),
        "stream_routes/4": route(9, sni="uncertified.example.com"),
        "ssls/1": certificate(),
    }


# What is said, why it is refused, what is kept of it and the name in it.
RECORDED: list[tuple[bytes, CloseReason, bytes, str | None]] = [
    (BROKEN, CloseReason.HELLO_BROKEN, BROKEN, None),
    (UNKNOWN, CloseReason.NO_ROUTE, UNKNOWN, "nobody.example.com"),
    (HTTP, CloseReason.HELLO_NOT_TLS, HTTP[:NOT_TLS_KEPT], None),
    (HELLO + ALERT, CloseReason.HANDSHAKE_FAILED, HELLO + ALERT, NAME),
    (HELLO[:40], CloseReason.HELLO_TIMEOUT, HELLO[:40], None),
    (
        named(b"private.example.com") + b"early",
        CloseReason.ADDRESS_DENIED,
        named(b"private.example.com") + b"early",
        "private.example.com",
    ),
    (
        named(b"uncertified.example.com"),
        CloseReason.NO_CERTIFICATE,
        named(b"uncertified.example.com"),
        "uncertified.example.com",
    ),
]


@pytest.mark.parametrize("header", [b"", HEADER], ids=["direct", "behind a balancer"])
async def test_the_first_flights_of_the_refused_are_kept_newest_first(header: bytes) -> None:
    """As they came, without the header of the balancer; of what is no TLS no more than shows what it is."""
    async with open_stage() as stage:
        gateway = await stage.open(PROXIED_TLS if header else MIXED, routes(stage))
        for says, reason, _, _ in RECORDED:
            await turned_away(stage, header + says)
            assert gateway.lines.sessions[-1]["reason"] == reason
        kept = list(gateway.worker.recorder)
        assert [(one.reason, one.flight, one.sni) for one in reversed(kept)] == [
            (reason, flight, sni) for _, reason, flight, sni in RECORDED
        ]
        for one, line in zip(reversed(kept), gateway.lines.sessions, strict=True):
            assert one.session == line["session"]
            assert (one.client, one.listener) == (line["client"], line["listener"])
            assert one.detail == line.get("detail", "")
            assert gateway.worker.recorder.flight(one.session) == one.flight
        assert all(one.client == "192.0.2.7:4242" for one in kept) == bool(header)
        assert all(PASSWORD not in one.flight for one in kept)


@pytest.mark.parametrize(
    ("says", "reason", "kept"),
    [
        (HELLO, CloseReason.PROXY_BROKEN, HELLO),
        (b"PROXY " + bytes(1000), CloseReason.PROXY_BROKEN, (b"PROXY " + bytes(1000))[:PROXY_KEPT]),
        (HEADER[:-1], CloseReason.HELLO_TIMEOUT, HEADER[:-1]),
        (HEADER + HELLO[:9], CloseReason.HELLO_TIMEOUT, HELLO[:9]),
        (HEADER * 2, CloseReason.HELLO_NOT_TLS, HEADER[:NOT_TLS_KEPT]),
    ],
)
async def test_what_is_kept_of_proxy_headers(says: bytes, reason: CloseReason, kept: bytes) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(PROXIED_TLS, {})
        await turned_away(stage, says)
        (one,) = gateway.worker.recorder
        assert (one.reason, one.flight) == (reason, kept)


async def test_a_hello_that_was_given_up_is_kept() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        player = await stage.dial(HELLO[:40])
        await player.end()
        await gateway.lines.next()
        (one,) = gateway.worker.recorder
        assert (one.reason, one.flight) == (CloseReason.HELLO_ABANDONED, HELLO[:40])


async def test_nothing_is_kept_of_those_who_are_served_or_say_nothing() -> None:
    listener = denying(PROXIED_TLS, "127.0.0.3")
    async with open_stage() as stage:
        gateway = await stage.open(listener, routes(stage), trusted=("127.0.0.1", "127.0.0.3"))
        local = encode_local_v2()
        await stage.leave(*await stage.join(named(b"pass.example.com"), header=HEADER))
        for says, source in ((b"", None), (local, None), (local, "127.0.0.3")):
            prober = await stage.dial(says, **({"source": source} if source else {}))
            await prober.end()
            assert await prober.read_all() == b""
        assert (await stage.refused(source="127.0.0.2"))["reason"] == "proxy_untrusted"
        assert (await stage.refused(header=HEADER))["reason"] == "hello_timeout"
        assert list(gateway.worker.recorder) == []
        refused = {"proxy_untrusted": 1, "hello_timeout": 1}
        assert gateway.closed() == {"client_closed": 1, "probe": 3, **refused}


async def test_nothing_is_kept_of_a_session_that_failed_on_our_side_of_the_door() -> None:
    """Its hello was sound and led to a route: the log says what went wrong."""
    objects = {
        "stream_routes/1": route(None, sni=NAME, tls_passthrough=True),
        "stream_routes/2": route(1, host="127.0.0.77", tls_passthrough=True),
    }
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, objects)
        for says in (HELLO, UNKNOWN):
            await turned_away(stage, says)
        assert gateway.closed() == {"no_upstream": 1, "upstream_refused": 1}
        assert list(gateway.worker.recorder) == []


@pytest.mark.parametrize("kept", [0, OVERHEAD + len(UNKNOWN), 2 * (OVERHEAD + len(UNKNOWN))])
async def test_no_more_is_kept_than_the_setting_says(kept: int) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {}, refused_kept=kept)
        await turned_away(stage, UNKNOWN, 4)
        sessions = [line["session"] for line in gateway.lines.sessions]
        room = kept // (OVERHEAD + len(UNKNOWN))
        newest = sessions[len(sessions) - room :]
        assert [one.session for one in gateway.worker.recorder] == newest[::-1]


@pytest.mark.parametrize(
    ("listener", "objects"),
    [
        (denying(PROXIED_TLS, "192.0.2.0/24"), {}),
        (denying(PROXIED, "192.0.2.0/24"), {}),
        (PROXIED, {"stream_routes/1": route(9, plugins=NOT_ME)}),
        (PROXIED, {}),
    ],
    ids=["listener for TLS", "listener for plain TCP", "route", "no route"],
)
async def test_what_is_no_tls_is_shortened_whatever_it_was_refused_for(
    listener: Listener, objects: Objects
) -> None:
    """What came in one segment with the balancer's header has been read by then, and may be a password in clear."""
    async with open_stage() as stage:
        gateway = await stage.open(listener, objects)
        player = await stage.dial(HEADER + HTTP)
        await gateway.lines.next()
        player.close()
        assert gateway.closed() in ({"address_denied": 1}, {"no_route": 1})
        assert all(len(one.flight) <= NOT_TLS_KEPT for one in gateway.worker.recorder)
        assert all(PASSWORD not in one.flight for one in gateway.worker.recorder)
