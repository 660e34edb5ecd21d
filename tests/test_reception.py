"""Sessions that the native relay plays by plans: what is said and counted of them, and who is not let in."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.relay import Accepted
from tests.support.certificates import NAME
from tests.support.gateway import route
from tests.support.hellos import alpn, named
from tests.support.peers import Peer, deaf_server
from tests.support.stage import HELLO, MIXED, Stage, open_stage

pytestmark = pytest.mark.anyio

VOLATILE = {"session", "client", "started", "source", "duration_ms", "hello_ms", "connect_ms"}
PASS: dict[str, Any] = {"sni": NAME, "tls_passthrough": True}


def steady(line: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same of every session that went like it."""
    return {name: value for name, value in line.items() if name not in VOLATILE}


async def come_and_go(stage: Stage) -> dict[str, Any]:
    """A session from the hello to the end; its line."""
    return await stage.leave(*await stage.join(HELLO))


async def join_by_plan(stage: Stage, served: list[Accepted]) -> tuple[Peer, Peer]:
    """As `Stage.join`, of somebody for whom there is a plan."""
    before = len(served)
    pair = await stage.join(HELLO)
    assert len(served) == before
    return pair


# Lines and counters


async def test_the_first_for_a_name_is_served_and_the_next_goes_by_its_plan(
    served: list[Accepted],
) -> None:
    """Nobody can tell the lines apart, member by member."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, {"stream_routes/1": route(stage.port, **PASS)})
        first = await come_and_go(stage)
        assert len(served) == 1
        others = [await come_and_go(stage) for _ in range(3)]
        assert len(served) == 1
        front = gateway.worker.relay.front
        assert front is not None
        assert front.accepted == 4
    assert first["tls"] == "passthrough"
    for line in others:
        assert list(line) == list(first)
        assert steady(line) == steady(first)
        assert all(line[name] >= 0 for name in ("hello_ms", "connect_ms"))
        assert line["hello_ms"] + line["connect_ms"] <= line["duration_ms"] + 0.002
    assert len({line["session"] for line in (first, *others)}) == 4
    assert {len(line["session"]) for line in others} == {16}


@pytest.mark.parametrize("planned", [False, True])
async def test_a_line_says_what_the_game_server_sees(served: list[Accepted], planned: bool) -> None:
    """Our own address on the way there, and what the player has offered."""
    hello = named(NAME.encode(), alpn(b"h2", b"http/1.1"))
    async with open_stage() as stage:
        await stage.open(MIXED, {"stream_routes/1": route(stage.port, **PASS)})
        for _ in range(1 + planned):
            player, server = await stage.join(hello)
            seen = "{}:{}".format(*server.sock.getpeername())
            line = await stage.leave(player, server)
    assert len(served) == 1
    assert (line["source"], line["alpn"]) == (seen, "h2,http/1.1")
    assert line["node_address"] == f"127.0.0.1:{stage.port}"


async def test_each_name_has_a_first(served: list[Accepted]) -> None:
    names = [b"a.example.com", b"b.example.com", b"A.EXAMPLE.COM."]
    async with open_stage() as stage:
        await stage.open(MIXED)
        counts = []
        for name in names * 2:
            await stage.join(named(name))
            counts.append(len(served))
    assert counts == [1, 2, 2, 2, 2, 2]


async def test_counters_are_exact(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        await come_and_go(stage)
        player, server = await join_by_plan(stage, served)
        assert gateway.counted()["opened"] == 2
        assert gateway.counted()["active"] == gateway.worker.limits.active == 1
        assert gateway.closed() == {"client_closed": 1}
        await player.send(bytes(100_000))
        assert len(await server.read(100_000)) == 100_000
        await server.send(bytes(3000))
        assert len(await player.read(3000)) == 3000
        line = await stage.leave(player, server)
        moved = (2 * len(HELLO) + 100_000, 2 * len(b"welcome") + 3000)
        assert gateway.counted() == {"opened": 2, "active": 0, "in": moved[0], "out": moved[1]}
        assert gateway.closed() == {"client_closed": 2}
        assert gateway.worker.limits.active == 0
        assert (line["bytes_in"], line["bytes_out"]) == (len(HELLO) + 100_000, 7 + 3000)
        assert len(gateway.lines.all) == 2


ENDS: dict[str, Callable[[Peer, Peer], None]] = {
    "client_reset": lambda player, _: player.reset(),
    "upstream_reset": lambda _, server: server.reset(),
}


@pytest.mark.parametrize("reason", ENDS)
async def test_an_end_with_a_cause_has_the_line_that_it_always_had(
    served: list[Accepted], reason: str
) -> None:
    """It has a detail, so it is filled into no form."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        lines = []
        for _ in range(2):
            ENDS[reason](*await stage.join(HELLO))
            lines.append(await gateway.lines.next())
        assert len(served) == 1
        assert gateway.closed() == {reason: 2}
    assert lines[0]["detail"]
    assert list(lines[1]) == list(lines[0])
    assert steady(lines[1]) == steady(lines[0])


