"""`sniproxy explain` says that an upstream has health checks; who is well only a running data plane knows."""

import ipaddress
from typing import Any

import pytest

from sniproxy.explain import Explanation, explain
from sniproxy.router import Arrival
from sniproxy.settings import Listener
from tests.support.gateway import fill

HOME = ipaddress.ip_address("127.0.0.1")
REST = "a node that is not well gets none, unless no other is there"
OFF = {"unhealthy": {"tcp_failures": 0, "timeouts": 0}}


@pytest.mark.parametrize(
    "nodes",
    [{"nodes": {"127.0.0.1:9": 1}}, {"service_name": "games.example", "discovery_type": "dns"}],
    ids=["nodes", "DNS"],
)
@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (None, []),
        ({"active": {}}, [f"by http probes: {REST}"]),
        ({"active": {"type": "tcp"}, "passive": OFF}, [f"by tcp probes: {REST}"]),
        (
            {"active": {"type": "tcp"}, "passive": {}},
            [f"by tcp probes and how sessions fare there: {REST}"],
        ),
    ],
)
def test_checks_are_named(nodes: dict[str, Any], checks: Any, said: list[str]) -> None:
    objects = {"stream_routes/1": {"upstream": {**nodes, "checks": checks}}}
    arrival = Arrival(None, HOME, HOME, 1)
    listener = Listener(address="127.0.0.1:0")
    told = explain(fill(objects), listener, arrival, 0.0, Explanation())
    assert [text for topic, text in told.lines if topic == "checks"] == said
    assert told.refused is None
