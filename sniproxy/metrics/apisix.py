"""The same numbers under the names that APISIX has for them, for dashboards that were made for it. Pure.

Where APISIX tells listeners apart and we do not, a data plane with one listener tells of that one; with several these
metrics are left out. The code of a session is that of its reason: 200 played, 400 no hello, 403 refused or no route, 502 no
game server, 503 no room, 500 a defect of ours.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sniproxy import __version__
from sniproxy.errors import CloseReason as R
from sniproxy.metrics.rows import Rows

Samples = Iterable[tuple[tuple[str, ...], float]]


class Place(NamedTuple):
    """Which data plane it is."""

    hostname: str
    listener: str | None  # the only one


CODES: Mapping[str, tuple[R, ...]] = {
    "200": (
        *(R.CLIENT_CLOSED, R.UPSTREAM_CLOSED, R.CLIENT_RESET, R.UPSTREAM_RESET, R.IDLE_TIMEOUT),
        *(R.CLIENT_TRUNCATED, R.UPSTREAM_TRUNCATED, R.SESSION_TIMEOUT, R.KILLED, R.SHED),
        *(R.SHUTDOWN, R.PROBE, R.TLS_ERROR),
    ),
    "400": (
        *(R.PROXY_UNTRUSTED, R.PROXY_BROKEN, R.HELLO_ABANDONED, R.HELLO_TIMEOUT, R.HELLO_NOT_TLS),
        *(R.HELLO_BROKEN, R.HELLO_TOO_LARGE, R.HANDSHAKE_FAILED, R.HANDSHAKE_TIMEOUT),
    ),
    "403": (R.ADDRESS_DENIED, R.NO_ROUTE, R.NO_CERTIFICATE),
    "500": (R.INTERNAL_ERROR,),
    "502": (
        *(R.NO_UPSTREAM, R.UPSTREAM_REFUSED, R.UPSTREAM_TIMEOUT, R.UPSTREAM_UNREACHABLE),
        *(R.UPSTREAM_NAME, R.UPSTREAM_DENIED, R.UPSTREAM_TLS, R.UPSTREAM_CERTIFICATE),
    ),
    "503": (
        *(R.SESSION_LIMIT, R.ADDRESS_LIMIT, R.ADDRESS_RATE, R.ROUTE_LIMIT, R.ROUTE_RATE),
        *(R.ROUTE_DRAINED, R.DESCRIPTOR_LIMIT, R.MEMORY_LIMIT, R.SETUP_LIMIT),
    ),
}
_CODE_OF = {reason.value: code for code, reasons in CODES.items() for reason in reasons}


def as_apisix(families: Iterable[dict[str, Any]], rows: Rows, place: Place) -> Iterable[Metric]:
    """families, rows: what /metrics tells under our names."""
    told = {one["name"]: one["samples"] for one in families}
    connections = _counter("stream_connection", "Sessions that came to a stream route", "route")
    for route in sorted(rows):
        connections.add_metric((route,), rows[route][0])
    yield connections
    if up := told.get("sniproxy_etcd_up"):
        yield _gauge("etcd_reachable", "1 while etcd answers", (), [((), up[0][2])])
    for _, _, revision in told.get("sniproxy_config_revision", ()):
        what = "Store revision in force"
        yield _gauge("etcd_modify_indexes", what, ("key",), [(("max_modify_index",), revision)])
    node = [((place.hostname, __version__), 1.0)]
    yield _gauge("node_info", "This data plane", ("hostname", "version"), node)
    healthy = {
        (f"/{labels['upstream']}", *labels["node"].rpartition(":")[::2]): value
        for _, pairs, value in told.get("sniproxy_upstream_node_healthy", ())
        for labels in [dict(pairs)]
    }
    what = "1 while probes find a game server well"
    yield _gauge("upstream_status", what, ("name", "ip", "port"), healthy.items())
    if place.listener is not None:
        yield from _of_listener(told, place.listener)


def _of_listener(told: Mapping[str, Any], address: str) -> Iterable[Metric]:
    def total(name: str) -> float:
        return sum((value for _, _, value in told.get(name, ())), 0.0)

    active = [((address,), total("sniproxy_sessions_active"))]
    yield _gauge("stream_active_connections", "Sessions now", ("listen_addr",), active)
    codes = Counter[str](dict.fromkeys(CODES, 0))
    for _, pairs, value in told.get("sniproxy_sessions_closed", ()):
        codes[_CODE_OF.get(dict(pairs)["reason"], "500")] += value
    status = _gauge_or_counter("stream_status", "Sessions ended", ("code", "listen_addr", "node"))
    for code, count in codes.items():
        status.add_metric((code, address, ""), count)
    yield status
    labels = ("listen_addr", "type", "side")
    moved = _gauge_or_counter("stream_bandwidth", "Payload", labels)
    for name, types in (
        ("sniproxy_bytes_to_upstream", (("ingress", "downstream"), ("egress", "upstream"))),
        ("sniproxy_bytes_to_client", (("ingress", "upstream"), ("egress", "downstream"))),
    ):
        for both in types:
            moved.add_metric((address, *both), total(name))
    yield moved


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Samples) -> Metric:
    family = GaugeMetricFamily(f"apisix_{name}", what, labels=labels)
    for given, value in values:
        family.add_metric(given, value)
    return family


def _gauge_or_counter(name: str, what: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    """A counter whose name does not end in _total, as APISIX has two: to the library that is none."""
    return GaugeMetricFamily(f"apisix_{name}", what, labels=labels)


def _counter(name: str, what: str, label: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"apisix_{name}", what, labels=(label,))
