"""What workers have counted, look by look: no count is lost or taken twice, whatever counters and clocks do."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.objects.traffic import NONE, Row, Stored, Traffic
from sniproxy.scrape import family_of, rows_in
from sniproxy.statistics import LOOK_EVERY, MOST_HOURS, Growth, Ledger, OpenPart, look_at

GROWTHS = st.dictionaries(
    st.sampled_from("ab"), st.tuples(*[st.integers(0, 2**40)] * 4).map(list), max_size=2
)


def tokens() -> Callable[[], str]:
    numbers = count()
    return lambda: f"t{next(numbers)}"


def traffic(sessions: int = 1, **more: int) -> Traffic:
    row = Row(sessions, **more)
    return Traffic(row, {"a": row})


# -- looks


def test_a_look_is_what_all_processes_have_counted() -> None:
    """As they tell it one another, on the way that the metrics have."""
    closed = {"client_closed": 1}
    told = [family_of({"a": [2, 1, 5, 3, closed]}), {"name": "x", "samples": []}]
    more = [family_of({"a": [1, 1, 6, 0, {}], "b": [7, 7, 0, 0, {}]})]
    rows = rows_in(json.loads(json.dumps([*told, *more])))
    assert look_at(rows) == {"a": [3, 2, 11, 3], "b": [7, 7, 0, 0]}


@given(st.lists(GROWTHS, max_size=8), st.booleans())
def test_growths_add_up_to_what_was_counted(
    steps: list[dict[str, list[int]]], upgrade: bool
) -> None:
    growth, look, total = Growth({}), {"a": [0, 0, 0, 0]}, Traffic()
    for step in steps:
        look = {one: [*row] for one, row in look.items()}
        for route, (sessions, active, up, down) in step.items():
            had = look.setdefault(route, [0, 0, 0, 0])
            look[route] = [had[0] + sessions, active, had[2] + up, had[3] + down]
        total = total.after(growth.take(look, None))
        if upgrade:  # another one goes on
            growth = Growth(json.loads(json.dumps(growth.seen)))
    for place, counted in enumerate((0, 2, 3)):
        assert total.site[place] == sum(row[counted] for row in look.values())
        for route, row in look.items():
            assert total.routes.get(route, NONE)[place] == row[counted]


def test_what_others_have_counted_before_is_not_counted_again() -> None:
    growth = Growth(None)
    assert growth.take({"a": [5, 1, 500, 500]}, None).site == Row(peak_sessions=1)
    assert growth.take({"a": [6, 2, 500, 500]}, None).site == Row(1, peak_sessions=2)


def test_counters_that_fall_begin_anew_and_nothing_is_less_than_nothing() -> None:
    growth = Growth({"a": [9, 3, 90, 90], "b": [4, 1, 40, 40]})
    assert growth.take({"a": [1, 0, 95, 10]}, None) == Traffic(
        Row(0, 5), {"a": Row(0, 5)}
    )  # and b is away
    assert growth.take({"a": [2, 0, 95, 11]}, None).site == Row(1, 0, 1)


def test_a_rate_is_of_the_time_between_looks() -> None:
    growth = Growth({})
    growth.take({"a": [1, 1, 0, 0]}, None)
    assert not growth.rates
    found = growth.take({"a": [21, 7, 300, 100], "b": [0, 2, 100, 0]}, 10.0)
    assert found.routes == {"a": Row(20, 300, 100, 40, 7), "b": Row(0, 100, 0, 10, 2)}
    assert found.site == Row(20, 400, 100, 50, 9)
    assert growth.rates is not None
    assert growth.rates.model_dump() == {
        "sessions": 2.0,
        "bytes_to_upstream": 40,
        "bytes_to_client": 10,
    }


def test_a_short_time_tells_no_rate() -> None:
    growth = Growth({})
    assert growth.take({"a": [1, 1, 10**9, 0]}, LOOK_EVERY / 100).site.peak_rate == 0
    assert Growth({}, look_every=0.1).take({"a": [1, 1, 100, 0]}, 0.1).site.peak_rate == 1000


@pytest.mark.parametrize("route", ["", "a b", "=1", "x" * 10 + "\n", "ü"])
def test_what_is_no_id_of_a_route_is_one_of_the_others(route: str) -> None:
    found = Growth({}).take({route: [1, 4, 2, 3], "a": [1, 0, 0, 0]}, None)
    assert found == Traffic(Row(2, 2, 3, 0, 4), {"a": Row(1)}, Row(1, 2, 3, 0, 4))


# -- parts


def test_a_part_is_wanted_until_it_is_written() -> None:
    ledger = Ledger(tokens())
    ledger.add(5, Traffic())
    assert list(ledger.wanted()) == []
    ledger.add(5, traffic())
    (part,) = ledger.wanted()
    stored = Stored.decode(part.begin(10))
    assert stored == Stored(traffic(), number=1)
    assert list(ledger.wanted()) == [part]  # nobody knows yet
    part.done(7)
    assert (part.number, part.revision, list(ledger.wanted())) == (1, 7, [])


@pytest.mark.parametrize(("found", "sessions"), [(1, 2), (None, 3), (0, 3)])
def test_what_became_of_a_writing_says_what_the_rest_is(found: int | None, sessions: int) -> None:
    part = OpenPart(5, "t", traffic(1))
    part.begin(10)
    part.traffic = part.traffic.after(traffic(2))
    part.found(found, 9)
    assert (part.tried, part.revision) == (None, 9)
    rest = part.rest("u")
    assert (rest.traffic.site.sessions, rest.token, rest.number) == (sessions, "u", 0)
    assert rest.wanted


def test_a_part_tells_no_more_routes_apart_than_it_may() -> None:
    part = OpenPart(5, "t", Traffic(Row(3), {"a": Row(1), "b": Row(2)}))
    stored = Stored.decode(part.begin(1))
    assert stored is not None
    assert stored.traffic == Traffic(Row(3), {"b": Row(2)}, Row(1))
    part.done(1)
    assert part.written.routes.keys() == {"a", "b"}


def test_hours_that_are_over_are_forgotten_once_they_are_written() -> None:
    ledger = Ledger(tokens())
    for hour in (5, 6):
        ledger.add(hour, traffic())
    for part in ledger.wanted():
        part.begin(10)
        if part.hour == 6:
            part.done(1)
    ledger.forget(6)
    assert [one["hour"] for one in ledger.plain()] == [5, 6]
    for part in ledger.wanted():
        part.done(1)
    ledger.forget(6)
    assert [one["hour"] for one in ledger.plain()] == [6]
    ledger.add(5, traffic())  # the clock was put back
    (part,) = ledger.wanted()
    assert (part.hour, part.token) == (5, "t2")


def test_a_store_that_is_away_for_days_costs_no_count_and_bounded_memory() -> None:
    ledger = Ledger(tokens())
    for hour in range(100):
        ledger.add(hour, traffic())
    parts = list(ledger.wanted())
    assert len(parts) == MOST_HOURS
    assert sum(part.traffic.site.sessions for part in parts) == 100


def test_the_version_that_goes_on_has_all_of_it() -> None:
    before, after = Ledger(tokens()), Ledger(tokens())
    for hour in (5, 6):
        before.add(hour, traffic())
    for part in before.wanted():
        part.begin(10)
        if part.hour == 5:
            part.done(3)
    after.take_over(json.loads(json.dumps(before.plain())))
    assert after.plain() == before.plain()
    assert list(after.wanted()) == list(before.wanted())


@pytest.mark.parametrize("left", [{}, {"hour": 1}, "x"])
def test_what_is_no_part_is_refused(left: Any) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        Ledger(tokens()).take_over([left])
