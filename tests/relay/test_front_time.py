"""How long who comes by himself to the native relay may take, for his hello, his way to a game server, and his session.

Time stands still and is moved on by the test, but where the relay's own clock, which is the machine's, is what counts.
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from sniproxy.relay import Accepted
from tests.support.certificates import NAME
from tests.support.gateway import Gateway, Objects, open_gateway, route
from tests.support.peers import Peer
from tests.support.stage import HELLO, MIXED, open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 60  # seconds for one test, for when something hangs
TIMEOUT = {"connect": 4, "send": 0.4, "read": 0.4}  # idle for less than the relay's looks are apart
LATE = 5000  # milliseconds that a loaded machine may take


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """A clock that stands."""
    return "trio", {"clock": MockClock()}


async def pass_time(seconds: int) -> None:
    """Second by second, so that the relay is told of each; whoever has something to do is let go on."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    for _ in range(seconds):
        clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()


async def pass_time_until(done: Callable[[], bool]) -> None:
    """The same, up to half a minute, at a pace at which a thread can follow."""
    for _ in range(30):
        if done():
            return
        await pass_time(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert done()


def deaf_to(address: tuple[str, int], **members: Any) -> Objects:
    """A route for everybody to a node that never answers."""
    upstream = route(address[1], host=address[0])["upstream"] | members
    return {"stream_routes/1": {"upstream": upstream, "tls_passthrough": True}}


# Until it is a session


@pytest.mark.parametrize("planned", [False, True])
async def test_the_rest_of_a_hello_may_come_seconds_later(
    served: list[Accepted], planned: bool
) -> None:
    """Whoever is slow is served, plan or no plan."""
    async with open_stage() as stage:
        await stage.open(MIXED)
        if planned:
            await stage.join(HELLO)
        before = len(served)
        player = await stage.dial(HELLO[:40])
        while stage.gateway.counted()["opened"] <= before:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await pass_time(3)
        while len(served) == before:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert HELLO[:40].startswith(served[-1].said)
        await player.send(HELLO[40:] + b"and more")
        server = await stage.accept()
        assert await server.read(len(HELLO) + 8) == HELLO + b"and more"
        assert len(served) == before + 1
        line = await stage.leave(player, server)
    assert (line["sni"], line["bytes_in"]) == (NAME, len(HELLO) + 8)


async def test_who_is_still_on_his_way_plays(served: list[Accepted], deaf: tuple[str, int]) -> None:
    """In the eyes of whoever counts."""
    async with open_gateway(MIXED, deaf_to(deaf)) as gateway:
        front = gateway.worker.relay.front
        assert front is not None
        players = [await on_his_way(gateway, served, before) for before in range(4)]
        assert len(served) == 1
        [(plan, pick, sessions)] = front.playing()
        assert (plan.name, pick, sessions) == (NAME, 0, 3)
        for player in players:
            player.close()


async def on_his_way(gateway: Gateway, served: list[Accepted], before: int) -> Peer:
    """A player who is between here and the game server; `before`: how many are there, or were served, already."""
    front = gateway.worker.relay.front
    assert front is not None
    player = gateway.dial()
    await player.send(HELLO)
    while len(served) + sum(count for _, _, count in front.playing()) == before:
        await trio.testing.wait_all_tasks_blocked()
    return player


async def test_a_node_that_never_answers_is_not_taken_for_an_idle_session(
    served: list[Accepted], deaf: tuple[str, int]
) -> None:
    """Nor for one that lasted too long: while it is on its way it is no session."""
    objects = deaf_to(deaf, timeout=TIMEOUT)
    async with open_gateway(MIXED, objects, limits={"session_time": 0.5}) as gateway:
        # Time jumps for the relay too: it is to have heard the second one's hello by then.
        players = [await on_his_way(gateway, served, before) for before in range(2)]
        assert len(served) == 1
        await pass_time(2)
        while len(served) < 2 and not gateway.lines.all:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert gateway.lines.all == []
        await pass_time(4)
        lines = [await gateway.lines.next() for _ in range(2)]
        for player in players:
            player.close()
    assert {line["reason"] for line in lines} == {"upstream_timeout"}
    assert served[1].attempt is not None


async def test_a_node_that_takes_its_time_is_waited_for(served: list[Accepted]) -> None:
    """Its queue is full at first. A plan's connection stands once the kernel has asked it again, a second later."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as stack:
        listening.setblocking(False)
        address: tuple[str, int] = listening.getsockname()
        socket.create_connection(address).close()  # the one for whom there is room
        async with open_gateway(MIXED, deaf_to(address)) as gateway:
            players = []
            for number in range(1, 3):
                players.append(gateway.dial())
                await players[-1].send(HELLO)
                while on_their_way(address[1]) < number:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            heard = list[bytes]()
            while heard.count(HELLO) < 2:
                await trio.lowlevel.wait_readable(listening)
                sock = stack.enter_context(listening.accept()[0])
                sock.setblocking(False)
                heard.append(await Peer(sock).read(len(HELLO)))
            for player in players:
                player.close()
            stack.close()
            lines = [await gateway.lines.next() for _ in players]
        assert len(served) == 1
    assert {line["bytes_in"] for line in lines} == {len(HELLO)}
    assert max(line["connect_ms"] for line in lines) > 500


def on_their_way(port: int) -> int:
    """Connections of this machine to that port that have had no answer."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)  # SYN_SENT


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_who_is_handed_over_has_no_more_time_than_others(
    served: list[Accepted], deaf: tuple[str, int]
) -> None:
    """On the machine's clock: what has passed in the relay counts, for the hello and for the way to the game server."""
    times: dict[str, Any] = {"hello_timeout": 3, "connect_timeout": 2.5}
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, deaf_to(deaf), **times) as gateway:
            players = [gateway.dial()]
            await players[0].send(HELLO)
            while not served:
                await trio.testing.wait_all_tasks_blocked()
            for says in (HELLO, HELLO[:-1]):
                players.append(gateway.dial())
                await players[-1].send(says)
            lines = [await gateway.lines.next() for _ in range(3)]
            for player in players:
                player.close()
    lines.sort(key=lambda line: str(line["reason"]), reverse=True)  # half a second may pass unseen
    assert [one.attempt is not None for one in served].count(True) == 1
    assert [line["reason"] for line in lines] == ["upstream_timeout"] * 2 + ["hello_timeout"]
    assert lines[1]["detail"] == "{}:{}: no answer in 2.5 s".format(*deaf)
    for line, expected in zip(lines, (2500, 2500, 3000), strict=True):
        assert expected <= line["duration_ms"] + 1 <= expected + LATE


