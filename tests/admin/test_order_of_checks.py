"""What is told of a request that breaks several rules: APISIX's order, id rules first."""

from typing import Any

import pytest

from tests.admin.gateway import NODES, Gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "value", "why"),
    [
        ("PUT", "/upstreams/1", {"id": "2", "create_time": 1}, "wrong upstream id"),
        ("PUT", "/upstreams", {"create_time": 1}, "missing upstream id"),
        ("POST", "/upstreams", {"id": "2", "create_time": 1}, "wrong upstream id, do not need it"),
        ("PUT", "/upstreams/1", {"create_time": 1}, "the property is forbidden:  create_time"),
    ],
)
async def test_ids_then_times_then_the_schema(
    gateway: Gateway, method: str, path: str, value: dict[str, Any], why: str
) -> None:
    assert await gateway.refusal(method, path, value) == why


async def test_patch_of_one_node_does_not_lose_the_others(gateway: Gateway) -> None:
    nodes = [{"host": host, "port": 1, "weight": 1} for host in ("a", "b")]
    before = await gateway.put("/upstreams/1", {"nodes": nodes})
    why = await gateway.refusal("PATCH", "/upstreams/1/nodes/c:80", 1)
    assert why == "invalid sub-path: nodes is no object"
    assert (await gateway.ask("GET", "/upstreams/1"))[1]["value"] == before
    await gateway.put("/upstreams/1", {"nodes": NODES})
    code, body = await gateway.ask("PATCH", "/upstreams/1/nodes/c:80", 1)
    assert (code, body["value"]["nodes"]) == (200, NODES | {"c:80": 1})
