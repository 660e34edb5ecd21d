"""What is said of a violation: the texts of APISIX, one row per text, and nothing in them that nobody may see."""

from typing import Any

import pytest
from pydantic import Field, ValidationError, create_model

from sniproxy.objects import describe, read, refusal
from sniproxy.objects.describing import QUOTED_MAX
from tests.objects.reading import verdict

NODES: dict[str, Any] = {"nodes": {"10.0.0.5:7777": 1}}
SERVER: dict[str, Any] = {"sni": "a", "cert": "c" * 128, "key": "k" * 64}
LIMIT = {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}
NONE_OF = "object matches none of the required"
ONE_OF = "value should match only one schema, but matches"
ACTIVE = 'property "checks" validation failed: property "active" validation failed: '
SENTINEL = "c2VzYW1lIG9wZW4="  # of a private key, as it stands between the lines of its PEM
PEM = f"-----BEGIN PRIVATE KEY-----\n{SENTINEL}\n-----END PRIVATE KEY-----\n"


def checks(**members: Any) -> dict[str, Any]:
    """An upstream with that active check."""
    return NODES | {"checks": {"active": members}}


def plugin(name: str, conf: Any) -> dict[str, Any]:
    """A route with that plugin."""
    return {"plugins": {name: conf}}


# What APISIX's own tests expect of requests like these, whole.
AS_IN_APISIX = [
    ("upstreams", NODES | {"retries": -1},
     'invalid configuration: property "retries" validation failed: expected -1 to be at least 0'),
    ("upstreams", NODES | {"invalid_property": "/index.html"},
     "invalid configuration: additional properties forbidden, found invalid_property"),
    ("upstreams", NODES | {"labels": {"env": ["production", "release"]}},
     'invalid configuration: property "labels" validation failed: '
     'failed to validate env (matching ".*"): wrong type: expected string, got table'),
    ("upstreams", checks(healthy={"successes": 255}),
     f'invalid configuration: {ACTIVE}property "healthy" validation failed: '
     'property "successes" validation failed: expected 255 to be at most 254'),
    ("upstreams", checks(healthy={"successes": 0}),
     f'invalid configuration: {ACTIVE}property "healthy" validation failed: '
     'property "successes" validation failed: expected 0 to be at least 1'),
    ("upstreams", checks(unhealthy={"http_failures": 3.1}),
     f'invalid configuration: {ACTIVE}property "unhealthy" validation failed: '
     'property "http_failures" validation failed: wrong type: expected integer, got number'),
    ("upstreams", checks(unhealthy={"http_statuses": [500, 600]}),
     f'invalid configuration: {ACTIVE}property "unhealthy" validation failed: property '
     '"http_statuses" validation failed: failed to validate item 2: expected 600 to be at most 599'),
    ("upstreams", checks(type="udp"),
     f'invalid configuration: {ACTIVE}property "type" validation failed: '
     "matches none of the enum values"),
    ("upstreams", checks(req_headers=["User-Agent: curl/7.29.0", 2233]),
     f'invalid configuration: {ACTIVE}property "req_headers" validation failed: '
     "failed to validate item 2: wrong type: expected string, got number"),
    ("upstreams", NODES | {"checks": {"passive": {"healthy": {"successes": 1}}}},
     'invalid configuration: property "checks" validation failed: '
     f'{NONE_OF}: ["active"] or ["active","passive"]'),
    ("ssls", SERVER | {"sni": None, "snis": []},
     'invalid configuration: property "snis" validation failed: '
     "expect array to have at least 1 items"),
    ("ssls", SERVER | {"ssl_protocols": ["TLSv1.2", "TLSv1.2"]},
     'invalid configuration: property "ssl_protocols" validation failed: '
     "expected unique items but items 1 and 2 are equal"),
    ("stream_routes", plugin("mqtt-proxy", {}), "unknown plugin [mqtt-proxy]"),
    ("stream_routes", {"protocol": {"name": "redis"}}, "unknown protocol [redis]"),
]  # fmt: skip


