"""Turns at work, over real sockets: handshakes that never end, players who wait, and those who play meanwhile.

On virtual time.
"""

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.certificates import NAME, player_context
from tests.support.clocks import relay_clock
from tests.support.gateway import Objects, certificate, route
from tests.support.hellos import named
from tests.support.peers import TlsPeer, deaf_server
from tests.support.stage import HELLO, MIXED, PLAIN, PROXIED, Stage, open_stage

pytestmark = pytest.mark.anyio

OTHER = "other.example.com"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


async def open_mixed(stage: Stage, **settings: Any) -> None:
    """One name is terminated, every other passed through, all to one game server."""
    objects: Objects = {
        "stream_routes/1": route(stage.port, sni=NAME),
        "stream_routes/2": route(stage.port, tls_passthrough=True),
        "ssls/1": certificate(),
    }
    await stage.open(MIXED, objects, **settings)


async def begin_handshake(stage: Stage) -> TlsPeer:
    """A player in the midst of a handshake, who stays there until a test goes on."""
    player = TlsPeer((await stage.dial()).sock, player_context())
    await player.wire.send(player.hello())
    return player


def setups(stage: Stage) -> tuple[int, int]:
    """How many are set up and how many wait, as /metrics has it."""
    sample = stage.gateway.worker.metrics.registry.get_sample_value
    turns = stage.gateway.worker.turns
    assert sample("sniproxy_setups") == turns.inside
    assert sample("sniproxy_setups_waiting") == turns.waiting
    return turns.inside, turns.waiting


async def become(stage: Stage, inside: int, waiting: int) -> None:
    """Until it is so."""
    while setups(stage) != (inside, waiting):
        await trio.testing.wait_all_tasks_blocked()


async def test_the_second_waits_until_the_handshake_of_the_first_is_given_up() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1, "queue_timeout": 30}, handshake_timeout=10)
        await begin_handshake(stage)
        await become(stage, 1, 0)
        second = await begin_handshake(stage)
        await become(stage, 1, 1)
        assert stage.nobody_came()
        await second.handshake()  # once its hello is answered
        line = await stage.gateway.lines.next()
        assert line["reason"] == "handshake_timeout"
        server = await stage.accept()
        await server.send(b"welcome")
        assert await second.read(7) == b"welcome"
        assert setups(stage) == (0, 0)
        assert stage.gateway.closed() == {"handshake_timeout": 1}


async def test_who_waited_plays_as_everybody_else() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1}, handshake_timeout=5)
        began = trio.current_time()
        first = await begin_handshake(stage)
        await become(stage, 1, 0)
        player, server = await stage.join(named(OTHER.encode()))  # it waits 5 s of virtual time
        assert 5 <= trio.current_time() - began < 10
        assert setups(stage) == (0, 0)
        assert (await stage.gateway.lines.next())["reason"] == "handshake_timeout"
        line = await stage.leave(player, server)
        assert line["route"] == "2"
        assert line["connect_ms"] >= 4900  # what it waited is seen there
        first.close()


async def test_a_handshake_that_goes_on_lets_the_next_one_in() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1})
        first = await begin_handshake(stage)
        await become(stage, 1, 0)
        second = await stage.dial(named(OTHER.encode()))
        await become(stage, 1, 1)
        await first.handshake()
        server = await stage.accept()
        other = await stage.accept()
        await become(stage, 0, 0)
        await other.send(b"to the second")
        assert await second.read(13) == b"to the second"
        await server.send(b"to the first")
        assert await first.read(12) == b"to the first"
        assert stage.gateway.closed() == {}


async def test_those_who_play_take_no_turn() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1, "queue": 0})
        pairs = [await stage.join(named(OTHER.encode())) for _ in range(5)]
        await begin_handshake(stage)
        await become(stage, 1, 0)
        for player, server in pairs:
            await player.send(b"ping")
            assert await server.read(4) == b"ping"
        assert setups(stage) == (1, 0)
        assert stage.gateway.counted()["active"] == 6


