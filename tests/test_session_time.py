"""The time limits of a session, each total and not per read. On virtual time, with real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from sniproxy.settings import Listener
from tests.support.certificates import NAME, player_context
from tests.support.clocks import relay_clock
from tests.support.gateway import Gateway, Objects, certificate, open_gateway, route
from tests.support.hellos import named
from tests.support.names import resolving
from tests.support.peers import Peer, TlsPeer, game_server
from tests.support.stage import open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 1000  # virtual seconds for one test
SLACK = 50  # milliseconds: a relay that accepts by itself does so in real time
HELLO = named(NAME.encode())
LIMITS: dict[str, Any] = {
    "hello_timeout": 5,
    "handshake_timeout": 10,
    "connect_timeout": 3,
    "idle_timeout": 20,
}  # seconds


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


@asynccontextmanager
async def patient(objects: Objects | None = None) -> AsyncIterator[Gateway]:
    """A gateway with those limits."""
    listener = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
    with trio.fail_after(DEADLINE), resolving({"silent.example": None}):
        async with open_gateway(listener, objects, **LIMITS) as gateway:
            yield gateway


async def trickle(player: Peer, data: bytes) -> None:
    """A byte per second for as long as the other side will have it."""
    for byte in data:
        try:
            await player.send(bytes([byte]))
        except OSError:
            return
        await trio.sleep(1)


@pytest.mark.parametrize("sends", [b"", HELLO[:-1]])
async def test_a_hello_that_does_not_come(sends: bytes) -> None:
    async with patient() as gateway:
        player = gateway.dial()
        await player.send(sends)
        line = await gateway.lines.next()
        assert await player.read_all() == b""
        player.close()
        assert (line["reason"], line["detail"]) == ("hello_timeout", "not complete in 5 s")
        assert line["duration_ms"] == pytest.approx(5000, abs=SLACK)
        assert gateway.closed() == {"hello_timeout": 1}


async def test_a_hello_that_comes_byte_by_byte_has_no_more_time() -> None:
    async with patient() as gateway, trio.open_nursery() as nursery:
        player = gateway.dial()
        nursery.start_soon(trickle, player, HELLO)
        line = await gateway.lines.next()
        nursery.cancel_scope.cancel()
    player.close()
    assert line["reason"] == "hello_timeout"
    assert line["duration_ms"] == pytest.approx(5000, abs=SLACK)


@pytest.mark.parametrize("trickling", [False, True])
async def test_a_handshake_that_is_not_done_in_time(trickling: bool) -> None:
    objects = {"stream_routes/1": route(9, sni=NAME), "ssls/1": certificate()}
    async with patient(objects) as gateway, trio.open_nursery() as nursery:
        player = TlsPeer(gateway.dial().sock, player_context())
        await player.wire.send(player.hello())
        if trickling:
            nursery.start_soon(
                trickle, player.wire, b"\x14\x03\x03\x00\x01\x01\x16\x03\x03\x40\0" * 9
            )
        line = await gateway.lines.next()
        nursery.cancel_scope.cancel()
    player.close()
    assert (line["reason"], line["detail"]) == ("handshake_timeout", "not done in 10 s")
    assert (line["sni"], line["route"], line["tls"]) == (NAME, "1", None)
    assert line["duration_ms"] == pytest.approx(10_000, abs=SLACK)


@pytest.mark.parametrize("by_name", [False, True])
async def test_a_game_server_that_does_not_answer(deaf: tuple[str, int], by_name: bool) -> None:
    host = "silent.example" if by_name else deaf[0]
    objects = {"stream_routes/1": route(deaf[1], host=host, sni=NAME, tls_passthrough=True)}
    async with patient(objects) as gateway:
        player = gateway.dial()
        await player.send(HELLO)
        line = await gateway.lines.next()
        assert await player.read_all() == b""
        player.close()
    assert (line["reason"], line["detail"]) == (
        ("upstream_name", f"{host}: DNS has not answered in 3 s")
        if by_name
        else ("upstream_timeout", f"{host}:{deaf[1]}: no answer in 3 s")
    )
    assert line["duration_ms"] == pytest.approx(3000, abs=SLACK)


@pytest.mark.parametrize(
    ("members", "seconds"), [({}, 20), ({"timeout": {"connect": 1, "send": 7, "read": 5}}, 7)]
)
async def test_a_session_may_be_idle_for_as_long_as_its_upstream_says(
    members: dict[str, Any], seconds: float
) -> None:
    """Or else as the setting says; up to two seconds more, as the relays have it."""
    async with game_server() as game:
        upstream = {"nodes": {f"127.0.0.1:{game.port}": 1}, **members}
        objects = {"stream_routes/1": {"upstream": upstream, "sni": NAME, "tls_passthrough": True}}
        async with patient(objects) as gateway:
            player = gateway.dial()
            await player.send(HELLO)
            line = await gateway.lines.next()
            player.close()
    assert line["reason"] == "idle_timeout"
    assert seconds * 1000 <= line["duration_ms"] <= (seconds + 2) * 1000


@pytest.mark.parametrize("how", ["flowing", "idle", "half closed"])
async def test_a_session_may_last_only_so_long(how: str) -> None:
    """Whatever moves, and up to two seconds more, as the relays have it."""
    async with open_stage() as stage:
        times: dict[str, Any] = {"idle_timeout": 3} if how == "flowing" else {}
        await stage.open(limits={"session_time": 10}, **times)
        player, server = await stage.join()
        async with trio.open_nursery() as nursery:
            if how == "flowing":
                nursery.start_soon(chat, player, server)
            elif how == "half closed":
                await player.end()
            line = await stage.gateway.lines.next()
            nursery.cancel_scope.cancel()
        assert line["reason"] == "session_timeout"
        assert 10_000 <= line["duration_ms"] <= 12_000
        assert (line["bytes_in"] > 9) == (how == "flowing")
        assert await player.read_all() == await server.read_all() == b""


async def chat(player: Peer, server: Peer) -> None:
    """A byte each way now and then, never just when the relay looks at its deadlines."""
    while True:
        await trio.sleep(0.7)
        for one, other in ((player, server), (server, player)):
            await one.send(b"!")
            if not await other.receive():
                return
