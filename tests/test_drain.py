"""How a data plane is emptied, in virtual time: phase by phase, by other terms on the way, and taken back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sniproxy.drain import GRAIN, LOOK_EVERY, Drain, Phase, Terms
from tests.support.gateway import Lines, open_lines

pytestmark = pytest.mark.anyio

NEVER = float("inf")
DEADLINE = 100_000  # virtual seconds for one test


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class House:
    """What is emptied: sessions that end by themselves at their times, or when they are ended."""

    def __init__(self, *ends: float, closing: float = 0) -> None:
        """ends: seconds from now. closing: how long `close` takes."""
        self._begun = trio.current_time()
        self._ends = [self._begun + end for end in ends]
        self._ended_at = NEVER
        self._closing = closing
        self.did: list[tuple[Any, ...]] = []

    @property
    def now(self) -> float:
        return trio.current_time() - self._begun

    @property
    def active(self) -> int:
        return sum(trio.current_time() < min(end, self._ended_at) for end in self._ends)

    def _note(self, *what: Any) -> None:
        self.did.append((round(self.now, 2), *what))

    def retire(self) -> None:
        self._note("retire")

    async def close(self) -> None:
        await trio.sleep(self._closing)
        self._note("close")

    def drain(self, after: float, spread: float) -> None:
        self._note("drain", after, spread)
        self._ended_at = trio.current_time() + after + spread

    def reopen(self) -> None:
        self._note("reopen")
        self._ended_at = NEVER


class Stuck(House):
    """Its sessions do not end when they should."""

    def drain(self, after: float, spread: float) -> None:
        self._note("drain", after, spread)


@asynccontextmanager
async def draining(house: House) -> AsyncIterator[tuple[Drain, Lines]]:
    """A drain that runs until the block is left."""
    log, lines = open_lines()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            drain = Drain(house, log)
            nursery.start_soon(drain.run)
            await trio.testing.wait_all_tasks_blocked()
            yield drain, lines
            nursery.cancel_scope.cancel()


def phases(lines: Lines) -> list[tuple[str, int, float | None]]:
    """What was told of each: its name, how many sessions there were, and how long it may last."""
    return [(one["phase"], one["sessions"], one["seconds"]) for one in lines.all if "phase" in one]


async def test_one_phase_after_the_other() -> None:
    house = House(20, 45, NEVER, NEVER)
    async with draining(house) as (drain, lines):
        assert (drain.phase, drain.seconds_left) == (Phase.SERVING, None)
        drain.begin(Terms(accept=10, deadline=30, spread=5))
        for at, phase, left in (
            (1, Phase.LEAVING, 9),
            (9, Phase.LEAVING, 1),
            (11, Phase.WAITING, 29),
            (39, Phase.WAITING, 1),
            (41, Phase.ENDING, 4),
        ):
            await trio.sleep(at - house.now)
            assert drain.phase is phase
            assert drain.seconds_left == pytest.approx(left)
            assert not drain.over.is_set()
        await drain.over.wait()
        assert (drain.phase, drain.seconds_left) == (Phase.OVER, None)
        assert house.now == pytest.approx(45, abs=2 * LOOK_EVERY)
    assert house.did == [(0, "retire"), (10, "close"), (10, "drain", 30, 5)]
    assert phases(lines) == [
        ("leaving", 4, 10),
        ("waiting", 4, 30),
        ("ending", 3, 5),
        ("over", 0, None),
    ]


@pytest.mark.parametrize(("ends", "over"), [((), 2), ((1.0,), 2), ((2.5, 7.0), 7), ((29.9,), 29.9)])
async def test_sessions_that_end_by_themselves_are_not_waited_for_any_longer(
    ends: tuple[float, ...], over: float
) -> None:
    house = House(*ends)
    async with draining(house) as (drain, lines):
        drain.begin(Terms(accept=2, deadline=60, spread=10))
        await drain.over.wait()
        assert house.now == pytest.approx(over, abs=2 * LOOK_EVERY)
    assert [phase for phase, *_ in phases(lines)] == ["leaving", "waiting", "over"]


async def test_without_a_deadline_nobody_is_ended() -> None:
    house = House(5000)
    async with draining(house) as (drain, _):
        drain.begin(Terms(accept=0, deadline=None, spread=10))
        await trio.sleep(4999)
        assert (drain.phase, drain.seconds_left) == (Phase.WAITING, None)
        await drain.over.wait()
        assert house.now == pytest.approx(5000, abs=2 * LOOK_EVERY)
    assert house.did == [(0, "retire"), (0, "close")]


async def test_with_no_time_at_all_it_is_over_at_once() -> None:
    """Who still plays is ended with the process."""
    house = Stuck(NEVER)
    async with draining(house) as (drain, lines):
        drain.begin(Terms(0, 0, 0))
        await drain.over.wait()
        assert house.now == 0
    assert house.did == [(0, "retire"), (0, "close"), (0, "drain", 0, 0)]
    assert [phase for phase, *_ in phases(lines)] == ["waiting", "ending", "over"]


@pytest.mark.parametrize("terms", [Terms(0, 10, 0), Terms(0, 0, 10), Terms(3, 10, 20)])
async def test_who_does_not_end_is_not_waited_for_for_ever(terms: Terms) -> None:
    house = Stuck(NEVER)
    async with draining(house) as (drain, _):
        drain.begin(terms)
        await drain.over.wait()
        assert house.now == pytest.approx(sum(filter(None, terms)) + GRAIN)


async def test_asked_again_it_goes_on_from_where_it_is() -> None:
    """Nobody is let in again, nor for longer; other times hold from then on."""
    house = House(NEVER)
    async with draining(house) as (drain, lines):
        drain.begin(Terms(accept=5, deadline=None, spread=10))
        await trio.sleep(100)
        drain.begin(Terms(accept=5, deadline=20, spread=4))
        await trio.sleep(1)
        assert (drain.phase, drain.seconds_left) == (Phase.WAITING, 19)
        drain.begin(Terms(accept=5, deadline=2, spread=1))
        await drain.over.wait()
        assert house.now == pytest.approx(104, abs=2 * LOOK_EVERY)
    assert house.did == [
        (0, "retire"),
        (5, "close"),
        (100, "drain", 20, 4),
        (101, "drain", 2, 1),
    ]
    assert phases(lines)[1:] == [
        ("waiting", 1, None),
        ("waiting", 1, 20),
        ("waiting", 1, 2),
        ("ending", 1, 1),
        ("over", 0, None),
    ]


async def test_asked_twice_before_it_has_begun_the_second_counts() -> None:
    house = House()
    async with draining(house) as (drain, _):
        drain.begin(Terms(100, 100, 100))
        drain.begin(Terms(1, 2, 3))
        await drain.over.wait()
    assert house.did == [(0, "retire"), (1, "close"), (1, "drain", 2, 3)]


@pytest.mark.parametrize("at", [1, 6, 26])
async def test_taken_back_in_whichever_phase_and_begun_anew(at: float) -> None:
    house = House(NEVER)
    async with draining(house) as (drain, lines):
        drain.begin(Terms(accept=5, deadline=20, spread=10))
        await trio.sleep(at)
        drain.take_back()
        assert (drain.phase, drain.seconds_left) == (Phase.SERVING, None)
        await trio.sleep(1000)
        assert house.active == 1
        assert house.did[-1] == (at, "reopen")
        assert not drain.over.is_set()
        drain.begin(Terms(accept=5, deadline=20, spread=10))
        await drain.over.wait()
        assert house.now == pytest.approx(at + 1035, abs=2 * LOOK_EVERY)
    assert house.did[-3:] == [
        (at + 1000, "retire"),
        (at + 1005, "close"),
        (at + 1005, "drain", 20, 10),
    ]
    assert "drain taken back" in [one["event"] for one in lines.all]


async def test_taken_back_while_the_doors_are_being_closed() -> None:
    """Without a time to let players in it is not ready any more all the same."""
    house = House(NEVER, closing=2)
    async with draining(house) as (drain, _):
        drain.begin(Terms(accept=0, deadline=20, spread=10))
        await trio.sleep(1)
        drain.take_back()
        await trio.sleep(100)
    assert house.did == [(0, "retire"), (1, "reopen")]


async def test_taken_back_in_the_moment_in_which_the_doors_are_closed() -> None:
    """What waited for it runs once more, and must not close anything."""
    house = House(NEVER)
    closed = trio.Event()
    house.close = closed.wait  # type: ignore[method-assign]
    async with draining(house) as (drain, _):
        drain.begin(Terms(accept=0, deadline=20, spread=10))
        await trio.sleep(1)
        closed.set()
        drain.take_back()
        await trio.sleep(100)
        assert drain.phase is Phase.SERVING
    assert house.did == [(0, "retire"), (1, "reopen")]


async def test_taken_back_at_once_nobody_is_shut_out() -> None:
    house = House(NEVER)
    async with draining(house) as (drain, lines):
        drain.take_back()
        drain.begin(Terms(accept=5, deadline=20, spread=10))
        drain.take_back()
        await trio.sleep(100)
        assert drain.phase is Phase.SERVING
    assert house.did == [(0, "retire"), (0, "reopen")]
    assert [one["event"] for one in lines.all] == ["drain taken back"]


async def test_what_is_over_can_be_opened_again() -> None:
    house = House()
    async with draining(house) as (drain, _):
        for turn in (1, 2):
            drain.begin(Terms(0, 1, 1))
            await drain.over.wait()
            drain.take_back()
            assert not drain.over.is_set()
            assert [name for _, name, *_ in house.did].count("reopen") == turn


WAITS = st.floats(0, 50)
TERMS = st.builds(Terms, st.integers(0, 20), st.none() | st.integers(0, 20), st.integers(0, 20))
ASKED = st.lists(st.tuples(WAITS, st.none() | TERMS), max_size=6)  # None: taken back


@given(ASKED, st.lists(st.floats(0, 100), max_size=3))
def test_whatever_is_asked_it_ends_as_asked_last(
    asked: list[tuple[float, Terms | None]], ends: list[float]
) -> None:
    """Open if it was taken back, and else closed, once, with the doors shut in between."""

    async def run() -> None:
        house = House(*ends)
        async with draining(house) as (drain, _):
            for wait, terms in asked:
                await trio.sleep(wait)
                if terms is None:
                    drain.take_back()
                else:
                    drain.begin(terms)
            await trio.sleep(200)
            drained = bool(asked) and asked[-1][1] is not None
            assert drain.over.is_set() == drained
            assert drain.phase is (Phase.OVER if drained else Phase.SERVING)
        is_open = True
        for _, name, *_ in house.did:
            if name == "drain":
                assert not is_open
            elif name in ("close", "reopen"):
                is_open = name == "reopen"
        assert is_open != drained

    trio.run(run, clock=MockClock(autojump_threshold=0))
