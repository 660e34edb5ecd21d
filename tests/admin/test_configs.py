"""/configs/validate: whole configurations, in JSON and YAML, and everything that is wrong with them at once."""

import json
from typing import Any

import httpx
import pytest
import yaml

from admin.configs import MAX_TOLD
from admin.foreign import COLLECTIONS
from admin.reading import MAX_ALIASED
from sniproxy.store import Store
from tests.admin.backups import EVERYTHING, dumped, on
from tests.admin.gateway import NODES, Gateway, inline_tls, key_lines, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

KEY = pair("play.example.com")[1]
FAILED = "Configuration validation failed"
GOOD = {"id": "a", "nodes": NODES}


async def tried(gateway: Gateway, text: str | bytes, media: str | None = None) -> httpx.Response:
    headers = {} if media is None else {"Content-Type": media}
    async with gateway.client() as client:
        answer = await client.post("/configs/validate", content=text, headers=headers)
    gateway.answers.append(answer.text)
    return answer


async def errors(gateway: Gateway, value: Any) -> list[tuple[Any, ...]]:
    """(resource_type, resource_id, index, error) of a configuration that must be refused."""
    code, body = await gateway.ask("POST", "/configs/validate", value)
    assert (code, body["error_msg"], list(body)) == (400, FAILED, ["error_msg", "errors"])
    members = ["resource_type", "resource_id", "index", "error"]
    assert all(list(error) == members for error in body["errors"])
    return [tuple(error.values()) for error in body["errors"]]


# -- all of it is good


@pytest.mark.parametrize(
    ("media", "write"),
    [
        (None, json.dumps),
        ("application/json", json.dumps),
        ("application/x-www-form-urlencoded", json.dumps),
        ("application/yaml", json.dumps),
        ("application/yaml", yaml.safe_dump),
        ("application/x-yaml", yaml.safe_dump),
        ("Application/YAML; charset=utf-8", yaml.safe_dump),
    ],
)
async def test_a_configuration_that_would_be_taken(
    gateway: Gateway, media: str | None, write: Any
) -> None:
    answer = await tried(gateway, write(EVERYTHING), media)
    assert (answer.status_code, answer.json()) == (200, {})
    assert await gateway.keys() == []


async def test_a_dump_would_be_taken(gateway: Gateway, store: Store) -> None:
    """With its times, and its private keys as ciphertext."""
    for collection in ("ssls", "upstreams", "services", "stream_routes"):
        for value in EVERYTHING[collection]:
            await gateway.put(f"/{collection}/{value['id']}", value)
    answer = await tried(gateway, await dumped(on(store)), "application/yaml")
    assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"ssls": [], "upstreams": None},
        {name: [] for name in COLLECTIONS},
        {"services": [{"id": 1, "upstream_id": "nowhere"}]},
        {"upstreams": [{"id": 1, "nodes": []}], "services": [{"id": 1}]},
    ],
)
async def test_little_is_enough(gateway: Gateway, value: Any) -> None:
    assert await gateway.ask("POST", "/configs/validate", value) == (200, {})


# -- some of it is not


