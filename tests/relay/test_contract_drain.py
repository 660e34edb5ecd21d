"""The contract of the relays: `drain`. On virtual time wherever the relay follows trio's clock."""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from sniproxy.relay import Outcome, Relay
from tests.support.clocks import relay_clock
from tests.support.relaying import (
    BUFFER,
    LATE,
    LONG,
    Implementation,
    Session,
    Transport,
    begin,
    in_time,
    on_every_transport,
)

pytestmark = pytest.mark.anyio

ODD = 1.3  # seconds: nothing that the relay does now and then falls on it


@pytest.fixture
def anyio_backend(implementation: Implementation) -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    clock = relay_clock(0.01) if implementation.virtual else None
    return "trio", {"clock": clock}


def of(outcome: Outcome) -> tuple[CloseReason, str, int, int]:
    """All that is said of an end."""
    return outcome.reason, outcome.detail, outcome.to_upstream, outcome.to_client


def drain(relay: Relay, session: Session, after: float, spread: float) -> None:
    """Asks for it; a thread has heard of it when this returns, however far behind it is."""
    relay.drain(after, spread)
    _ = session.link.to_upstream


async def speak(session: Session, up: bytes = b"", down: bytes = b"") -> None:
    """Moves some bytes, which must arrive."""
    await session.player.send(up)
    assert await session.server.read(len(up)) == up
    await session.server.send(down)
    assert await session.player.read(len(down)) == down


async def ends_of(sessions: list[Session]) -> list[float]:
    """When each of them ended, the first one first."""
    ends: list[float] = []

    async def watch(session: Session) -> None:
        await session.over.wait()
        ends.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(watch, session)
    return ends


@on_every_transport
@pytest.mark.parametrize(("after", "spread"), [(4.0, 10.0), (0.7, 4.0), (3.0, 0.0), (0.0, 0.0)])
async def test_those_who_play_are_ended_one_by_one(
    implementation: Implementation, transport: Transport, after: float, spread: float
) -> None:
    """Each in its turn, having moved what it has."""
    count = 5
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            sessions = [await begin(relay, transport) for _ in range(count)]
            for number, session in enumerate(sessions):
                await speak(session, b"up" * number, b"down" * number)
            await trio.sleep(ODD)
            since = trio.current_time()
            drain(relay, session, after, spread)
            ends = await ends_of(sessions)
            outcomes = [await session.outcome() for session in sessions]
            for session in sessions:
                assert await session.server.wire.read_all() == b""
                await session.player.wire.read_all()  # comes to its end
                session.close()
    for turn, end in enumerate(ends):
        waited = end - since - after - spread * turn / count
        assert -1e-6 <= waited <= LATE, f"{turn}: {waited}"
    assert [of(outcome) for outcome in outcomes] == [
        (CloseReason.SHUTDOWN, "", 2 * number, 4 * number) for number in range(count)
    ]


async def _closes(session: Session) -> None:
    await session.player.end()
    assert await session.server.read_all() == b""
    await session.server.end()


async def _resets(session: Session) -> None:
    session.server.reset()


async def _is_killed(session: Session) -> None:
    session.link.kill(CloseReason.KILLED)


async def _does_nothing(session: Session) -> None:
    """Its `idle_timeout` is shorter than what is left."""


