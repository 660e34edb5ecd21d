"""What is told of single objects: certificates, and game servers that are not well. Found when it is asked for.

Labels are ids and hosts of the configuration, and addresses that DNS has for names in it; each kind is told of so many.
"""

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from sniproxy.balancer import Target
from sniproxy.health import open_circuits
from sniproxy.metrics.catalogue import BY_NAME
from sniproxy.snapshot import Snapshot
from sniproxy.tls import Certificate

MOST_CERTIFICATES = 1_000
MOST_NODES = 1_000


def certificates(snapshot: Snapshot) -> Metric:
    """When each ends."""
    found = (one for one in snapshot.in_force.values() if isinstance(one, Certificate))
    ends = ((one.ends, one.id) for one in found)
    rows = (((ssl,), when) for when, ssl in nsmallest(MOST_CERTIFICATES, ends))
    return _gauge("sniproxy_certificate_expiry_timestamp_seconds", rows)


def circuits(snapshot: Snapshot, now: float) -> Metric:
    """Those that are open. now: seconds of the loop's clock."""
    found: list[tuple[tuple[str, ...], float]] = []
    if open_circuits(now):  # mostly there are none, and nobody looks at all nodes
        for key, one in snapshot.in_force.items():
            target = one if isinstance(one, Target) else getattr(one, "target", None)
            if isinstance(target, Target):
                shut = _shut(target.discovered or target)
                found += [((_name(key), node), 1.0) for node in shut]
    return _gauge("sniproxy_upstream_node_circuit_open", sorted(set(found))[:MOST_NODES])


def nodes(state: Iterable[dict[str, Any]]) -> Metric:
    """What probes have found. state: as `/v1/healthcheck` has it."""
    found = {
        (_name(upstream["name"]), f"{node['hostname']}:{node['port']}"): _is_well(node["status"])
        for upstream in state
        for node in upstream["nodes"]
    }
    rows = nsmallest(MOST_NODES, found.items(), key=lambda row: (row[1], row[0]))
    return _gauge("sniproxy_upstream_node_healthy", rows)


def _is_well(status: str) -> float:
    return float(status in ("healthy", "mostly_healthy"))


def _shut(target: Target) -> Iterator[str]:
    checkup = target.checkup
    if checkup is not None and checkup.passive is not None:
        for node in target.balancer.nodes:
            circuit = checkup.circuit(node)
            if circuit is not None and circuit.until is not None:
                yield f"{node.bare_host}:{node.port or ''}"


def _name(key: str) -> str:
    """Such as upstreams/1."""
    return "/".join(key.rsplit("/", 2)[-2:])


def _gauge(name: str, rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    told = BY_NAME[name]
    family = GaugeMetricFamily(name, told.help, labels=told.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
