"""The contract of the relays: `held` and `shed`. On virtual time wherever the relay follows trio's clock."""

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from sniproxy.relay import Relay
from tests.support.clocks import relay_clock
from tests.support.peers import Peer
from tests.support.relaying import (
    BUFFER,
    LONG,
    Implementation,
    Session,
    Transport,
    begin,
    on_every_transport,
)

pytestmark = pytest.mark.anyio

MIB = 1 << 20
SMALL = 32 * 1024  # bytes that the kernel keeps between two, or some more
REST = 0.06  # seconds: longer than a kernel waits with an acknowledgement
MUCH = 4 * MIB  # more than the kernel and any relay keep


@pytest.fixture
def anyio_backend(implementation: Implementation) -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    clock = relay_clock(0.01) if implementation.virtual else None
    return "trio", {"clock": clock}


class Table:
    """Sessions of which one side or both do not read, while the other goes on speaking, and what is held for each."""

    def __init__(self, relay: Relay, nursery: trio.Nursery) -> None:
        self.sessions: list[Session] = []
        self.held: dict[int, int] = {}  # bytes, by place in the list; without those who have gone
        self._reset: list[socket.socket] = []
        self._relay = relay
        self._nursery = nursery

    async def stall(
        self, transport: Transport, up: int = 0, down: int = 0, **terms: Any
    ) -> Session:
        """One more, where so many bytes are said each way, of which the kernel keeps a little; `terms` as for `begin`."""
        before = await at_rest(self._relay)
        session = await begin(self._relay, transport, **{"kernel_buffer": SMALL, **terms})
        self._nursery.start_soon(self._say, session.player, words(up))
        self._nursery.start_soon(self._say, session.server, words(down))
        held = await at_rest(self._relay) - before
        assert held > 0
        self.held[len(self.sessions)] = held
        self.sessions.append(session)
        return session

    async def shed(self) -> Session:
        """The next one goes, who must be one of those that hold the most; how it ended is for the caller to see."""
        most = max(self.held.values())
        assert self._relay.shed() == most
        await trio.testing.wait_all_tasks_blocked(0.02)
        while not any(self.sessions[place].over.is_set() for place in self.held):
            await trio.testing.wait_all_tasks_blocked()  # told when a turn is over
        (gone,) = [place for place in self.held if self.sessions[place].over.is_set()]
        assert self.held.pop(gone) == most
        assert self._relay.held() == sum(self.held.values())
        return self.sessions[gone]

    async def was_reset(self, peer: Peer) -> bool:
        """Whether that is how its connection went, as it heard when it spoke or hears when it listens."""
        try:
            await peer.wire.read_all()
        except ConnectionResetError:
            return True
        return peer.sock in self._reset

    async def _say(self, peer: Peer, said: bytes) -> None:
        try:
            await peer.send(said)
        except ConnectionResetError:
            self._reset.append(peer.sock)


@asynccontextmanager
async def laid(relay: Relay) -> AsyncIterator[Table]:
    """A table for one test, at which nobody is left then."""
    async with trio.open_nursery() as nursery:
        table = Table(relay, nursery)
        try:
            yield table
        finally:
            nursery.cancel_scope.cancel()
            for session in table.sessions:
                session.close()


def words(size: int) -> bytes:
    """As many, the same each time."""
    return random.Random(size).randbytes(size)


async def at_rest(relay: Relay) -> int:
    """What is held once nothing moves any more."""
    before = -1
    while (held := relay.held()) != before:
        before = held
        await trio.testing.wait_all_tasks_blocked(REST)
    return held


async def speak(session: Session) -> None:
    """Bytes go both ways."""
    for one, other in ((session.player, session.server), (session.server, session.player)):
        await one.send(b"still here")
        assert await other.read(10) == b"still here"
    assert session.outcomes == []


