"""Plans: who gets one, who must not, and that everybody for whom there is one would have fared as it says."""

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.accounting import Ended
from sniproxy.balancing import MOST_PICKS
from sniproxy.errors import CloseReason
from sniproxy.forbidden import Forbidden
from sniproxy.limits import open_limits
from sniproxy.networks import IpAddress
from sniproxy.plan import PATIENCE, Plan, plan_for, treats_all_alike
from sniproxy.router import Arrival
from sniproxy.settings import Limits, Listener, Proxy
from tests.support.gateway import Objects, fill, route

NAME, PORT = "play.example.com", 8888
OPEN = Forbidden(Proxy(listeners=()))
MIXED = Listener(address="0.0.0.0:8888", tls=True, tls_passthrough=True)
PASS: dict[str, Any] = {"sni": NAME, "tls_passthrough": True}
RATE = {"per_second": 1000, "burst": 1000}


def plan(
    objects: Objects,
    listener: Listener = MIXED,
    *,
    settings: Proxy | None = None,
    name: str = NAME,
    port: int = PORT,
) -> Plan | None:
    """The plan for a name at a listener."""
    return plan_for(fill(objects), listener, settings or Proxy(), name, port, OPEN)


def listener(**members: Any) -> Listener:
    """One for TLS that is passed through, with these members."""
    return Listener(**{"address": "0.0.0.0:8888", "tls_passthrough": True, **members})


@pytest.mark.parametrize(
    ("members", "asked", "planned"),
    [
        ({}, True, True),
        ({}, False, True),  # nothing else is offered
        ({"tls": True}, True, True),
        ({"tls": True}, False, False),  # the route terminates
        ({"tls": True, "tls_passthrough": False}, True, False),
        ({"tls": True, "tls_passthrough": False}, False, False),
        ({"tls_passthrough": False}, True, False),  # plain TCP says no name
        ({"tls_passthrough": False}, False, False),
        ({"allow": ("192.0.2.0/24",)}, True, False),
        ({"allow": ("0.0.0.0/0", "::/0")}, True, False),  # whatever it allows
        ({"deny": ("192.0.2.1",)}, True, False),
        ({"proxy_protocol": True}, True, True),  # the relay reads the header too
        ({"proxy_protocol": True, "deny": ("192.0.2.1",)}, True, False),
    ],
)
def test_which_listeners_have_plans(members: dict[str, Any], asked: bool, planned: bool) -> None:
    objects = {"stream_routes/1": route(1, sni=NAME, tls_passthrough=asked)}
    assert (plan(objects, listener(**members)) is not None) is planned


LIMITS: dict[str, tuple[Any, bool]] = {
    "address_sessions": (10**9, False),
    "address_rate": (RATE, False),
    "route_sessions": (10**9, False),
    "route_rate": (RATE, False),
    "session_time": (3600, True),  # the same for everybody
    "session_bandwidth": (1024, True),
    "table": (1024, True),
}


def test_every_limit_has_a_row() -> None:
    assert set(LIMITS) == set(Limits.model_fields)


@pytest.mark.parametrize(
    ("limit", "value", "planned"), [(one, *row) for one, row in LIMITS.items()]
)
def test_a_limit_that_asks_each_leaves_no_plan(limit: str, value: Any, planned: bool) -> None:
    settings = Proxy.model_validate({"limits": {limit: value}})
    assert treats_all_alike(MIXED, settings) is planned
    assert (plan({"stream_routes/1": route(1, **PASS)}, settings=settings) is not None) is planned


@pytest.mark.parametrize(
    ("settings", "timeout", "planned"),
    [
        ({"hello_timeout": PATIENCE}, None, True),
        ({"hello_timeout": 0.999}, None, False),
        ({"connect_timeout": PATIENCE}, None, True),
        ({"connect_timeout": 0.999}, None, False),
        ({"connect_timeout": 0.5}, 3, True),  # the upstream's goes before
        ({}, 0.5, False),
        ({"handshake_timeout": 0.1, "idle_timeout": 0.1}, None, True),
    ],
)
def test_times_that_the_relay_cannot_hold_leave_no_plan(
    settings: dict[str, Any], timeout: float | None, planned: bool
) -> None:
    members: dict[str, Any] = (
        {} if timeout is None else {"timeout": {"connect": timeout, "send": 9, "read": 9}}
    )
    objects = {"stream_routes/1": to("127.0.0.1:7777", **members)}
    found = plan(objects, settings=Proxy.model_validate(settings))
    assert (found is not None) is planned


