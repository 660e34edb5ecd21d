"""stream_routes: conditions, names, and where the upstream comes from."""

from typing import Any

import pytest

from sniproxy.objects import StreamRoute
from tests.objects.reading import (
    ACCEPTED,
    EMPTY,
    NONE_OF,
    ONE_OF,
    at_least,
    at_most,
    longer,
    nameless,
    not_a_host,
    verdict,
    within,
    wrong,
)

NOT_AN_ADDRESS = NONE_OF + "expected an IPv4 or IPv6 address, or a network in CIDR form"
FORBIDDEN = "additional properties forbidden, found "

# As APISIX stores it: without defaults, with the times and the id of the Admin API.
STORED = {
    "id": "00000000000000000042",
    "name": "game server one",
    "sni": "gs-1.com",
    "remote_addr": "127.0.0.1",
    "server_addr": "10.0.0.0/8",
    "server_port": 9100,
    "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1995": 1}},
    "plugins": {},
    "labels": {"__ADC_NAME": "gs-1"},
    "create_time": 1700000000,
    "update_time": 1700000001,
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (STORED, ACCEPTED),
        ({}, ACCEPTED),
        ({"server_port": 1}, ACCEPTED),
        ({"server_port": 65535}, ACCEPTED),
        ({"server_port": 0}, within("server_port", text=at_least(1, 0))),
        ({"server_port": 65536}, within("server_port", text=at_most(65535, 65536))),
        ({"server_port": "9100"}, within("server_port", text=wrong("integer", "string"))),
        ({"remote_addr": "::1"}, ACCEPTED),
        ({"remote_addr": "10.1.2.3/8"}, ACCEPTED),
        ({"remote_addr": "2001:db8::/32"}, ACCEPTED),
        ({"remote_addr": "0.0.0.0/0"}, ACCEPTED),
        ({"remote_addr": "10.0.0.0/33"}, within("remote_addr", text=NOT_AN_ADDRESS)),
        ({"remote_addr": "10.0.0"}, within("remote_addr", text=NOT_AN_ADDRESS)),
        ({"remote_addr": ""}, within("remote_addr", text=NOT_AN_ADDRESS)),
        ({"remote_addr": "gs-1.com"}, within("remote_addr", text=NOT_AN_ADDRESS)),
        ({"remote_addr": 1}, within("remote_addr", text=wrong("string", "number"))),
        ({"server_addr": "10.0.0.1:80"}, within("server_addr", text=NOT_AN_ADDRESS)),
        ({"sni": "gs-1.com"}, ACCEPTED),
        ({"sni": "GS-1.com."}, ACCEPTED),
        ({"sni": "*.gs.com"}, ACCEPTED),
        ({"sni": "*foo.com"}, ACCEPTED),
        ({"sni": "*"}, ACCEPTED),
        ({"sni": "*."}, within("sni", text=nameless("*."))),
        ({"snis": ["."]}, within("snis", 1, text=nameless("."))),
        ({"sni": ""}, within("sni", text=longer(1))),
        ({"sni": "gs 1.com"}, within("sni", text=not_a_host("gs 1.com"))),
        ({"sni": "gs-1.com\n"}, within("sni", text=not_a_host("gs-1.com\n"))),
        ({"sni": "a.*.com"}, within("sni", text=not_a_host("a.*.com"))),
        ({"sni": "**"}, within("sni", text=not_a_host("**"))),
        ({"sni": "münchen.de"}, within("sni", text=not_a_host("münchen.de"))),
        ({"snis": ["gs-1.com", "*.gs.com"]}, ACCEPTED),
        ({"snis": []}, within("snis", text=EMPTY)),
        ({"snis": "gs-1.com"}, within("snis", text=wrong("array", "string"))),
        ({"snis": ["gs-1.com", "a b"]}, within("snis", 2, text=not_a_host("a b"))),
        ({"sni": "a", "snis": ["b"]}, "sni and snis exclude each other"),
        ({"tls_passthrough": True}, ACCEPTED),
        ({"tls_passthrough": 1}, within("tls_passthrough", text=wrong("boolean", "number"))),
        ({"upstream_id": "1", "service_id": 2}, ACCEPTED),
        ({"upstream_id": ""}, within("upstream_id", text=NONE_OF + longer(1))),
        ({"service_id": ""}, within("service_id", text=NONE_OF + longer(1))),
        ({"upstream": {"nodes": {"a:1": 1}, "id": "kept"}}, ACCEPTED),
        (
            {"upstream": {}},
            within("upstream", text=ONE_OF + "needs nodes, or service_name with discovery_type"),
        ),
        (
            {"upstream": {"nodes": {}, "node": {}}},
            within("upstream", text=FORBIDDEN + "node"),
        ),
        (
            {"upstream": {"nodes": [{"host": "a b", "weight": 1}]}},
            within("upstream", "nodes", text=NONE_OF + within(1, "host", text=not_a_host("a b"))),
        ),
        ({"protocol": {}}, ACCEPTED),
        ({"protocol": {"name": "redis"}}, "unknown protocol [redis]"),
        ({"protocol": {"superior_id": "1"}}, "unknown protocol [None]"),
        ({"priority": 1}, FORBIDDEN + "priority"),
        ({"status": 1}, FORBIDDEN + "status"),
        ({"vars": []}, FORBIDDEN + "vars"),
    ],
)
def test_verdicts(value: dict[str, Any], expected: str) -> None:
    assert verdict("stream_routes", value) == expected


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({}, ()),
        ({"sni": "GS-1.Com"}, ("gs-1.com",)),
        ({"sni": "gs-1.com."}, ("gs-1.com",)),
        ({"snis": ["*.Example.com", "A.com.", "*"]}, ("*.example.com", "a.com", "*")),
    ],
)
def test_names_are_what_a_client_is_compared_with(
    value: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert StreamRoute.model_validate(value).names == names
