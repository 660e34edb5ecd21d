"""The contract of the relays, last part: a reader that is slow, not stalled. Time is moved by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Terms
from tests.support.peers import Peer, tcp_pair
from tests.support.relaying import LONG, Implementation, Session

IN_PIECES = "defect: trio_relay.py counts and times a piece only when the kernel has all of it"
WORDS = bytes(range(256)) * 1024


@pytest.fixture
def in_pieces(request: pytest.FixtureRequest, implementation: Implementation) -> Implementation:
    """What the relay on trio does not keep."""
    if implementation.name == "trio":
        request.applymarker(pytest.mark.xfail(reason=IN_PIECES))
    return implementation


@asynccontextmanager
async def _session(
    implementation: Implementation, *, first: bytes = b"", idle_timeout: float = LONG
) -> AsyncIterator[Session]:
    """One with little room before the server and much before the relay."""
    (player, client), (server, upstream) = tcp_pair(), tcp_pair(kernel_buffer=8192)
    flow = Flow(client, upstream, first, Terms(idle_timeout, LONG))
    session = Session(Peer(player), Peer(server), flow)
    with closing(session):
        async with implementation.open(1 << 20) as relay:
            session.start(relay)
            yield session


async def _wait(session: Session, seconds: float) -> None:
    """Moves the clock, at a pace at which a thread can follow."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    for _ in range(round(2 * seconds)):
        clock.jump(0.5)
        await wait_all_tasks_blocked(0.002)
        _ = [session.link.to_upstream for _ in range(2)]
        await wait_all_tasks_blocked()


def test_a_session_is_not_idle_while_its_bytes_trickle(in_pieces: Implementation) -> None:
    async def main() -> None:
        async with _session(in_pieces, idle_timeout=8) as session, trio.open_nursery() as nursery:
            nursery.start_soon(session.player.send, WORDS)
            heard = 0
            for _ in range(30):
                await _wait(session, 1)
                assert not session.over.is_set()
                heard += len(session.server.sock.recv(4096))
            assert heard > 100_000
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock())


def test_what_was_read_before_counts_as_moved_when_it_is(implementation: Implementation) -> None:
    async def main() -> None:
        async with _session(implementation, first=WORDS, idle_timeout=4) as session:
            await _wait(session, 3)
            assert await session.server.read(len(WORDS)) == WORDS
            await _wait(session, 3.5)
            assert not session.over.is_set()
            await _wait(session, 2.5)
            assert (await session.outcome()).reason is CloseReason.IDLE_TIMEOUT

    trio.run(main, clock=MockClock())


def test_counts_hold_all_that_the_kernel_took(in_pieces: Implementation) -> None:
    async def main() -> None:
        async with _session(in_pieces) as session:
            await session.player.send(WORDS[:100_000])
            await wait_all_tasks_blocked(0.02)
            heard = await session.server.read(20_000)
            assert session.link.to_upstream >= len(heard)
            session.link.kill(CloseReason.KILLED)
            outcome = await session.outcome()
            assert len(heard) <= outcome.to_upstream <= 100_000

    trio.run(main, clock=MockClock())
