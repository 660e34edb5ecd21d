"""Who of the workers lets players in, and which revision is said to be in force, by what they report in whatever order."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from sniproxy.channel import Channel
from sniproxy.crew import Crew
from sniproxy.doors import Doors
from sniproxy.member import CATCH_UP, Member
from sniproxy.metrics import PodMetrics
from sniproxy.orders import REPORT_EVERY, Report
from sniproxy.pressure import watch_memory
from sniproxy.settings import Listener, Overload, Proxy, Settings
from tests.support.gateway import open_lines

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Time jumps once nobody has anything to do."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Played:
    """A crew of two whose workers say what the test says."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        listeners = (Listener(address="127.0.0.1:0"),)
        settings = Settings(state_dir=folder, proxy=Proxy(workers=2, listeners=listeners))
        log, self.lines = open_lines()
        doors = stack.enter_context(Doors(settings.proxy, 2))
        self.said: list[int] = []
        self.crew = Crew(
            settings, 2, doors, PodMetrics(), log, lambda: self.said.append(self.crew.revision)
        )
        stack.callback(os.close, self.crew._table)
        self.crew.accept()

    def worker(self, number: int) -> Member:
        """One that has just been started."""
        member = self.old(number)
        self.crew._members[number] = member
        return member

    def old(self, number: int) -> Member:
        ours, theirs = socket.socketpair()
        self._stack.enter_context(theirs)
        self._stack.enter_context(ours)
        return Member(number, 0, Channel(ours))

    def says(self, member: Member, revision: int) -> None:
        member.heard(Report(revision=revision, ready=True))
        self.crew._reported(member)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_one_that_comes_back_behind_lets_nobody_in_before_it_has_caught_up(
    tmp_path: Path, played: ExitStack
) -> None:
    """It was said that the revision is in force in all: whoever has heard that must not meet an older one."""
    play = Played(tmp_path, played)
    one, other = play.worker(0), play.worker(1)
    play.says(one, 7)
    play.says(other, 6)
    assert (one.slots, other.slots) == ([0, 1], [])
    assert play.said == [7]
    play.says(one, 8)
    play.says(other, 7)
    play.says(other, 8)
    assert (one.slots, other.slots) == ([0], [1])
    play.says(one, 9)
    play.says(other, 9)
    assert play.said == [7, 8, 9]


async def test_one_that_never_catches_up_lets_players_in_all_the_same(
    tmp_path: Path, played: ExitStack
) -> None:
    play = Played(tmp_path, played)
    one, other = play.worker(0), play.worker(1)
    play.says(one, 7)
    play.says(other, 6)
    await trio.sleep(CATCH_UP)
    play.says(other, 6)
    assert (one.slots, other.slots) == ([0], [1])
    assert play.said == [7, 6]


async def test_others_let_in_who_waits_for_one_that_hangs(
    tmp_path: Path, played: ExitStack
) -> None:
    """It keeps its slots, as nobody can tell it otherwise; where all hang nothing changes."""
    play = Played(tmp_path, played)
    one, other = play.worker(0), play.worker(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play.crew.watch_silence)
        for _ in range(2):
            play.says(one, 7)
            play.says(other, 7)
            await trio.sleep(1.5 * REPORT_EVERY)
            assert (one.slots, other.slots) == ([0], [1])
            for _ in range(8):
                play.says(other, 7)
                await trio.sleep(REPORT_EVERY)
            assert (one.slots, other.slots) == ([0], [1, 0])
            assert len(play.crew.members) == 2
        play.says(one, 7)
        await trio.sleep(10 * REPORT_EVERY)
        assert (one.slots, other.slots) == ([0], [1])
        nursery.cancel_scope.cancel()
    assert [line["event"] for line in play.lines.all] == ["worker hangs"] * 4


async def test_a_revision_is_not_in_force_while_old_workers_let_players_in_by_another(
    tmp_path: Path, played: ExitStack
) -> None:
    play = Played(tmp_path, played)
    old = play.old(0)
    old.report = Report(revision=5)
    play.crew.adopt([old], [])
    one, other = play.worker(0), play.worker(1)
    play.says(one, 7)
    play.says(other, 7)
    assert play.said == [5]
    old.report = Report(revision=6, ready=True)
    play.crew._old_reported(old)
    play.crew.replace_old(None, 0)
    old.report = Report(revision=6, ready=True)
    play.crew._old_reported(old)
    assert play.said == [5, 6, 7]