def to(*nodes: str, weight: int = 1, **members: Any) -> dict[str, Any]:
    """A route for the name whose upstream has these nodes and members."""
    return {"upstream": {"nodes": dict.fromkeys(nodes, weight), **members}, **PASS}


HERE = to("127.0.0.1:7777")
RESTRICTION: dict[str, Any] = {"ip-restriction": {"blacklist": ["192.0.2.1"]}}
OFF: dict[str, Any] = {"ip-restriction": {"blacklist": ["192.0.2.1"], "_meta": {"disable": True}}}
COUNTED: dict[str, Any] = {
    "limit-conn": {"conn": 9, "burst": 0, "default_conn_delay": 1, "key": "server_port"}
}
SERVICE = {"upstream": HERE["upstream"]}
SWITCHED_OFF = {"active": {}, "passive": {"unhealthy": {"tcp_failures": 0, "timeouts": 0}}}

# What is configured, and the id of the planned route; None where each connection must be decided alone.
CONFIGURED: dict[str, tuple[dict[str, dict[str, Any]], str | None]] = {
    "nothing": ({}, None),
    "one route": ({"1": HERE}, "1"),
    "another name": ({"1": HERE | {"sni": "other.example.com"}}, None),
    "a wildcard": ({"1": HERE | {"sni": "*.example.com"}}, "1"),
    "a wildcard for others": ({"1": HERE | {"sni": "*.example.org"}}, None),
    "the star": ({"1": HERE | {"sni": "*"}}, "1"),
    "no name": ({"1": {"upstream": HERE["upstream"], "tls_passthrough": True}}, "1"),
    "the name before a wildcard": ({"1": HERE | {"sni": "*.example.com"}, "2": HERE}, "2"),
    "several names": (
        {"1": {"snis": ["a.b", NAME], "upstream": HERE["upstream"], "tls_passthrough": True}},
        "1",
    ),
    # Conditions on addresses: only where everybody passes by them
    "remote_addr": ({"1": HERE | {"remote_addr": "192.0.2.0/24"}}, None),
    "any remote_addr": ({"1": HERE | {"remote_addr": "0.0.0.0/0"}}, None),  # not of IPv6
    "server_addr": ({"1": HERE | {"server_addr": "127.0.0.1"}}, None),
    "its server_port": ({"1": HERE | {"server_port": PORT}}, "1"),
    "another server_port": ({"1": HERE | {"server_port": PORT + 1}}, None),
    "remote_addr before": ({"1": HERE, "2": HERE | {"remote_addr": "192.0.2.1"}}, None),
    "server_addr before": ({"1": HERE, "2": HERE | {"server_addr": "192.0.2.1"}}, None),
    "remote_addr before, of another port": (
        {"1": HERE, "2": HERE | {"remote_addr": "192.0.2.1", "server_port": PORT + 1}},
        "1",
    ),
    "remote_addr before, of this port": (
        {"1": HERE, "2": HERE | {"remote_addr": "192.0.2.1", "server_port": PORT}},
        None,
    ),
    "remote_addr on a wider name": (
        {"1": HERE, "2": HERE | {"sni": "*.example.com", "remote_addr": "192.0.2.1"}},
        "1",
    ),
    "remote_addr on the name, nothing on a wider one": (
        {"1": HERE | {"remote_addr": "192.0.2.1"}, "2": HERE | {"sni": "*.example.com"}},
        None,
    ),
    "another server_port on the name, nothing on a wider one": (
        {"1": HERE | {"server_port": PORT + 1}, "2": HERE | {"sni": "*.example.com"}},
        "2",
    ),
    # Where it leads
    "no upstream": ({"1": PASS}, None),
    "upstream by id": ({"1": PASS | {"upstream_id": "1"}, "upstreams/1": HERE["upstream"]}, "1"),
    "upstream that is gone": ({"1": PASS | {"upstream_id": "1"}}, None),
    "service": ({"1": PASS | {"service_id": "1"}, "services/1": SERVICE}, "1"),
    "service with an upstream by id": (
        {
            "1": PASS | {"service_id": "1"},
            "services/1": {"upstream_id": 2},
            "upstreams/2": HERE["upstream"],
        },
        "1",
    ),
    "service without an upstream": ({"1": PASS | {"service_id": "1"}, "services/1": {}}, None),
    "service that is gone": ({"1": HERE | {"service_id": "1"}}, None),
    # Plugins
    "a plugin": ({"1": HERE | {"plugins": RESTRICTION}}, None),
    "a plugin that counts": ({"1": HERE | {"plugins": COUNTED}}, None),
    "a plugin that changes nothing": ({"1": HERE | {"plugins": {"prometheus": {}}}}, "1"),
    "no plugins": ({"1": HERE | {"plugins": {}}}, "1"),
    "a plugin of the service": (
        {"1": PASS | {"service_id": "1"}, "services/1": SERVICE | {"plugins": RESTRICTION}},
        None,
    ),
    "a plugin that is switched off": ({"1": HERE | {"plugins": OFF}}, None),  # not worth a rule
    "a plugin of another route": ({"1": HERE, "2": HERE | {"sni": "*", "plugins": COUNTED}}, "1"),
    # Nodes
    "IPv6": ({"1": to("[::1]:7777")}, "1"),
    "no port": ({"1": to("127.0.0.1")}, "1"),
    "a host name": ({"1": to("game.example:7777")}, None),
    "a host name among addresses": ({"1": to("127.0.0.1:1", "game.example:7777")}, None),
    "nearly an address": ({"1": to("127.1:7777")}, None),
    "weight 0": ({"1": to("127.0.0.1:7777", weight=0)}, None),
    "a host name that has no weight": (
        {"1": to() | {"upstream": {"nodes": {"127.0.0.1:1": 1, "game.example:7777": 0}}}},
        "1",
    ),
    "a host name for when all others fail": (
        {
            "1": to()
            | {
                "upstream": {
                    "nodes": [
                        {"host": "127.0.0.1", "weight": 1, "priority": 1},
                        {"host": "game.example", "weight": 1},
                    ]
                }
            }
        },
        "1",
    ),
    "no nodes": ({"1": to()}, None),
    # Only who takes turns does so without being asked
    "a type that is not known": ({"1": to("127.0.0.1:1", type="another")}, "1"),
    "random": ({"1": to("127.0.0.1:1", type="random")}, None),
    "fewest sessions": ({"1": to("127.0.0.1:1", type="least_conn")}, None),
    "quickest": ({"1": to("127.0.0.1:1", type="ewma")}, None),
    "hashed": ({"1": to("127.0.0.1:1", type="chash", key="remote_addr")}, None),
    "nodes to discover": (
        {"1": PASS | {"upstream": {"service_name": "games", "discovery_type": "dns"}}},
        None,
    ),
    "huge weights": ({"1": to("127.0.0.1:1", "127.0.0.2:1", weight=10**9)}, "1"),
    "a round that is just short enough": (
        {"1": to() | {"upstream": {"nodes": {"127.0.0.1:1": 1, "127.0.0.2:1": MOST_PICKS - 1}}}},
        "1",
    ),
    "a round that is too long": (
        {"1": to() | {"upstream": {"nodes": {"127.0.0.1:1": 1, "127.0.0.2:1": MOST_PICKS}}}},
        None,
    ),
    # Whoever goes by a plan is not seen
    "checks by probes": ({"1": to("127.0.0.1:1", checks={"active": {}})}, "1"),
    "checks by sessions": (
        {"1": to("127.0.0.1:1", checks={"active": {}, "passive": {}})},
        None,
    ),
    "checks by sessions that are off": ({"1": to("127.0.0.1:1", checks=SWITCHED_OFF)}, "1"),
    # What is said to them
    "scheme http": ({"1": to("127.0.0.1:1", scheme="http")}, "1"),
    "scheme tcp": ({"1": to("127.0.0.1:1", scheme="tcp")}, "1"),
    "scheme tls": ({"1": to("127.0.0.1:1", scheme="tls")}, None),
    "scheme udp": ({"1": to("127.0.0.1:1", scheme="udp")}, None),
    "scheme kafka": ({"1": to("127.0.0.1:1", scheme="kafka")}, None),
    "PROXY v1": ({"1": to("127.0.0.1:1", proxy_protocol="v1")}, None),
    "PROXY v2": ({"1": to("127.0.0.1:1", proxy_protocol="v2")}, None),
}  # fmt: skip


