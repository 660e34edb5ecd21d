"""/schema: what may be written, as JSON Schema, and objects tried without being written."""

import json
from typing import Any

import jsonschema_rs
import pytest

from admin.foreign import COLLECTIONS
from sniproxy.objects import KINDS
from sniproxy.objects.plugins import MODELS
from tests.admin.backups import EVERYTHING
from tests.admin.gateway import NODES, VIEWER_KEY, Gateway, inline_tls, key_lines, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

SINGULAR = ("ssl", "upstream", "service", "stream_route")
KEY = pair("play.example.com")[1]
LIST = [{"host": "10.0.0.5", "port": 7777, "weight": 1}]


async def schema_of(gateway: Gateway, name: str) -> jsonschema_rs.Draft202012Validator:
    code, schema = await gateway.ask("GET", f"/schema/{name}")
    assert code == 200
    jsonschema_rs.meta.validate(schema)
    return jsonschema_rs.Draft202012Validator(schema)


# -- schemas


@pytest.mark.parametrize(("name", "collection"), list(zip(SINGULAR, KINDS, strict=True)))
async def test_the_schema_of_a_kind_takes_what_the_api_takes(
    gateway: Gateway, name: str, collection: str
) -> None:
    schema = await schema_of(gateway, name)
    assert EVERYTHING[collection]
    for value in EVERYTHING[collection]:
        schema.validate(value)
        for wrong in ({"id": ""}, {"id": 0}, {"id": "a b"}, {"unknown": 1}, {"labels": {"a": ""}}):
            assert not schema.is_valid(value | wrong)


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        (NODES, True),
        (LIST, True),
        ({}, True),
        ([], True),
        ({"10.0.0.5": 0}, True),
        ({"10.0.0.5:7777": -1}, False),
        ({"10.0.0.5:7777": "1"}, False),
        ([{"host": "10.0.0.5"}], False),
        (["10.0.0.5:7777"], False),
        ("10.0.0.5:7777", False),
    ],
)
async def test_nodes_have_two_forms(gateway: Gateway, nodes: Any, fits: bool) -> None:
    schema = await schema_of(gateway, "upstream")
    assert schema.is_valid({"nodes": nodes}) == fits
    body = json.dumps({"upstream": {"nodes": nodes}})
    answer = await gateway.send("POST", "/schema/validate/services", body)
    assert answer.status_code == (200 if fits else 400)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("query", ["", "?subsystem=stream"])
async def test_the_schema_of_a_plugin(gateway: Gateway, name: str, query: str) -> None:
    code, schema = await gateway.ask("GET", f"/schema/plugins/{name}{query}")
    assert (code, schema) == (200, MODELS[name].model_json_schema())


async def test_a_plugins_schema_refuses(gateway: Gateway) -> None:
    schema = await schema_of(gateway, "plugins/ip-restriction")
    assert schema.is_valid({"whitelist": ["10.0.0.0/8"], "_meta": {"disable": False}})
    assert not schema.is_valid({"whitelist": []})


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "none is named; known are ssl, upstream, service, stream_route, plugins/*"),
        ("/", "none is named; known are ssl, "),
        ("/ssls", "ssls; known are ssl, upstream, service, stream_route, plugins/*"),
        ("/route", "route; known are ssl, "),
        ("/plugins", "unknown plugin []; known are ip-restriction, limit-conn"),
        ("/plugins/x", "unknown plugin [x]; known are ip-restriction, limit-conn"),
        ("/plugins/limit-conn?subsystem=http",
         "unknown plugin [limit-conn]; known are none over HTTP"),
    ],
)  # fmt: skip
async def test_a_schema_that_is_not_there(gateway: Gateway, path: str, why: str) -> None:
    refusal = await gateway.refusal("GET", f"/schema{path}")
    assert refusal.startswith(f"not found schema: {why}")


