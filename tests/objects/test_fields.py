"""The members that every kind shares: limits at both edges, in every kind that has them."""

from collections.abc import Callable
from typing import Any

import pytest

from sniproxy.objects import KINDS, read
from sniproxy.objects.fields import ID_PATTERN
from tests.objects.reading import (
    ACCEPTED,
    NONE_OF,
    at_least,
    longer,
    no_match,
    shorter,
    verdict,
    within,
    within_label,
    wrong,
)

MINIMAL: dict[str, dict[str, Any]] = {
    "upstreams": {"nodes": {}},
    "services": {},
    "ssls": {"sni": "play.example.com", "cert": "c" * 128, "key": "k" * 64},
    "stream_routes": {},
}


def not_an_id(given: str) -> str:
    """The message for a text that is no id."""
    return within("id", text=NONE_OF + no_match(ID_PATTERN, given))


def test_each_kind_has_its_smallest_object() -> None:
    assert set(MINIMAL) == set(KINDS)
    assert {name: verdict(name, value) for name, value in MINIMAL.items()} == dict.fromkeys(
        KINDS, ACCEPTED
    )


@pytest.mark.parametrize("collection", KINDS)
@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"id": "a"}, ACCEPTED),
        ({"id": "A-z_0.9"}, ACCEPTED),
        ({"id": "a" * 64}, ACCEPTED),
        ({"id": 1}, ACCEPTED),
        ({"id": 10**12}, ACCEPTED),
        ({"id": None}, ACCEPTED),
        ({"id": ""}, within("id", text=NONE_OF + longer(1))),
        ({"id": "a" * 65}, within("id", text=NONE_OF + shorter(64, 65))),
        ({"id": "a/b"}, not_an_id("a/b")),
        ({"id": "a b"}, not_an_id("a b")),
        ({"id": "a\n"}, not_an_id("a\n")),
        ({"id": "ä"}, not_an_id("ä")),
        ({"id": 0}, within("id", text=NONE_OF + at_least(1, 0))),
        ({"id": True}, within("id", text=NONE_OF + wrong("string", "boolean"))),
        ({"id": 1.5}, within("id", text=NONE_OF + wrong("string", "number"))),
        ({"id": ["a"]}, within("id", text=NONE_OF + wrong("string", "table"))),
        ({"desc": ""}, ACCEPTED),
        ({"desc": "d" * 256}, ACCEPTED),
        ({"desc": "d" * 257}, within("desc", text=shorter(256, 257))),
        ({"desc": 1}, within("desc", text=wrong("string", "number"))),
        ({"labels": {}}, ACCEPTED),
        ({"labels": {"team": "a" * 256}}, ACCEPTED),
        ({"labels": {"team": "a" * 257}}, within_label("team", shorter(256, 257))),
        ({"labels": {"team": ""}}, within_label("team", longer(1))),
        (
            {"labels": {"team": "a b"}},
            within_label("team", no_match(r"^\S+$", "a b")),
        ),
        ({"labels": {"team": 1}}, within_label("team", wrong("string", "number"))),
        ({"labels": {"str": ""}}, within_label("str", longer(1))),
        ({"labels": {"function-x": ""}}, within_label("function-x", longer(1))),
        ({"labels": []}, within("labels", text=wrong("object", "table"))),
        ({"create_time": 0, "update_time": 1_700_000_000}, ACCEPTED),
        ({"create_time": -1}, within("create_time", text=at_least(0, -1))),
        ({"update_time": "1"}, within("update_time", text=wrong("integer", "string"))),
        ({"nmae": "x"}, "additional properties forbidden, found nmae"),
        ({"validity_end": 1}, "additional properties forbidden, found validity_end"),
    ],
)
def test_meta(collection: str, members: dict[str, Any], expected: str) -> None:
    assert verdict(collection, MINIMAL[collection] | members) == expected


@pytest.mark.parametrize("collection", sorted(KINDS.keys() - {"ssls"}))
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("n", ACCEPTED),
        ("Game server one", ACCEPTED),
        ("n" * 256, ACCEPTED),
        ("", within("name", text=longer(1))),
        ("n" * 257, within("name", text=shorter(256, 257))),
        (5, within("name", text=wrong("string", "number"))),
    ],
)
def test_name(collection: str, name: object, expected: str) -> None:
    assert verdict(collection, MINIMAL[collection] | {"name": name}) == expected


