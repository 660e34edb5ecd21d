"""When a drain will be over, from samples as they fall, rise and stand still. Time is the tests' own."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.forecast import FEW, KEPT, LEAST, Forecast, describe

WITHIN = 0.2  # of the truth


def fed(samples: list[tuple[float, int]]) -> Forecast:
    """What has noted these."""
    forecast = Forecast()
    for now, count in samples:
        forecast.note(now, count)
    return forecast


def left(samples: list[tuple[float, int]]) -> float | None:
    """The forecast at the last of these."""
    return fed(samples).seconds_left(samples[-1][0])


def falling(start: int, rate: float, step: float, seconds: float) -> list[tuple[float, int]]:
    """As many as are expected: exponentially, and rounded."""
    times = [step * number for number in range(int(seconds / step) + 1)]
    return [(now, round(start * math.exp(-rate * now))) for now in times]


# A fall


@given(
    start=st.integers(100, 50_000),
    half=st.floats(1.0, 86_400.0),
    steps=st.integers(5, 200),
    halvings=st.floats(1.0, 10.0),
    begun=st.floats(0, 1e6),
)
def test_an_exponential_fall_is_foreseen(
    start: int, half: float, steps: int, halvings: float, begun: float
) -> None:
    """start: sessions. half: seconds in which half of them end. steps: samples in those."""
    rate = math.log(2) / half
    samples = falling(start, rate, half / steps, half * halvings)
    samples = [(begun + now, count) for now, count in samples]
    count = samples[-1][1]
    if count < 2:
        return
    assert left(samples) == pytest.approx(math.log(count) / rate, rel=WITHIN)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("start", "life"), [(20_000, 1800.0), (2000, 60.0), (1000, 14_400.0)])
def test_a_fall_by_chance_is_foreseen(start: int, life: float, seed: int) -> None:
    """Each session ends by itself, after `life` seconds on average; a sample each second."""
    chance = random.Random(seed)
    ends = sorted(chance.expovariate(1 / life) for _ in range(start))
    forecast, gone = Forecast(), 0
    for now in range(int(life)):
        while ends[gone] <= now:
            gone += 1
        forecast.note(now, start - gone)
    found = forecast.seconds_left(int(life) - 1)
    assert found == pytest.approx(math.log(start - gone) * life, rel=WITHIN)


def test_small_numbers_do_not_mislead() -> None:
    """Forty that end one by one, and long nothing in between: no forecast says half or twice the truth."""
    life = 600.0
    chance = random.Random(1)
    ends = sorted(chance.expovariate(1 / life) for _ in range(40))
    forecast = Forecast()
    for now in range(1000):
        count = sum(end > now for end in ends)
        forecast.note(now, count)
        found = forecast.seconds_left(now)
        if 40 - count < 10:
            continue
        assert found is not None
        assert 0.5 < found / (max(math.log(count), math.log(2)) * life) < 2


def test_the_rate_of_today_counts() -> None:
    """An hour of slow ends, then a match is over and the others end tenfold as fast."""
    samples = falling(10_000, 1e-4, 1, 3600)
    at, count = samples[-1]
    for now, lower in falling(count, 1e-3, 1, 900)[1:]:
        samples.append((at + now, lower))
    assert left(samples) == pytest.approx(math.log(samples[-1][1]) / 1e-3, rel=WITHIN)


def test_a_network_that_failed_does_not_count_for_ever() -> None:
    slow = [(10 + now, count) for now, count in falling(500, 1e-3, 1, 1000)]
    samples = [(float(now), 20_000) for now in range(10)] + slow
    assert left(samples[:11]) is None
    assert left(samples[:12]) is None
    assert left(samples) == pytest.approx(math.log(samples[-1][1]) / 1e-3, rel=WITHIN)


def test_what_is_kept_is_bounded_and_reaches_back() -> None:
    forecast = fed(falling(60, 1e-5, 1, 200_000))
    assert len(forecast._before) <= KEPT
    found = forecast.seconds_left(200_000)
    assert found == pytest.approx(math.log(60 * math.exp(-2)) / 1e-5, rel=WITHIN)


def test_it_goes_on_between_samples() -> None:
    samples = falling(1000, 0.01, 1, 100)
    forecast = fed(samples)
    now = forecast.seconds_left(100)
    assert now is not None
    assert forecast.seconds_left(150) == pytest.approx(now - 50)
    assert forecast.seconds_left(0) == now  # a clock that went back
    late = forecast.seconds_left(10_000)
    assert late is not None
    assert 0 < late < now  # nobody said that it was empty


def test_the_last_one_is_given_as_long_as_it_probably_needs() -> None:
    samples = [(float(40 - count), count) for count in range(40, 0, -1)]
    one, two = left(samples), left(samples[:-1])
    assert one is not None
    assert two is not None
    assert one > 0
    assert two < 60


# What says nothing


@pytest.mark.parametrize(
    "samples",
    [
        [(0, 5)],
        [(0, 1000)],
        [(0, 1000), (1, 1000)],
        [(now, 1000) for now in range(1000)],  # nobody ends
        [(now, 1000 + now) for now in range(1000)],  # more and more come
        [(now, 1000 + now % 2) for now in range(1000)],
        [(now, max(0, 500 - now) + 10 * now) for now in range(500)],
        [(now, 1000 - min(now, LEAST - 1)) for now in range(100)],  # too early to say
        [(7, 1000 - number) for number in range(999)],  # a clock that stands still
        [(-number, 1000 - number) for number in range(999)],  # one that goes back
    ],
)
def test_what_cannot_be_said(samples: list[tuple[float, int]]) -> None:
    assert left(samples) is None


def test_before_the_first_sample_nothing_is_said() -> None:
    assert Forecast().seconds_left(0) is None


@pytest.mark.parametrize(
    "samples",
    [
        [(0, 0)],
        [(0, 0), (1, 0)],
        [(0, 1), (0, 0)],
        [(0, 1000), (1, 0)],
        falling(100, 0.1, 1, 100),
    ],
)
def test_an_empty_one_is_empty(samples: list[tuple[float, int]]) -> None:
    assert left(samples) == 0.0


def test_a_drain_begins_where_there_were_most() -> None:
    """While players are still let in, some more come than go."""
    fall = falling(1000, 0.001, 1, 300)
    rise = [(now - 500.0, 500 + now) for now in range(500)]
    assert left(rise + fall) == left(fall)


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(0, 100_000)), max_size=50),
    st.floats(-1e9, 1e9),
)
def test_whatever_is_noted_the_answer_is_none_or_a_time(
    samples: list[tuple[float, int]], now: float
) -> None:
    found = fed(samples).seconds_left(now)
    assert found is None or found >= 0
    describe(found)


def test_few_always_belong_to_the_window() -> None:
    """Else the last of a drain would have no forecast: four times one is not LEAST more than one."""
    assert FEW > LEAST


# For people


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "cannot be said yet"),
        (0.0, "now"),
        (0.001, "about 10 s"),
        (14, "about 10 s"),
        (41.2, "about 40 s"),
        (89.9, "about 90 s"),
        (90, "about 2 min"),
        (360, "about 6 min"),
        (5399, "about 90 min"),
        (5400, "about 2 h"),
        (35 * 3600, "about 35 h"),
        (36 * 3600, "about 2 days"),
        (29 * 86400, "about 29 days"),
        (30 * 86400, "more than 30 days"),
        (math.inf, "more than 30 days"),
    ],
)
def test_for_people(seconds: float | None, said: str) -> None:
    assert describe(seconds) == said