def keyed(objects: dict[str, dict[str, Any]]) -> Objects:
    """With "1" for "stream_routes/1"."""
    return {key if "/" in key else f"stream_routes/{key}": one for key, one in objects.items()}


@pytest.mark.parametrize(("objects", "planned"), CONFIGURED.values(), ids=CONFIGURED)
def test_which_configurations_have_plans(
    objects: dict[str, dict[str, Any]], planned: str | None
) -> None:
    found = plan(keyed(objects))
    assert (found.route.id if found else None) == planned


def test_a_plan_says_where_and_what_stands_in_the_line() -> None:
    nodes = {"[::1]:7777": 2, "127.0.0.1": 1}
    found = plan({"stream_routes/r1": {"upstream": {"nodes": nodes}, **PASS}})
    assert found is not None
    assert (found.listener, found.name, found.port) == (MIXED, NAME, PORT)
    picks = [(node.bare_host, node.port) for node in found.target.round]
    assert picks == [("::1", 7777), ("127.0.0.1", None), ("::1", 7777)]
    for pick, node in enumerate(["[::1]:7777", f"127.0.0.1:{PORT}", "[::1]:7777"]):
        account = found.account("s", "192.0.2.1:5000", pick)
        line = account.line(Ended(0.0, 0.0), CloseReason.CLIENT_CLOSED, "", 1, 2)
        assert line == {
            "session": "s",
            "reason": "client_closed",
            "started": "1970-01-01T00:00:00.000000Z",
            "client": "192.0.2.1:5000",
            "listener": "0.0.0.0:8888",
            "sni": NAME,
            "alpn": None,
            "route": "r1",
            "node": node,
            "node_address": node,
            "source": None,
            "tls": "passthrough",
            "bytes_in": 1,
            "bytes_out": 2,
            "duration_ms": 0.0,
            "hello_ms": 0.0,
            "connect_ms": 0.0,
        }
        form = found.form(pick)
        assert form is found.form(pick)
        who = ("s", CloseReason.CLIENT_CLOSED, 0.0, "192.0.2.1:5000", None, None)
        filled = form.fill(*who, 1, 2, (0.0, 0.0, 0.0))
        assert json.loads("{" + filled) == line


