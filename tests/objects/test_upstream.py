"""upstreams: both forms of nodes, limits, and which unknown members pass."""

from typing import Any

import pytest

from sniproxy.objects import Upstream
from tests.objects.reading import (
    ACCEPTED,
    BOTH,
    EMPTY,
    NO_ENUM,
    NONE_OF,
    ONE_OF,
    at_least,
    at_most,
    longer,
    not_a_host,
    shorter,
    verdict,
    within,
    wrong,
)

NODES: dict[str, Any] = {"nodes": {}}
CERT, KEY = "c" * 128, "k" * 64
NOT_A_NODE = "node {!r} is not host:port (an IPv6 host stands in brackets)"
ABOVE_ZERO = "expected 0 to be greater than 0"
FINITE = "expected a finite number"
NO_ACTIVE = NONE_OF + '["active"] or ["active","passive"]'
NOT_WITH = "failed to validate dependent schema for "
EXCLUDED = (
    '"client_cert": value wasn\'t supposed to match schema: '
    "client_cert_id and client_cert exclude each other"
)
FORBIDDEN = "additional properties forbidden, found "

# As APISIX stores it: what was given, no defaults.
STORED = {
    "id": "1",
    "name": "game servers",
    "type": "chash",
    "key": "remote_addr",
    "hash_on": "vars",
    "scheme": "tcp",
    "nodes": [
        {"host": "10.0.0.1", "port": 7000, "weight": 5, "priority": 0, "metadata": {"zone": "a"}},
        {"host": "gs.internal", "port": 7000, "weight": 1, "priority": -1},
    ],
    "retries": 1,
    "retry_timeout": 0,
    "timeout": {"connect": 0.5, "send": 60, "read": 60},
    "checks": {
        "active": {
            "type": "tcp",
            "timeout": 5,
            "host": "foo.com",
            "healthy": {"interval": 2, "successes": 1},
            "unhealthy": {"interval": 1, "tcp_failures": 2},
            "req_headers": ["User-Agent: curl/7.29.0"],
        },
        "passive": {"healthy": {"successes": 0}, "unhealthy": {"tcp_failures": 0}},
    },
    "pass_host": "pass",
    "keepalive_pool": {"size": 320, "idle_timeout": 60, "requests": 1000},
    "create_time": 1700000000,
    "update_time": 1700000000,
}


