"""What is true of the native relay alone: its thread, its batches of ends, counts that are asked of another thread."""

import gc
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Outcome, Terms
from sniproxy.relay.native import BUILT, NativeRelay, open_native_relay
from sniproxy.relay.trio_relay import open_trio_relay
from tests.support.files import open_files, settled_files
from tests.support.peers import Peer, tcp_pair
from tests.support.relaying import BUFFER, DEADLINE, LONG, Session, begin

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
]


def engines() -> int:
    """The relays' threads in this process."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it has ended meanwhile
            found += (task / "comm").read_text().strip() == "relay"
    return found


async def engines_become(count: int) -> None:
    """A thread that was joined is listed for a moment longer."""
    with trio.fail_after(DEADLINE):
        while engines() != count:  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(0.001)


async def test_hundreds_of_sessions_at_once_each_have_their_own_bytes() -> None:
    async def chat(session: Session, name: bytes) -> None:
        for _ in range(5):
            await session.player.send(name)
            assert await session.server.read(len(name)) == name
            await session.server.send(name[::-1])
            assert await session.player.read(len(name)) == name[::-1]
        await session.player.end()
        assert await session.server.read_all() == b""
        await session.server.end()
        outcome = await session.outcome()
        session.close()
        assert outcome == Outcome(CloseReason.CLIENT_CLOSED, "", 5 * len(name), 5 * len(name))

    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay, trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(chat, await begin(relay), b"%d," % number * (number + 1))


async def test_ends_are_delivered_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    deliver_now = NativeRelay.deliver_now

    def counting(relay: NativeRelay) -> None:
        before = sum(session.over.is_set() for session in sessions)
        deliver_now(relay)
        batches.append(sum(session.over.is_set() for session in sessions) - before)

    monkeypatch.setattr(NativeRelay, "deliver_now", counting)
    sessions: list[Session] = []
    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            sessions += [await begin(relay) for _ in range(100)]
            for session in sessions:
                session.link.kill(CloseReason.KILLED)
            outcomes = [await session.outcome() for session in sessions]
    for session in sessions:
        session.close()
    assert {outcome.reason for outcome in outcomes} == {CloseReason.KILLED}
    assert sum(batches) == 100
    assert max(batches) > 1


async def test_leaving_ends_each_session_once_and_leaves_no_descriptor_nor_thread() -> None:
    await engines_become(0)
    before = settled_files()
    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            sessions = [await begin(relay) for _ in range(150)]
            await sessions[0].player.send(b"x")
            assert await sessions[0].server.read(1) == b"x"
            sessions[1].link.kill(CloseReason.KILLED)
            assert engines() == 1
        # Nobody but the block itself has run since: `on_end` came before it was left.
        reasons = [[outcome.reason for outcome in session.outcomes] for session in sessions]
        for session in sessions:
            for peer in (session.player, session.server):
                assert await peer.read_all() == b""
            session.close()
    assert reasons == [
        [CloseReason.SHUTDOWN],
        [CloseReason.KILLED],
        *[[CloseReason.SHUTDOWN]] * 148,
    ]
    assert [sessions[0].link.to_upstream, sessions[0].link.to_client] == [1, 0]
    await engines_become(0)
    del relay, session, sessions
    gc.collect()
    assert open_files() == before


async def test_an_exception_in_the_block_ends_its_sessions_too() -> None:
    with trio.fail_after(DEADLINE):
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with open_native_relay(buffer_size=BUFFER) as relay:
                session = await begin(relay)
                raise ZeroDivisionError
        assert (await session.outcome()).reason is CloseReason.SHUTDOWN
        session.close()
        with trio.move_on_after(0) as scope:
            async with open_native_relay(buffer_size=BUFFER) as relay:
                session = await begin(relay)
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert (await session.outcome()).reason is CloseReason.SHUTDOWN
        session.close()
    await engines_become(0)


async def test_counts_are_there_before_the_first_byte_and_after_the_end() -> None:
    def counts(session: Session) -> tuple[int, int]:
        return session.link.to_upstream, session.link.to_client

    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            session, stranger = await begin(relay, first=b"12345"), await begin(relay)
            assert counts(session) == (5, 0)
            await session.server.send(b"123")
            assert await session.player.read(3) == b"123"
            assert counts(session) == (5, 3)
            session.link.kill(CloseReason.KILLED)
            await session.outcome()
            assert counts(session) == (5, 3)
            session.link.kill(CloseReason.SHUTDOWN)  # it has ended
            await trio.testing.wait_all_tasks_blocked()
            assert [outcome.reason for outcome in session.outcomes] == [CloseReason.KILLED]
            assert counts(stranger) == (0, 0)
        assert counts(session) == (5, 3)
        assert counts(stranger) == (0, 0)
    session.close()
    stranger.close()


async def test_counts_do_not_go_back_while_the_end_is_on_its_way() -> None:
    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            session = await begin(relay, first=b"12345")
            assert session.link.to_upstream == 5
            session.link.kill(CloseReason.KILLED)
            counts = [
                session.link.to_upstream for _ in range(3)
            ]  # no checkpoint: nothing is delivered
            assert not session.outcomes
        session.close()
    assert counts == [5, 5, 5]


async def test_an_on_end_that_raises_ends_the_relay_as_it_does_on_trio() -> None:
    """It is a defect of the caller's, which nobody is there to hear of."""

    def raising(outcome: Outcome) -> None:
        raise ZeroDivisionError

    with trio.fail_after(DEADLINE):
        for opened in (open_trio_relay(buffer_size=BUFFER), open_native_relay(buffer_size=BUFFER)):
            with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
                async with opened as relay:
                    other, session = await begin(relay), new_session()
                    link = relay.start(session.flow, raising)
                    link.kill(CloseReason.KILLED)
                    await trio.sleep_forever()
            assert (await other.outcome()).reason is CloseReason.SHUTDOWN
            other.close()
            session.close()


