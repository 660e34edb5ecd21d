"""Paths and errors: odd ids, unknown things, a store that is away or slow. Never a 5xx but for the store's sake."""

import json
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from admin.body import MAX_DEPTH
from sniproxy.errors import Conflict, StoreUnavailable
from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import (
    BASE,
    NODES,
    NOT_FOUND,
    Doubtful,
    Gateway,
    client_ssl,
    ssl_object,
)

pytestmark = pytest.mark.anyio

UPSTREAM: dict[str, Any] = {"nodes": NODES}
AWAY = "http://127.0.0.1:2379: connection refused"
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
ODD_IDS = (
    "a/b", "../1", "..", ".", "../../gen_id", "..%2F..", "/", "//", "/etc/passwd", "\0", "a\0b",
    "a\n", "\n", "a\r\nX: y", " ", "a b", "%", "%2F", "%00", "?", "#", "&", "=", ";", ":", "*", "|",
    "\\", "'", '"', "' OR 1=1 --", "<b>", "{}", "[1]", "$secret", "ключ", "日本", "\U0001f3ae",
    "\u202e", "é", "e\u0301", "\x7f", "\x80", "a" * 65, "a" * 5000, "-1", "1.5", "1e3", "init_dir",
)  # fmt: skip
RAW_IDS = (
    b"%2F", b"%2f..%2f..", b"%2E%2E", b"%2e%2e/%2e%2e", b"%252F", b"%00", b"%FF%FE", b"%ED%A0%80",
    b"%C0%AF", b"%", b"%zz", b"..;", b"....//", b"a//b", b"+", b"a%0d%0aX-Y:1",
)  # fmt: skip


async def ask_raw(gateway: Gateway, method: str, path: bytes, body: bytes) -> tuple[int, str]:
    """A request whose path stands as it is, as a server would hand it over."""
    async with gateway.client() as client:
        request = client.build_request(method, "/", content=body)
        request.url = request.url.copy_with(raw_path=path)
        answer = await client.send(request)
    return answer.status_code, answer.text


async def nothing_outside(gateway: Gateway) -> None:
    """Every key in the store is one of ours, and its id stays one step."""
    for entry in (await gateway.store.list("")).entries:
        if entry.key == "/apisix/gen_id":
            continue
        empty, prefix, collection, *rest = entry.key.split("/")
        assert (empty, prefix, len(rest)) == ("", "apisix", 1)
        assert collection in ("upstreams", "services", "ssls", "stream_routes")
        assert rest[0].isascii()
        assert json.loads(entry.value)["id"] == rest[0]


async def test_odd_ids_in_paths(gateway: Gateway) -> None:
    body = json.dumps(UPSTREAM).encode()
    for odd in ODD_IDS:
        for path in {f"/upstreams/{quote(odd, safe='')}", f"/upstreams/{quote(odd)}"}:
            for method in METHODS:
                code, text = await ask_raw(gateway, method, (BASE + path).encode(), body)
                assert code < 500, (odd, method, text)
                assert method in ("HEAD", "OPTIONS") or isinstance(json.loads(text), dict)
                await nothing_outside(gateway)


async def test_odd_bytes_in_paths(gateway: Gateway) -> None:
    body = json.dumps(UPSTREAM).encode()
    for odd in RAW_IDS:
        for path in (b"/upstreams/" + odd, b"/" + odd + b"/1", b"/upstreams/1/" + odd):
            for method in METHODS:
                code, text = await ask_raw(gateway, method, BASE.encode() + path, body)
                assert code < 500, (odd, method, text)
                await nothing_outside(gateway)


async def test_odd_ids_in_bodies(gateway: Gateway) -> None:
    for odd in ODD_IDS:
        code, _ = await gateway.ask("PUT", "/upstreams", UPSTREAM | {"id": odd})
        assert code < 500
        for member, path in (("upstream_id", "/services/1"), ("service_id", "/stream_routes/1")):
            code, _ = await gateway.ask("PUT", path, {member: odd})
            assert code in (200, 201, 400)
    await nothing_outside(gateway)


async def test_odd_ids_on_each_store(any_gateway: Gateway) -> None:
    await any_gateway.put("/upstreams/10", UPSTREAM)
    for odd in ("1", "a\0b", "..%2F..", "ключ", "\U0001f3ae", "a" * 5000, "a\n"):
        path = f"/upstreams/{quote(odd, safe='')}"
        assert await any_gateway.ask("GET", path) == NOT_FOUND
        assert await any_gateway.ask("DELETE", path) == NOT_FOUND


async def test_an_id_that_prefixes_another_one_shows_nothing_of_it(gateway: Gateway) -> None:
    await gateway.put("/ssls/10", ssl_object())
    for path in ("/ssls/1", "/ssls/1/", "/ssls/%2510", "/ssls/10%00", "/ssls/1%FF"):
        answer = await gateway.send("GET", path)
        assert (answer.status_code, answer.json()) == NOT_FOUND
        assert answer.text == '{"message":"Key not found"}'


@pytest.mark.parametrize("name", ["route", "SSLS", "ssl", "gen_id", "plugin", "a b", "日本", ".."])
@pytest.mark.parametrize("rest", ["", "/1", "/1/nodes"])
async def test_an_unknown_kind(gateway: Gateway, name: str, rest: str) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        path = f"{BASE}/{quote(name).replace('.', '%2E')}{rest}".encode()
        code, text = await ask_raw(gateway, method, path, b"not read")
        if method == "GET" or not rest.endswith("nodes"):
            assert code == 404
            assert json.loads(text) == {"error_msg": f"Unsupported resource type: {name}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/upstreams/1/nodes"),
        ("PUT", "/upstreams/1/nodes"),
        ("POST", "/upstreams/1/nodes"),
        ("DELETE", "/upstreams/1/nodes"),
        ("HEAD", "/upstreams/1/nodes"),
    ],
)
async def test_what_is_not_offered(gateway: Gateway, method: str, path: str) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    answer = await gateway.send(method, path, json.dumps(UPSTREAM))
    assert answer.status_code == 404
    assert method == "HEAD" or answer.json() == {"error_msg": "not found"}
    assert await gateway.keys() == ["/apisix/upstreams/1"]