def test_what_apisix_stores_is_accepted() -> None:
    assert verdict("upstreams", STORED) == ACCEPTED


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({}, ACCEPTED),
        ([], ACCEPTED),
        ({"10.0.0.1:7000": 0, "gs.internal": 1, "[::1]:7000": 2, "[::1]": 3}, ACCEPTED),
        ({"a:65535": 1}, ACCEPTED),
        ({"a:0": 1}, within(1, "port", text=at_least(1, 0))),
        ({"a:65536": 1}, within(1, "port", text=at_most(65535, 65536))),
        ({"a:100000": 1}, NOT_A_NODE.format("a:100000")),
        ({"::1": 1}, NOT_A_NODE.format("::1")),
        ({"a:": 1}, NOT_A_NODE.format("a:")),
        ({":80": 1}, NOT_A_NODE.format(":80")),
        ({"": 1}, NOT_A_NODE.format("")),
        ({"a:80\n": 1}, NOT_A_NODE.format("a:80\n")),
        ({"a:٨٠": 1}, NOT_A_NODE.format("a:٨٠")),
        ({"a:80": 1, "b c:80": 1}, within(2, "host", text=not_a_host("b c"))),
        ({"a:80": -1}, within(1, "weight", text=at_least(0, -1))),
        ({"a:80": 1.5}, within(1, "weight", text=wrong("integer", "number"))),
        ({"a:80": True}, within(1, "weight", text=wrong("integer", "boolean"))),
        ({"a:80": None}, within(1, "weight", text=wrong("integer", "userdata"))),
        ([{"host": "a", "weight": 0, "zone": "not in the schema"}], ACCEPTED),
        ([{"host": "[::1]", "port": 1, "weight": 1}], ACCEPTED),
        (
            [{"host": "a", "weight": 1}, {"host": "a"}],
            within(2, text='property "weight" is required'),
        ),
        ([{"weight": 1}], within(1, text='property "host" is required')),
        ([{"host": "a", "weight": 1, "port": 0}], within(1, "port", text=at_least(1, 0))),
        (
            [{"host": "a", "weight": 1, "port": 65536}],
            within(1, "port", text=at_most(65535, 65536)),
        ),
        (
            [{"host": "a", "weight": 1, "priority": "x"}],
            within(1, "priority", text=wrong("integer", "string")),
        ),
        (["a:80"], within(1, text=wrong("object", "string"))),
        ("a:80", wrong("array", "string")),
        (5, wrong("array", "number")),
    ],
)
def test_nodes(nodes: object, expected: str) -> None:
    assert verdict("upstreams", {"nodes": nodes}) == (
        expected and within("nodes", text=NONE_OF + expected)
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, ONE_OF + "needs nodes, or service_name with discovery_type"),
        ({"service_name": "a"}, ONE_OF + "needs nodes, or service_name with discovery_type"),
        ({"discovery_type": "dns"}, ONE_OF + "needs nodes, or service_name with discovery_type"),
        ({"service_name": "a", "discovery_type": "dns"}, ACCEPTED),
        ({"service_name": "a", "discovery_type": "dns", "discovery_args": {"x": 1}}, ACCEPTED),
        (NODES | {"service_name": "a"}, "nodes and service_name exclude each other"),
        (
            NODES | {"service_name": "a", "discovery_type": "dns"},
            BOTH + "nodes and service_name exclude each other",
        ),
        ({"service_name": "", "discovery_type": "dns"}, within("service_name", text=longer(1))),
    ],
)
def test_one_source_of_nodes(value: dict[str, Any], expected: str) -> None:
    assert verdict("upstreams", value) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"type": "least_conn"}, ACCEPTED),
        ({"type": "of a later release"}, ACCEPTED),
        ({"hash_on": "body"}, within("hash_on", text=NO_ENUM)),
        ({"scheme": "tls"}, ACCEPTED),
        ({"scheme": "ws"}, within("scheme", text=NO_ENUM)),
        ({"pass_host": "keep"}, within("pass_host", text=NO_ENUM)),
        ({"upstream_host": "*.x"}, ACCEPTED),
        ({"upstream_host": "a b"}, within("upstream_host", text=not_a_host("a b"))),
        ({"retries": 0}, ACCEPTED),
        ({"retries": -1}, within("retries", text=at_least(0, -1))),
        ({"retries": 1.0}, within("retries", text=wrong("integer", "number"))),
        ({"retry_timeout": 0}, ACCEPTED),
        ({"retry_timeout": 0.5}, ACCEPTED),
        ({"retry_timeout": -0.1}, within("retry_timeout", text=at_least(0, -0.1))),
        ({"timeout": {"connect": 0.001, "send": 1, "read": 1}}, ACCEPTED),
        ({"timeout": {"connect": 1, "send": 1, "read": 1, "idle": 1}}, ACCEPTED),
        ({"timeout": {"connect": 1, "read": 1}}, within("timeout", text='property "send" is required')),
        ({"timeout": {"connect": 0, "send": 1, "read": 1}}, within("timeout", "connect", text=ABOVE_ZERO)),
        ({"timeout": {"connect": float("nan"), "send": 1, "read": 1}}, within("timeout", "connect", text=FINITE)),
        ({"timeout": 5}, within("timeout", text=wrong("object", "number"))),
        ({"tls": {}}, ACCEPTED),
        ({"tls": {"verify": True, "x": 1}}, ACCEPTED),
        ({"tls": {"verify": True, "ca_certs": [CERT, CERT]}}, ACCEPTED),
        ({"tls": {"ca_certs": [CERT]}}, ACCEPTED),
        ({"tls": {"verify": True, "ca_certs": []}}, within("tls", "ca_certs", text=EMPTY)),
        ({"tls": {"ca_certs": CERT}}, within("tls", "ca_certs", text=wrong("array", "string"))),
        ({"tls": {"ca_certs": [CERT, "c" * 127]}}, within("tls", "ca_certs", 2, text=longer(128, 127))),
        ({"tls": {"ca_certs": ["c" * 65537]}}, within("tls", "ca_certs", 1, text=shorter(65536, 65537))),
        ({"tls": {"client_cert_id": "1"}}, ACCEPTED),
        ({"tls": {"client_cert": CERT, "client_key": KEY}}, ACCEPTED),
        ({"tls": {"client_cert": CERT}}, within("tls", text=NOT_WITH + '"client_cert": property "client_key" is required')),
        ({"tls": {"client_key": KEY}}, within("tls", text=NOT_WITH + '"client_key": property "client_cert" is required')),
        (
            {"tls": {"client_cert_id": 1, "client_cert": CERT, "client_key": KEY}},
            within("tls", text=NOT_WITH + EXCLUDED),
        ),
        ({"tls": {"client_cert": CERT, "client_key": "k" * 63}}, within("tls", "client_key", text=longer(64, 63))),
        ({"keepalive_pool": {"size": 1, "idle_timeout": 0, "requests": 1, "x": 1}}, ACCEPTED),
        ({"keepalive_pool": {"size": 0}}, within("keepalive_pool", "size", text=at_least(1, 0))),
        ({"node": {}}, FORBIDDEN + "node"),
        ({"snis": ["a"]}, FORBIDDEN + "snis"),
    ],
)  # fmt: skip
def test_members(members: dict[str, Any], expected: str) -> None:
    assert verdict("upstreams", NODES | members) == expected