async def test_everything_that_is_wrong_is_told(gateway: Gateway) -> None:
    value = {
        "upstreams": [GOOD, {"id": "b"}, {"nodes": NODES}, GOOD, 7, {"id": "c", "nodes": NODES}],
        "ssls": [ssl_object(id="a", key=pair("other.example.com")[1]), {"id": 2}],
        "services": {"id": 1},
        "routes": [{"id": 1}],
        "consumers": [],
        "stream_route": [],
    }
    assert await errors(gateway, value) == [
        ("routes", None, None, "routes belong to APISIX's HTTP side, which this gateway has not: "
         "it serves ssls, stream_routes, upstreams and services"),
        ("services", None, None, "expected a list"),
        ("ssls", "a", 0, "the key does not belong to the certificate"),
        ("ssls", "2", 1, 'property "cert" is required'),
        ("stream_route", None, None,
         "unknown; expected ssls, upstreams, services, stream_routes"),
        ("upstreams", "b", 1, "value should match only one schema, but matches none: "
         "needs nodes, or service_name with discovery_type"),
        ("upstreams", None, 2, "missing upstream id"),
        ("upstreams", "a", 3, "the id a stands there twice"),
        ("upstreams", None, 4, "expected an object"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"upstreams": [GOOD | {"id": "a b"}]},
         ("upstreams", None, 0, 'property "id" validation failed: object matches none')),
        ({"upstreams": [GOOD | {"id": 1}, GOOD | {"id": "1"}]},
         ("upstreams", "1", 1, "the id 1 stands there twice")),
        ({"upstreams": [GOOD | {"id": True}]}, ("upstreams", "True", 0, 'property "id" validation')),
        ({"upstreams": [GOOD | {"x": 1}]},
         ("upstreams", "a", 0, "additional properties forbidden, found x")),
        ({"ssls": [ssl_object(id=1, cert="-" * 200)]},
         ("ssls", "1", 0, "the certificate is not PEM that can be read")),
        ({"ssls": [ssl_object(id=1, key="aes256gcm:none:" + "A" * 64)]},
         ("ssls", "1", 0, "ssls/1/key: encrypted under key none, which the keyring lacks")),
        ({"routes": 1}, ("routes", None, None, "routes belong to APISIX's HTTP side")),
        ({"a b": []}, (None, None, None, "unknown; expected ssls, ")),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_one(gateway: Gateway, value: Any, error: tuple[Any, ...]) -> None:
    (found,) = await errors(gateway, value)
    assert found[:3] == error[:3]
    assert found[3].startswith(error[3])


@pytest.mark.parametrize(
    ("media", "text", "code", "why"),
    [
        (None, "", 400, "missing configurations"),
        ("application/yaml", " \n", 400, "missing configurations"),
        (None, "[]", 400, "invalid request body: expected an object of lists"),
        ("application/yaml", "- 1", 400, "invalid request body: expected an object of lists"),
        (None, "upstreams: []", 400, "invalid request body: Expecting value"),
        (None, b"\xff\xfe\xfd", 400, "invalid request body: "),
        ("application/yaml", b"\xff\xfe\xfd", 400, "invalid request body: not UTF-8"),
        ("application/yaml", "a: [", 400, "neither YAML nor JSON: while parsing"),
        ("application/yaml", "a: !!python/name:os.system", 400, "neither YAML nor JSON: "),
        ("application/yaml", "[" * 5000, 400, "neither YAML nor JSON: "),
        (None, b" " * 1_600_000, 413, "the request body is larger than 1572864 bytes"),
        ("application/yaml", b" " * 1_600_000, 413, "the request body is larger than 1572864 bytes"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_read(
    gateway: Gateway, media: str | None, text: str | bytes, code: int, why: str
) -> None:
    answer = await tried(gateway, text, media)
    assert (answer.status_code, list(answer.json())) == (code, ["error_msg"])
    assert answer.json()["error_msg"].startswith(why)


@pytest.mark.parametrize(
    "scalar",
    [
        "!!bool x", "!!int x", "!!int ''", "!!float ''", "!!float x", "!!timestamp x", "!!null x",
        "9999-99-99", "1" + ":0" * 200 + ".0", "!!int " + "9" * 5000, "!!binary é", "!!omap x",
    ],
)  # fmt: skip
async def test_values_that_are_not_of_their_type(gateway: Gateway, scalar: str) -> None:
    answer = await tried(gateway, f"upstreams: [{{id: a, nodes: {scalar}}}]", "application/yaml")
    assert answer.status_code == 400


async def test_aliases_are_written_out_but_not_without_end(gateway: Gateway) -> None:
    few = "upstreams: [{id: a, nodes: &n {'10.0.0.5:1': 1}}, {id: b, nodes: *n}]"
    answer = await tried(gateway, few, "application/yaml")
    assert (answer.status_code, answer.json()) == (200, {})
    levels = "".join(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 10)}]\n" for n in range(8))
    long = f"x: &x {'x' * 1000}\ny: [{', '.join(['*x'] * (MAX_ALIASED // 1000 + 1000))}]\n"
    pairs = "".join(
        f"l{n + 1}: &l{n + 1} !!pairs [{', '.join([f'x: *l{n}'] * 10)}]\n" for n in range(8)
    )
    in_pairs = f"l0: &l0 x\n{pairs}upstreams: [{{id: a, nodes: *l8}}]"
    for bomb in (f"l0: &l0 x\n{levels}", long, in_pairs):
        answer = await tried(gateway, bomb, "application/yaml")
        assert answer.status_code == 400
        assert answer.json() == {"error_msg": "far larger once its aliases are written out"}


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "-0b" + "1" * 20000, "1:" * 3000 + "1"])
@pytest.mark.parametrize("text", ["upstreams: [{{id: {}}}]", "? {}\n: []\n", "x: {}"])
async def test_numbers_that_cannot_be_printed(gateway: Gateway, text: str, number: str) -> None:
    answer = await tried(gateway, text.format(number), "application/yaml")
    assert answer.status_code == 400
    assert "a number has too many digits" in answer.json()["error_msg"]