@on_every_transport
async def test_the_one_that_holds_the_most_goes_first(
    implementation: Implementation, transport: Transport
) -> None:
    """With both its sockets, until nobody holds anything."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            quiet = await begin(relay, transport)
            for up, down in ((0, MUCH), (MUCH, MUCH), (MUCH, 0), (MUCH, MUCH), (0, MUCH)):
                room = SMALL if len(table.held) % 2 else SMALL // 4
                await table.stall(transport, up, down, kernel_buffer=room)
            if transport == "plain":  # of what was read before, all is held
                await table.stall(transport, first=words(3 * MIB))
                assert max(table.held.values()) > 2 * MIB
            assert len(set(table.held.values())) > 1
            while table.held:
                gone = await table.shed()
                outcome = await gone.outcome()
                assert (outcome.reason, outcome.detail) == (CloseReason.SHED, "")
                assert await table.was_reset(gone.player)
                assert await table.was_reset(gone.server)
            assert relay.held() == relay.shed() == 0
            await speak(quiet)
            quiet.close()


@on_every_transport
async def test_those_who_hold_less_lose_nothing(
    implementation: Implementation, transport: Transport
) -> None:
    """They go on as if nothing had been, and in the end nothing is held for them."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            said = [(0, MUCH), (MUCH, MUCH), (MUCH, 0), (MUCH, MUCH)]
            for up, down in said:
                await table.stall(transport, up, down)
            for _ in range(2):
                await table.shed()
            for place in table.held:
                session, (up, down) = table.sessions[place], said[place]
                assert await session.server.read(up) == words(up)
                assert await session.player.read(down) == words(down)
                await speak(session)
            assert await at_rest(relay) == relay.shed() == 0


@on_every_transport
async def test_nobody_ends_where_nothing_is_held(
    implementation: Implementation, transport: Transport
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            assert relay.held() == relay.shed() == 0
            sessions = [await begin(relay, transport) for _ in range(3)]
            for session in sessions:
                await speak(session)
                assert await at_rest(relay) == relay.shed() == 0
            for session in sessions:
                await speak(session)
        for session in sessions:
            session.close()


async def test_it_is_the_same_whoever_moves_the_bytes(implementation: Implementation) -> None:
    """Sessions in clear and with TLS, which may be in other hands."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            for transport in ("TLSv1.3", "plain", "TLSv1.2"):
                for up, down in ((0, MUCH), (MUCH, MUCH), (MUCH, 0)):
                    await table.stall(transport, up, down)
            await table.stall("plain", first=words(200_000))
            while table.held:
                assert (await (await table.shed()).outcome()).reason is CloseReason.SHED
            assert relay.held() == relay.shed() == 0


@on_every_transport
async def test_asked_for_again_at_once_another_one_goes(
    implementation: Implementation, transport: Transport
) -> None:
    """Nobody else runs in between, so that nobody has heard of the first end."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            sessions = [await table.stall(transport, up, MUCH) for up in (MUCH, 0)]
            both = [relay.shed(), relay.shed()]
            assert both == sorted(table.held.values(), reverse=True)
            assert relay.shed() == relay.held() == 0
            outcomes = [await session.outcome() for session in sessions]
    assert [outcome.reason for outcome in outcomes] == [CloseReason.SHED] * 2


@pytest.mark.parametrize("bandwidth", [None, 1000])
@pytest.mark.parametrize("ended", [False, True])
async def test_it_is_told_once_and_counts_only_what_the_kernel_took(
    implementation: Implementation, ended: bool, bandwidth: int | None
) -> None:
    """In any state that it may be in."""
    size = 2 * MIB
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            session = await table.stall("plain", first=words(size), bandwidth=bandwidth)
            if ended:
                await session.player.end()
                await at_rest(relay)
            assert relay.shed() > 0
            session.link.kill(CloseReason.KILLED)  # it has ended
            outcome = await session.outcome()
            await trio.sleep(5)
            assert await session.outcome() is outcome
    assert outcome.reason is CloseReason.SHED
    assert outcome.to_upstream < size
    assert outcome.to_client == 0


async def test_who_was_killed_holds_nothing(implementation: Implementation) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay, laid(relay) as table:
            session = await table.stall("plain", first=words(2 * MIB))
            session.link.kill(CloseReason.KILLED)
            assert relay.shed() == relay.held() == 0
            assert (await session.outcome()).reason is CloseReason.KILLED
