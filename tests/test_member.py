"""One worker process and what it does for whoever has the other end of its channel."""

import mmap
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.channel import Channel
from sniproxy.doors import Doors
from sniproxy.member import Member, start
from sniproxy.orders import Begin
from sniproxy.scrape import rows_in
from sniproxy.settings import Drain, Listener
from sniproxy.stick_table import prepare, table_size
from tests.support.crews import bury, dial, is_alive, played, settings_of, until
from tests.support.peers import Peer, game_server

pytestmark = pytest.mark.anyio


@dataclass
class One:
    """A worker, and its parent."""

    member: Member
    doors: Doors
    codes: list[int]  # how it has ended
    reports: list[int]  # its sessions, by each report

    def tell(self, **message: Any) -> None:
        self.member.channel.send(message)

    def dial(self, listener: int = 0) -> Peer:
        return dial(self.doors.ports[listener])

    async def join(self) -> Peer:
        """A player who plays."""
        player = self.dial()
        await played(player)
        return player

    def holds_doors(self) -> bool:
        """Whether it has the listening sockets too."""
        ours = {os.readlink(f"/proc/self/fd/{one}") for one in self.doors.descriptors[0]}
        theirs = set()
        for descriptor in Path(f"/proc/{self.member.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                theirs.add(os.readlink(descriptor))
        return bool(ours & theirs)

    async def heard(self) -> None:
        """All that it was told before, it has done."""
        assert await self.member.ask("refused") is not None

    async def ended(self) -> int:
        """Its exit code."""
        await until(lambda: self.codes)
        assert not is_alive(self.member.pid)
        return self.codes[0]


@asynccontextmanager
async def worker(
    folder: Path, *, accepts: bool = True, slots: int = 1, drain: Drain | None = None, **proxy: Any
) -> AsyncIterator[One]:
    """A worker that has a configuration in force, until the block is left."""
    async with game_server() as game:
        settings = await settings_of(folder, game.port, drain, **proxy)
        entries = settings.proxy.limits.table
        size = table_size(entries, 1)
        table = os.memfd_create("table")
        os.ftruncate(table, size)
        with ExitStack() as stack:
            stack.callback(os.close, table)
            prepare(memoryview(mmap.mmap(table, size)))
            doors = stack.enter_context(Doors(settings.proxy, slots))
            member = start(Begin(0, 1, settings, doors.descriptors, table))
            one = One(member, doors, [], [])

            async def run() -> None:
                one.codes.append(await member.run(lambda it: one.reports.append(it.active)))

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run)
                    await until(lambda: member.ready)
                    doors.open()
                    if accepts:
                        one.tell(accept=list(range(slots)))
                    yield one
                    nursery.cancel_scope.cancel()
            finally:
                bury(member)


@pytest.mark.parametrize(
    ("about", "said", "known"),
    [
        ("metrics", ["counted", "answer"], ["answer"]),
        ("metrics", ["answer", "counted"], ["counted"]),
        ("config", ["counted", "answer"], ["counted"]),
    ],
)
async def test_what_it_has_counted_is_what_it_has_said_last(
    about: str, said: list[str], known: list[str]
) -> None:
    """Else statistics would lack what came in between, or have it twice."""
    ours, theirs = socket.socketpair()
    member, worker = Member(0, 0, Channel(ours)), Channel(theirs)

    async def answer() -> None:
        asked = await anext(worker)
        answers = {"counted": {"counted": ["counted"]}}
        answers["answer"] = {"answer": asked["ask"], "content": ["answer"]}
        for one in said:
            worker.send(answers[one])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(member.run, lambda _: None)
        nursery.start_soon(worker.run)
        nursery.start_soon(answer)
        assert await member.ask(about) == ["answer"]
        await until(lambda: member.counted == known)  # type: ignore[comparison-overlap]
        nursery.cancel_scope.cancel()
    member.channel.close()
    worker.close()


async def test_what_it_says_when_it_is_asked(tmp_path: Path) -> None:
    async with worker(tmp_path) as one:
        report = one.member.report
        assert report is not None
        assert (report.revision, report.stale, report.active) == (1, False, 0)
        player = await one.join()
        config = await one.member.ask("config")
        assert (config["revision"], config["broken"]) == (1, [])
        assert config["objects"] == {"/apisix/stream_routes/7": 1}
        assert await one.member.ask("routes") == {"7": 1}
        assert await one.member.ask("refused") == []
        assert await one.member.ask("flight", session="none") is None
        assert await one.member.ask("held") >= 0
        names = {family["name"] for family in await one.member.ask("metrics")}
        assert {"sniproxy_sessions_opened", "process_cpu_seconds"} <= names
        await until(lambda: one.reports[-1] == 1)
        await until(lambda: one.member.counted)
        player.close()
        await until(lambda: one.reports[-1] == 0)


async def test_what_it_does_not_know_it_leaves_alone(tmp_path: Path) -> None:
    """A parent of another version may say more, or say it otherwise."""
    async with worker(tmp_path) as one:
        one.tell(dance=True)
        one.tell(accept=[0], hurry=True)
        one.member.channel._waiting.append(b"[]\n7\n\n")
        one.tell()
        assert await one.member.ask("the weather") is None
        assert await one.member.ask("routes", since=7) == {}
        (await one.join()).close()


