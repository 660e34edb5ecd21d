"""What APISIX's declarative tool asks of an Admin API, in its order: who it is, everything there is, then writes by id."""

from typing import Any

import pytest

from tests.admin.gateway import NODES, Gateway, ssl_object

pytestmark = pytest.mark.anyio

READ = ("services", "routes", "upstreams", "ssls", "consumers", "plugin_configs", "global_rules")
NAME = {"__ADC_NAME": "lobby"}
UPSTREAM = {"id": "u1", "name": "lobby", "nodes": [{"host": "10.0.0.5", "port": 7777, "weight": 1}]}
SERVICE = {"id": "s1", "name": "lobby", "upstream_id": "u1", "labels": {"team": "eu"}}
ROUTE = {"id": "r1", "labels": NAME, "sni": "lobby.example.com", "service_id": "s1"}


async def everything(gateway: Gateway) -> dict[str, list[dict[str, Any]]]:
    """As it reads a server before it compares."""
    assert (await gateway.ask("GET", "/routes"))[0] == 200
    found = {}
    for name in (*READ, "plugin_metadata", "stream_routes"):
        code, body = await gateway.ask("GET", f"/{name}")
        assert code == 200
        assert len(body["list"]) == body["total"]
        found[name] = [one["value"] for one in body["list"]]
    return {name: values for name, values in found.items() if values}


async def test_a_sync_and_back(any_gateway: Gateway) -> None:
    gateway = any_gateway
    assert await everything(gateway) == {}
    ssl = ssl_object("lobby.example.com", labels={"team": "eu"})
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("/ssls/c1", ssl), ("/upstreams/u1", UPSTREAM), ("/services/s1", SERVICE), ("/stream_routes/r1", ROUTE)
    ]  # fmt: skip
    for code in (201, 200):  # a second time nothing is new
        for path, value in wanted:
            assert (await gateway.ask("PUT", path, value))[0] == code
    there = await everything(gateway)
    assert sorted(there) == ["services", "ssls", "stream_routes", "upstreams"]
    times = {"create_time", "update_time"}
    for name, sent in (("upstreams", UPSTREAM), ("services", SERVICE), ("stream_routes", ROUTE)):
        # nothing that was not sent: else it would see a difference for ever
        assert [{k: v for k, v in one.items() if k not in times} for one in there[name]] == [sent]
    assert (await gateway.ask("GET", "/services?label=team"))[1]["total"] == 1
    # what is no more in the file goes, what refers before what it refers to
    assert (await gateway.ask("DELETE", "/upstreams/u1"))[0] == 400
    for path, _ in reversed(wanted):
        assert (await gateway.ask("DELETE", path))[0] == 200
    assert await everything(gateway) == {}


async def test_a_sync_is_tried_before_it_is_made(gateway: Gateway) -> None:
    sound = {"upstreams": [UPSTREAM], "services": [SERVICE], "stream_routes": [ROUTE], "routes": []}
    assert await gateway.ask("POST", "/configs/validate", sound) == (200, {})
    broken = sound | {"upstreams": [UPSTREAM | {"nodes": NODES, "colour": "red"}]}
    code, body = await gateway.ask("POST", "/configs/validate", broken)
    assert (code, body["error_msg"]) == (400, "Configuration validation failed")
    (error,) = body["errors"]
    assert (error["resource_type"], error["resource_id"], error["index"]) == ("upstreams", "u1", 0)
    assert "colour" in error["error"]
    assert await gateway.keys() == []
