"""Game servers that are not well, over real sockets: left out, tried again, and asked all the same where nobody else is.

On virtual time, which may jump by half a second whenever the machine is slow: so times are longer than they are.
"""

import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from tests.support.clocks import relay_clock
from tests.support.gateway import Objects
from tests.support.peers import Peer, deaf_server, game_server
from tests.support.stage import Stage, open_stage

pytestmark = pytest.mark.anyio

OPEN_FOR = 16.0  # seconds
EARLY = 8.0
CONNECT = 3.0  # seconds until a silent game server is given up


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.02)}


@pytest.fixture(autouse=True)
def _long_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sniproxy.health.OPEN_FOR", OPEN_FOR)
    monkeypatch.setattr("sniproxy.health.EARLY", EARLY)
    gc.collect()  # what is open in other tests is still counted until then


@pytest.fixture
def down() -> Iterator[socket.socket]:
    """A game server that refuses, until it listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


async def accept(listening: socket.socket) -> Peer:
    """The game server's side of the next session there."""
    await trio.lowlevel.wait_readable(listening)
    sock, _ = listening.accept()
    sock.setblocking(False)
    return Peer(sock)


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def leading_to(*ports: int, checks: dict[str, Any] | None, **members: Any) -> Objects:
    """A route for everybody to the first of these that takes sessions. `checks`: those by sessions; None: no checks."""
    nodes = [
        {"host": "127.0.0.1", "port": port, "weight": 1, "priority": -place}
        for place, port in enumerate(ports)
    ]
    upstream = {"nodes": nodes, **members}
    if checks is not None:
        upstream["checks"] = {"active": {"type": "tcp"}, "passive": checks}
    return {"stream_routes/1": {"upstream": upstream, "tls_passthrough": True}}


@asynccontextmanager
async def playing(
    *first: int, checks: dict[str, Any] | None = None, **members: Any
) -> AsyncIterator[tuple[Stage, int]]:
    """A stage, and the port of a game server that is well and the last resort after those ports."""
    async with game_server() as well, open_stage(2000) as stage:
        objects = leading_to(*first, well.port, checks=checks or {}, **members)
        await stage.open(objects=objects, connect_timeout=CONNECT)
        yield stage, well.port


async def play(stage: Stage) -> tuple[int, int]:
    """A short session: on which port, and at which attempt."""
    return await finish(stage, await stage.dial(b"x"))


async def finish(stage: Stage, player: Peer) -> tuple[int, int]:
    """The rest of a session: it is answered, and over."""
    assert await player.read(1) == b"x"
    await player.end()
    assert await player.read_all() == b""
    line = await stage.gateway.lines.next()
    assert line["reason"] == "client_closed"
    return int(line["node"].rpartition(":")[2]), line.get("attempts", 1)


def counted(stage: Stage, name: str) -> float | None:
    registry = stage.gateway.worker.metrics.registry
    return registry.get_sample_value(f"sniproxy_upstream_{name}")


async def test_who_refuses_is_left_out_and_tried_again_after_longer_and_longer_times(
    down: socket.socket,
) -> None:
    async with playing(port_of(down)) as (stage, well):
        assert [await play(stage) for _ in range(5)] == [(well, 2)] * 2 + [(well, 1)] * 3
        assert counted(stage, "circuits_opened_total") == counted(stage, "circuits_open") == 1
        await trio.sleep(OPEN_FOR)
        assert [await play(stage) for _ in range(3)] == [(well, 2), (well, 1), (well, 1)]
        await trio.sleep(OPEN_FOR)
        assert await play(stage) == (well, 1)
        await trio.sleep(OPEN_FOR)
        assert await play(stage) == (well, 2)
        assert counted(stage, "circuits_opened_total") == 1
        assert counted(stage, "panics_total") == 0


async def test_who_is_silent_is_left_out() -> None:
    with deaf_server() as (_, deaf):
        async with playing(deaf, checks={"unhealthy": {"timeouts": 2}}) as (stage, well):
            assert [await play(stage) for _ in range(4)] == [(well, 2)] * 2 + [(well, 1)] * 2


@pytest.mark.parametrize("checks", [None, {"unhealthy": {"tcp_failures": 0, "timeouts": 7}}])
async def test_without_a_threshold_nobody_is_left_out(
    down: socket.socket, checks: dict[str, Any] | None
) -> None:
    async with playing(port_of(down), checks=checks) as (stage, well):
        if checks is None:
            stage.change(leading_to(port_of(down), well, checks=None))
        assert [await play(stage) for _ in range(5)] == [(well, 2)] * 5


async def test_one_tries_again_while_others_go_elsewhere() -> None:
    with deaf_server() as (_, deaf):
        async with playing(deaf, checks={"unhealthy": {"timeouts": 1}}) as (stage, well):
            assert await play(stage) == (well, 2)
            await trio.sleep(OPEN_FOR)
            trying = await stage.dial(b"x")
            await trio.sleep(CONNECT / 6)
            assert await play(stage) == (well, 1)
            assert await finish(stage, trying) == (well, 2)


