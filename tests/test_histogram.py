"""Counting how long something took."""

from hypothesis import given
from hypothesis import strategies as st

from sniproxy.histogram import SESSIONS, WAITS, Histogram


def test_a_bound_belongs_to_its_bucket_and_each_has_those_below() -> None:
    histogram = Histogram((1.0, 5.0))
    for seconds in (0.0, 1.0, 1.5, 5.0, 5.1):
        histogram.observe(seconds)
    assert histogram.buckets() == [("1.0", 2), ("5.0", 4), ("+Inf", 5)]
    assert histogram.total == 12.6


def test_bounds_are_in_order() -> None:
    for bounds in (WAITS, SESSIONS):
        assert sorted(set(bounds)) == list(bounds)


@given(st.lists(st.floats(0, 1e6)))
def test_everything_is_counted_once(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    buckets = histogram.buckets()
    assert buckets[-1][1] == len(times)
    for bound, count in buckets[:-1]:
        assert count == sum(seconds <= float(bound) for seconds in times)
