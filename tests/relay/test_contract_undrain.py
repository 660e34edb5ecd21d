"""The contract of the relays: a drain that is taken back. On virtual time wherever the relay follows trio's clock."""

from typing import Any

import pytest
import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Relay
from tests.support.clocks import relay_clock
from tests.support.relaying import (
    BUFFER,
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


async def let_hear(session: Session) -> None:
    """A thread has heard of all that it was told when this returns, and done it."""
    for _ in range(2):
        _ = session.link.to_upstream
    await trio.lowlevel.checkpoint()


async def drain(relay: Relay, session: Session, after: float, spread: float = 0) -> None:
    """Asks for it."""
    relay.drain(after, spread)
    await let_hear(session)


async def undrain(relay: Relay, session: Session) -> None:
    """Takes it back."""
    relay.undrain()
    await let_hear(session)


async def plays(session: Session) -> None:
    """Bytes go both ways."""
    for one, other in (
        (session.player, session.server),
        (session.server, session.player),
    ):
        await one.send(b"still here")
        assert await other.read(10) == b"still here"
    assert session.outcomes == []


@on_every_transport
@pytest.mark.parametrize("new", [False, True])
async def test_those_who_still_play_go_on(
    implementation: Implementation, transport: Transport, new: bool
) -> None:
    """Taken back in the midst of it; who has ended by then has ended."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            sessions = [await begin(relay, transport) for _ in range(4)]
            if not new:
                await trio.sleep(ODD)
            await drain(relay, sessions[0], 4, 40)
            await trio.sleep(18)
            ended = [session for session in sessions if session.over.is_set()]
            left = [session for session in sessions if not session.over.is_set()]
            assert len(ended) == len(left) == 2  # their turns are at 4, 14, 24 and 34 seconds
            await undrain(relay, left[0])
            await trio.sleep(30)
            for session in left:
                await plays(session)
            assert [(await one.outcome()).reason for one in ended] == [CloseReason.SHUTDOWN] * 2
        for session in sessions:
            session.close()


@on_every_transport
async def test_what_was_never_asked_for_can_be_taken_back(
    implementation: Implementation, transport: Transport
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            relay.undrain()  # nobody plays
            session = await begin(relay, transport)
            for _ in range(2):
                await undrain(relay, session)
                await trio.sleep(10)
            await plays(session)
        session.close()


@on_every_transport
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"session_time": 20.0}, CloseReason.SESSION_TIMEOUT),
        ({"idle_timeout": 20.0}, CloseReason.IDLE_TIMEOUT),
    ],
)
@pytest.mark.parametrize(("after", "waits"), [(5.0, 2.0), (30.0, 2.0), (30.0, 15.0)])
async def test_what_a_session_may_last_holds_as_if_it_had_never_been_asked_for(
    implementation: Implementation,
    transport: Transport,
    limit: Any,
    reason: CloseReason,
    after: float,
    waits: float,
    new: bool,
) -> None:
    """In time and with its own reason, whether the drain would have come before or not."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, **limit)
            began = trio.current_time()
            if not new:
                await trio.sleep(ODD)
            await drain(relay, session, after)
            await trio.sleep(waits)
            await undrain(relay, session)
            outcome = await session.outcome()
            assert in_time(began, 20)
        session.close()
    assert (outcome.reason, outcome.detail) == (reason, "")


@on_every_transport
@pytest.mark.parametrize(("first", "second"), [(5.0, 10.0), (10.0, 5.0), (5.0, 5.0), (5.0, 40.0)])
async def test_asked_for_again_it_counts_from_then(
    implementation: Implementation, transport: Transport, first: float, second: float
) -> None:
    """What was taken back has no part in it."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            await trio.sleep(ODD)
            await drain(relay, session, first)
            await trio.sleep(1.2)
            await undrain(relay, session)
            await trio.sleep(1.2)
            since = trio.current_time()
            await drain(relay, session, second)
            outcome = await session.outcome()
            assert in_time(since, second)
        session.close()
    assert outcome.reason is CloseReason.SHUTDOWN


@on_every_transport
async def test_asked_for_again_all_end_sooner(
    implementation: Implementation, transport: Transport
) -> None:
    """Each at its turn of the second, where that is before its turn of the first."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            sessions = [await begin(relay, transport) for _ in range(3)]
            await trio.sleep(ODD)
            await drain(relay, sessions[0], 60, 60)
            await trio.sleep(5)
            since = trio.current_time()
            await drain(relay, sessions[0], 10, 3)
            for session in sessions:
                assert (await session.outcome()).reason is CloseReason.SHUTDOWN
            assert in_time(since, 12)  # the last turn of three
        for session in sessions:
            session.close()


@on_every_transport
async def test_all_at_once_counts_in_the_order_in_which_it_was_asked_for(
    implementation: Implementation, transport: Transport
) -> None:
    """Without a turn of the relay's in between."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            relay.drain(0, 0)
            relay.undrain()
            await let_hear(session)
            await trio.sleep(10)
            await plays(session)
            relay.undrain()
            since = trio.current_time()
            relay.drain(3, 0)
            assert (await session.outcome()).reason is CloseReason.SHUTDOWN
            assert in_time(since, 3)
        session.close()
