"""One scrape of several processes: what each has counted goes out as plain data, and is put together.

Counters and most gauges are summed. What a worker had counted before it died is kept, so no counter ever falls. Routes
travel as rows of numbers and are written out in one go (`metrics/rows.py`): they are most of it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sniproxy.metrics import Metrics
from sniproxy.metrics.apisix import Place, as_apisix
from sniproxy.metrics.catalogue import BY_NAME
from sniproxy.metrics.rows import FAMILY, Rows, add_rows, exposed, without_sessions
from sniproxy.tallies import GRACE

Family = dict[str, Any]
Labels = tuple[tuple[str, str], ...]

# How the gauges are put together that a sum says nothing about.
_KINDS: dict[str, Callable[[float, float], float]] = {"min": min, "max": max}
_TOGETHER = {
    name: _KINDS[told.together] for name, told in BY_NAME.items() if told.together in _KINDS
}


def export(registry: CollectorRegistry) -> list[Family]:
    """All that a registry has, as JSON can hold it."""
    return [_family(metric) for metric in registry.collect()]


def export_worker(metrics: Metrics, more: Iterable[Metric] = ()) -> list[Family]:
    """All that a worker has counted, and what else there is."""
    families = [*export(metrics.registry), *map(_family, more)]
    return [*families, family_of(metrics.rows())]


def family_of(rows: Rows) -> Family:
    """Routes on their way. Whoever does not know of rows finds a metric without samples."""
    return {"name": FAMILY, "help": "", "type": "unknown", "samples": [], "routes": rows}


def rows_in(families: Iterable[Family]) -> Rows:
    """The routes among all that was told."""
    rows: Rows = {}
    for family in families:
        add_rows(rows, family.get("routes", {}))
    return rows


def counters(families: Iterable[Family]) -> list[Family]:
    """Only those that may not fall when their process has ended."""
    kept = [one for one in families if one["type"] in ("counter", "histogram", "summary")]
    rows = rows_in(families)
    return [*kept, family_of(without_sessions(rows))] if rows else kept


def merge(exports: Iterable[list[Family]]) -> list[Family]:
    """Of several processes one."""
    merged: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    rows: Rows = {}
    for families in exports:
        for family in families:
            name = family["name"]
            if name == FAMILY:
                add_rows(rows, family["routes"])
                continue
            merged.setdefault(name, family)
            sums = values.setdefault(name, {})
            for sample, labels, value in family["samples"]:
                key = sample, tuple((label, text) for label, text in labels)
                if key not in sums:
                    sums[key] = value
                elif sample.endswith("_created"):
                    sums[key] = min(sums[key], value)
                else:
                    sums[key] = _TOGETHER.get(name, _add)(sums[key], value)
    together = [
        {**family, "samples": [[*key, value] for key, value in values[name].items()]}
        for name, family in merged.items()
    ]
    return [*together, family_of(rows)] if rows else together


class Leaving:
    """How long it is told of routes what processes had counted that have ended. Times are seconds."""

    def __init__(self) -> None:
        self._gone_at: dict[str, float] = {}

    def keep(
        self, buried: list[Family], living: Iterable[list[Family]], now: float
    ) -> list[Family]:
        """What of it is still told: of routes of which a living process tells, and for a while of others."""
        rows = rows_in(buried)
        if not rows:
            return buried
        told = {route for families in living for route in rows_in(families)}
        gone = rows.keys() - told
        self._gone_at = {route: self._gone_at.get(route, now) for route in gone}
        late = {route for route, at in self._gone_at.items() if now - at >= GRACE}
        if not late:
            return buried
        others = [_without(one, late) for one in buried if one["name"] != FAMILY]
        return [*others, family_of({one: row for one, row in rows.items() if one not in late})]


def written(families: list[Family], place: Place | None = None) -> bytes:
    """As /metrics shows them. place: under the names of APISIX too."""
    rows = rows_in(families)
    others = [one for one in families if one["name"] != FAMILY]
    text = _text(as_metrics(others)) + exposed(rows).encode()
    return text if place is None else text + _text(as_apisix(others, rows, place))


def as_metrics(families: Iterable[Family]) -> Iterable[Metric]:
    """As a registry's collector gives them."""
    for family in families:
        metric = Metric(family["name"], family["help"], family["type"])
        metric.samples = [
            Sample(name, dict(labels), value) for name, labels, value in family["samples"]
        ]
        yield metric


class _Given(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _text(metrics: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Given(metrics))
    return generate_latest(registry)


def _without(family: Family, routes: set[str]) -> Family:
    """But for what is told of those."""
    kept = [one for one in family["samples"] if dict(one[1]).get("route") not in routes]
    return {**family, "samples": kept}


def _family(metric: Metric) -> Family:
    return {
        "name": metric.name,
        "help": metric.documentation,
        "type": metric.type,
        "samples": [
            [sample.name, sorted(sample.labels.items()), sample.value] for sample in metric.samples
        ],
    }


def _add(one: float, other: float) -> float:
    return one + other
