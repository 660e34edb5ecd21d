"""One scrape of several processes: sums, what is no sum, and what stays of those that are gone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sniproxy.errors import CloseReason
from sniproxy.metrics import Metrics, PodMetrics
from sniproxy.metrics.process import Process
from sniproxy.scrape import Family, as_metrics, counters, export, merge

pytestmark = pytest.mark.anyio  # the number of tasks is read from the loop


class Given(Collector):
    """A collector of those families."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return list(as_metrics(self._families))


def exposed(families: list[Family]) -> str:
    """As /metrics shows them."""
    registry = CollectorRegistry()
    registry.register(Given(families))
    return generate_latest(registry).decode()


def samples(families: list[Family]) -> dict[str, float]:
    """By name and labels."""
    lines = [line for line in exposed(families).split("\n") if line and line[0] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def received(families: list[Family]) -> list[Family]:
    """After the way through a channel."""
    arrived: list[Family] = json.loads(json.dumps(families))
    return arrived


def of_worker(scale: int = 1) -> list[Family]:
    """What a worker has that has worked."""
    metrics = Metrics(active=lambda: 2 * scale, uncounted=lambda: scale)
    for _ in range(5 * scale):
        metrics.counts.opened += 1
        metrics.counts.tallies.of("7").meter.add(0, 200_000_000)
    for _ in range(3 * scale):
        metrics.counts.close(CloseReason.NO_ROUTE)
    metrics.config_revision.set(40 + scale)
    metrics.config_broken.set(scale)
    return received(export(metrics.registry))


async def test_counters_and_sessions_are_summed() -> None:
    merged = samples(merge([of_worker(1), of_worker(2), of_worker(4)]))
    assert merged["sniproxy_sessions_opened_total"] == 35
    assert merged['sniproxy_sessions_closed_total{reason="no_route"}'] == 21
    assert merged['sniproxy_sessions_closed_total{reason="probe"}'] == 0
    assert merged["sniproxy_bytes_to_client_total"] == 7e9
    assert merged["sniproxy_sessions_active"] == 14
    assert merged["sniproxy_limits_uncounted"] == 7


async def test_what_a_sum_would_say_nothing_about() -> None:
    merged = samples(merge([of_worker(4), of_worker(1), of_worker(2)]))
    assert merged["sniproxy_config_revision"] == 41  # in force in all of them
    assert merged["sniproxy_config_broken_objects"] == 4  # which are the same ones
    alone = samples(of_worker(1))
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert merged[name] == alone[name]
    assert merged["process_resident_memory_bytes"] > 2 * alone["process_resident_memory_bytes"]


async def test_one_process_alone_looks_as_it_would_by_itself() -> None:
    """Without its memory and CPU, which go on changing from one look to the next."""
    registry = Metrics(lambda: 7).registry
    for ours in (registry, PodMetrics().registry):
        for collector in list(ours._collector_to_names):
            if isinstance(collector, Process):
                ours.unregister(collector)
        assert exposed(merge([received(export(ours))])) == generate_latest(ours).decode()


def test_labels_and_help_are_escaped_as_by_the_library() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", 'help "with"\nlines \\', ["z", "a"], registry=registry)
    for text in ('"', "\n", "\\", "é\u2028", ""):
        gauge.labels(z=text, a="x").set(float("inf"))
    assert exposed(merge([received(export(registry))])) == generate_latest(registry).decode()


async def test_what_the_dead_had_counted_stays_and_their_sessions_do_not() -> None:
    buried: list[Family] = []
    for _ in range(3):
        buried = merge([buried, counters(of_worker())])
    after = samples(merge([buried, of_worker()]))
    assert after["sniproxy_sessions_opened_total"] == 20
    assert after["sniproxy_sessions_active"] == 2
    assert after["sniproxy_config_revision"] == 41
    buried_alone = samples(buried)
    assert "sniproxy_sessions_active" not in buried_alone
    assert buried_alone["process_cpu_seconds_total"] > 0


async def test_a_worker_that_has_said_nothing_yet_takes_nothing_away() -> None:
    families = of_worker()
    assert merge([families, []]) == merge([[], families])
    assert merge([]) == merge([[], []]) == []


def histogram(created: float, *values: float) -> list[Family]:
    """One that has seen those."""
    registry = CollectorRegistry()
    made = Histogram("h_seconds", "Of something", ["kind"], buckets=(1, 5), registry=registry)
    for value in values:
        made.labels("x").observe(value)
    families = received(export(registry))
    for family in families:
        for sample in family["samples"]:
            if sample[0].endswith("_created"):
                sample[2] = created
    return families


def test_histograms_are_summed_bucket_by_bucket_and_began_with_the_first() -> None:
    merged = samples(merge([histogram(50.0, 0.5, 3.0), histogram(40.0, 4.0, 100.0)]))
    assert merged == {
        'h_seconds_bucket{kind="x",le="1.0"}': 1,
        'h_seconds_bucket{kind="x",le="5.0"}': 3,
        'h_seconds_bucket{kind="x",le="+Inf"}': 4,
        'h_seconds_count{kind="x"}': 4,
        'h_seconds_sum{kind="x"}': 107.5,
        'h_seconds_created{kind="x"}': 40,
    }
    assert [one["type"] for one in counters(histogram(1.0, 2.0))] == ["histogram"]


def test_a_counter_began_with_the_first() -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    Counter("c", "Of something", registry=one).inc()
    Counter("c", "Of something", registry=other).inc()
    exports = [export(one), export(other)]
    created = [family["samples"][1][2] for (family,) in exports]
    assert samples(merge(exports)) == {"c_total": 2, "c_created": min(created)}


# Integers, since sums of floats depend on their order in the last bit.
VALUES = st.integers(0, 1000).map(float)
LABELS = st.sampled_from([[], [["reason", "probe"]], [["reason", "killed"]]])
KINDS = {
    "sniproxy_sessions_closed": ("counter", ("_total", "_created")),
    "sniproxy_config_revision": ("gauge", ("",)),
    "sniproxy_config_broken_objects": ("gauge", ("",)),
    "sniproxy_sessions_active": ("gauge", ("",)),
    "h": ("histogram", ("_bucket", "_count", "_sum", "_created")),
}


@st.composite
def families(draw: st.DrawFn, name: str) -> Family:
    """A family, with some of its samples."""
    kind, endings = KINDS[name]
    keys = draw(st.lists(st.tuples(st.sampled_from(endings), LABELS), max_size=4, unique_by=str))
    made = [[name + ending, labels, draw(VALUES)] for ending, labels in keys]
    return {"name": name, "help": "Of something", "type": kind, "samples": made}


EXPORTS = st.lists(st.sampled_from(sorted(KINDS)), unique=True).flatmap(
    lambda names: st.tuples(*(families(name) for name in names)).map(list)
)


def content(merged: list[Family]) -> dict[str, Any]:
    """Without the order, which is that of arrival."""
    return {
        one["name"]: {(name, str(labels)): value for name, labels, value in received([one])[0]["samples"]}
        for one in merged
    }  # fmt: skip


@given(EXPORTS, EXPORTS, EXPORTS)
def test_it_is_the_same_whoever_is_put_together_first(
    one: list[Family], two: list[Family], three: list[Family]
) -> None:
    whole = content(merge([one, two, three]))
    assert content(merge([merge([one, two]), three])) == whole
    assert content(merge([one, merge([two, three])])) == whole
    assert content(merge([three, one, two])) == whole
    assert content(merge([received(merge([one, two])), three])) == whole


@given(st.lists(EXPORTS, max_size=4), EXPORTS)
def test_no_counter_falls_when_a_process_ends(
    others: list[list[Family]], last: list[Family]
) -> None:
    before = content(counters(merge([*others, last])))
    after = content(counters(merge([*others, counters(last)])))
    assert after == before
