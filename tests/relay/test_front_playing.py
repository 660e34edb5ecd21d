"""Sessions that the native relay plays by itself, and what others may know of them and do to them: counting, shedding."""

from collections import Counter

import pytest
import trio
import trio.testing

from sniproxy.relay import Accepted
from tests.support.certificates import NAME
from tests.support.gateway import Gateway, Objects, open_gateway
from tests.support.hellos import named
from tests.support.peers import game_server
from tests.support.stage import HELLO, MIXED, open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 60  # seconds for one test, for when something hangs


def playing(gateway: Gateway) -> dict[tuple[str, str, int], int]:
    """Sessions by route, name and pick."""
    front = gateway.worker.relay.front
    assert front is not None
    found = Counter[tuple[str, str, int]]()
    for plan, pick, sessions in front.playing():
        assert sessions > 0
        assert 0 <= pick < len(plan.target.round)
        found[(plan.route.id, plan.name, pick)] += sessions
    return dict(found)


async def test_those_who_go_by_plans_are_counted_by_plan_and_node(served: list[Accepted]) -> None:
    """Those whom Python serves are not."""
    async with game_server() as one, game_server() as other, game_server() as third:
        leads = {"tls_passthrough": True}
        objects: Objects = {
            "stream_routes/1": {
                "sni": "*.example.com",
                "upstream": {"nodes": {f"127.0.0.1:{game.port}": 1 for game in (one, other)}},
                **leads,
            },
            "stream_routes/2": {
                "sni": "c.example.org",
                "upstream": {"nodes": {f"127.0.0.1:{third.port}": 1}},
                **leads,
            },
        }
        with trio.fail_after(DEADLINE):
            async with open_gateway(MIXED, objects) as gateway:
                assert playing(gateway) == {}
                names = [b"a.example.com", b"b.example.com", b"c.example.org"]
                players = []
                for name in names * 5:
                    player = gateway.dial()
                    await player.send(named(name))
                    await player.read(1)  # the echo: he has come there
                    players.append(player)
                assert len(served) == 3
                found = playing(gateway)
                assert found[("2", "c.example.org", 0)] == 4
                for asked in ("a.example.com", "b.example.com"):
                    picks = [found.get(("1", asked, pick), 0) for pick in (0, 1)]
                    assert sum(picks) == 4
                assert sum(found.values()) == 12
                for player in players[:6]:  # three of them are Python's
                    player.close()
                    await gateway.lines.next()
                assert sum(playing(gateway).values()) == 9
                gateway.worker.snapshot.on_change()  # plans are off; who plays goes on
                assert sum(playing(gateway).values()) == 9
                for player in players[6:]:
                    player.close()
                    await gateway.lines.next()
                assert playing(gateway) == {}


async def test_a_planned_session_that_holds_the_most_is_shed(served: list[Accepted]) -> None:
    """And accounted for as every other is; those who hold nothing play on."""
    async with open_stage() as stage:
        gateway = await stage.open(MIXED)
        relay = gateway.worker.relay
        pairs = [await stage.join(HELLO) for _ in range(4)]  # the last three by plan
        assert relay.held() == relay.shed() == 0
        _, server = pairs[2]
        while relay.held() < 1000:
            try:
                server.sock.send(bytes(1 << 20))
            except BlockingIOError:
                await trio.testing.wait_all_tasks_blocked()
        assert relay.shed() >= 1000
        line = await gateway.lines.next()
        assert line["reason"] == "shed"
        assert (line["sni"], line["bytes_in"]) == (NAME, len(HELLO))
        assert relay.held() == relay.shed() == 0
        assert gateway.closed() == {"shed": 1}
        assert sum(playing(gateway).values()) == 2
        for pair in (pairs[0], pairs[1], pairs[3]):
            await stage.leave(*pair)
        assert gateway.counted()["active"] == 0
        assert len(served) == 1