# Once it is one


async def test_a_planned_session_may_be_idle_for_so_long(served: list[Accepted]) -> None:
    """Or up to two seconds more."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, idle_timeout=5)
        await stage.leave(*await stage.join(HELLO))
        player, server = await stage.join(HELLO)
        assert len(served) == 1
        await pass_time(4)
        assert len(gateway.lines.sessions) == 1
        await pass_time(3)
        assert (await gateway.lines.next())["reason"] == "idle_timeout"
        assert await player.read_all() == await server.read_all() == b""


async def test_a_planned_session_may_last_for_so_long(served: list[Accepted]) -> None:
    """Whatever moves, and up to two seconds more."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, limits={"session_time": 10}, idle_timeout=5)
        await stage.leave(*await stage.join(HELLO))
        player, server = await stage.join(HELLO)
        assert len(served) == 1
        for _ in range(9):
            await pass_time(1)
            for one, other in ((player, server), (server, player)):
                await one.send(b"!")
                assert await other.read(1) == b"!"
        assert len(gateway.lines.sessions) == 1
        await pass_time(3)
        line = await gateway.lines.next()
    assert line["reason"] == "session_timeout"
    assert (line["bytes_in"], line["bytes_out"]) == (len(HELLO) + 9, 7 + 9)


async def test_a_planned_session_may_be_half_closed_for_so_long(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, half_close_timeout=5)
        await stage.leave(*await stage.join(HELLO))
        player, server = await stage.join(HELLO)
        assert len(served) == 1
        await player.end()
        assert await server.read_all() == b""
        await pass_time(4)
        assert len(gateway.lines.sessions) == 1
        await pass_time(3)
        assert (await gateway.lines.next())["reason"] == "client_closed"


async def test_a_planned_session_is_drained(served: list[Accepted]) -> None:
    """As one that was handed over is, accounted for once; those who come later play on."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        pairs = [await stage.join(HELLO) for _ in range(3)]  # the last two by plan
        await pass_time(1)
        gateway.worker.relay.drain(4, 6)
        late = await stage.join(HELLO)
        assert len(served) == 1
        await pass_time(3)
        assert gateway.lines.sessions == []
        await pass_time_until(lambda: len(gateway.lines.sessions) == 3)
        lines = [await gateway.lines.next() for _ in pairs]
        for player, server in pairs:
            assert await player.read_all() == await server.read_all() == b""
        await pass_time(20)
        assert len(gateway.lines.sessions) == 3
        assert gateway.closed() == {"shutdown": 3}
        counted = {"opened": 4, "active": 1, "in": 4 * len(HELLO), "out": 4 * 7}
        assert gateway.counted() == counted
        await stage.leave(*late)
    for line in lines:
        assert line["reason"] == "shutdown"
        assert "detail" not in line
        assert (line["sni"], line["bytes_in"], line["bytes_out"]) == (NAME, len(HELLO), 7)


@pytest.mark.parametrize(
    ("session_time", "reason"), [(4, "session_timeout"), (40, "shutdown"), (None, "shutdown")]
)
async def test_a_planned_session_ends_by_what_comes_first(
    served: list[Accepted], session_time: int | None, reason: str
) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, limits={"session_time": session_time})
        await stage.leave(*await stage.join(HELLO))
        await stage.join(HELLO)
        assert len(served) == 1
        gateway.worker.relay.drain(10, 0)
        gateway.worker.relay.drain(30, 0)
        await pass_time_until(lambda: len(gateway.lines.sessions) == 2)
        assert (await gateway.lines.next())["reason"] == reason
