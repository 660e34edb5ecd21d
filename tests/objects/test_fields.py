"""The members that every kind shares: limits at both edges, in every kind that has them."""

from typing import Any

import pytest

from sniproxy.objects import KINDS, read
from sniproxy.objects.fields import ID_PATTERN
from tests.objects.reading import (
    ACCEPTED,
    NOT_A_STRING,
    NOT_AN_INTEGER,
    at_least,
    longer,
    shorter,
    verdict,
    within,
)

MINIMAL: dict[str, dict[str, Any]] = {
    "upstreams": {"nodes": {}},
    "services": {},
    "ssls": {"sni": "play.example.com", "cert": "c" * 128, "key": "k" * 64},
    "stream_routes": {},
}
NOT_AN_ID = f"String should match pattern '{ID_PATTERN}'"


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
        ({"id": ""}, within("id", text=longer(1))),
        ({"id": "a" * 65}, within("id", text=shorter(64))),
        ({"id": "a/b"}, within("id", text=NOT_AN_ID)),
        ({"id": "a b"}, within("id", text=NOT_AN_ID)),
        ({"id": "a\n"}, within("id", text=NOT_AN_ID)),
        ({"id": "ä"}, within("id", text=NOT_AN_ID)),
        ({"id": True}, within("id", text=NOT_A_STRING)),
        ({"id": 1.5}, within("id", text=NOT_A_STRING)),
        ({"id": ["a"]}, within("id", text=NOT_A_STRING)),
        ({"desc": ""}, ACCEPTED),
        ({"desc": "d" * 256}, ACCEPTED),
        ({"desc": "d" * 257}, within("desc", text=shorter(256))),
        ({"desc": 1}, within("desc", text=NOT_A_STRING)),
        ({"labels": {}}, ACCEPTED),
        ({"labels": {"team": "a" * 256}}, ACCEPTED),
        ({"labels": {"team": "a" * 257}}, within("labels", "team", text=shorter(256))),
        ({"labels": {"team": ""}}, within("labels", "team", text=longer(1))),
        (
            {"labels": {"team": "a b"}},
            within("labels", "team", text=r"String should match pattern '^\S+$'"),
        ),
        ({"labels": {"team": 1}}, within("labels", "team", text=NOT_A_STRING)),
        ({"labels": {"str": ""}}, within("labels", "str", text=longer(1))),
        ({"labels": {"function-x": ""}}, within("labels", "function-x", text=longer(1))),
        ({"labels": []}, within("labels", text="Input should be a valid dictionary")),
        ({"create_time": 0, "update_time": 1_700_000_000}, ACCEPTED),
        ({"create_time": -1}, within("create_time", text=at_least(0))),
        ({"update_time": "1"}, within("update_time", text=NOT_AN_INTEGER)),
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
        ("n" * 257, within("name", text=shorter(256))),
        (5, within("name", text=NOT_A_STRING)),
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
        ([], "Input should be a valid dictionary"),
    ],
)
def test_a_plugin_that_would_not_be_enforced_is_refused(
    collection: str, plugins: object, expected: str
) -> None:
    """Unless it is switched off: then leaving it out is what the operator asked for."""
    text = expected and within("plugins", text=expected)
    assert verdict(collection, MINIMAL[collection] | {"plugins": plugins}) == text


@pytest.mark.parametrize("value", [[], "text", 1, None])
def test_only_an_object_is_read(value: Any) -> None:
    assert verdict("services", value) == "Input should be a valid dictionary or instance of Service"


def test_an_unknown_collection_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError, match="consumers"):
        read("consumers", {})
