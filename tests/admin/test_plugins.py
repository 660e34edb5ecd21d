"""/plugins: which there are, and what their configuration looks like."""

import json

import pytest

from sniproxy.objects.plugins import MODELS
from tests.admin.gateway import VIEWER_KEY, Gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("query", "names"),
    [("", list(MODELS)), ("?subsystem=stream", list(MODELS)), ("?subsystem=http", [])],
)
async def test_the_names(gateway: Gateway, query: str, names: list[str]) -> None:
    assert {"ip-restriction", "limit-conn"} <= MODELS.keys()
    assert await gateway.ask("GET", f"/plugins/list{query}") == (200, names)


@pytest.mark.parametrize("query", ["?all=true", "?all=true&subsystem=stream"])
async def test_all_of_them(gateway: Gateway, query: str) -> None:
    code, plugins = await gateway.ask("GET", f"/plugins{query}")
    assert code == 200
    assert list(plugins) == list(MODELS)
    for name, plugin in plugins.items():
        assert plugin["schema"] == MODELS[name].model_json_schema()
        assert (type(plugin["priority"]), plugin["version"]) == (int, 0.1)
    assert plugins["ip-restriction"]["priority"] == 3000
    assert plugins["limit-conn"]["priority"] == 1003


async def test_none_of_them_is_for_http(gateway: Gateway) -> None:
    assert await gateway.ask("GET", "/plugins?all=true&subsystem=http") == (200, {})


@pytest.mark.parametrize("name", MODELS)
async def test_one_of_them(gateway: Gateway, name: str) -> None:
    for path in (f"/plugins/{name}", f"/plugins/{name}/", f"/plugins/{name}?subsystem=stream"):
        assert await gateway.ask("GET", path) == (200, MODELS[name].model_json_schema())


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("/plugins", 400, "missing plugin name, or all=true for all of them"),
        ("/plugins/", 400, "missing plugin name, or all=true for all of them"),
        ("/plugins?all=false", 400, "missing plugin name, or all=true for all of them"),
        ("/plugins?all=true&subsystem=x", 400,
         "invalid argument subsystem: expected stream or http"),
        ("/plugins/list?subsystem=", 400, "invalid argument subsystem: expected stream or http"),
        ("/plugins/key-auth", 404, f"unknown plugin [key-auth]; known are {', '.join(MODELS)}"),
        ("/plugins/limit-conn?subsystem=http", 404,
         "unknown plugin [limit-conn]; known are none over HTTP"),
        ("/plugins/reload", 404, f"unknown plugin [reload]; known are {', '.join(MODELS)}"),
        ("/plugins/limit-conn/schema", 404, "not found"),
    ],
)  # fmt: skip
async def test_what_is_not_there(gateway: Gateway, path: str, code: int, why: str) -> None:
    assert await gateway.ask("GET", path) == (code, {"error_msg": why})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/plugins/reload"),
        ("PUT", "/plugins/limit-conn"),
        ("DELETE", "/plugins/limit-conn"),
    ],
)
async def test_nothing_else_is_offered(gateway: Gateway, method: str, path: str) -> None:
    assert await gateway.ask(method, path, {}) == (404, {"error_msg": "not found"})


async def test_there_is_nothing_to_reload(gateway: Gateway) -> None:
    answer = await gateway.send("PUT", "/plugins/reload")
    assert (answer.status_code, json.loads(answer.text)) == (200, "done")
    assert (await gateway.send("PUT", "/plugins/reload", key=VIEWER_KEY)).status_code == 401
