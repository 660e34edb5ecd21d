"""The contract of the relays, first part: what goes in comes out, in order and counted, while the session lives."""

import hashlib
import random

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from tests.support.peers import Peer, TlsPeer
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

MIB = 1024 * 1024


@on_every_transport
async def test_megabytes_both_ways_at_once_arrive_whole_and_in_order(
    implementation: Implementation, transport: Transport
) -> None:
    up, down = random.Random(1).randbytes(5 * MIB + 1), random.Random(2).randbytes(4 * MIB + 3)
    arrived: dict[str, bytes] = {}

    async def send(peer: Peer, data: bytes) -> None:
        await peer.send(data)
        await peer.end()

    async def collect(name: str, peer: Peer) -> None:
        arrived[name] = await peer.read_all()

    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, session.player, up)
                nursery.start_soon(send, session.server, down)
                nursery.start_soon(collect, "up", session.server)
                nursery.start_soon(collect, "down", session.player)
            outcome = await session.outcome()
        session.close()
    assert _digest(arrived["up"]) == _digest(up)
    assert _digest(arrived["down"]) == _digest(down)
    assert (outcome.to_upstream, outcome.to_client) == (len(up), len(down))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@on_every_transport
@pytest.mark.parametrize("size", [1, 4096, 4097, 1 << 14, (1 << 14) + 1, 200_000])
async def test_a_message_of_any_size_is_passed_on_without_waiting_for_more(
    implementation: Implementation, transport: Transport, size: int
) -> None:
    message = random.Random(size).randbytes(size)
    with trio.fail_after(DEADLINE):
        async with implementation.open(4096) as relay:
            session = await begin(relay, transport)
            for sender, receiver in _both_ways(session):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sender.send, message)
                    assert await receiver.read(size) == message
        session.close()


def _both_ways(session: Session) -> tuple[tuple[Peer, Peer], tuple[Peer, Peer]]:
    return (session.player, session.server), (session.server, session.player)


@pytest.mark.parametrize("size", [0, 1, 517, 300_000])
async def test_what_was_read_before_goes_first(implementation: Implementation, size: int) -> None:
    first = random.Random(size).randbytes(size)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, first=first)
            await session.player.send(b"and then this")
            await session.player.end()
            assert await session.server.read_all() == first + b"and then this"
            await session.server.end()
            outcome = await session.outcome()
        session.close()
    assert outcome.to_upstream == size + len(b"and then this")


@pytest.mark.parametrize("transport", ["TLSv1.2", "TLSv1.3"])
async def test_bytes_that_came_with_the_end_of_the_handshake_are_not_lost(
    implementation: Implementation, transport: Transport
) -> None:
    """A client need not wait between its Finished and its first message."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, then=b"at once")
            assert await session.server.read(7) == b"at once"
        session.close()


@on_every_transport
async def test_the_link_counts_while_the_session_lives(
    implementation: Implementation, transport: Transport
) -> None:
    """Payload, not what TLS makes of it."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            counts = []
            for up, down in ((10, 0), (0, 20_000), (30_000, 5)):
                await session.player.send(bytes(up))
                await session.server.send(bytes(down))
                await session.server.read(up)
                await session.player.read(down)
                await trio.testing.wait_all_tasks_blocked()
                counts.append((session.link.to_upstream, session.link.to_client))
            session.link.kill(CloseReason.KILLED)
            outcome = await session.outcome()
        session.close()
    assert counts == [(10, 0), (10, 20_000), (30_010, 20_005)]
    assert (outcome.to_upstream, outcome.to_client) == (30_010, 20_005)


@on_every_transport
@pytest.mark.parametrize("stalled", ["player", "server"])
async def test_a_reader_that_does_not_read_stops_its_sender_and_nobody_else(
    implementation: Implementation, transport: Transport, stalled: str
) -> None:
    """In hand are the relay's buffer, TLS's, and what the kernel was allowed to keep: far less than is sent."""
    total, kernel_buffer, bound = 16 * MIB, 32 * 1024, 2 * MIB
    data = random.Random(5).randbytes(MIB) * 16
    other_way = bytes(3 * MIB)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, kernel_buffer=kernel_buffer)
            sender, reader = _both_ways(session)[stalled == "player"]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, data)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert 0 < sender.sent < bound
                # The other direction lives, and its bytes do not loosen the first.
                nursery.start_soon(reader.send, other_way)
                assert await sender.read(len(other_way)) == other_way
                assert sender.sent < bound
                assert _digest(await reader.read(total)) == _digest(data)
        session.close()


@pytest.mark.parametrize("transport", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("buffer_size", [4096, BUFFER, MIB])
async def test_a_player_that_sends_and_does_not_read_is_heard_to_the_end(
    implementation: Implementation, transport: Transport, buffer_size: int
) -> None:
    """Both directions have something to say to the player's socket; the one that cannot must not hold up the other."""
    up = bytes(MIB)
    with trio.fail_after(DEADLINE):
        async with implementation.open(buffer_size) as relay:
            for _ in range(8):
                session = await begin(relay, transport, kernel_buffer=32 * 1024)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.server.send, bytes(4 * MIB))
                    nursery.start_soon(session.player.send, up)
                    assert len(await session.server.read(len(up))) == len(up)
                    nursery.cancel_scope.cancel()
                session.close()


@on_every_transport
@pytest.mark.parametrize("seed", range(6))
async def test_any_schedule_of_writes_pauses_and_ends(
    implementation: Implementation, transport: Transport, seed: int
) -> None:
    dice = random.Random(seed)
    with trio.fail_after(DEADLINE):
        async with implementation.open(dice.choice((4096, 10_000, BUFFER))) as relay:
            session = await begin(relay, transport, kernel_buffer=dice.choice((None, 8192)))
            sent: dict[Peer, bytes] = {}
            arrived: dict[Peer, bytes] = {}

            async def play(peer: Peer, script: random.Random) -> None:
                said = bytearray()
                for _ in range(script.randrange(1, 40)):
                    piece = script.randbytes(script.choice((1, 100, 5000, 70_000)))
                    await peer.send(piece)
                    said += piece
                    for _ in range(script.choice((0, 0, 1, 20))):
                        await trio.lowlevel.checkpoint()
                await peer.end()
                sent[peer] = bytes(said)

            async def collect(peer: Peer) -> None:
                arrived[peer] = await peer.read_all()

            async with trio.open_nursery() as nursery:
                for peer in (session.player, session.server):
                    nursery.start_soon(play, peer, random.Random(dice.random()))
                    nursery.start_soon(collect, peer)
            outcome = await session.outcome()
        session.close()
    assert _digest(arrived[session.server]) == _digest(sent[session.player])
    assert _digest(arrived[session.player]) == _digest(sent[session.server])
    assert outcome.to_upstream == len(sent[session.player])
    assert outcome.to_client == len(sent[session.server])
    assert outcome.reason in (CloseReason.CLIENT_CLOSED, CloseReason.UPSTREAM_CLOSED)
    assert not isinstance(session.player, TlsPeer) or session.player.goodbye
