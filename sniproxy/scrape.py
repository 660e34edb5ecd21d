"""One scrape of several processes: what each has counted goes out as plain data, and is put together.

Counters and most gauges are summed. What a worker had counted before it died is kept, so no counter ever falls.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

Family = dict[str, Any]
Labels = tuple[tuple[str, str], ...]

# How the gauges are put together that a sum says nothing about.
_TOGETHER: dict[str, Callable[[float, float], float]] = {
    "sniproxy_config_revision": min,  # in force in all of them
    "sniproxy_config_broken_objects": max,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}


def export(registry: CollectorRegistry) -> list[Family]:
    """All that a registry has, as JSON can hold it."""
    return [
        {
            "name": metric.name,
            "help": metric.documentation,
            "type": metric.type,
            "samples": [
                [sample.name, sorted(sample.labels.items()), sample.value]
                for sample in metric.samples
            ],
        }
        for metric in registry.collect()
    ]


def counters(families: Iterable[Family]) -> list[Family]:
    """Only those that may not fall when their process has ended."""
    return [one for one in families if one["type"] in ("counter", "histogram", "summary")]


def merge(exports: Iterable[list[Family]]) -> list[Family]:
    """Of several processes one."""
    merged: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for families in exports:
        for family in families:
            name = family["name"]
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
    return [
        {**family, "samples": [[*key, value] for key, value in values[name].items()]}
        for name, family in merged.items()
    ]


def as_metrics(families: Iterable[Family]) -> Iterable[Metric]:
    """As a registry's collector gives them."""
    for family in families:
        metric = Metric(family["name"], family["help"], family["type"])
        metric.samples = [
            Sample(name, dict(labels), value) for name, labels, value in family["samples"]
        ]
        yield metric


def _add(one: float, other: float) -> float:
    return one + other