async def test_not_all_errors_of_a_great_many_are_told(gateway: Gateway) -> None:
    assert len(await errors(gateway, {"ssls": [1] * (MAX_TOLD + 500)})) == MAX_TOLD


async def test_a_loop_is_refused_where_it_stands(gateway: Gateway) -> None:
    answer = await tried(gateway, "upstreams: [&a {id: 1, x: *a}]", "application/yaml")
    (error,) = answer.json()["errors"]
    assert (error["index"], error["error"][:26]) == (0, "cannot be written as JSON:")


# -- private keys


@pytest.mark.parametrize("media", ["application/json", "application/yaml"])
@pytest.mark.parametrize(
    "value",
    [
        {KEY: []},
        {"ssls": [KEY]},
        {"ssls": KEY},
        {"ssls": [{"id": KEY}, {"id": KEY}]},
        {"ssls": [{"id": 1, "key": KEY}]},
        {"ssls": [ssl_object(id=KEY)]},
        {"ssls": [ssl_object(id=1, desc=KEY)]},
        {"ssls": [ssl_object(id=1) | {KEY: 1}]},
        {"upstreams": [inline_tls("play.example.com") | {"id": 1, "nodes": {KEY: 1}}]},
        {"stream_routes": [{"id": 1, "protocol": {"name": KEY}}]},
        {"routes": [KEY]},
        KEY,
    ],
)
async def test_no_answer_holds_a_key(gateway: Gateway, media: str, value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value)[:-1]):
        assert (await tried(gateway, text, media)).status_code == 400
    for line in key_lines("play.example.com"):
        assert line not in gateway.said


@pytest.mark.parametrize("tag", ["bool", "int", "float", "timestamp", "binary", "x"])
async def test_no_tag_makes_yaml_quote_a_key(gateway: Gateway, tag: str) -> None:
    text = f"ssls: [{{id: 1, key: !!{tag} {json.dumps(KEY)}}}]"
    assert (await tried(gateway, text, "application/yaml")).status_code == 400
    for line in key_lines("play.example.com"):
        assert line.lower() not in gateway.said.lower()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/configs"),
        ("PUT", "/configs"),
        ("POST", "/configs"),
        ("GET", "/configs/validate"),
        ("POST", "/configs/validate/ssls"),
    ],
)
async def test_nothing_else_is_offered(gateway: Gateway, method: str, path: str) -> None:
    assert await gateway.ask(method, path, {}) == (404, {"error_msg": "not found"})
