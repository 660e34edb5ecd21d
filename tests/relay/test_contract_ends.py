"""The contract of the relays, second part: every way in which a session ends, said once, and nothing left behind."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay import Relay
from tests.support.certificates import server_tls
from tests.support.files import open_files, settled_files
from tests.support.peers import Peer, TlsPeer, tcp_pair
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
by_either_side = pytest.mark.parametrize("side", ["player", "server"])


def sides(session: Session, first: str) -> tuple[Peer, Peer]:
    """The peer of that name and the other one."""
    pair = session.player, session.server
    return pair if first == "player" else pair[::-1]


@on_every_transport
@by_either_side
async def test_after_one_end_bytes_go_on_the_other_way(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    """Whoever ended first is the reason."""
    answer = bytes(range(256)) * 4096
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            first, second = sides(session, side)
            await first.send(b"last words")
            await first.end()
            assert await second.read_all() == b"last words"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.send, answer)
                assert await first.read(len(answer)) == answer
            assert not session.over.is_set()
            await second.end()
            assert await first.read_all() == b""
            outcome = await session.outcome()
        session.close()
    closed = {"player": CloseReason.CLIENT_CLOSED, "server": CloseReason.UPSTREAM_CLOSED}
    assert (outcome.reason, outcome.detail) == (closed[side], "")


@pytest.mark.parametrize("transport", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("goodbye", [True, False], ids=["close_notify only", "FIN only"])
async def test_a_tls_player_that_ends_gets_its_last_answer_and_a_goodbye(
    implementation: Implementation, transport: Transport, goodbye: bool
) -> None:
    """Players leave with a close_notify or without one: both are the end of what they say, not of what they hear."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            player = session.player
            assert isinstance(player, TlsPeer)
            await player.send(b"question")
            if goodbye:
                await player.end(shutdown=False)
            else:
                await player.wire.end()
            assert await session.server.read_all() == b"question"
            await session.server.send(b"answer")
            await session.server.end()
            assert await player.read_all() == b"answer"
            assert player.goodbye
            outcome = await session.outcome()
        session.close()
    assert outcome.reason is (
        CloseReason.CLIENT_CLOSED if goodbye else CloseReason.CLIENT_TRUNCATED
    )


@pytest.mark.parametrize("transport", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("stalled", [False, True])
async def test_the_goodbye_comes_before_the_player_has_ended(
    implementation: Implementation, transport: Transport, stalled: bool
) -> None:
    """It must not cost what the player is still sending, neither what the relay has in hand nor what is to come."""
    up = bytes(range(256)) * 8192
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, kernel_buffer=32 * 1024 if stalled else None)
            player = session.player
            assert isinstance(player, TlsPeer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(player.send, up)
                if stalled:
                    await trio.testing.wait_all_tasks_blocked(0.02)
                await session.server.send(b"only this")
                await session.server.end()
                assert await player.read_all() == b"only this"
                assert player.goodbye
                assert await session.server.read(len(up)) == up
            await player.end()
            assert await session.server.read_all() == b""
            outcome = await session.outcome()
        session.close()
    assert outcome.reason is CloseReason.UPSTREAM_CLOSED


async def _nothing(first: Peer, second: Peer) -> None:
    """The session is idle."""


async def _mid_stream(first: Peer, second: Peer) -> None:
    """The relay holds bytes that the first does not take."""
    with trio.move_on_after(DEADLINE) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.send, bytes(8 * MIB))
            await trio.testing.wait_all_tasks_blocked(0.02)
            scope.cancel()


@on_every_transport
@by_either_side
@pytest.mark.parametrize("before", [_nothing, _mid_stream])
async def test_a_reset_ends_the_session_and_reaches_the_other_side_as_a_reset(
    implementation: Implementation,
    transport: Transport,
    side: str,
    before: Callable[[Peer, Peer], Awaitable[None]],
) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, kernel_buffer=32 * 1024)
            first, second = sides(session, side)
            await before(first, second)
            first.reset()
            with pytest.raises(ConnectionResetError):
                await second.wire.read_all()
            outcome = await session.outcome()
        session.close()
    resets = {"player": CloseReason.CLIENT_RESET, "server": CloseReason.UPSTREAM_RESET}
    assert outcome.reason is resets[side]
    assert outcome.detail in ("Connection reset by peer", "Broken pipe")


@on_every_transport
@by_either_side
async def test_a_sender_that_resets_is_noticed_once_its_bytes_are_taken(
    implementation: Implementation, transport: Transport, side: str
) -> None:
    """At the latest: while the other side takes nothing, nobody looks at this one."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, kernel_buffer=32 * 1024)
            first, second = sides(session, side)
            await _mid_stream(second, first)
            first.reset()
            with pytest.raises(ConnectionResetError):
                await second.wire.read_all()
            outcome = await session.outcome()
        session.close()
    resets = {"player": CloseReason.CLIENT_RESET, "server": CloseReason.UPSTREAM_RESET}
    assert outcome.reason is resets[side]


@by_either_side
async def test_a_side_that_ended_before_it_was_reset_has_closed(
    implementation: Implementation, side: str
) -> None:
    """`close()` on a socket sends FIN, and RST to whatever still comes."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay)
            first, second = sides(session, side)
            await first.end()
            assert await second.receive() == b""
            first.close()
            with suppress(OSError):  # how far it gets is the kernel's affair
                await second.send(bytes(8 * MIB))
            outcome = await session.outcome()
        session.close()
    closed = {"player": CloseReason.CLIENT_CLOSED, "server": CloseReason.UPSTREAM_CLOSED}
    assert outcome.reason is closed[side]