async def test_a_subsystem_that_is_none(gateway: Gateway) -> None:
    why = await gateway.refusal("GET", "/schema/plugins/limit-conn?subsystem=x")
    assert why == "invalid argument subsystem: expected stream or http"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/schema/ssl/key"),
        ("PUT", "/schema/ssl"),
        ("POST", "/schema/ssl"),
        ("DELETE", "/schema/ssl"),
        ("PUT", "/schema/validate/ssls"),
    ],
)
async def test_nothing_else_is_offered(gateway: Gateway, method: str, path: str) -> None:
    assert await gateway.ask(method, path, {}) == (404, {"error_msg": "not found"})


# -- objects that are tried


@pytest.mark.parametrize("collection", KINDS)
async def test_what_can_be_written_is_valid(gateway: Gateway, collection: str) -> None:
    for value in EVERYTHING[collection]:
        path = f"/schema/validate/{collection}"
        answer = await gateway.send("POST", path, json.dumps(value))
        assert (answer.status_code, answer.content) == (200, b"")
    assert await gateway.keys() == []


async def test_only_the_schema_is_looked_at(gateway: Gateway) -> None:
    for collection, value in (
        ("ssls", {"sni": "a.example", "cert": "c" * 128, "key": "k" * 64}),
        ("services", {"upstream_id": "nowhere"}),
        ("stream_routes", {"service_id": 7, "create_time": 1}),
    ):
        answer = await gateway.send("POST", f"/schema/validate/{collection}", json.dumps(value))
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("collection", "value", "why"),
    [
        ("ssls", {}, 'property "cert" is required'),
        ("ssls", ssl_object(sni="a.example"),
         "a server certificate needs exactly one of sni and snis"),
        ("upstreams", {"nodes": {}, "x": 1}, "additional properties forbidden, found x"),
        ("upstreams", {"nodes": [{"host": "a"}]},
         'property "nodes" validation failed: object matches none of the required: failed to validate '
         'item 1: property "weight" is required'),
        ("services", {"upstream": {}},
         'property "upstream" validation failed: value should match only one schema, but matches none: '),
        ("stream_routes", {"plugins": {"x": {}}},
         "unknown plugin [x]"),
        ("stream_routes", [], "invalid request body: expected a JSON object"),
        ("stream_routes", None, "invalid request body: expected a JSON object"),
        ("stream_routes", ..., "missing configurations"),
        ("stream_route", {}, "unknown collection [stream_route]; known are ssls, upstreams, services"),
        ("", {}, "unknown collection []; known are ssls, "),
        ("ssls/1", {}, "unknown collection [ssls/1]; known are ssls, "),
    ],
)  # fmt: skip
async def test_what_is_invalid(gateway: Gateway, collection: str, value: Any, why: str) -> None:
    refusal = await gateway.refusal("POST", f"/schema/validate/{collection}", value)
    assert refusal.startswith(why)


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_there_is_no_http(gateway: Gateway, collection: str) -> None:
    why = await gateway.refusal("POST", f"/schema/validate/{collection}", {"uri": "/"})
    assert why.startswith(f"{collection} belong to APISIX's HTTP side, which this gateway has not")


@pytest.mark.parametrize(
    ("collection", "value"),
    [
        ("ssls", {"key": KEY}),
        ("ssls", ssl_object(desc=KEY)),
        ("ssls", ssl_object() | {KEY: 1}),
        ("upstreams", inline_tls("play.example.com") | {"nodes": {KEY: 1}}),
        ("stream_routes", {"plugins": {KEY: {}}}),
        ("stream_routes", {"protocol": {"name": KEY}}),
        ("services", {"upstream": {"nodes": {}, "tls": {"client_key": KEY}}}),
    ],
)
async def test_no_answer_holds_a_key(gateway: Gateway, collection: str, value: Any) -> None:
    await gateway.refusal("POST", f"/schema/validate/{collection}", value)
    for line in key_lines("play.example.com"):
        assert line not in gateway.said


async def test_a_viewer_reads_schemas(gateway: Gateway) -> None:
    assert (await gateway.send("GET", "/schema/ssl", key=VIEWER_KEY)).status_code == 200
    assert (await gateway.send("GET", "/schema/ssl", key=None)).status_code == 401
