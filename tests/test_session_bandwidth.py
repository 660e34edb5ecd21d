"""`limits.session_bandwidth`, through the whole gateway: whoever moves a session's bytes keeps to it."""

import pytest
import trio

from sniproxy.relay import Accepted
from sniproxy.settings import Listener
from tests.support.certificates import NAME, player_context
from tests.support.gateway import Objects, certificate, route
from tests.support.pacing import assert_kept, carry
from tests.support.peers import Peer, TlsPeer
from tests.support.stage import HELLO, MIXED, PLAIN, Stage, open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 20  # seconds for one test, for when something hangs
BANDWIDTH = 400_000  # bytes per second
LIMITS = {"session_bandwidth": BANDWIDTH}
WORDS = bytes(range(251)) * 400  # a quarter of a second's worth


async def both_ways(player: Peer, server: Peer) -> None:
    """Every byte comes, each way at its own pace."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, player, server, WORDS, BANDWIDTH)
        nursery.start_soon(carry, server, player, WORDS[::-1], BANDWIDTH)


async def join_tls(stage: Stage) -> tuple[TlsPeer, Peer]:
    """A player whose TLS ends here, and the game server's side."""
    player = TlsPeer((await stage.dial()).sock, player_context())
    await player.handshake()
    return player, await stage.accept()


@pytest.mark.parametrize(("listener", "says"), [(PLAIN, b"x"), (MIXED, HELLO)])
async def test_it_is_in_force_for_the_first_session_of_a_name_and_for_the_next(
    listener: Listener, says: bytes
) -> None:
    """By plan, where the relay knows of such."""
    async with open_stage(DEADLINE) as stage:
        await stage.open(listener, limits=LIMITS)
        for _ in range(2):
            player, server = await stage.join(says)
            await both_ways(player, server)
            line = await stage.leave(player, server)
            assert (line["bytes_in"], line["bytes_out"]) == (
                len(says) + len(WORDS),
                len(b"welcome") + len(WORDS),
            )


async def test_it_is_in_force_where_tls_ends() -> None:
    async with open_stage(DEADLINE) as stage:
        objects: Objects = {
            "stream_routes/1": route(stage.port, sni=NAME),
            "ssls/1": certificate(),
        }
        await stage.open(MIXED, objects, limits=LIMITS)
        player, server = await join_tls(stage)
        await both_ways(player, server)
        line = await stage.leave(player, server)
    assert line["tls"] == "TLSv1.3"
    assert (line["bytes_in"], line["bytes_out"]) == (len(WORDS), len(WORDS))


async def test_a_planned_session_keeps_to_it(served: list[Accepted]) -> None:
    async with open_stage(DEADLINE) as stage:
        await stage.open(MIXED, limits=LIMITS)
        await stage.leave(*await stage.join(HELLO))
        player, server = await stage.join(HELLO)
        await both_ways(player, server)
        await stage.leave(player, server)
        assert len(served) == 1


@pytest.mark.parametrize("turn", ["first of its name", "second"])
async def test_what_comes_with_the_hello_counts(turn: str) -> None:
    """It goes on at once; what is said next waits for as long as it was worth."""
    first, more = HELLO + WORDS[:20_000], b"and more"
    bandwidth = 50_000
    async with open_stage(DEADLINE) as stage:
        await stage.open(MIXED, limits={"session_bandwidth": bandwidth})
        if turn == "second":
            await stage.leave(*await stage.join(HELLO))
        since = trio.current_time()
        player = await stage.dial(first)
        server = await stage.accept()
        assert await server.read(len(first)) == first
        await player.send(more)
        assert await server.read(len(more)) == more
        assert_kept(len(first + more), since, bandwidth)
        await stage.leave(player, server)


async def test_without_it_there_is_no_cap() -> None:
    async with open_stage(DEADLINE) as stage:
        await stage.open(MIXED)
        assert stage.gateway.worker.settings.limits.session_bandwidth is None
        for _ in range(2):
            player, server = await stage.join(HELLO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(player.send, WORDS * 20)
                assert await server.read(len(WORDS) * 20) == WORDS * 20
            await stage.leave(player, server)