@on_every_transport
@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (_closes, CloseReason.CLIENT_CLOSED),
        (_resets, CloseReason.UPSTREAM_RESET),
        (_is_killed, CloseReason.KILLED),
        (_does_nothing, CloseReason.IDLE_TIMEOUT),
    ],
)
async def test_who_ends_before_has_his_own_reason(
    implementation: Implementation,
    transport: Transport,
    ending: Callable[[Session], Awaitable[None]],
    reason: CloseReason,
) -> None:
    """Told once, whatever the drain would have made of it."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, idle_timeout=3)
            await speak(session, b"up", b"down")
            since = trio.current_time()
            drain(relay, session, 8, 2)
            await trio.sleep(1)
            await ending(session)
            outcome = await session.outcome()
            assert trio.current_time() - since < 8
            await trio.sleep(12)
            assert await session.outcome() is outcome
        session.close()
    assert (outcome.reason, outcome.to_upstream, outcome.to_client) == (reason, 2, 4)


@on_every_transport
async def test_those_who_come_later_are_left_alone(
    implementation: Implementation, transport: Transport
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            relay.drain(0, 0)  # nobody plays
            before = await begin(relay, transport)
            drain(relay, before, 3, 6)
            at_once = await begin(relay, transport)
            await trio.sleep(1)
            meanwhile = await begin(relay, transport)
            assert (await before.outcome()).reason is CloseReason.SHUTDOWN
            afterwards = await begin(relay, transport)
            await trio.sleep(8)
            for session in (at_once, meanwhile, afterwards):
                await speak(session, b"still", b"here")
                assert session.outcomes == []
        for session in (before, at_once, meanwhile, afterwards):
            session.close()


@on_every_transport
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    ("session_time", "after", "reason"),
    [(5.0, 20.0, CloseReason.SESSION_TIMEOUT), (20.0, 5.0, CloseReason.SHUTDOWN)],
)
async def test_whichever_comes_first_ends_it(
    implementation: Implementation,
    transport: Transport,
    session_time: float,
    after: float,
    reason: CloseReason,
    new: bool,
) -> None:
    """What a session may last, or the drain."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, session_time=session_time)
            began = trio.current_time()
            if not new:
                await trio.sleep(ODD)
            since = trio.current_time()
            drain(relay, session, after, 0)
            outcome = await session.outcome()
            if reason is CloseReason.SHUTDOWN:
                assert in_time(since, after)
            else:
                assert in_time(began, session_time)
        session.close()
    assert (outcome.reason, outcome.detail) == (reason, "")


@on_every_transport
@pytest.mark.parametrize(("first", "second"), [(20.0, 4.0), (4.0, 20.0), (4.0, math.inf)])
async def test_of_two_drains_the_sooner_one_counts(
    implementation: Implementation, transport: Transport, first: float, second: float
) -> None:
    """In whichever order they are asked for."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            await trio.sleep(ODD)
            began = trio.current_time()
            drain(relay, session, first, 0)
            await trio.sleep(1.2)
            since = trio.current_time()
            drain(relay, session, second, 0)
            outcome = await session.outcome()
            assert in_time(*min((began, first), (since, second), key=sum))
        session.close()
    assert (outcome.reason, outcome.detail) == (CloseReason.SHUTDOWN, "")


async def _just_begun(relay: Relay, transport: Transport) -> Session:
    return await begin(relay, transport)


async def _half_closed(relay: Relay, transport: Transport) -> Session:
    session = await begin(relay, transport)
    await session.player.end()
    assert await session.server.receive() == b""
    return session


async def _stalled(relay: Relay, transport: Transport) -> Session:
    """The relay holds bytes that the player does not take."""
    session = await begin(relay, transport, kernel_buffer=32 * 1024)
    await _fill(session)
    return session


async def _capped(relay: Relay, transport: Transport) -> Session:
    """The game server's bytes wait for their allowance, for longer than the drain lasts."""
    session = await begin(relay, transport, bandwidth=2)
    await _fill(session)
    return session


async def _fill(session: Session) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.server.send, bytes(1 << 23))
            await trio.testing.wait_all_tasks_blocked(0.005)
            scope.cancel()


@on_every_transport
@pytest.mark.parametrize("state", [_just_begun, _half_closed, _stalled, _capped])
async def test_a_session_in_any_state_is_ended(
    implementation: Implementation,
    transport: Transport,
    state: Callable[[Relay, Transport], Awaitable[Session]],
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await state(relay, transport)
            since = trio.current_time()
            drain(relay, session, 4, 0)
            outcome = await session.outcome()
            assert in_time(since, 4)
            with suppress(ConnectionResetError):
                await session.player.wire.read_all()  # comes to its end
        session.close()
    assert (outcome.reason, outcome.detail) == (CloseReason.SHUTDOWN, "")
    assert outcome.to_upstream == 0
