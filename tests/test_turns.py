"""Turns: how many are inside, who waits, who is refused, and that nothing of it is lost. On virtual time."""

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.settings import Overload
from sniproxy.turns import Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps whenever nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def unshared(**members: Any) -> Overload:
    """Settings by which one route, and one address, may have all turns."""
    return Overload(**{"route_share": 1, "address_share": 1, **members})


class Crowd:
    """Those who want a turn, by name, and what has become of them so far."""

    def __init__(self, nursery: trio.Nursery, **overload: Any) -> None:
        self.turns = Turns(unshared(**overload))
        self.entered: list[str] = []
        self.refused: dict[str, str] = {}
        self.refused_at: dict[str, float] = {}
        self._nursery = nursery
        self._inside: dict[str, trio.CancelScope] = {}
        self._scopes: dict[str, trio.CancelScope] = {}

    async def come(self, *names: str) -> None:
        """They come one by one: the route's letter, the address' letter, and whatever."""
        for name in names:
            self._nursery.start_soon(self._take, name)
            await trio.testing.wait_all_tasks_blocked()

    async def leave(self, *names: str) -> None:
        """They are done, or do not want any more."""
        for name in names:
            self._scopes.pop(name).cancel()
            await trio.testing.wait_all_tasks_blocked()

    @property
    def state(self) -> tuple[int, int]:
        """How many are inside, and how many wait; as many as there are."""
        assert self.turns.inside == len(self._inside)
        return self.turns.inside, self.turns.waiting

    async def _take(self, name: str) -> None:
        with trio.CancelScope() as scope:
            self._scopes[name] = scope
            try:
                async with self.turns.take(name[0], name[1].encode()):
                    self.entered.append(name)
                    self._inside[name] = scope
                    try:
                        await trio.sleep_forever()
                    finally:
                        del self._inside[name]
            except SessionEnded as ended:
                self.refused[name] = str(ended)
                self.refused_at[name] = trio.current_time()


async def test_where_there_is_room_nobody_else_runs_before() -> None:
    ran: list[str] = []
    turns = Turns(unshared(setups=2))

    async def other() -> None:
        ran.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with turns.take("1", b"a"), turns.take("1", b"a"):
            ran.append("inside")
            assert (turns.inside, turns.waiting) == (2, 0)
        assert (turns.inside, turns.waiting) == (0, 0)
    assert ran == ["inside", "other"]


async def test_a_cancelled_task_enters_where_there_is_room() -> None:
    """As with any step that has nothing to wait for."""
    turns = Turns(unshared(setups=1))
    with trio.CancelScope() as scope:
        scope.cancel()
        async with turns.take("1", b"a"):
            assert turns.inside == 1
    assert turns.inside == 0


async def test_an_error_inside_gives_the_turn_back() -> None:
    turns = Turns(unshared(setups=1))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with turns.take("1", b"a"):
                raise ZeroDivisionError
    assert turns.inside == 0


async def test_they_wait_and_take_turns() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=2)
        await crowd.come("1a1", "1a2", "1a3", "1a4", "1b1", "2a1", "2a2")
        assert crowd.entered == ["1a1", "1a2"]
        assert crowd.state == (2, 5)
        for name in ("1a1", "1a2", "1a3", "2a1", "1b1"):
            await crowd.leave(name)
        assert crowd.entered == ["1a1", "1a2", "1a3", "2a1", "1b1", "2a2", "1a4"]
        assert crowd.state == (2, 0)
        await crowd.leave("2a2", "1a4")
        assert crowd.state == (0, 0)
    assert crowd.refused == {}


@pytest.mark.parametrize("queue", [0, 1, 3])
async def test_when_the_queue_is_full_the_longest_line_loses_its_newest(queue: int) -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1, queue=queue)
        await crowd.come("1a0", *(f"1a{number}" for number in range(1, queue + 1)))
        assert crowd.state == (1, queue)
        await crowd.come("2a1")
        loser = f"1a{queue}" if queue > 1 else "2a1"  # of equals whoever has just come
        assert crowd.refused == {loser: f"setup_limit: overload.queue: {queue} wait"}
        assert crowd.state == (1, queue)
        nursery.cancel_scope.cancel()
    assert crowd.state == (0, 0)


async def test_nobody_waits_longer_than_the_timeout() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1, queue_timeout=10)
        await crowd.come("1a1", "1a2")
        await trio.sleep(4)
        await crowd.come("2a1")
        await trio.sleep(5.9)
        assert crowd.state == (1, 2)
        start = trio.current_time() - 9.9
        await trio.sleep(60)
        assert crowd.state == (1, 0)
        assert crowd.refused == dict.fromkeys(
            ("1a2", "2a1"), "setup_limit: overload.queue_timeout: no turn in 10 s"
        )
        assert crowd.refused_at == {
            "1a2": pytest.approx(start + 10),
            "2a1": pytest.approx(start + 14),
        }
        await crowd.leave("1a1")
        await crowd.come("1a4")
        assert crowd.entered == ["1a1", "1a4"]
        nursery.cancel_scope.cancel()


async def test_a_fraction_of_a_second_is_said_as_it_is() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1, queue_timeout=0.5)
        await crowd.come("1a1", "1a2")
        await trio.sleep(1)
        assert crowd.refused == {"1a2": "setup_limit: overload.queue_timeout: no turn in 0.5 s"}
        nursery.cancel_scope.cancel()


