"""A cap on bandwidth: by the table, and over any sequence of what is asked and what is moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.relay.pace import BURST, QUANTUM, Pace

RATE = 1000  # bytes per second
ROUNDING = 1e-6  # of a clock that counts from anywhere

rates = st.integers(1, 10**10)
starts = st.floats(0, 1e6)  # where a clock may stand at first


@pytest.mark.parametrize(
    ("spent", "at", "allowed"),
    [
        (0, 0.0, 100),
        (0, 1e6, 100),
        (1, 0.0, 99),
        (40, 0.0, 60),
        (40, 0.02, 80),
        (40, 0.04, 100),
        (40, 3600.0, 100),  # rest is saved up to the burst
        (90, 0.0, 10),  # a quantum, which is worth waking up for
        (91, 0.0, 0),
        (91, 0.001, 10),
        (100, 0.0, 0),
        (100, 0.0099, 0),
        (100, 0.01, 10),
        (1100, 1.0099, 0),  # more than was allowed, as what was read before a session began
        (1100, 1.01, 10),
        (1100, 1.1, 100),
    ],
)
def test_what_may_go(spent: int, at: float, allowed: int) -> None:
    pace = Pace(RATE)
    pace.spend(spent, 0.0)
    assert pace.allowance(at) == pytest.approx(allowed, abs=1)
    assert (pace.allowance(at) == 0) is (allowed == 0)
    assert (pace.ready_at > at) is (allowed == 0)


@pytest.mark.parametrize("rate", [1, 2, 9, 10, 99, 10**12])
def test_the_slowest_and_the_fastest_move(rate: int) -> None:
    """A byte at least, whatever a tenth of a second is worth."""
    pace = Pace(rate)
    assert pace.allowance(0.0) == max(1, rate // 10)
    pace.spend(pace.allowance(0.0), 0.0)
    assert pace.allowance(0.0) == 0
    assert pace.allowance(pace.ready_at) == pytest.approx(max(1, int(rate * QUANTUM)), rel=1e-9)


@given(
    rate=rates,
    start=starts,
    steps=st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1)), max_size=60),
)
def test_no_more_than_the_rate_and_one_burst(
    rate: int, start: float, steps: list[tuple[float, float]]
) -> None:
    """From any moment to any later one; of what is allowed any part is taken."""
    pace, now = Pace(rate), start
    moves: list[tuple[float, int]] = []
    for rest, share in steps:
        now += rest
        allowed = pace.allowance(now)
        assert (allowed == 0) is (now < pace.ready_at)
        moves.append((now, round(share * allowed)))
        pace.spend(moves[-1][1], now)
    for first, (since, _) in enumerate(moves):
        moved = 0
        for until, count in moves[first:]:
            moved += count
            assert moved <= rate * (until - since + BURST + ROUNDING) + 1


@given(rate=rates, start=starts, late=st.lists(st.floats(0, BURST - QUANTUM), max_size=60))
def test_the_rate_is_reached_by_whoever_is_up_in_time(
    rate: int, start: float, late: list[float]
) -> None:
    """As late as a burst lasts he makes up for it."""
    pace, now, moved = Pace(rate), start, 0
    for more in late:
        count = pace.allowance(now)
        pace.spend(count, now)
        moved += count
        now = max(now, pace.ready_at) + more
    assert moved >= rate * (now - start - BURST - ROUNDING) - 1


@given(rate=rates, rests=st.lists(st.floats(0, 1e4), min_size=1, max_size=20))
def test_rest_is_saved_up_to_the_burst_only(rate: int, rests: list[float]) -> None:
    pace, now = Pace(rate), 0.0
    for rest in rests:
        now += rest
        assert pace.allowance(now) <= max(1, rate * BURST)
        pace.spend(pace.allowance(now), now)
        assert pace.allowance(now + BURST + 1 / rate + 1e-9) == max(1, int(rate * BURST))


@given(
    rate=rates,
    first=st.integers(0, 10**6),
    times=st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_waiting_never_lessens_what_may_go(
    rate: int, first: int, times: tuple[float, float]
) -> None:
    pace = Pace(rate)
    pace.spend(first, 0.0)
    sooner, later = sorted(times)
    assert pace.allowance(sooner) <= pace.allowance(later)