async def test_what_the_parent_before_has_asked_is_not_answered_to_its_heir(
    tmp_path: Path, played: ExitStack
) -> None:
    """Who hung in an upgrade answers late, and in the same channel."""
    asked = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        member = Member(0, 0, Channel(ours, b""))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.channel.run)
            nursery.start_soon(member.ask, "held")
            asked.append((await anext(Channel(theirs)))["ask"])
            nursery.cancel_scope.cancel()
        member.channel.close()
        theirs.close()
    assert asked[0] != asked[1]


async def test_old_workers_stay_when_no_new_one_does(tmp_path: Path, played: ExitStack) -> None:
    """One that was ready once and is given up then, as the others are, is no successor."""
    play = Played(tmp_path, played)
    play.crew.adopt([play.old(0)], [])
    one = play.worker(0)
    play.says(one, 7)
    assert play.crew.first_ready.is_set()
    del play.crew._members[0]
    for number in range(2):
        play.crew._given_up.add(number)
        play.crew._note_ready()
    assert not play.crew.all_ready.is_set()


async def test_old_workers_hear_of_memory_too(
    tmp_path: Path, played: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be all that there is for a while; and what their parent before has said may be over by now."""
    used = 0
    monkeypatch.setattr("sniproxy.cgroup.memory_limit", lambda: None)
    monkeypatch.setattr("sniproxy.cgroup.memory_of", lambda _: used)
    play = Played(tmp_path, played)
    old = play.old(0)
    play.crew.adopt([old], [])
    log, lines = open_lines()
    overload = Overload(max_memory=2**26)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_memory, play.crew, lambda: overload, PodMetrics(), log)
        await trio.sleep(1)
        used = 2**26
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    told = [json.loads(one) for one in old.channel._waiting]
    assert [one["short"] for one in told if "short" in one] == [False, True]
    assert [one["event"] for one in lines.all] == ["memory short"]


def told(member: Member, what: str) -> list[object]:
    """What was said to it under that name."""
    orders = [json.loads(one) for one in member.channel._waiting]
    return [one[what] for one in orders if what in one]


def finds(play: Played, member: Member, *names: str) -> None:
    """Its probes have found those unhealthy."""
    member.unhealthy = list(names)
    play.crew._reported(member)


async def test_one_of_them_probes_and_another_when_that_one_is_gone(
    tmp_path: Path, played: ExitStack
) -> None:
    play = Played(tmp_path, played)
    one, other = play.worker(0), play.worker(1)
    assert told(one, "probe") == []  # it is not ready
    play.says(one, 7)
    play.says(other, 7)
    play.says(one, 8)
    assert (told(one, "probe"), told(other, "probe")) == ([True], [])
    finds(play, one, "a")
    finds(play, one, "a")
    assert (told(one, "unhealthy"), told(other, "unhealthy")) == ([["a"]], [["a"]])
    finds(play, other, "b")  # which was not asked
    assert play.crew.unhealthy == ["a"]

    del play.crew._members[0]
    play.crew._assign()
    assert told(other, "probe") == [True]
    assert play.crew.unhealthy == ["a"]  # until it finds otherwise; "b" is of before
    late = play.worker(0)
    assert play.crew._begin(0).unhealthy == ["a"]
    play.says(late, 8)
    assert told(late, "probe") == []
    finds(play, other)
    assert (told(late, "unhealthy"), told(other, "unhealthy")) == ([[]], [["a"], []])


async def test_one_that_hangs_probes_no_more(tmp_path: Path, played: ExitStack) -> None:
    play = Played(tmp_path, played)
    one, other = play.worker(0), play.worker(1)
    play.says(one, 7)
    play.says(other, 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play.crew.watch_silence)
        for _ in range(10):
            await trio.sleep(REPORT_EVERY)
            play.says(other, 7)
        nursery.cancel_scope.cancel()
    assert told(one, "probe") == [True, False]  # for when it goes on
    assert told(other, "probe") == [True]
    finds(play, one, "a")
    assert play.crew.unhealthy == []


async def test_of_two_versions_the_old_probes_until_the_new_does(
    tmp_path: Path, played: ExitStack
) -> None:
    play = Played(tmp_path, played)
    old = play.old(0)
    play.crew.adopt([old], [])
    one = play.worker(0)
    old.unhealthy = ["a"]
    play.crew._old_reported(old)
    assert (told(old, "unhealthy"), told(one, "unhealthy")) == ([["a"]], [["a"]])
    play.says(one, 7)
    assert (told(old, "probe"), told(one, "probe")) == ([False], [True])
    old.unhealthy = ["b"]  # said before it had heard that
    play.crew._old_reported(old)
    assert play.crew.unhealthy == ["a"]
    finds(play, one, "c")
    assert told(old, "unhealthy") == [["a"], ["c"]]  # it may let players in still
