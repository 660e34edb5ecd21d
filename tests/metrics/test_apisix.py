"""The names of APISIX."""

import pytest

from sniproxy.errors import CloseReason
from sniproxy.metrics import Metrics
from sniproxy.metrics.apisix import CODES, Place
from sniproxy.scrape import Family, export_worker, written

pytestmark = pytest.mark.anyio

LISTENER = "0.0.0.0:8888"


def told(place: Place | None) -> list[str]:
    """The samples under those names."""
    metrics = Metrics(active=lambda: 3)
    tally = metrics.counts.tallies.of("7")
    tally.opened += 5
    tally.meter.add(100, 2000)
    tally.close(CloseReason.CLIENT_CLOSED)
    tally.close(CloseReason.UPSTREAM_REFUSED)
    metrics.counts.close(CloseReason.NO_ROUTE)
    metrics.config_revision.set(42)
    node = [["node", "[::1]:7777"], ["upstream", "upstreams/1"]]
    more: list[Family] = [
        {
            "name": "sniproxy_upstream_node_healthy",
            "help": "",
            "type": "gauge",
            "samples": [["sniproxy_upstream_node_healthy", node, 1.0]],
        },
        {
            "name": "sniproxy_etcd_up",
            "help": "",
            "type": "gauge",
            "samples": [["sniproxy_etcd_up", [], 1.0]],
        },
    ]
    text = written([*export_worker(metrics), *more], place).decode()
    return [line for line in text.splitlines() if line.startswith("apisix_")]


async def test_every_reason_has_one_code() -> None:
    reasons = [reason for several in CODES.values() for reason in several]
    assert sorted(reasons) == sorted(CloseReason)


async def test_nobody_is_told_who_has_not_asked() -> None:
    assert told(None) == []


async def test_with_one_listener_all_is_told() -> None:
    lines = told(Place("host-1", LISTENER))
    for line in (
        'apisix_stream_connection_total{route="7"} 5.0',
        "apisix_etcd_reachable 1.0",
        'apisix_etcd_modify_indexes{key="max_modify_index"} 42.0',
        'apisix_upstream_status{ip="[::1]",name="/upstreams/1",port="7777"} 1.0',
        f'apisix_stream_active_connections{{listen_addr="{LISTENER}"}} 3.0',
        f'apisix_stream_status{{code="200",listen_addr="{LISTENER}",node=""}} 1.0',
        f'apisix_stream_status{{code="403",listen_addr="{LISTENER}",node=""}} 1.0',
        f'apisix_stream_status{{code="502",listen_addr="{LISTENER}",node=""}} 1.0',
        f'apisix_stream_status{{code="503",listen_addr="{LISTENER}",node=""}} 0.0',
        f'apisix_stream_bandwidth{{listen_addr="{LISTENER}",side="downstream",type="ingress"}} 100.0',
        f'apisix_stream_bandwidth{{listen_addr="{LISTENER}",side="upstream",type="ingress"}} 2000.0',
    ):
        assert line in lines
    assert any(line.startswith('apisix_node_info{hostname="host-1",version=') for line in lines)


async def test_with_several_those_of_listeners_are_left_out() -> None:
    lines = told(Place("host-1", None))
    assert 'apisix_stream_connection_total{route="7"} 5.0' in lines
    assert not any("listen_addr" in line for line in lines)
