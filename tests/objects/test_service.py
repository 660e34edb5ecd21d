"""services: an upstream to share, with the members of APISIX that concern HTTP accepted."""

from typing import Any

import pytest

from tests.objects.reading import ACCEPTED, NOT_A_HOST, NOT_A_STRING, longer, verdict, within

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
        ({"upstream_id": ""}, within("upstream_id", text=longer(1))),
        ({"upstream": {"nodes": {}}, "upstream_id": "1"}, ACCEPTED),
        (
            {"upstream": {"nodes": {}, "x": 1}},
            within("upstream", text="additional properties forbidden, found x"),
        ),
        (
            {"hosts": []},
            within("hosts", text="List should have at least 1 item after validation, not 0"),
        ),
        ({"hosts": ["a", "b c"]}, within("hosts", 2, text=NOT_A_HOST)),
        ({"script": 1}, within("script", text=NOT_A_STRING)),
        (
            {"enable_websocket": "yes"},
            within("enable_websocket", text="Input should be a valid boolean"),
        ),
        ({"service_id": "1"}, "additional properties forbidden, found service_id"),
    ],
)
def test_verdicts(value: dict[str, Any], expected: str) -> None:
    assert verdict("services", value) == expected
