"""Who may ask: every path and method, every kind of key, every place where a key can stand."""

import hmac
from typing import Any

import pytest
from starlette.requests import Request

from admin.auth import Authenticator, Unauthorized
from sniproxy.settings import AdminKey, Settings
from sniproxy.store import Store
from tests.admin.gateway import ADMIN_KEY, BASE, NODES, VIEWER_KEY, Gateway

pytestmark = pytest.mark.anyio

PATHS = (
    "",
    "/",
    *("/ssls", "/stream_routes", "/upstreams", "/services"),
    *("/upstreams/", "/upstreams/1", "/upstreams/1/", "/upstreams/1/nodes", "/upstreams/none"),
    *("/unknown", "/unknown/1", "/routes/1", "/plugins/list", "/gen_id", "/%2E%2E/upstreams"),
)
READING = ("GET", "HEAD")
WRITING = ("PUT", "POST", "PATCH", "DELETE")
MISSING = {"error_msg": "failed to check token", "description": "missing apikey"}
WRONG = {"error_msg": "failed to check token", "description": "wrong apikey"}
VIEWER = {"error_msg": "failed to check token", "description": "invalid method for role viewer"}
BODY = b'{"nodes": {"10.0.0.9:1": 1}}'


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_right_key_nothing_is_said_or_done(gateway: Gateway, path: str) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    before = (await gateway.store.list("")).entries
    for key, answer in (
        (None, MISSING),
        ("", MISSING),
        ("wrong", WRONG),
        (ADMIN_KEY[:-1], WRONG),
        (ADMIN_KEY + "x", WRONG),
        (ADMIN_KEY.upper(), WRONG),
    ):
        for method in READING + WRITING:
            refused = await gateway.send(method, path, BODY, key=key)
            if method == "HEAD" and path in ("", "/"):
                assert refused.status_code == 200
                continue
            assert refused.status_code == 401
            assert method == "HEAD" or refused.json() == answer
    assert (await gateway.store.list("")).entries == before


@pytest.mark.parametrize("path", PATHS)
async def test_a_viewer_reads_and_nothing_else(gateway: Gateway, path: str) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    before = (await gateway.store.list("")).entries
    for method in READING:
        seen = await gateway.send(method, path, key=VIEWER_KEY)
        shown = await gateway.send(method, path, key=ADMIN_KEY)
        assert seen.status_code != 401
        assert (seen.status_code, seen.text) == (shown.status_code, shown.text)
    for method in WRITING:
        refused = await gateway.send(method, path, BODY, key=VIEWER_KEY)
        assert (refused.status_code, refused.json()) == (401, VIEWER)
    assert (await gateway.store.list("")).entries == before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [None, "wrong", VIEWER_KEY, ADMIN_KEY])
async def test_anybody_may_ask_for_the_methods(
    gateway: Gateway, path: str, key: str | None
) -> None:
    answer = await gateway.send("OPTIONS", path, key=key)
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["allow"] == "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origins", "origin", "granted"),
    [
        ([], "https://dash.example.com", None),
        (["https://dash.example.com"], "https://dash.example.com", "https://dash.example.com"),
        (["https://dash.example.com"], "https://evil.example.com", None),
        (["*"], "https://evil.example.com", "*"),
    ],
)
async def test_pages_of_other_origins(
    settings: Settings, store: Store, origins: list[str], origin: str, granted: str | None
) -> None:
    """May call only where the settings say so; and nowhere with the cookie that a browser holds."""
    members = settings.model_dump()
    members["admin"]["cors_origins"] = origins
    gateway = Gateway(Settings.model_validate(members), store)
    wish = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    async with gateway.client(None) as client:
        before = await client.options("/ssls/1", headers=wish)
        refused = await client.get("/ssls", headers={"Origin": origin})
        answer = await client.get("/ssls", headers={"Origin": origin, "X-API-KEY": ADMIN_KEY})
    assert (refused.status_code, answer.status_code) == (401, 200)
    for one in (before, refused, answer):
        assert one.headers.get("access-control-allow-origin") == granted
        assert "access-control-allow-credentials" not in one.headers


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_no_header_changes_the_method(gateway: Gateway, header: str) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    async with gateway.client(VIEWER_KEY) as client:
        answer = await client.get("/upstreams/1?_method=DELETE", headers={header: "DELETE"})
    assert answer.status_code == 200
    assert await gateway.keys() == ["/apisix/upstreams/1"]