def test_an_ssl_has_no_name() -> None:
    assert (
        verdict("ssls", MINIMAL["ssls"] | {"name": "n"})
        == "additional properties forbidden, found name"
    )


@pytest.mark.parametrize("collection", ["services", "stream_routes"])
@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ({}, ACCEPTED),
        ({"mqtt-proxy": {"_meta": {"disable": True}, "conn": 1}}, ACCEPTED),
        ({"mqtt-proxy": {"conn": 1}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": {"disable": False}}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": {"disable": "true"}}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": {}}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": None}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": "disable"}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": {"_meta": [1]}}, "unknown plugin [mqtt-proxy]"),
        ({"mqtt-proxy": None}, "unknown plugin [mqtt-proxy]"),
        ([], within("plugins", text=wrong("object", "table"))),
    ],
)
def test_a_plugin_that_would_not_be_enforced_is_refused(
    collection: str, plugins: object, expected: str
) -> None:
    """Unless it is switched off: then leaving it out is what the operator asked for."""
    assert verdict(collection, MINIMAL[collection] | {"plugins": plugins}) == expected


@pytest.mark.parametrize(
    ("value", "got"), [([], "table"), ("text", "string"), (1, "number"), (None, "userdata")]
)
def test_only_an_object_is_read(value: Any, got: str) -> None:
    assert verdict("services", value) == wrong("object", got)


def test_an_unknown_collection_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError, match="consumers"):
        read("consumers", {})


# Two numbers that differ are two for an APISIX, too, which has doubles.
EXACT = 2**53 - 1
UPSTREAM: dict[str, Any] = {"nodes": {}}
Members = Callable[[int], dict[str, Any]]
INTEGERS: list[tuple[str, Members]] = [
    *((collection, lambda number: {"id": number}) for collection in KINDS),
    *((collection, lambda number: {"create_time": number}) for collection in KINDS),
    ("ssls", lambda number: {"client": {"ca": "c" * 128, "depth": number}}),
    ("stream_routes", lambda number: {"upstream_id": number}),
    ("services", lambda number: {"upstream": UPSTREAM | {"retries": number}}),
    ("upstreams", lambda number: {"retries": number}),
    ("upstreams", lambda number: {"nodes": {"a:1": number}}),
    ("upstreams", lambda number: {"nodes": [{"host": "a", "weight": 1, "priority": number}]}),
    ("upstreams", lambda number: {"keepalive_pool": {"requests": number}}),
    ("upstreams", lambda number: {"checks": {"active": {"concurrency": number}}}),
    ("upstreams", lambda number: {"tls": {"client_cert_id": number}}),
    ("stream_routes", lambda number: {"plugins": {"limit-conn": {
        "conn": number, "burst": number, "default_conn_delay": 0.1, "key": "remote_addr"}}}),
]  # fmt: skip


@pytest.mark.parametrize(("collection", "members"), INTEGERS)
def test_no_integer_is_beyond_what_an_apisix_reads_exactly(
    collection: str, members: Members
) -> None:
    assert verdict(collection, MINIMAL[collection] | members(EXACT)) == ACCEPTED
    for given in (EXACT + 1, 10**400):
        said = verdict(collection, MINIMAL[collection] | members(given))
        assert said.endswith(f"expected {min(given, 1e308):.16g} to be at most {EXACT}")


def test_every_integer_of_the_schemas_has_a_greatest_value() -> None:
    def unbounded(schema: Any) -> list[Any]:
        if isinstance(schema, list):
            return [found for one in schema for found in unbounded(one)]
        if not isinstance(schema, dict):
            return []
        inside = [found for one in schema.values() for found in unbounded(one)]
        bounded = schema.get("type") != "integer" or "maximum" in schema or "enum" in schema
        return inside if bounded else [*inside, schema]

    for kind in KINDS.values():
        assert unbounded(kind.model.model_json_schema()) == []


def test_a_number_beyond_all_of_them_is_not_of_another_type() -> None:
    said = verdict("upstreams", UPSTREAM | {"retry_timeout": 10**400})
    assert said == 'property "retry_timeout" validation failed: expected a finite number'
