"""/openapi.json: complete, sound, and without a word of private keys where objects are read."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from admin.foreign import COLLECTIONS
from admin.openapi import document
from sniproxy.objects import KINDS
from sniproxy.objects.plugins import MODELS
from tests.admin.backups import EVERYTHING
from tests.admin.gateway import ADMIN_KEY, SECRET, VIEWER_KEY, Gateway, settings_on

pytestmark = pytest.mark.anyio

DOCUMENT = document(settings_on("sqlite:///unused"), "1.2.3")
CODES = {
    "GET": {"200", "401", "404", "503"},
    "PUT": {"200", "201", "202", "400", "401", "404", "408", "413", "503"},
    "PATCH": {"200", "202", "400", "401", "404", "408", "413", "503"},
    "DELETE": {"200", "202", "400", "401", "404", "503"},
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def reached(value: Any) -> dict[str, Any]:
    """All components that a part of the document refers to, and those that they refer to."""
    found: dict[str, Any] = {}
    waiting = list(references(value))
    while waiting:
        reference = waiting.pop()
        if reference not in found:
            found[reference] = resolve(reference)
            waiting += references(found[reference])
    return found


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]})


def parameters(operation: dict[str, Any], where: str) -> list[str]:
    return [one["name"] for one in operation.get("parameters", ()) if one["in"] == where]


async def test_it_is_served_to_who_has_a_key(gateway: Gateway) -> None:
    code, served = await gateway.ask("GET", "/openapi.json")
    assert (code, served["info"]["version"]) == (200, "unknown")
    assert served["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))
    assert (await gateway.send("GET", "/openapi.json", key=VIEWER_KEY)).status_code == 200
    assert (await gateway.send("GET", "/openapi.json", key=None)).status_code == 401
    for method, path in (("PUT", "/openapi.json"), ("GET", "/openapi.json/paths")):
        assert await gateway.ask(method, path) == (404, {"error_msg": "not found"})


def test_its_head() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert DOCUMENT["servers"] == [{"url": "/apisix/admin"}]
    assert DOCUMENT["security"] == [{"header": []}, {"query": []}, {"cookie": []}]
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert [(one["in"], one["name"]) for one in schemes.values()] == [
        ("header", "X-API-KEY"),
        ("query", "api_key"),
        ("cookie", "x_api_key"),
    ]
    assert not {ADMIN_KEY, VIEWER_KEY, SECRET} & set(re.findall(r"[^\"]+", json.dumps(DOCUMENT)))


def test_it_holds_together() -> None:
    assert reached(DOCUMENT)
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, _, operation in operations():
        assert parameters(operation, "path") == re.findall(r"{(\w+)}", path)
        assert all(
            one["required"] for one in operation.get("parameters", ()) if one["in"] == "path"
        )
        assert "401" in operation["responses"]
    unused = {
        f"#/components/{part}/{name}"
        for part in ("responses", "headers")
        for name in DOCUMENT["components"][part]
    } - reached(DOCUMENT["paths"]).keys()
    assert unused == set()


def test_its_schemas_are_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    for part in json_schemas(DOCUMENT["paths"]):
        jsonschema_rs.meta.validate(part)


def json_schemas(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if isinstance(value.get("schema"), dict) and "$ref" not in value:
            yield value["schema"]
        for member in value.values():
            yield from json_schemas(member)
    elif isinstance(value, list):
        for member in value:
            yield from json_schemas(member)


@pytest.mark.parametrize("collection", KINDS)
def test_every_path_of_a_kind(collection: str) -> None:
    paths = DOCUMENT["paths"]
    assert list(paths[f"/{collection}"]) == ["get", "post", "put"]
    one = paths[f"/{collection}/{{id}}"]
    assert {method.upper(): set(one[method]["responses"]) for method in one} == CODES
    assert list(paths[f"/{collection}/{{id}}/{{path}}"]) == ["patch"]
    assert parameters(paths[f"/{collection}"]["get"], "query") == [
        *("page", "page_size", "name", "label", "filter", "uri"),
        *(["detail"] if collection == "ssls" else []),
    ]
    for write in (one["put"], one["patch"], paths[f"/{collection}"]["post"]):
        assert parameters(write, "query") == ["ttl", "wait", "timeout"]
    assert parameters(one["delete"], "query") == ["force", "wait", "timeout"]


def test_every_other_path() -> None:
    paths = DOCUMENT["paths"].keys() - {
        path for path in DOCUMENT["paths"] if path.split("/")[1] in (*KINDS, *COLLECTIONS)
    }
    assert paths == {
        *("/nodes", "/nodes/{id}", "/openapi.json", "/docs", "/configs/validate"),
        *("/schema/{name}", "/schema/plugins/{name}"),
        *(f"/schema/validate/{collection}" for collection in KINDS),
        *("/statistics", "/statistics/now"),
        *("/plugins", "/plugins/list", "/plugins/{name}", "/plugins/reload"),
    }
    for collection in COLLECTIONS:
        assert f"/{collection}/{{id}}" in DOCUMENT["paths"]


@pytest.mark.parametrize("collection", KINDS)
def test_what_may_be_written_is_described(collection: str) -> None:
    body = DOCUMENT["paths"][f"/{collection}/{{id}}"]["put"]["requestBody"]
    schema = validator(body["content"]["application/json"]["schema"])
    for value in EVERYTHING[collection]:
        schema.validate(value)
        assert not schema.is_valid(value | {"create_time": 1})  # ours to set
        assert not schema.is_valid(value | {"unknown": 1})
    assert not schema.is_valid({"id": "a b"})


async def test_what_is_read_is_described_and_holds_no_key(gateway: Gateway) -> None:
    for collection in KINDS:
        for value in EVERYTHING[collection]:
            await gateway.put(f"/{collection}/{value['id']}", value)
            answer = await gateway.ask("GET", f"/{collection}/{value['id']}?detail=true")
            assert ("detail" in answer[1]) == (collection == "ssls")
            read = DOCUMENT["paths"][f"/{collection}/{{id}}"]["get"]["responses"]["200"]
            schema = read["content"]["application/json"]["schema"]
            validator(schema).validate(answer[1])
            assert not validator(schema).is_valid({"key": "/", "value": {}})


def test_no_answer_is_described_as_holding_a_key() -> None:
    for _, _, operation in operations():
        for name, schema in reached(operation["responses"]).items():
            properties = schema.get("properties", {}).keys()
            assert "client_key" not in properties
            if "SslRead" in name:
                assert "cert" in properties
                assert not {"key", "keys"} & properties
                assert not {"key", "keys"} & set(schema.get("required", ()))
    tls = DOCUMENT["components"]["schemas"]["Tls"]["properties"]
    assert "client_key" in tls  # it can be written


def test_it_is_made_from_the_models() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for model in (*MODELS.values(), *(kind.model for kind in KINDS.values())):
        members = set(schemas[model.__name__]["properties"])
        assert members == set(model.model_fields) - {"create_time", "update_time"}
    names = DOCUMENT["paths"]["/plugins/{name}"]["get"]["parameters"][0]["schema"]["enum"]
    assert names == list(MODELS)


def test_it_tells_the_limits_that_are_set() -> None:
    settings = settings_on("sqlite:///unused")
    admin = settings.admin.model_copy(update={"max_body": 4711, "max_wait": 12.5})
    text = document(settings.model_copy(update={"admin": admin}), "0")["info"]["description"]
    assert "4711 bytes of a body" in text
    assert "12.5 s for wait=all" in text
