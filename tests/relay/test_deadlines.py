"""Deadlines, against a model that looks at everything all the time."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.relay.deadlines import Deadlines


@dataclass(eq=False)
class Session:
    """Something that may go idle."""

    last_active: float
    idle_timeout: float
    ends_at: float = float("inf")
    bucket: int = -1
    filed: float = 0.0  # when it was filed last, which may be after its deadline

    @property
    def deadline(self) -> float:
        """When it is due."""
        return min(self.last_active + self.idle_timeout, self.ends_at)


@pytest.mark.parametrize(
    ("last_active", "idle_timeout", "looked_at", "found"),
    [
        (0.0, 5.0, 4.9, False),
        (0.0, 5.0, 5.0, False),  # due, but its second is looked at when it is over
        (0.0, 5.0, 6.0, True),
        (0.7, 5.0, 5.9, False),
        (0.7, 5.0, 6.0, True),
        (0.7, 0.1, 1.0, True),
        (0.0, 0.0, 1.0, True),
        (0.0, 3600.0, 3600.9, False),
        (0.0, 3600.0, 3601.0, True),
        (0.0, 5.0, 1e5, True),
    ],
)
def test_one_is_found_within_a_second_of_its_deadline(
    last_active: float, idle_timeout: float, looked_at: float, found: bool
) -> None:
    deadlines: Deadlines[Session] = Deadlines(0.0)
    one = Session(last_active, idle_timeout)
    deadlines.file(one)
    assert deadlines.due(looked_at) == [one] * found


def test_activity_that_nobody_told_puts_it_off() -> None:
    deadlines: Deadlines[Session] = Deadlines(100.0)
    one = Session(100.0, 5.0)
    deadlines.file(one)
    one.last_active = 104.0
    assert deadlines.due(108.9) == []
    assert deadlines.due(110.0) == [one]


def test_a_shorter_timeout_counts_once_it_is_filed_again() -> None:
    deadlines: Deadlines[Session] = Deadlines(0.0)
    one = Session(0.0, 3600.0)
    deadlines.file(one)
    one.idle_timeout = 2.0
    deadlines.file(one)
    assert deadlines.due(3.0) == [one]
    deadlines.discard(one)
    assert deadlines.due(5000.0) == []


def test_what_is_discarded_is_not_found_and_may_be_discarded_again() -> None:
    deadlines: Deadlines[Session] = Deadlines(0.0)
    one, other, stranger = (Session(0.0, 1.0) for _ in range(3))
    for filed in (one, other):
        deadlines.file(filed)
    for gone in (one, one, stranger):
        deadlines.discard(gone)
    assert deadlines.due(10.0) == [other]


def test_one_that_is_filed_late_is_found_at_the_next_look() -> None:
    deadlines: Deadlines[Session] = Deadlines(0.0)
    assert deadlines.due(50.5) == []
    one = Session(3.0, 4.0)
    deadlines.file(one)
    assert deadlines.due(51.0) == [one]


seconds = st.floats(0, 30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("file"), seconds),
        st.tuples(st.just("touch"), st.integers(0, 9)),
        st.tuples(st.just("shorten"), st.integers(0, 9)),
        st.tuples(st.just("discard"), st.integers(0, 9)),
        st.tuples(st.just("wait"), seconds),
    ),
    max_size=60,
)


@given(start=st.floats(0, 1e6), steps=steps)
def test_none_is_found_early_and_none_is_missed(
    start: float, steps: list[tuple[str, float]]
) -> None:
    now, filed = start, list[Session]()
    deadlines: Deadlines[Session] = Deadlines(now)
    for step, argument in steps:
        if step == "file":
            filed.append(Session(now, argument, filed=now))
            deadlines.file(filed[-1])
        elif step == "wait":
            now += argument
            found = deadlines.due(now)
            assert all(one.deadline <= now for one in found)
            late = {one for one in filed if max(one.deadline, one.filed) + 1 <= now}
            assert late <= set(found)
            for one in found:
                filed.remove(one)
                deadlines.discard(one)
        elif filed:
            one = filed[int(argument) % len(filed)]
            if step == "touch":
                one.last_active = now
            elif step == "shorten":
                one.idle_timeout /= 2
                one.filed = now
                deadlines.file(one)
            else:
                filed.remove(one)
                deadlines.discard(one)
    assert set(deadlines.due(now + 100)) == set(filed)