@on_every_transport
@pytest.mark.parametrize("when", ["before it ran", "idle", "stalled", "half closed"])
async def test_kill_ends_a_session_now_and_keeps_the_reason(
    implementation: Implementation, transport: Transport, when: str
) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, kernel_buffer=32 * 1024)
            if when != "before it ran":
                await trio.testing.wait_all_tasks_blocked()
            if when == "stalled":
                await _mid_stream(session.player, session.server)
            if when == "half closed":
                await session.player.end()
                assert await session.server.receive() == b""
            session.link.kill(CloseReason.KILLED)
            session.link.kill(CloseReason.IDLE_TIMEOUT)
            outcome = await session.outcome()
            session.link.kill(CloseReason.SHUTDOWN)
            for peer in (session.player, session.server):
                with suppress(ConnectionResetError):
                    await peer.wire.read_all()  # comes to an end
            assert await session.outcome() is outcome
        session.close()
    assert (outcome.reason, outcome.detail) == (CloseReason.KILLED, "")


async def test_leaving_the_relay_ends_every_session(implementation: Implementation) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            idle, secret, half_closed, over = [
                await begin(relay, transport)
                for transport in ("plain", "TLSv1.3", "plain", "plain")
            ]
            await half_closed.player.end()
            stalled = await begin(relay, kernel_buffer=32 * 1024)
            await _mid_stream(stalled.player, stalled.server)
            over.link.kill(CloseReason.KILLED)
            await over.outcome()
            unstarted = await begin(relay)
        sessions = (idle, secret, half_closed, stalled, unstarted, over)
        reasons = [(await session.outcome()).reason for session in sessions]
    for session in sessions:
        session.close()
    assert reasons == [CloseReason.SHUTDOWN] * 5 + [CloseReason.KILLED]


async def test_one_session_is_no_concern_of_another(implementation: Implementation) -> None:
    """Neighbours that reset, stall, are killed or speak garbage change nothing for who plays on."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            players = [await begin(relay, transport) for transport in ("plain", "TLSv1.3")]
            others = [await begin(relay, "TLSv1.3", kernel_buffer=32 * 1024) for _ in range(4)]
            others[0].player.reset()
            await _mid_stream(others[1].player, others[1].server)
            others[2].link.kill(CloseReason.KILLED)
            await others[3].player.wire.send(b"no record of TLS")
            for ended in (others[0], others[2], others[3]):
                await ended.outcome()
            for session in players:
                await session.player.send(b"still")
                assert await session.server.read(5) == b"still"
                await session.server.send(b"here")
                assert await session.player.read(4) == b"here"
        for session in (*players, *others):
            session.close()


async def _end_gently(session: Session) -> None:
    await session.player.send(b"x")
    await session.player.end()
    await session.server.read_all()
    await session.server.end()
    await session.player.read_all()


async def _player_resets(session: Session) -> None:
    session.player.reset()


async def _server_resets(session: Session) -> None:
    session.server.reset()


async def _killed(session: Session) -> None:
    session.link.kill(CloseReason.KILLED)


async def _garbage(session: Session) -> None:
    await session.player.wire.send(b"no record of TLS")
    await session.player.wire.end()
    await session.server.read_all()
    await session.server.end()


ENDS = (_end_gently, _player_resets, _server_resets, _killed, _garbage)


async def test_no_descriptor_is_left_after_any_kind_of_end(implementation: Implementation) -> None:
    """500 sessions, and as many handshakes that fail as there are kinds of end."""

    async def play(
        relay: Relay, transport: Transport, end: Callable[[Session], Awaitable[None]]
    ) -> None:
        session = await begin(relay, transport)
        await end(session)
        await session.outcome()
        session.close()

    async def refuse(relay: Relay) -> None:
        player, client = tcp_pair()
        with pytest.raises(SessionEnded):
            await relay.accept_tls(client, server_tls(), b"no ClientHello")
        player.close()
        client.close()

    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            await play(relay, "TLSv1.3", _end_gently)  # what is opened once and kept
            before = settled_files()
            for _ in range(10):
                async with trio.open_nursery() as nursery:
                    for end in ENDS:
                        nursery.start_soon(refuse, relay)
                        nursery.start_soon(play, relay, "TLSv1.2", end)
                        nursery.start_soon(play, relay, "TLSv1.3", end)
                        for _ in range(8):
                            nursery.start_soon(play, relay, "plain", end)
            assert open_files() == before