async def test_a_full_queue_refuses() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1, "queue": 1, "queue_timeout": 60})
        await begin_handshake(stage)
        await become(stage, 1, 0)
        await stage.dial(HELLO)
        await become(stage, 1, 1)
        line = await stage.refused(HELLO)
        assert (line["reason"], line["detail"]) == ("setup_limit", "overload.queue: 1 wait")
        assert (line["route"], line["sni"]) == ("1", NAME)
        assert setups(stage) == (1, 1)
        assert stage.gateway.counted()["active"] == stage.gateway.worker.limits.active == 2
        (refused,) = stage.gateway.worker.recorder
        assert refused.flight == HELLO


async def test_no_turn_in_time_refuses() -> None:
    async with open_stage() as stage:
        _, port = stage.stack.enter_context(deaf_server())
        objects = {"stream_routes/1": route(port)}
        overload = {"setups": 1, "queue_timeout": 10}
        await stage.open(PLAIN, objects, overload=overload, connect_timeout=60)
        await stage.dial()
        await become(stage, 1, 0)
        line = await stage.refused()
        assert line["reason"] == "setup_limit"
        assert line["detail"] == "overload.queue_timeout: no turn in 10 s"
        assert 10_000 <= line["duration_ms"] < 20_000
        assert setups(stage) == (1, 0)
        assert stage.gateway.counted()["active"] == 1


async def test_a_shutdown_ends_those_who_wait() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1})
        await begin_handshake(stage)
        await become(stage, 1, 0)
        for _ in range(3):
            await stage.dial(HELLO)
        await become(stage, 1, 3)
        await stage.stack.aclose()
        assert stage.gateway.closed() == {"shutdown": 4}
        assert setups(stage) == (0, 0)
        assert stage.gateway.counted()["active"] == 0


async def test_who_was_refused_before_took_no_turn() -> None:
    async with open_stage() as stage:
        limits = {"route_sessions": 1}
        await stage.open(PLAIN, limits=limits, overload={"setups": 1, "queue": 0})
        await stage.join()
        for _ in range(3):
            assert (await stage.refused())["reason"] == "route_limit"
        assert setups(stage) == (0, 0)


async def test_settings_that_change_let_in_who_waits() -> None:
    async with open_stage() as stage:
        await open_mixed(stage, overload={"setups": 1})
        await begin_handshake(stage)
        await become(stage, 1, 0)
        player = await stage.dial(named(OTHER.encode()))
        await become(stage, 1, 1)
        turns = stage.gateway.worker.turns
        turns.settings = turns.settings.model_copy(update={"setups": 2})
        server = await stage.accept()
        await server.send(b"welcome")
        assert await player.read(7) == b"welcome"


@pytest.mark.parametrize("whose", ["route", "address"])
async def test_a_flood_delays_others_by_one_turn(whose: str) -> None:
    """Fifty wait; a player of another route, or of another address, comes last and is the second to have a turn."""
    async with open_stage() as stage:
        _, deaf = stage.stack.enter_context(deaf_server())
        objects: Objects = {"stream_routes/1": route(deaf)}
        if whose == "route":
            flooded = route(deaf, remote_addr="127.0.0.0/8")
            objects = {"stream_routes/1": flooded, "stream_routes/2": route(stage.port)}
        overload = {"setups": 1, "queue_timeout": 150}
        await stage.open(PROXIED, objects, overload=overload, connect_timeout=1)
        flood = [await stage.dial(b"PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n") for _ in range(51)]
        await become(stage, 1, 50)
        source = "192.0.2.1"
        began = trio.current_time()
        await stage.dial(f"PROXY TCP4 {source} 127.0.0.1 1 2\r\n".encode())
        await become(stage, 1, 51)
        if whose == "route":
            await stage.accept()
        else:
            while (line := await stage.gateway.lines.next())["client"] != f"{source}:1":
                assert line["reason"] == "upstream_timeout"
        # The flood's first was in the midst of its turn; its second, and here its own, may have had theirs.
        assert trio.current_time() - began < 4
        assert len(flood) - setups(stage)[1] < 5
