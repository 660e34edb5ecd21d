"""Traffic as it lies in the store: it adds up in any order, stays within bounds, and garbage is told from it."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.objects.traffic import (
    DAY,
    LAST_HOUR,
    MAX_PARTS,
    NONE,
    Part,
    Places,
    Row,
    Stored,
    Traffic,
    day_name,
    hour_name,
    hour_number,
    hour_of,
    joined_day,
    joined_hour,
    prefixes_before,
)

MANY = 1000
counts = st.integers(0, 2**40)
rows = st.builds(Row, counts, counts, counts, counts, counts)


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    """As one look after the other makes it: the site is its routes."""
    routes = draw(st.dictionaries(st.sampled_from("abcdefg"), rows, max_size=5))
    other = draw(st.sampled_from([NONE, Row(1, 2, 3, 4, 5)]))
    site = other
    for row in routes.values():
        site = site.beside(row)
    return Traffic(site, routes, other)


def part(number: int, traffic: Traffic, hour: int = 0) -> Part:
    stored = Stored(traffic, number=1, sealed=True)
    return Part(f"k{number}", hour, f"n{number % 2}", f"t{number}", stored, 1)


def sums(traffic: Traffic) -> tuple[int, ...]:
    return traffic.site[:3]


def of_routes(traffic: Traffic) -> tuple[int, ...]:
    """The sums of all routes and the others: those of the site."""
    total = traffic.other
    for row in traffic.routes.values():
        total = total.beside(row)
    return total[:3]


def added(many: list[Traffic]) -> tuple[int, ...]:
    return tuple(sum(one.site[place] for one in many) for place in range(3))


@settings(max_examples=40)
@given(st.lists(traffics(), max_size=6), st.randoms(), st.integers(1, 4))
def test_an_hour_and_a_day_are_their_parts_in_any_order(
    many: list[Traffic], random: Any, limit: int
) -> None:
    parts = [part(number, one, hour=number % 3) for number, one in enumerate(many)]
    again = [*parts, *parts]
    random.shuffle(again)
    hours = {hour: Stored() for hour in range(3)}
    day = Stored()
    for one in again:  # each twice: what is there already is not added
        hours[one.hour] = joined_hour(hours[one.hour], [one], limit)
        day = joined_day(day, hours[one.hour], [one], limit)
    assert sums(day.traffic) == added(many)
    assert added([hour.traffic for hour in hours.values()]) == added(many)
    assert day.parts == {one.token: 1 for one in parts}
    for stored in (day, *hours.values()):
        assert len(stored.traffic.routes) <= limit
        assert of_routes(stored.traffic) == sums(stored.traffic)


@settings(max_examples=30)
@given(st.lists(traffics(), max_size=6))
def test_with_room_for_all_routes_each_is_the_sum_of_its_own(many: list[Traffic]) -> None:
    parts = [part(number, one) for number, one in enumerate(many)]
    hour = joined_hour(Stored(), parts, MANY)
    for stored in (hour, joined_day(Stored(), hour, parts, MANY)):
        for route in "abcdefg":
            found = stored.traffic.routes.get(route, NONE)
            assert found[:3] == tuple(
                sum(one.routes.get(route, NONE)[place] for one in many) for place in range(3)
            )


def test_peaks_of_nodes_add_up_and_those_of_times_do_not() -> None:
    one, two = (
        Traffic(Row(peak_rate=5, peak_sessions=3)),
        Traffic(Row(peak_rate=2, peak_sessions=4)),
    )
    restarted = joined_hour(Stored(), [part(0, one), part(2, two)], MANY)  # on the same node
    assert restarted.traffic.site[3:] == (5, 4)
    together = joined_hour(Stored(), [part(0, one), part(1, two)], MANY)
    assert together.traffic.site[3:] == (7, 7)
    day = joined_day(Stored(Traffic(Row(peak_rate=6, peak_sessions=9))), together, [], MANY)
    assert day.traffic.site[3:] == (7, 9)


@settings(max_examples=40)
@given(traffics(), st.integers(0, 8))
def test_a_limit_keeps_those_with_most_bytes_and_loses_nothing(
    traffic: Traffic, limit: int
) -> None:
    limited = traffic.limited(limit)
    assert len(limited.routes) == min(limit, len(traffic.routes))
    assert of_routes(limited) == of_routes(traffic)
    left = [row.size for one, row in traffic.routes.items() if one not in limited.routes]
    assert all(max(left, default=(0, 0)) <= row.size for row in limited.routes.values())


@settings(max_examples=40)
@given(traffics(), traffics())
def test_the_rest_is_what_has_come_since(before: Traffic, come: Traffic) -> None:
    now = before.after(come).without(Traffic())  # rows of nothing left out
    rest = now.without(before)
    assert before.after(rest).without(Traffic()) == now
    assert sums(rest) == sums(come)


def test_what_was_taken_away_is_not_less_than_nothing() -> None:
    assert Row(1, 1, 1).without(Row(2, 3, 4)) == NONE


@settings(max_examples=40)
@given(traffics(), st.integers(0, 9), st.booleans())
def test_what_is_stored_is_read(traffic: Traffic, number: int, sealed: bool) -> None:
    stored = Stored(traffic, number, sealed, {"t": 3})
    assert Stored.decode(stored.encode()) == stored


SOUND = Traffic(Row(1, 2, 3, 4, 5)).plain() | {"number": 0, "sealed": False, "parts": {}}


def packed(members: Any) -> bytes:
    return zlib.compress(json.dumps(members).encode())


def test_what_a_later_version_adds_is_no_hindrance() -> None:
    assert Stored.decode(packed(SOUND | {"more": 1})) == Stored(Traffic(Row(1, 2, 3, 4, 5)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        packed(SOUND)[:-9],
        packed([]),
        packed("x"),
        packed({one: value for one, value in SOUND.items() if one != "site"}),
        packed(SOUND | {"site": [1, 2, 3, 4, -5]}),
        packed(SOUND | {"site": [1, 2, 3, 4, 2**63]}),
        packed(SOUND | {"site": [1, 2, 3, 4, 5.5]}),
        packed(SOUND | {"site": [1, 2, 3, 4, True]}),
        packed(SOUND | {"site": [1, 2, 3, 4, 5, 6]}),
        packed(SOUND | {"routes": [1]}),
        packed(SOUND | {"routes": {"a": 7}}),
        packed(SOUND | {"parts": {"t": "x"}}),
        zlib.compress(b'"' + bytes(9 * 2**20) + b'"'),  # a small value that is large unpacked
        zlib.compress(b"[" * 100_000),
    ],
)
def test_what_is_no_value_is_none(raw: bytes) -> None:
    assert Stored.decode(raw) is None


def test_the_most_routes_that_a_setting_allows_fit_into_one_value() -> None:
    """etcd takes 1.5 MiB of a request, in which the value stands in base64."""
    row = Row(*(2**63 - 1 - 7919 * place for place in range(5)))
    ids = [f"{number * 2654435761 % 2**32:08x}".ljust(64, "x") for number in range(5000)]
    value = Stored(Traffic(row, dict.fromkeys(ids, row), row)).encode()
    assert len(value) < 1_000_000


def test_an_hour_names_so_many_parts_at_most() -> None:
    named = {f"old{number}": 1 for number in range(MAX_PARTS)}
    joined = joined_hour(Stored(parts=named), [part(0, Traffic())], MANY)
    assert len(joined.parts) == MAX_PARTS
    assert "t0" in joined.parts
    assert "old0" not in joined.parts


# -- where it lies


@given(st.integers(0, LAST_HOUR))
def test_an_hour_has_one_name(hour: int) -> None:
    assert hour_number(hour_name(hour)) == hour
    assert hour_name(hour).startswith(day_name(hour // DAY))


@given(st.integers(0, LAST_HOUR - 1))
def test_names_sort_as_times_do(hour: int) -> None:
    assert hour_name(hour) < hour_name(hour + 1)


@pytest.mark.parametrize(
    "name",
    ["", "2026", "2026-11-28", "2026-11-28T24", "2026-13-01T00", "2026-1-1T1", "1969-12-31T23"],
)
def test_what_is_no_hour(name: str) -> None:
    assert hour_number(name) is None


@pytest.mark.parametrize(("now", "hour"), [(-5.0, 0), (7200.0, 2), (7199.9, 1), (1e30, LAST_HOUR)])
def test_the_hour_of_a_clock_that_may_be_anything(now: float, hour: int) -> None:
    assert hour_of(now) == hour


@given(st.integers(0, LAST_HOUR), st.integers(0, LAST_HOUR))
def test_prefixes_of_all_that_is_before(one: int, other: int) -> None:
    prefixes = tuple(prefixes_before(hour_name(one)))
    assert hour_name(other).startswith(prefixes) == (other < one)


def test_a_part_is_found_again() -> None:
    places = Places("/apisix")
    key = places.part(5, "edge:7085", "abc")
    assert key == "/sniproxy/apisix/statistics/parts/1970-01-01T05/edge:7085/abc"
    found = places.read_part(key, Stored(number=3).encode(), 9)
    assert found == Part(key, 5, "edge:7085", "abc", Stored(number=3), 9)


@pytest.mark.parametrize("name", ["1970-01-01T05", "x/n/t", "1970-01-01T05/", "1970-01-01T05/n/"])
def test_what_is_no_part(name: str) -> None:
    places = Places("/apisix")
    assert places.read_part(places.parts + name, Stored().encode(), 1) is None