# Any configuration

NAMES = st.sampled_from(["a", "b.a", "*", "*.a", "*a"])
NETWORKS = st.sampled_from(["10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::/0"])
ROUTES = st.fixed_dictionaries(
    {"tls_passthrough": st.sampled_from([True, True, False])},
    optional={
        "snis": st.lists(NAMES, min_size=1, max_size=2),
        "remote_addr": NETWORKS,
        "server_addr": NETWORKS,
        "server_port": st.integers(1, 2),
        "upstream": st.sampled_from([HERE["upstream"], to("game.example:1")["upstream"]]),
        "upstream_id": st.sampled_from(["1", "2"]),
        "service_id": st.sampled_from(["1", "2"]),
        "plugins": st.sampled_from([{}, {}, RESTRICTION, COUNTED]),
    },
)
CONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        "upstreams/1": st.sampled_from([HERE["upstream"], to("127.0.0.1:1", scheme="tls")["upstream"]]),
        "services/1": st.sampled_from([SERVICE, SERVICE | {"plugins": RESTRICTION}, {"upstream_id": 1}]),
        **{f"stream_routes/{number}": ROUTES for number in range(6)},
    },
)  # fmt: skip
ADDRESSES = st.sampled_from([*map(ip_address, ("10.0.0.1", "10.0.0.2", "192.0.2.1", "::1"))])


@given(
    CONFIGURATIONS,
    st.booleans(),
    st.sampled_from(["a", "b.a", "c.b.a", "ba", "z"]),
    st.integers(1, 3),
    st.lists(st.tuples(ADDRESSES | st.ip_addresses(), ADDRESSES | st.ip_addresses()), min_size=1),
)
def test_whoever_comes_would_have_fared_as_the_plan_says(
    objects: Objects, tls: bool, name: str, port: int, came: list[tuple[IpAddress, IpAddress]]
) -> None:
    """The plan against all that is asked of a connection that is decided alone."""
    at = listener(tls=tls)
    snapshot, limits = fill(objects), open_limits(Proxy())
    found = plan_for(snapshot, at, Proxy(), name, port, OPEN)
    for client, server in came:
        arrival = Arrival(name, client, server, port)
        match = snapshot.router.match(arrival)
        if found is None:
            continue
        assert match is not None
        assert match.route is found.route
        assert at.passes_through(asked=match.route.tls_passthrough)
        assert snapshot.target(match.route) is found.target
        claims: list[Any] = []
        limits.admit_client(at, client, claims)
        plugins = snapshot.plugins(match.route)
        assert limits.admit_route(match.route.id, plugins, arrival, claims) == 0
        assert claims == []
