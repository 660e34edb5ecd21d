"""The contract of the relays: a cap on bandwidth. On the machine's clock: the native relay knows no other for its pace."""

from contextlib import closing

import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason
from sniproxy.relay.pace import BURST, QUANTUM
from tests.support.pacing import assert_kept, carry
from tests.support.peers import Peer
from tests.support.relaying import (
    BUFFER,
    DEADLINE,
    Implementation,
    Session,
    Transport,
    begin,
    on_every_transport,
)

pytestmark = pytest.mark.anyio

FAST = 500_000  # bytes per second
SLOW = 5000
WORDS = bytes(range(251)) * 500  # a quarter of a second's worth at FAST, half a minute's at SLOW
BEFORE = WORDS[:60_000]  # twelve seconds' worth at SLOW
AT_ONCE = 5.0  # seconds that a loaded machine may take for what waits for no allowance

by_either_side = pytest.mark.parametrize("side", ["player", "server"])
CLOSED = {"player": CloseReason.CLIENT_CLOSED, "server": CloseReason.UPSTREAM_CLOSED}
RESET = {"player": CloseReason.CLIENT_RESET, "server": CloseReason.UPSTREAM_RESET}


def sides(session: Session, first: str) -> tuple[Peer, Peer]:
    """The peer of that name and the other one."""
    pair = session.player, session.server
    return pair if first == "player" else pair[::-1]


@on_every_transport
async def test_each_direction_keeps_its_cap_and_brings_every_byte(
    implementation: Implementation, transport: Transport
) -> None:
    """Both at once, each as if it were alone."""
    up, down = WORDS, WORDS[::-1]
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, bandwidth=FAST)
            since = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, session.player, session.server, up, FAST)
                nursery.start_soon(carry, session.server, session.player, down, FAST)
            assert trio.current_time() - since < len(WORDS) / FAST + AT_ONCE
            assert (session.link.to_upstream, session.link.to_client) == (len(up), len(down))
        session.close()


@on_every_transport
@by_either_side
async def test_a_direction_that_waits_takes_nothing_from_the_other(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, bandwidth=SLOW)
            busy, free = sides(session, side)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(busy.send, WORDS)
                heard = await free.read(1)
                await carry(free, busy, WORDS[: int(SLOW * BURST)], SLOW)
                session.link.kill(CloseReason.KILLED)
                nursery.cancel_scope.cancel()
            assert len(heard) < SLOW
        session.close()


@on_every_transport
async def test_others_have_no_cap(implementation: Implementation, transport: Transport) -> None:
    free_words = WORDS * 8
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            capped = await begin(relay, transport, bandwidth=SLOW)
            free = await begin(relay, transport)
            since = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(capped.player.send, WORDS)
                nursery.start_soon(free.player.send, free_words)
                assert await free.server.read(len(free_words)) == free_words
                nursery.cancel_scope.cancel()
            assert trio.current_time() - since < AT_ONCE
            assert_kept(capped.link.to_upstream, since, SLOW)
        for session in (capped, free):
            session.close()


@on_every_transport
@by_either_side
async def test_the_end_of_a_side_comes_after_its_last_byte(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    """And the other direction goes on, under its cap."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, bandwidth=FAST)
            first, second = sides(session, side)
            since = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def say_all() -> None:
                    await first.send(WORDS)
                    await first.end()

                nursery.start_soon(say_all)
                assert await second.read_all() == WORDS
            assert_kept(len(WORDS), since, FAST)
            await carry(second, first, WORDS[: len(WORDS) // 2], FAST)
            await second.end()
            assert await first.read_all() == b""
            outcome = await session.outcome()
        session.close()
    assert (outcome.reason, outcome.detail) == (CLOSED[side], "")
    assert outcome.to_upstream + outcome.to_client == len(WORDS) + len(WORDS) // 2


@pytest.mark.parametrize("how", ["killed", "reset"])
@pytest.mark.parametrize(
    ("transport", "first"),
    [("plain", b""), ("plain", BEFORE), ("TLSv1.2", b""), ("TLSv1.3", b"")],
    ids=["by the burst", "by what was read before", "TLSv1.2", "TLSv1.3"],
)
async def test_a_session_that_waits_for_its_allowance_ends_at_once(
    implementation: Implementation, transport: Transport, first: bytes, how: str
) -> None:
    """What the player says waits. Killed, or reset by the game server."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, first=first, bandwidth=SLOW)
            with closing(session):
                await session.player.send(BEFORE)
                assert await session.server.read(max(1, len(first)))
                since = trio.current_time()
                if how == "killed":
                    session.link.kill(CloseReason.KILLED)
                else:
                    session.server.reset()
                outcome = await session.outcome()
                assert trio.current_time() - since < AT_ONCE
    reasons = {"killed": CloseReason.KILLED, "reset": CloseReason.UPSTREAM_RESET}
    assert outcome.reason is reasons[how]
    assert outcome.to_upstream < len(first) + len(BEFORE)


@on_every_transport
@by_either_side
async def test_who_resets_is_noticed_once_his_bytes_have_moved(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, bandwidth=SLOW)
            first, second = sides(session, side)
            since = trio.current_time()
            await first.send(WORDS[: SLOW // 4])
            assert await second.read(1)
            first.reset()
            with pytest.raises(ConnectionResetError):
                await second.wire.read_all()
            outcome = await session.outcome()
            assert_kept(outcome.to_upstream + outcome.to_client, since, SLOW)
        session.close()
    assert outcome.reason is RESET[side]


async def test_what_was_read_before_counts(implementation: Implementation) -> None:
    """It goes at once, and what comes behind it waits for as long as it was worth."""
    first = WORDS[: FAST // 5]
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            since = trio.current_time()
            session = await begin(relay, first=first, bandwidth=FAST)
            await session.player.send(b"and more")
            assert await session.server.read(len(first) + 1) == first + b"and more"
            assert_kept(len(first) + 8, since, FAST)
        session.close()


@pytest.mark.parametrize("bandwidth", [1 << 40, 1 << 64, 10**30])
async def test_a_cap_that_nothing_reaches(implementation: Implementation, bandwidth: int) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, bandwidth=bandwidth)
            with closing(session):
                await carry(session.player, session.server, WORDS, bandwidth)


@on_every_transport
async def test_small_messages_within_the_cap_are_not_delayed(
    implementation: Implementation, transport: Transport
) -> None:
    """One of those below would wait ten milliseconds at least, and a relay that saved up for a buffer a minute."""
    trips = []
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, bandwidth=SLOW)
            for _ in range(20):
                since = trio.current_time()
                await session.player.send(b"question")
                assert await session.server.read(8) == b"question"
                await session.server.send(b"the answer")
                assert await session.player.read(10) == b"the answer"
                trips.append(trio.current_time() - since)
        session.close()
    assert sorted(trips)[5] < QUANTUM  # most of them on a machine that is not loaded
    assert sum(trips) < AT_ONCE


@on_every_transport
@by_either_side
def test_a_session_is_not_idle_while_its_bytes_trickle(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    """The clock is moved by hand, at a pace at which a thread can follow."""
    clock = MockClock()

    async def main() -> None:
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, idle_timeout=2, bandwidth=4 * SLOW)
            sender, receiver = sides(session, side)
            with closing(session):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sender.send, WORDS * 4)
                    for _ in range(16):
                        clock.jump(0.5)
                        assert await receiver.receive()
                    assert not session.over.is_set()
                    session.link.kill(CloseReason.KILLED)
                    nursery.cancel_scope.cancel()
                assert (await session.outcome()).reason is CloseReason.KILLED

    trio.run(main, clock=clock)
