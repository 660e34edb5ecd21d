"""Routes on their way and as they are scraped."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sniproxy.errors import CloseReason
from sniproxy.metrics import Metrics
from sniproxy.metrics.rows import Rows, add_rows, exposed, rows_of, without_sessions
from sniproxy.relay.meters import Meter
from sniproxy.scrape import (
    Family,
    Leaving,
    counters,
    export_worker,
    family_of,
    merge,
    rows_in,
    written,
)
from sniproxy.tallies import GRACE, Tallies

pytestmark = pytest.mark.anyio  # the number of tasks is read from the loop

ROWS = st.dictionaries(
    st.sampled_from(["1", "2", "gs-1.eu"]),
    st.builds(
        lambda numbers, closed: [*numbers, closed],
        st.tuples(*[st.integers(0, 2**60)] * 4),
        st.dictionaries(st.sampled_from(["killed", "shed"]), st.integers(1, 2**60)),
    ),
)


def samples(text: str) -> dict[str, float]:
    """By name and labels, as Prometheus reads them."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_only_what_happened_travels() -> None:
    tallies = Tallies(Meter)
    tallies.of("never used")
    tally = tallies.of("7")
    tally.opened += 3
    tally.meter.add(100, 200)
    tally.close(CloseReason.NO_UPSTREAM)
    assert rows_of(tallies) == {"7": [3, 2, 100, 200, {"no_upstream": 1}]}


def test_as_it_is_scraped() -> None:
    text = exposed({"7": [3, 2, 100, 200, {"shed": 1, "killed": 4}], "10": [1, 1, 0, 0, {}]})
    assert [line for line in text.splitlines() if not line.startswith("# HELP")] == [
        "# TYPE sniproxy_route_sessions_opened_total counter",
        'sniproxy_route_sessions_opened_total{route="10"} 1',
        'sniproxy_route_sessions_opened_total{route="7"} 3',
        "# TYPE sniproxy_route_sessions_active gauge",
        'sniproxy_route_sessions_active{route="10"} 1',
        'sniproxy_route_sessions_active{route="7"} 2',
        "# TYPE sniproxy_route_sessions_closed_total counter",
        'sniproxy_route_sessions_closed_total{route="7",reason="killed"} 4',
        'sniproxy_route_sessions_closed_total{route="7",reason="shed"} 1',
        "# TYPE sniproxy_route_bytes_to_upstream_total counter",
        'sniproxy_route_bytes_to_upstream_total{route="10"} 0',
        'sniproxy_route_bytes_to_upstream_total{route="7"} 100',
        "# TYPE sniproxy_route_bytes_to_client_total counter",
        'sniproxy_route_bytes_to_client_total{route="10"} 0',
        'sniproxy_route_bytes_to_client_total{route="7"} 200',
    ]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_an_id_of_any_kind_is_read_as_it_was(route: str) -> None:
    """The store may hold keys that our admin would never write."""
    found = samples(exposed({route: [1, 0, 0, 0, {}]}))
    if not re.search(r"[\v\f\x1c-\x1e\x85\u2028\u2029]|\\", route):  # where their reader errs
        name = f"sniproxy_route_sessions_opened_total{json.dumps({'route': route})}"
        assert found[name] == 1


@given(st.lists(ROWS, max_size=4))
def test_workers_are_added_up_in_any_order_and_stay_as_they_are(workers: list[Rows]) -> None:
    before = json.dumps(workers)
    forth: Rows = {}
    back: Rows = {}
    for rows in workers:
        add_rows(forth, rows)
    for rows in reversed(workers):
        add_rows(back, rows)
    assert forth == back
    assert json.dumps(workers) == before
    for place in range(4):
        assert sum(row[place] for row in forth.values()) == sum(
            row[place] for rows in workers for row in rows.values()
        )


def test_who_has_ended_has_no_sessions() -> None:
    rows: Rows = {"7": [3, 2, 100, 200, {"killed": 1}]}
    assert without_sessions(rows) == {"7": [3, 0, 100, 200, {"killed": 1}]}
    assert counters([family_of(rows)]) == [family_of({"7": [3, 0, 100, 200, {"killed": 1}]})]
    assert counters([family_of({})]) == []


def told(**routes: int) -> list[Family]:
    """Of routes that were opened so often."""
    return [family_of({route: [count, 0, 0, 0, {}] for route, count in routes.items()})]


def test_merged_they_are_one_family() -> None:
    merged = merge([told(a=1, b=2), told(b=3), []])
    assert rows_in(merged) == {"a": [1, 0, 0, 0, {}], "b": [5, 0, 0, 0, {}]}
    assert len(merged) == 1


def errors(*routes: str) -> Family:
    """Of each one."""
    sample = "sniproxy_session_errors_total"
    rows = [[sample, [["route", route]], 1.0] for route in routes]
    return {"name": "sniproxy_session_errors", "help": "", "type": "counter", "samples": rows}


def test_what_the_dead_had_counted_goes_with_its_route() -> None:
    """Unless somebody who lives tells of it: then the route is there."""
    leaving, buried = Leaving(), [*told(a=1, b=2), errors("", "a", "b")]
    living = [told(b=7), [errors("")]]
    assert leaving.keep(buried, living, 0) == buried
    assert leaving.keep(buried, living, GRACE - 1) == buried
    kept = leaving.keep(buried, living, GRACE)
    assert rows_in(kept) == rows_in(told(b=2))
    assert errors("", "b") in kept
    assert leaving.keep(kept, [[]], GRACE + 1) == kept  # it has just gone
    assert rows_in(leaving.keep(kept, [[]], 3 * GRACE)) == {}
    assert leaving.keep([], living, 0) == []


async def test_a_thousand_routes_travel_in_little_and_are_read_by_prometheus() -> None:
    """Each with sessions that ended in three ways."""
    metrics = Metrics()
    for number in range(1000):
        tally = metrics.counts.tallies.of(f"a-route-with-a-name-{number}")
        tally.opened += 10**6
        tally.meter.add(10**12, 10**12)
        for reason in list(CloseReason)[:3]:
            tally.close(reason)
    families = export_worker(metrics)
    assert len(json.dumps(families)) < 200_000
    found = samples(written(merge([families, families])).decode())
    name = "sniproxy_route_sessions_opened_total"
    assert found[name + json.dumps({"route": "a-route-with-a-name-7"})] == 2 * 10**6
    assert sum(one.startswith("sniproxy_route_") for one in found) == 1000 * (4 + 3)