async def test_who_leaves_while_it_waits_takes_nothing() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1, queue=2)
        await crowd.come("1a1", "1a2", "2a1")
        await crowd.leave("1a2")
        assert crowd.state == (1, 1)
        await crowd.come("3a1")  # there is room for it now
        assert crowd.state == (1, 2)
        await crowd.leave("1a1", "2a1", "3a1")
        assert crowd.state == (0, 0)
    assert crowd.entered == ["1a1", "2a1", "3a1"]
    assert crowd.refused == {}


async def test_a_turn_that_comes_with_the_cancellation_goes_to_the_next() -> None:
    """All in one instant, in which nobody runs: cancelled first, and then given a turn."""
    turns, entered = Turns(unshared(setups=1)), list[str]()

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with turns.take("1", b"a"):
                entered.append(name)

    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        async with turns.take("1", b"a"):
            for name, scope in zip("abc", scopes, strict=True):
                nursery.start_soon(take, name, scope)
                await trio.testing.wait_all_tasks_blocked()
            assert turns.waiting == 3
            scopes[0].cancel()
        assert (turns.inside, turns.waiting) == (1, 2)  # it has it, and does not know yet
    assert entered == ["b", "c"]
    assert (turns.inside, turns.waiting) == (0, 0)


async def test_a_turn_that_comes_before_the_cancellation_is_had() -> None:
    turns, scope = Turns(unshared(setups=1)), trio.CancelScope()
    entered = []

    async def take() -> None:
        with scope:
            async with turns.take("1", b"a"):
                entered.append(turns.inside)
                await trio.lowlevel.checkpoint()
                entered.append(-1)

    async with trio.open_nursery() as nursery:
        async with turns.take("1", b"a"):
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert entered == [1]
    assert turns.inside == 0


# Settings that change


async def test_more_setups_let_in_at_once_and_fewer_when_some_have_left() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1)
        await crowd.come(*(f"1a{number}" for number in range(6)))
        assert crowd.state == (1, 5)
        crowd.turns.settings = unshared(setups=4)
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.state == (4, 2)
        crowd.turns.settings = unshared(setups=2)
        assert crowd.turns.settings.setups == 2
        await crowd.leave("1a0", "1a1")
        assert crowd.state == (2, 2)
        await crowd.leave("1a2")
        assert crowd.state == (2, 1)
        assert crowd.entered[-1] == "1a4"
        nursery.cancel_scope.cancel()


async def test_a_shorter_queue_is_so_at_once() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1)
        await crowd.come(*(f"1a{number}" for number in range(6)), "2a1")
        crowd.turns.settings = unshared(setups=1, queue=3)
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.state == (1, 3)
        assert crowd.refused == dict.fromkeys(
            ("1a5", "1a4", "1a3"), "setup_limit: overload.queue: 3 wait"
        )
        crowd.turns.settings = unshared(setups=3, queue=0)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(crowd.entered) == [
            "1a0",
            "1a1",
            "2a1",
        ]  # who finds room inside is not refused
        assert crowd.state == (3, 0)
        nursery.cancel_scope.cancel()


async def test_another_timeout_is_for_those_who_come() -> None:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery, setups=1, queue_timeout=10)
        await crowd.come("1a1", "1a2")
        crowd.turns.settings = unshared(setups=1, queue_timeout=2)
        await crowd.come("1a3")
        await trio.sleep(5)
        assert crowd.refused == {"1a3": "setup_limit: overload.queue_timeout: no turn in 2 s"}
        await trio.sleep(10)
        assert crowd.refused["1a2"] == "setup_limit: overload.queue_timeout: no turn in 10 s"
        nursery.cancel_scope.cancel()


# Any history


@given(
    setups=st.integers(1, 3),
    queue=st.integers(0, 5),
    players=st.lists(
        # comes, stays inside for, loses patience after, in seconds; from where
        st.tuples(
            st.integers(0, 20), st.integers(0, 8), st.integers(1, 12), st.sampled_from("abc")
        ),
        max_size=25,
    ),
    changes=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 3), st.integers(0, 5)), max_size=3
    ),
)
def test_no_history_passes_the_limits_or_loses_a_turn(
    setups: int,
    queue: int,
    players: list[tuple[int, int, int, str]],
    changes: list[tuple[int, int, int]],
) -> None:
    most = max([setups, *(change[1] for change in changes)])
    turns = Turns(unshared(setups=setups, queue=queue, queue_timeout=5))
    inside, ends, refusals = 0, 0, set[CloseReason]()

    async def play(comes: int, stays: int, patience: int, place: str) -> None:
        nonlocal inside, ends
        await trio.sleep(comes)
        try:
            with trio.move_on_after(patience):
                async with turns.take(place, place.encode()):
                    inside += 1
                    try:
                        assert inside <= turns.inside <= most  # some were let in and have not run
                        await trio.sleep(stays)
                    finally:
                        inside -= 1
        except SessionEnded as ended:
            refusals.add(ended.reason)
        ends += 1

    async def change(at: int, setups: int, queue: int) -> None:
        await trio.sleep(at)
        turns.settings = unshared(setups=setups, queue=queue, queue_timeout=5)

    async def watch() -> None:
        """Between any two instants nobody waits beside a place that is free."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            assert inside == turns.inside
            assert turns.waiting <= turns.settings.queue
            assert not turns.waiting or turns.inside >= turns.settings.setups
            await trio.sleep(0.5)

    async def main() -> None:
        async with trio.open_nursery() as watching:
            watching.start_soon(watch)
            async with trio.open_nursery() as nursery:
                for player in players:
                    nursery.start_soon(play, *player)
                for one in changes:
                    nursery.start_soon(change, *one)
            watching.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert ends == len(players)
    assert refusals <= {CloseReason.SETUP_LIMIT}
    assert (turns.inside, turns.waiting) == (0, 0)