async def test_an_on_end_that_raises_does_not_cost_others_theirs() -> None:
    def raising(outcome: Outcome) -> None:
        raise ZeroDivisionError

    sessions: list[Session] = []
    with trio.fail_after(DEADLINE):
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with open_native_relay(buffer_size=BUFFER) as relay:
                session = new_session()
                relay.start(session.flow, raising)
                sessions += [await begin(relay) for _ in range(10)]
        # The block was left: all of them have ended.
        ends = [len(session.outcomes) for session in sessions]
    for one in (*sessions, session):
        one.close()
    assert ends == [1] * 10


async def test_a_session_that_comes_after_the_end_is_refused() -> None:
    async with open_native_relay(buffer_size=BUFFER) as relay:
        pass
    with (
        closing(new_session()) as session,
        session.flow.client,
        session.flow.upstream,
        pytest.raises(RuntimeError),
    ):
        session.start(relay)


async def test_counts_of_one_that_came_after_the_end_are_given() -> None:
    async with open_native_relay(buffer_size=BUFFER) as relay:
        pass
    answers: list[int] = []
    with (
        closing(new_session()) as session,
        session.flow.client,
        session.flow.upstream,
        suppress(RuntimeError),  # refused: there is nothing to ask then
    ):
        session.start(relay)
        link = session.link
        asking = threading.Thread(target=lambda: answers.append(link.to_upstream), daemon=True)
        asking.start()
        asking.join(DEADLINE)
        assert answers == [0]


@pytest.mark.parametrize("seconds", [1e17, 1e300])
async def test_a_timeout_that_is_too_long_for_a_machine_is_none(seconds: float) -> None:
    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            before = settled_files()
            session = new_session(idle_timeout=seconds)
            try:
                session.start(relay)
                await session.player.send(b"x")
                assert await session.server.read(1) == b"x"
                session.link.kill(CloseReason.KILLED)
                await session.outcome()
            finally:
                session.close()
                assert open_files() == before


async def test_bytes_behind_an_urgent_one_are_not_left_lying() -> None:
    """The urgent byte itself is no part of the stream. The relay on trio passes the rest on."""
    words = bytes(100_000)
    with trio.fail_after(DEADLINE):
        async with open_native_relay(buffer_size=BUFFER) as relay:
            session = new_session(kernel_buffer=8192)
            session.start(relay)
            player, server = session.player, session.server
            await player.send(words)
            await trio.testing.wait_all_tasks_blocked(
                0.02
            )  # the server takes nothing: some is not read
            player.sock.send(b"!", socket.MSG_OOB)
            await player.send(b"and more")
            assert await server.read(len(words) + 8) == words + b"and more"
    session.close()


def new_session(*, idle_timeout: float = LONG, kernel_buffer: int | None = None) -> Session:
    """One that is nobody's yet; `kernel_buffer` bounds what lies before the server."""
    (player, client), (server, upstream) = tcp_pair(), tcp_pair(kernel_buffer=kernel_buffer)
    return Session(
        Peer(player), Peer(server), Flow(client, upstream, b"", Terms(idle_timeout, LONG))
    )
