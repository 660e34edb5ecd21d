"""services: an upstream to share, with the members of APISIX that concern HTTP accepted."""

from typing import Any

import pytest

from tests.objects.reading import (
    ACCEPTED,
    EMPTY,
    NONE_OF,
    longer,
    not_a_host,
    verdict,
    within,
    wrong,
)

STORED = {
    "id": "201",
    "name": "lobby",
    "desc": "all lobbies",
    "upstream": {"type": "roundrobin", "nodes": {"10.0.0.1:7000": 100}},
    "plugins": {},
    "hosts": ["foo.com", "*.bar.com"],
    "enable_websocket": True,
    "script": "",
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, ACCEPTED),
        (STORED, ACCEPTED),
        ({"upstream_id": 1}, ACCEPTED),
        ({"upstream_id": ""}, within("upstream_id", text=NONE_OF + longer(1))),
        ({"upstream": {"nodes": {}}, "upstream_id": "1"}, ACCEPTED),
        (
            {"upstream": {"nodes": {}, "x": 1}},
            within("upstream", text="additional properties forbidden, found x"),
        ),
        ({"hosts": []}, within("hosts", text=EMPTY)),
        ({"hosts": ["a", "b c"]}, within("hosts", 2, text=not_a_host("b c"))),
        ({"script": 1}, within("script", text=wrong("string", "number"))),
        (
            {"enable_websocket": "yes"},
            within("enable_websocket", text=wrong("boolean", "string")),
        ),
        ({"service_id": "1"}, "additional properties forbidden, found service_id"),
    ],
)
def test_verdicts(value: dict[str, Any], expected: str) -> None:
    assert verdict("services", value) == expected