@pytest.mark.parametrize("inside", ["active", "passive"])
@pytest.mark.parametrize(
    ("health", "counter", "lowest"),
    [
        ("healthy", "successes", {"active": 1, "passive": 0}),
        ("unhealthy", "tcp_failures", {"active": 1, "passive": 0}),
        ("unhealthy", "http_failures", {"active": 1, "passive": 0}),
        ("unhealthy", "timeouts", {"active": 1, "passive": 0}),
    ],
)
def test_counters_of_checks(inside: str, health: str, counter: str, lowest: dict[str, int]) -> None:
    def judge(count: int) -> str:
        checks: dict[str, Any] = {"active": {}} | {inside: {health: {counter: count}}}
        return verdict("upstreams", NODES | {"checks": checks})

    path = ("checks", inside, health, counter)
    assert judge(lowest[inside]) == ACCEPTED
    assert judge(254) == ACCEPTED
    assert judge(lowest[inside] - 1) == within(
        *path, text=at_least(lowest[inside], lowest[inside] - 1)
    )
    assert judge(255) == within(*path, text=at_most(254, 255))


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ({"active": {}}, ACCEPTED),
        ({"active": {"x": 1, "healthy": {"y": 1}, "unhealthy": {"z": 1}}, "w": 1}, ACCEPTED),
        ({}, NO_ACTIVE),
        ({"passive": {}}, NO_ACTIVE),
        ({"active": {"type": "tls"}, "passive": {"type": "tls"}}, ACCEPTED),
        ({"active": {"type": "udp"}}, within("active", "type", text=NO_ENUM)),
        ({"active": {"timeout": 0}}, within("active", "timeout", text=ABOVE_ZERO)),
        ({"active": {"port": 0}}, within("active", "port", text=at_least(1, 0))),
        ({"active": {"healthy": {"interval": 0}}}, within("active", "healthy", "interval", text=at_least(1, 0))),
        ({"active": {"unhealthy": {"interval": 0}}}, within("active", "unhealthy", "interval", text=at_least(1, 0))),
        ({"active": {"healthy": {"http_statuses": [200, 599]}}}, ACCEPTED),
        (
            {"active": {"healthy": {"http_statuses": [200, 199]}}},
            within("active", "healthy", "http_statuses", 2, text=at_least(200, 199)),
        ),
        (
            {"active": {"healthy": {"http_statuses": [600]}}},
            within("active", "healthy", "http_statuses", 1, text=at_most(599, 600)),
        ),
        (
            {"active": {"req_headers": []}},
            within("active", "req_headers", text=EMPTY),
        ),
    ],
)  # fmt: skip
def test_checks(checks: dict[str, Any], expected: str) -> None:
    text = expected and within("checks", text=expected)
    assert verdict("upstreams", NODES | {"checks": checks}) == text


def test_both_forms_of_nodes_are_one() -> None:
    short = Upstream.model_validate({"nodes": {"gs.internal:7000": 2, "[::1]": 1}})
    long = Upstream.model_validate(
        {
            "nodes": [
                {"host": "gs.internal", "port": 7000, "weight": 2},
                {"host": "[::1]", "weight": 1},
            ]
        }
    )
    assert short == long


def test_defaults_are_those_of_apisix() -> None:
    upstream = Upstream.model_validate({"nodes": {}, "checks": {"active": {}, "passive": {}}})
    assert (upstream.type, upstream.hash_on, upstream.scheme, upstream.pass_host) == (
        "roundrobin",
        "vars",
        "http",
        "pass",
    )
    assert upstream.checks is not None
    assert upstream.checks.passive is not None
    active, passive = upstream.checks.active, upstream.checks.passive
    assert active.healthy.http_statuses == [200, 302]
    assert active.unhealthy.http_statuses == [429, 404, 500, 501, 502, 503, 504, 505]
    assert passive.healthy.http_statuses == [
        *(200, 201, 202, 203, 204, 205, 206, 207, 208, 226),
        *(300, 301, 302, 303, 304, 305, 306, 307, 308),
    ]
    assert passive.unhealthy.http_statuses == [429, 500, 503]
