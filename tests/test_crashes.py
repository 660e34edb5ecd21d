"""When a worker that has died is started again: at once, then later and later, and at some time not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.crashes import FIRST_PAUSE, LONGEST_PAUSE, Crashes

MOST, WINDOW = 5, 60.0


def pauses(times: list[float], most: int = MOST, window: float = WINDOW) -> list[float | None]:
    """After each of the deaths, how long until the next start."""
    crashes = Crashes()
    return [crashes.note(time, most, window) for time in times]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([7.0], [0.0]),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.2, 0.4, None]),
        ([0.0, 1.0, 2.0, 3.0, 59.0], [0.0, 0.1, 0.2, 0.4, None]),
        ([0.0, 1.0, 2.0, 3.0, 60.0], [0.0, 0.1, 0.2, 0.4, None]),  # the window's last moment
        ([0.0, 1.0, 2.0, 3.0, 60.5], [0.0, 0.1, 0.2, 0.4, 0.4]),  # the first is forgotten
        ([0.0, 100.0, 200.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 200.0, 201.0], [0.0, 0.1, 0.0, 0.1]),
    ],
)
def test_how_long_until_the_next_start(times: list[float], expected: list[float | None]) -> None:
    assert pauses(times) == expected


def test_a_worker_that_may_die_once_is_given_up_when_it_does() -> None:
    assert pauses([5.0], most=1) == [None]


def test_the_pause_stops_growing() -> None:
    """However often it may die, it is back within a second."""
    assert pauses([0.0] * 12, most=100)[4:] == [LONGEST_PAUSE] * 8


def test_other_settings_count_from_the_next_death_on() -> None:
    crashes = Crashes()
    assert [crashes.note(now, 5, 60.0) for now in (0.0, 1.0)] == [0.0, FIRST_PAUSE]
    assert crashes.note(2.0, 3, 60.0) is None
    assert crashes.note(3.0, 5, 60.0) is not None
    assert crashes.note(20.0, 5, 10.0) == 0.0  # of a narrower window only this one


GAPS = st.lists(st.floats(0, 30), max_size=40)


@given(GAPS, st.integers(1, 10), st.floats(0.5, 60))
def test_it_is_given_up_exactly_when_so_many_lie_in_one_window(
    gaps: list[float], most: int, window: float
) -> None:
    now, times = 1000.0, list[float]()
    crashes = Crashes()
    for gap in gaps:
        now += gap
        times.append(now)
        recent = sum(time >= now - window for time in times)
        pause = crashes.note(now, most, window)
        assert (pause is None) == (recent >= most)
        if pause is not None:
            assert 0 <= pause <= LONGEST_PAUSE
            assert (pause > 0) == (recent > 1)