async def test_until_it_may_let_players_in_they_wait_for_another(tmp_path: Path) -> None:
    async with worker(tmp_path, accepts=False) as one:
        player = one.dial()
        await player.send(b"x")
        await one.heard()
        assert one.member.active == 0
        one.tell(accept=[0])
        assert await player.read(1) == b"x"
        one.tell(accept=[])
        await one.heard()
        late = one.dial()
        await late.send(b"x")
        assert await one.member.ask("routes") == {"7": 1}
        assert await one.member.ask("shut") is True
        one.tell(accept=[0])
        assert await late.read(1) == b"x"
        player.close()
        late.close()


async def test_listeners_may_have_different_numbers_of_slots(tmp_path: Path) -> None:
    """As an earlier version has bound them: what is not there is nobody's."""
    listeners = tuple(Listener(address=f"127.0.0.{number}:0") for number in (1, 2))
    async with game_server() as game:
        settings = await settings_of(tmp_path, game.port, listeners=listeners)
        table = os.memfd_create("table")
        os.ftruncate(table, table_size(settings.proxy.limits.table, 1))
        prepare(memoryview(mmap.mmap(table, table_size(settings.proxy.limits.table, 1))))
        with Doors(settings.proxy, 3) as doors:
            few, many = doors.descriptors
            member = start(Begin(0, 1, settings, [few[:1], many], table))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.run, lambda _: None)
                await until(lambda: member.ready)
                doors.open()
                for slots in ([0, 1, 2], [2], [0, 2], []):
                    member.channel.send({"accept": slots})
                    assert await member.ask("routes") == {}
                member.channel.send({"accept": [1, 2]})
                assert await member.ask("shut") is True
                nursery.cancel_scope.cancel()
            bury(member)
        os.close(table)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
async def test_signals_are_the_parents(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal and a service manager send them to the whole group."""
    async with worker(tmp_path) as one:
        player = await one.join()
        os.kill(one.member.pid, number)
        await one.heard()
        await played(player)
        assert one.codes == []
        player.close()


async def test_told_to_stop_it_ends_at_once(tmp_path: Path) -> None:
    async with worker(tmp_path) as one:
        player = await one.join()
        one.tell(stop=True)
        assert await one.ended() == 0
        assert await player.read_all() == b""
        assert not one.member.ready
        assert await one.member.ask("routes") is None
        player.close()


async def test_killed_it_is_known_by_what(tmp_path: Path) -> None:
    async with worker(tmp_path) as one:
        player = await one.join()
        one.member.kill()
        assert await one.ended() == -signal.SIGKILL
        one.member.kill()  # nobody is there any more
        assert (one.member.ready, one.member.active, one.member.stale) == (False, 0, True)
        player.close()


@pytest.mark.parametrize("how", ["told to leave", "parent gone"])
async def test_it_leaves_with_the_last_of_its_sessions(tmp_path: Path, how: str) -> None:
    """Nobody is let in by then; they wait for another worker."""
    async with worker(tmp_path, drain=Drain(deadline=1000, spread=0)) as one:
        players = [await one.join() for _ in range(3)]
        assert one.holds_doors()
        if how == "told to leave":
            one.tell(leave=[None, 0])
        else:
            one.member.channel.close()
        await until(lambda: not one.holds_doors())
        late = one.dial()
        await late.send(b"x")
        for player in players:
            await played(player)
            assert one.codes == []
            player.close()
        assert await one.ended() == 0
        with pytest.raises(BlockingIOError):
            late.sock.recv(1)
        late.close()


async def test_what_it_has_counted_is_known_to_the_last_when_it_has_left(tmp_path: Path) -> None:
    async with worker(tmp_path) as one:
        await until(lambda: one.member.counted)
        player = await one.join()
        one.tell(leave=[None, 0])
        player.close()
        assert await one.ended() == 0
        assert rows_in(one.member.counted)["7"][0] == 1


@pytest.mark.parametrize("how", ["told to leave", "parent gone"])
async def test_who_plays_on_when_it_leaves_is_ended_in_time(tmp_path: Path, how: str) -> None:
    async with worker(tmp_path, drain=Drain(deadline=0.2, spread=0.1)) as one:
        player = await one.join()
        if how == "told to leave":
            one.tell(leave=[0.2, 0.1])
        else:
            one.member.channel.close()
        assert await one.ended() == 0
        with suppress(ConnectionResetError):
            assert await player.read_all() == b""
        player.close()


async def test_one_that_hangs_does_not_hang_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no answer, and nobody knows how old its configuration is."""
    monkeypatch.setattr("sniproxy.member.ANSWER_WITHIN", 0.2)
    monkeypatch.setattr("sniproxy.member.SILENCE", 1.5)
    async with worker(tmp_path) as one:
        assert not one.member.stale
        os.kill(one.member.pid, signal.SIGSTOP)
        assert await one.member.ask("routes") is None
        await until(lambda: one.member.stale)
        assert one.member.ready
        assert one.member.age > 1
        os.kill(one.member.pid, signal.SIGCONT)
        await until(lambda: not one.member.stale)
        monkeypatch.setattr("sniproxy.member.ANSWER_WITHIN", 20)
        assert await one.member.ask("routes") == {}  # and not what was asked before