async def test_one_that_is_well_again_has_sessions_again(down: socket.socket) -> None:
    """Once it has kept the one who tried."""
    async with playing(port_of(down)) as (stage, well):
        assert [await play(stage) for _ in range(3)] == [(well, 2)] * 2 + [(well, 1)]
        down.listen()
        down.setblocking(False)
        await trio.sleep(OPEN_FOR)
        await stage.dial(b"x")
        trying = await accept(down)
        assert await play(stage) == (well, 1)
        assert counted(stage, "circuits_open") == 1
        await trio.sleep(EARLY)
        assert counted(stage, "circuits_open") == 0
        others = []
        for _ in range(3):
            await stage.dial(b"x")
            others.append(await accept(down))
        for server in (trying, *others):
            server.close()


async def closes(server: Peer) -> None:
    await server.read(1)
    server.close()


async def resets(server: Peer) -> None:
    await server.read(1)
    server.reset()


async def closes_later(server: Peer) -> None:
    await trio.sleep(EARLY)
    await closes(server)


async def answers_and_resets(server: Peer) -> None:
    await server.send(b"go away")
    await trio.sleep(EARLY / 4)
    server.reset()


@pytest.mark.parametrize(
    ("conduct", "out"),
    [(closes, True), (resets, True), (closes_later, False), (answers_and_resets, False)],
)
async def test_who_hangs_up_at_once_is_left_out(
    conduct: Callable[[Peer], Awaitable[None]], out: bool
) -> None:
    async with game_server() as well, open_stage(2000) as stage:
        await stage.open(objects=leading_to(stage.port, well.port, checks={}))
        for _ in range(3 if not out else 2):
            player = await stage.dial(b"x")
            await conduct(await stage.accept())
            with suppress(ConnectionResetError):
                await player.read_all()
            player.close()
            assert (await stage.gateway.lines.next())["reason"].startswith("upstream_")
        assert counted(stage, "circuits_open") == out
        if out:
            assert await play(stage) == (well.port, 1)


async def test_where_all_are_out_all_are_tried(down: socket.socket) -> None:
    """And whoever has come back in the meantime serves."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        async with open_stage(2000) as stage:
            await stage.open(objects=leading_to(port_of(down), port_of(other), checks={}))
            for panics in (0, 0, 1, 2):
                assert (await stage.refused(b"x"))["reason"] == "upstream_refused"
                assert counted(stage, "panics_total") == panics
            assert counted(stage, "circuits_open") == 2
            other.listen()
            other.setblocking(False)
            player = await stage.dial(b"x")
            server = await accept(other)
            assert await server.read(1) == b"x"
            server.close()
            player.close()
            assert (await stage.gateway.lines.next())["attempts"] == 2
            assert counted(stage, "panics_total") == 3


async def test_who_is_left_out_is_the_last_resort(down: socket.socket) -> None:
    """The only one that was well refuses, too."""
    with socket.socket() as last:
        last.bind(("127.0.0.1", 0))
        async with playing(port_of(down)) as (stage, _):
            stage.change(leading_to(port_of(down), checks={}))
            for _ in range(2):
                await stage.refused(b"x")
            stage.change(leading_to(port_of(down), port_of(last), checks={}))
            line = await stage.refused(b"x")
            told = [part.partition(": ")[0] for part in line["detail"].split("; ")]
            assert told == [f"127.0.0.1:{port_of(last)}", f"127.0.0.1:{port_of(down)}"]
            assert counted(stage, "panics_total") == 1


async def test_an_object_that_is_written_again_knows_who_is_out(down: socket.socket) -> None:
    """Without checks it forgets."""
    async with playing(port_of(down)) as (stage, well):
        assert [await play(stage) for _ in range(3)] == [(well, 2)] * 2 + [(well, 1)]
        stage.change(leading_to(port_of(down), well, checks={}, retries=5))
        assert await play(stage) == (well, 1)
        stage.change(leading_to(port_of(down), well, checks=None))
        assert await play(stage) == (well, 2)
        assert counted(stage, "circuits_open") == 0
        stage.change(leading_to(port_of(down), well, checks={}))
        assert [await play(stage) for _ in range(3)] == [(well, 2)] * 2 + [(well, 1)]


async def test_whoever_plays_plays_on() -> None:
    """On the one that is left out, which takes nobody new, and on the others."""
    async with game_server() as well, open_stage(2000) as stage:
        await stage.open(objects=leading_to(stage.port, well.port, checks={}))
        player, server = await stage.join()
        stage.hang_up()
        other = await stage.dial(b"x")
        assert [await play(stage) for _ in range(2)] == [(well.port, 2), (well.port, 1)]
        await trio.sleep(EARLY)
        await player.send(b"still here")
        assert await server.read(10) == b"still here"
        await server.send(b"so am I")
        assert await player.read(7) == b"so am I"
        assert await finish(stage, other) == (well.port, 2)
