"""What is told of single certificates and game servers."""

from typing import Any

import pytest
import trio
from prometheus_client.core import Metric

from sniproxy.health import Failure
from sniproxy.metrics import objects
from sniproxy.metrics.objects import certificates, circuits, nodes
from tests.support.gateway import certificate, fill

pytestmark = pytest.mark.anyio


def values(metric: Metric) -> dict[tuple[str, ...], float]:
    """By the labels' values."""
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


def test_certificates_by_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = fill({"ssls/1": certificate(), "ssls/a": certificate("b.example")})
    ends = {(one.id,): one.ends for one in snapshot.in_force.values()}
    assert values(certificates(snapshot)) == ends
    assert len(ends) == 2
    monkeypatch.setattr(objects, "MOST_CERTIFICATES", 1)
    assert list(values(certificates(snapshot)).values()) == [min(ends.values())]


def found(host: str, status: str) -> dict[str, Any]:
    """As `/v1/healthcheck` has a node."""
    return {"hostname": host, "port": 7777, "status": status}


STATE = [
    {
        "name": "/apisix/upstreams/1",
        "nodes": [found("10.0.0.1", "healthy"), found("10.0.0.2", "unhealthy")],
    },
    {
        "name": "/apisix/stream_routes/7",
        "nodes": [found("10.0.0.1", "mostly_healthy"), found("gs", "mostly_unhealthy")],
    },
]


def test_game_servers_as_probes_find_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert values(nodes(STATE)) == {
        ("upstreams/1", "10.0.0.1:7777"): 1,
        ("upstreams/1", "10.0.0.2:7777"): 0,
        ("stream_routes/7", "10.0.0.1:7777"): 1,
        ("stream_routes/7", "gs:7777"): 0,
    }
    monkeypatch.setattr(objects, "MOST_NODES", 2)
    assert list(values(nodes(STATE)).values()) == [0, 0], "those that are not well come first"


async def test_only_circuits_that_are_open_are_told() -> None:
    checks = {"active": {"type": "tcp"}, "passive": {"unhealthy": {"tcp_failures": 1}}}
    upstream = {"nodes": {"10.0.0.88:1": 1, "10.0.0.89:1": 1}, "checks": checks}
    snapshot = fill({"upstreams/1": upstream, "stream_routes/2": {"upstream": upstream}})
    now = trio.current_time()
    assert values(circuits(snapshot, now)) == {}
    target = snapshot.in_force["/apisix/upstreams/1"]
    circuit = target.checkup.circuit(target.balancer.nodes[0])
    assert circuit.fail(Failure.TCP, now, now)
    open_now = {("upstreams/1", "10.0.0.88:1"): 1, ("stream_routes/2", "10.0.0.88:1"): 1}
    assert values(circuits(snapshot, now)) == open_now
    circuit.connect(now + 2)
    assert values(circuits(snapshot, now + 10)) == {}