@pytest.mark.parametrize(("collection", "value", "answer"), AS_IN_APISIX)
def test_a_refusal_is_that_of_apisix(collection: str, value: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(collection, value)
    assert refusal(describe(refused.value)) == answer


# Where APISIX's text does not say what is wrong, it is followed by ours.
BEGINS_AS_IN_APISIX = [
    ("upstreams", NODES | {"id": "invalid_id$"},
     f'property "id" validation failed: {NONE_OF}',
     r'failed to match pattern "^[a-zA-Z0-9-_.]+$" with "invalid_id$"'),
    ("upstreams", NODES | {"id": -100},
     f'property "id" validation failed: {NONE_OF}', "expected -100 to be at least 1"),
    ("upstreams", {"nodes": {"127.0.0.1:8080": "1"}},
     f'property "nodes" validation failed: {NONE_OF}',
     'failed to validate item 1: property "weight" validation failed: '
     "wrong type: expected integer, got string"),
    ("upstreams", {"nodes": {"127.0.0.1:8080": -100}},
     f'property "nodes" validation failed: {NONE_OF}',
     'failed to validate item 1: property "weight" validation failed: '
     "expected -100 to be at least 0"),
    ("upstreams", {"nodes": [{"host": "127.0.0.1", "port": 65536, "weight": 1}]},
     f'property "nodes" validation failed: {NONE_OF}',
     'failed to validate item 1: property "port" validation failed: '
     "expected 65536 to be at most 65535"),
    ("upstreams", NODES | {"service_name": "a", "discovery_type": "eureka"},
     f"{ONE_OF} both schemas 1 and 2", "nodes and service_name exclude each other"),
    ("upstreams", {}, f"{ONE_OF} none", "needs nodes, or service_name with discovery_type"),
    ("upstreams", NODES | {"tls": {"client_cert_id": 1, "client_cert": "c" * 128, "client_key": "k" * 64}},
     'property "tls" validation failed: failed to validate dependent schema for "client_cert": '
     "value wasn't supposed to match schema", "client_cert_id and client_cert exclude each other"),
    ("stream_routes", {"remote_addr": "10.0.0.0/33"},
     f'property "remote_addr" validation failed: {NONE_OF}',
     "expected an IPv4 or IPv6 address, or a network in CIDR form"),
    ("stream_routes", plugin("ip-restriction", {}),
     "failed to check the configuration of stream plugin [ip-restriction]: "
     f"{ONE_OF} none", "needs exactly one of whitelist and blacklist"),
]  # fmt: skip


@pytest.mark.parametrize(("collection", "value", "theirs", "ours"), BEGINS_AS_IN_APISIX)
def test_what_apisix_leaves_open_is_said(
    collection: str, value: dict[str, Any], theirs: str, ours: str
) -> None:
    assert verdict(collection, value) == f"{theirs}: {ours}"


# The texts of the schema library that no request of its tests to these kinds shows.
OTHERS = [
    ("services", {"name": ""}, 'property "name" validation failed: string too short, expected at least 1, got 0'),
    ("services", {"desc": "é" * 300}, 'property "desc" validation failed: string too long, expected at most 256, got 300'),
    ("services", {"enable_websocket": "x"},
     'property "enable_websocket" validation failed: wrong type: expected boolean, got string'),
    ("services", {"labels": {"id": {}}},
     'property "labels" validation failed: failed to validate id (matching ".*"): wrong type: expected string, got table'),
    ("services", {"labels": {"constrained-str": 1}},
     'property "labels" validation failed: failed to validate constrained-str (matching ".*"): '
     "wrong type: expected string, got number"),
    ("services", {"hosts": "a"}, 'property "hosts" validation failed: wrong type: expected array, got string'),
    ("services", {"upstream": [1]}, 'property "upstream" validation failed: wrong type: expected object, got table'),
    ("services", {"upstream": NODES | {"nodes": None, "checks": None}},
     f'property "upstream" validation failed: {ONE_OF} none: needs nodes, or service_name with discovery_type'),
    ("upstreams", NODES | {"timeout": {"connect": 0, "send": 1, "read": 1}},
     'property "timeout" validation failed: property "connect" validation failed: expected 0 to be greater than 0'),
    ("upstreams", NODES | {"timeout": {"connect": None, "send": 1, "read": 1}},
     'property "timeout" validation failed: property "connect" validation failed: '
     "wrong type: expected number, got userdata"),
    ("upstreams", NODES | {"timeout": {"send": 1, "read": 1}},
     'property "timeout" validation failed: property "connect" is required'),
    ("upstreams", NODES | {"retry_timeout": -0.5},
     'property "retry_timeout" validation failed: expected -0.5 to be at least 0'),
    ("upstreams", checks(port=10**400), f'{ACTIVE}property "port" validation failed: expected 1e+308 to be at most 65535'),
    ("upstreams", NODES | {"tls": {"client_cert": "c" * 128}},
     'property "tls" validation failed: failed to validate dependent schema for "client_cert": '
     'property "client_key" is required'),
    ("upstreams", NODES | {"upstream_host": 'a "b"\n\\'},
     r'property "upstream_host" validation failed: failed to match pattern "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$" '
     r'with "a \"b\"\n\\"'),
    ("ssls", SERVER | {"ssl_protocols": ["TLSv1.2"] * 4},
     'property "ssl_protocols" validation failed: expect array to have at most 3 items'),
    ("stream_routes", {"server_port": 70000},
     'property "server_port" validation failed: expected 70000 to be at most 65535'),
    ("stream_routes", plugin("limit-conn", LIMIT | {"conn": -1}),
     'failed to check the configuration of stream plugin [limit-conn]: property "conn" validation failed: '
     "expected -1 to be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("collection", "value", "text"), OTHERS)
def test_texts_of_the_schema_library(collection: str, value: dict[str, Any], text: str) -> None:
    assert verdict(collection, value) == text


def test_the_first_of_several_is_reported() -> None:
    value = {"server_port": 0, "sni": "", "priority": 1, "remote_addr": "x"}
    assert verdict("stream_routes", value).startswith('property "remote_addr" validation failed: ')


# -- what is not repeated


@pytest.mark.parametrize(
    ("collection", "value"),
    [
        *(("ssls", SERVER | {name: pem}) for name in ("key", "cert") for pem in (PEM[:50], PEM * 2000)),
        *(("ssls", SERVER | {"keys": keys}) for keys in ([PEM], [PEM * 2000], PEM, [[PEM]])),
        *(("ssls", SERVER | {name: PEM}) for name in ("sni", "id", "status", "type", "ssl_protocols")),
        ("ssls", SERVER | {"sni": None, "snis": ["a", PEM]}),
        ("ssls", SERVER | {"labels": {"key": PEM}}),
        ("ssls", SERVER | {"labels": {PEM: 1}}),
        ("ssls", SERVER | {PEM: 1}),
        ("upstreams", NODES | {"tls": {"client_cert_id": PEM}}),
        ("upstreams", NODES | {"tls": {"client_key": PEM}}),
        ("upstreams", {"nodes": {PEM: 1}}),
        ("upstreams", {"nodes": [{"host": PEM, "weight": 1}]}),
        ("stream_routes", {"protocol": {"name": PEM}}),
        ("stream_routes", {"remote_addr": PEM}),
        ("stream_routes", plugin(PEM, {})),
        ("stream_routes", plugin("limit-conn", LIMIT | {"key": PEM})),
        ("stream_routes", plugin("ip-restriction", {"whitelist": [PEM]})),
        ("stream_routes", {"upstream": NODES | {"tls": {"client_key": PEM}}}),
    ],
)  # fmt: skip
def test_a_private_key_is_in_no_text(collection: str, value: dict[str, Any]) -> None:
    text = verdict(collection, value)
    assert text
    assert SENTINEL not in text
    assert "PRIVATE KEY" not in text


@pytest.mark.parametrize("member", ["key", "keys", "client_key", "cert", "certs", "client_cert"])
def test_the_value_of_a_member_for_keys_is_not_quoted_whatever_it_is(member: str) -> None:
    holder = create_model("Holder", held=(str, Field(alias=member, pattern="^x$")))
    with pytest.raises(ValidationError) as refused:
        holder.model_validate({member: SENTINEL})
    assert describe(refused.value) == (
        f'property "{member}" validation failed: failed to match pattern "^x$" with "..."'
    )


@pytest.mark.parametrize(
    ("collection", "value"),
    [
        ("services", {"labels": {"a" * QUOTED_MAX + "z": ""}}),
        ("services", {"a" * QUOTED_MAX + "z": 1}),
        ("upstreams", {"nodes": {"a" * QUOTED_MAX + "z:": 1}}),
        ("upstreams", NODES | {"upstream_host": "a" * QUOTED_MAX + "/z"}),
        ("stream_routes", {"protocol": {"name": "a" * QUOTED_MAX + "z"}}),
        ("stream_routes", plugin("a" * QUOTED_MAX + "z", {})),
        ("stream_routes", plugin("limit-conn", LIMIT | {"key": "a" * QUOTED_MAX + "z"})),
    ],
)
def test_a_long_value_is_cut(collection: str, value: dict[str, Any]) -> None:
    text = verdict(collection, value)
    assert "a" * QUOTED_MAX in text
    assert "z" not in text[text.index("a" * QUOTED_MAX) :].partition("; known are")[0]


@pytest.mark.parametrize(
    ("collection", "value"),
    [
        ("upstreams", {"nodes": [{}] * 1000}),
        ("ssls", SERVER | {"sni": None, "snis": ["!"] * 1000}),
        ("ssls", SERVER | {"certs": [""] * 1000}),
        ("services", {"hosts": [1] * 1000}),
        ("stream_routes", {"snis": [1] * 1000}),
    ],
)
def test_what_is_wrong_with_a_long_list_is_looked_for_no_further(
    collection: str, value: dict[str, Any]
) -> None:
    """Errors are far larger than what they are of: half a million of them took a gigabyte."""
    with pytest.raises(ValidationError) as caught:
        read(collection, value)
    assert caught.value.error_count() <= 2
    assert "item 1: " in describe(caught.value)