async def test_a_crowd_that_ends_at_once_is_accounted_for_one_by_one(
    served: list[Accepted],
) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        await come_and_go(stage)
        pairs = [await join_by_plan(stage, served) for _ in range(50)]
        assert gateway.counted()["active"] == 50
        for player, server in pairs:
            player.close()
            server.close()
        lines = [await gateway.lines.next() for _ in pairs]
        assert gateway.counted()["active"] == 0
        assert sum(gateway.closed().values()) == gateway.counted()["opened"] == 51
        assert gateway.counted()["in"] == 51 * len(HELLO)
    assert len({line["session"] for line in lines}) == 50
    assert {line["bytes_in"] for line in lines} == {len(HELLO)}


async def test_a_shutdown_ends_each_session_once(served: list[Accepted]) -> None:
    """Whether it is played, on its way to a game server, or has not said its hello yet."""
    async with open_stage() as stage:
        _, port = stage.stack.enter_context(deaf_server())
        objects = {
            "stream_routes/1": route(stage.port, **PASS),
            "stream_routes/2": route(port, sni="deaf.example.com", tls_passthrough=True),
        }
        gateway = await stage.open(MIXED, objects)
        players = [(await stage.join(HELLO))[0]]
        players += [(await join_by_plan(stage, served))[0] for _ in range(4)]
        players += [await stage.dial(named(b"deaf.example.com"))]
        while len(served) < 2:
            await trio.testing.wait_all_tasks_blocked()
        players += [await stage.dial(named(b"deaf.example.com")), await stage.dial(HELLO[:40])]
        while gateway.counted()["opened"] < 8:
            await trio.testing.wait_all_tasks_blocked()
        assert gateway.counted()["active"] == 8
        await stage.stack.aclose()
        assert [await player.read_all() for player in players] == [b""] * 8
        assert len(served) == 2
    lines = gateway.lines.sessions
    assert [line["reason"] for line in lines] == ["shutdown"] * 8
    assert len({line["session"] for line in lines}) == 8
    assert gateway.closed() == {"shutdown": 8}
    moved = {"in": 5 * len(HELLO), "out": 5 * len(b"welcome")}
    assert gateway.counted() == {"opened": 8, "active": 0, **moved}
    on_their_way = [steady(line) for line in lines if line["sni"] == "deaf.example.com"]
    assert on_their_way[0] == on_their_way[1]  # one was served, and one went by the plan
    assert on_their_way[0]["node"] is None


async def test_max_sessions_counts_those_who_go_by_plans(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, max_sessions=3)
        await stage.join(HELLO)
        pair, _ = [await join_by_plan(stage, served) for _ in range(2)]
        for _ in range(3):
            assert (await stage.refused(HELLO))["reason"] == "session_limit"
        await stage.leave(*pair)
        await join_by_plan(stage, served)
        assert (await stage.refused(HELLO))["reason"] == "session_limit"
        assert gateway.counted()["active"] == 3
        assert gateway.closed() == {"client_closed": 1, "session_limit": 4}
        worker = gateway.worker
        more = worker.settings.model_copy(update={"max_sessions": 5})
        worker.settle(more, worker.turns.settings)
        await stage.join(HELLO)  # it was forgotten with all plans
        await join_by_plan(stage, served)
        assert (await stage.refused(HELLO))["reason"] == "session_limit"


async def test_max_sessions_holds_when_many_come_at_once(served: list[Accepted]) -> None:
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, max_sessions=5)
        await come_and_go(stage)
        players = [await stage.dial(HELLO) for _ in range(25)]
        lines = [await gateway.lines.next() for _ in range(20)]
        servers = [await stage.accept() for _ in range(5)]
        assert {line["reason"] for line in lines} == {"session_limit"}
        assert gateway.counted()["active"] == 5
        assert stage.nobody_came()
        for peer in (*players, *servers):
            peer.close()
        lines = [await gateway.lines.next() for _ in range(5)]
        assert gateway.closed()["session_limit"] == 20
        counted = gateway.counted()
        assert (counted["opened"], counted["active"]) == (26, 0)


async def test_who_comes_by_a_plan_does_not_queue(served: list[Accepted]) -> None:
    """The relay has begun to connect: there is nothing to wait for."""
    async with open_stage() as stage:
        objects = {"stream_routes/1": route(stage.port, tls_passthrough=True)}
        await stage.open(MIXED, objects, overload={"setups": 1, "queue": 0})
        turns = stage.gateway.worker.turns
        await stage.leave(*await stage.join(HELLO))
        async with turns.take("1", b"somebody"):
            assert (await stage.refused(named(b"other.example.com")))["reason"] == "setup_limit"
            await stage.leave(*await stage.join(HELLO))  # played
            stage.hang_up()
            await stage.dial(HELLO)
            line = await stage.gateway.lines.next()
        assert served[-1].attempt is not None
        assert line["reason"] == "upstream_refused"
