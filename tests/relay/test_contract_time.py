"""The contract of the relays, third part: the two timeouts. On virtual time wherever the relay follows trio's clock."""

from typing import Any

import pytest
import trio

from sniproxy.errors import CloseReason
from tests.support.clocks import relay_clock
from tests.support.peers import Peer
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

CLOSED = {"player": CloseReason.CLIENT_CLOSED, "server": CloseReason.UPSTREAM_CLOSED}


@pytest.fixture
def anyio_backend(implementation: Implementation) -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    clock = relay_clock(0.01) if implementation.virtual else None
    return "trio", {"clock": clock}


@on_every_transport
@pytest.mark.parametrize("seconds", [1.0, 3.7])
async def test_a_session_without_a_byte_ends(
    implementation: Implementation, transport: Transport, seconds: float
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, idle_timeout=seconds)
            since = trio.current_time()
            outcome = await session.outcome()
            assert in_time(since, seconds)
            assert await session.server.wire.read_all() == b""
            await session.player.wire.read_all()  # comes to its end
        session.close()
    assert (outcome.reason, outcome.detail) == (CloseReason.IDLE_TIMEOUT, "")


@on_every_transport
@pytest.mark.parametrize("speaker", ["player", "server"])
async def test_bytes_either_way_put_the_idle_timeout_off(
    implementation: Implementation, transport: Transport, speaker: str
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, idle_timeout=4)
            await _chat(session, speaker, pauses=[3.9] * 4)
            since = trio.current_time()
            outcome = await session.outcome()
            assert in_time(since, 4)
        session.close()
    assert outcome.reason is CloseReason.IDLE_TIMEOUT
    assert outcome.to_upstream + outcome.to_client == 4


@on_every_transport
@pytest.mark.parametrize("side", ["player", "server"])
async def test_the_second_side_has_its_time_to_end(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    """Counted from the last byte; whoever ended first is the reason."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, half_close_timeout=4)
            await trio.sleep(10)  # idle, which is another matter
            first, second = (
                (session.player, "server") if side == "player" else (session.server, "player")
            )
            await first.end()
            await _chat(session, second, pauses=[3.9] * 3)
            since = trio.current_time()
            outcome = await session.outcome()
            assert in_time(since, 4)
        session.close()
    assert (outcome.reason, outcome.detail) == (CLOSED[side], "the other side never closed")
    assert outcome.to_upstream + outcome.to_client == 3


async def test_a_short_idle_timeout_holds_after_one_side_has_ended(
    implementation: Implementation,
) -> None:
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, idle_timeout=2, half_close_timeout=60)
            await session.player.end()
            since = trio.current_time()
            await session.outcome()
            assert in_time(since, 2)
        session.close()


@on_every_transport
@pytest.mark.parametrize("stalled", ["player", "server"])
async def test_a_side_that_takes_nothing_is_idle(
    implementation: Implementation, transport: Transport, stalled: str
) -> None:
    """However much the other side would like to send."""
    with trio.fail_after(LONG):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, idle_timeout=3, kernel_buffer=32 * 1024)
            sender = session.server if stalled == "player" else session.player
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_until_reset, sender)
                outcome = await session.outcome()
        session.close()
    assert outcome.reason is CloseReason.IDLE_TIMEOUT


async def _send_until_reset(sender: Peer) -> None:
    with pytest.raises(ConnectionResetError):
        await sender.send(bytes(16 << 20))


async def _chat(session: Session, speaker: str, pauses: list[float]) -> None:
    """One byte after each pause, each of which must arrive."""
    pair = session.player, session.server
    sender, receiver = pair if speaker == "player" else pair[::-1]
    for pause in pauses:
        await trio.sleep(pause)
        await sender.send(b"x")
        assert await receiver.read(1) == b"x"