@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "true"])
async def test_a_body_that_is_no_object(gateway: Gateway, body: str) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    for method, path in (
        ("PUT", "/upstreams/1"),
        ("POST", "/upstreams"),
        ("PATCH", "/upstreams/1"),
    ):
        answer = await gateway.send(method, path, body)
        assert answer.status_code == 400
        assert answer.json() == {"error_msg": "invalid request body: expected a JSON object"}


async def test_a_long_path_of_members(gateway: Gateway) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    values: tuple[Any, ...] = (1, [[]], None)
    for depth in (MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, 1000, 20_000):
        for value in values:
            code, body = await gateway.ask(
                "PATCH", "/upstreams/1/discovery_args" + "/a" * depth, value
            )
            assert code == (200 if depth < MAX_DEPTH and value != [[]] else 400), body
    assert (await gateway.ask("PATCH", "/upstreams/1//labels//a//", "b"))[0] == 200
    assert (await gateway.ask("GET", "/upstreams/1"))[1]["value"]["labels"] == {"a": "b"}


async def test_what_is_done_is_logged_with_who_did_it(gateway: Gateway) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    await gateway.ask("PATCH", "/upstreams/1?api_key=the-key-of-an-administrator", {"desc": "x"})
    await gateway.ask("DELETE", "/upstreams/1")
    await gateway.ask("GET", "/upstreams")
    lines = [json.loads(line) for line in gateway.log.getvalue().splitlines()]
    assert [(line["event"], line["key"], line["by"]) for line in lines] == [
        ("object written", "/apisix/upstreams/1", "ops"),
        ("object written", "/apisix/upstreams/1", "ops"),
        ("object deleted", "/apisix/upstreams/1", "ops"),
    ]
    assert [line["revision"] for line in lines] == [1, 2, 3]
    assert "the-key-of" not in gateway.log.getvalue()


# -- a store that is away


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/upstreams", ...),
    ("GET", "/upstreams/1", ...),
    ("PUT", "/upstreams/1", UPSTREAM | {"desc": "new"}),
    ("PUT", "/upstreams/2", {"nodes": [], "tls": {"client_cert_id": "c"}}),
    ("POST", "/services", {"upstream_id": "1"}),
    ("PUT", "/stream_routes/1", {"upstream_id": 1, "service_id": 1}),
    ("PATCH", "/upstreams/1", {"desc": "new"}),
    ("PATCH", "/upstreams/1/nodes", []),
    ("DELETE", "/upstreams/1", ...),
    ("DELETE", "/upstreams/1?force=true", ...),
    ("PUT", "/ssls/c", client_ssl()),
]


@pytest.mark.parametrize(("method", "path", "value"), REQUESTS)
async def test_a_store_that_goes_away_at_any_call(
    settings: Settings, store: Store, method: str, path: str, value: Any
) -> None:
    """503 with the reason, and the objects are as before: one object is one write."""
    setup = Gateway(settings, store)
    await setup.put("/ssls/c", client_ssl())
    await setup.put("/upstreams/1", UPSTREAM)
    await setup.put("/services/1", {})

    async def objects() -> list[tuple[str, bytes]]:
        entries = (await store.list("")).entries
        return [(one.key, one.value) for one in entries if not one.key.endswith("gen_id")]

    before = await objects()
    for call in range(1, 20):
        doubtful = Doubtful(store, fails_at=call)
        gateway = Gateway(settings, doubtful)
        code, body = await gateway.ask(method, path, value)
        if len(doubtful.calls) < call:
            break
        assert (code, body) == (503, {"error_msg": AWAY})
        assert await objects() == before
        assert json.loads(gateway.log.getvalue())["cause"] == AWAY
    assert code in (200, 201)
    assert call > 1


async def test_a_store_that_does_not_answer(settings: Settings, store: Store) -> None:
    class Silent(Doubtful):
        async def get(self, key: str) -> None:
            await anyio.sleep_forever()

    admin = settings.admin.model_copy(update={"store_timeout": 0.05})
    gateway = Gateway(settings.model_copy(update={"admin": admin}), Silent(store))
    for method, path, value in REQUESTS[1:4]:
        code, body = await gateway.ask(method, path, value)
        assert (code, body) == (503, {"error_msg": "the store did not answer in 0.05 s"})


@pytest.mark.parametrize("error", [StoreUnavailable("no disk"), Conflict("odd"), TimeoutError("x")])
async def test_whatever_a_store_raises(settings: Settings, store: Store, error: Exception) -> None:
    class Broken(Doubtful):
        async def get(self, key: str) -> None:
            raise error

    gateway = Gateway(settings, Broken(store))
    assert await gateway.ask("GET", "/upstreams/1") == (503, {"error_msg": str(error)})


async def test_the_store_is_closed_when_the_application_stops(
    settings: Settings, store: Store
) -> None:
    doubtful = Doubtful(store)
    app = Gateway(settings, doubtful).app
    async with app.router.lifespan_context(app):
        assert "aclose" not in doubtful.calls
    assert doubtful.calls[-1] == "aclose"