@pytest.mark.parametrize(
    ("query", "header", "cookie", "code"),
    [
        (ADMIN_KEY, None, None, 200),
        (None, ADMIN_KEY, None, 200),
        (None, None, ADMIN_KEY, 200),
        (ADMIN_KEY, "wrong", "wrong", 200),
        (None, ADMIN_KEY, "wrong", 200),
        ("wrong", ADMIN_KEY, ADMIN_KEY, 401),
        (None, "wrong", ADMIN_KEY, 401),
        (VIEWER_KEY, ADMIN_KEY, ADMIN_KEY, 200),
        ("", ADMIN_KEY, None, 200),  # an empty one is none
        ("", "", ADMIN_KEY, 200),
        ("", "", "", 401),
        (None, None, None, 401),
    ],
)
async def test_the_first_key_that_is_there_counts(
    gateway: Gateway, query: str | None, header: str | None, cookie: str | None, code: int
) -> None:
    headers = {} if header is None else {"x-api-key": header}
    if cookie is not None:
        headers["cookie"] = f"a=b; x_api_key={cookie}; c=d"
    params = {} if query is None else {"api_key": query}
    async with gateway.client(None) as client:
        answer = await client.get("/ssls", headers=headers, params=params)
    assert answer.status_code == code


async def test_a_viewers_key_is_not_helped_by_an_administrators_behind_it(gateway: Gateway) -> None:
    async with gateway.client(ADMIN_KEY) as client:
        answer = await client.delete("/upstreams/1", params={"api_key": VIEWER_KEY})
    assert (answer.status_code, answer.json()) == (401, VIEWER)


@pytest.mark.parametrize("path", ["/upstreams", "/upstreams/1", "/unknown", "/", ""])
@pytest.mark.parametrize("key", [None, VIEWER_KEY, ADMIN_KEY])
async def test_the_short_form_answers_the_same(
    gateway: Gateway, path: str, key: str | None
) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    headers = {} if key is None else {"X-API-KEY": key}
    async with gateway.client(None) as client:
        long = await client.get(f"http://admin{BASE}{path}", headers=headers)
        short = await client.get(f"http://admin/admin{path}", headers=headers)
    assert (long.status_code, long.text) == (short.status_code, short.text)


@pytest.mark.parametrize("path", ["/", "/apisix", "/apisix/", "/apisix/admins", "/adminx", "/ssls"])
async def test_paths_outside_say_where_the_api_is(gateway: Gateway, path: str) -> None:
    async with gateway.client(None) as client:
        answer = await client.get(f"http://admin{path}")
    assert answer.status_code == 404
    assert answer.json() == {"error_msg": "not found: the API is under /apisix/admin"}


@pytest.mark.parametrize("path", ["//upstreams/1", "/upstreams//1", "/UPSTREAMS/1", "//"])
async def test_odd_paths_reach_nothing(gateway: Gateway, path: str) -> None:
    await gateway.put("/upstreams/1", {"nodes": NODES})
    for key in (None, ADMIN_KEY):
        for method in ("GET", "DELETE"):
            answer = await gateway.send(method, f"http://admin{BASE}{path}", key=key)
            assert answer.status_code in (401, 404)
    assert await gateway.keys() == ["/apisix/upstreams/1"]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "X"])
async def test_odd_methods_reach_nothing(gateway: Gateway, method: str) -> None:
    async with gateway.client(None) as client:
        request = client.build_request("GET", "/upstreams")
        request.method = method
        answer = await client.send(request)
    assert answer.status_code in (401, 404)


def request_with(key: str | None, method: str = "GET") -> Request:
    headers = [] if key is None else [(b"x-api-key", key.encode("latin-1"))]
    return Request({"type": "http", "method": method, "query_string": b"", "headers": headers})


@pytest.mark.parametrize(
    "given", ["first-of-three-keys", "third-of-three-keys", "none-of-them", "é"]
)
def test_every_key_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    names = ("first", "second", "third")
    authenticator = Authenticator(AdminKey(name=n, key=f"{n}-of-three-keys") for n in names)
    try:
        found = authenticator.identify(request_with(given)).name
    except Unauthorized as error:
        found = str(error)
    assert found == ("wrong apikey" if "three" not in given else given.partition("-")[0])
    assert compared == [(32, 32)] * 3  # digests, so the length of a key does not show either


def test_without_any_key_in_the_settings_nobody_gets_in() -> None:
    with pytest.raises(Unauthorized, match="wrong apikey"):
        Authenticator([]).identify(request_with("anything"))
