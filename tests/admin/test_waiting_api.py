"""`?wait=all` and /nodes as who asks by HTTP sees them."""

import json
from typing import Any

import anyio
import pytest

from sniproxy.objects.node_record import records_prefix
from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import NODES, NOT_FOUND, VIEWER_KEY, Doubtful, Gateway
from tests.admin.node_records import record, tell

pytestmark = pytest.mark.anyio

LONG = 10.0  # seconds: whoever waits so long has failed
SHORT = 0.3  # seconds: whoever waits for a straggler waits so long
UPSTREAM: dict[str, Any] = {"nodes": NODES}
GARBAGE = (b"", b"garbage", b"{}", b"[" * 100_000, b'{"id": "x", "revision": "far"}', b"\xff")


# -- the same by HTTP


async def write(
    gateway: Gateway, method: str, query: str
) -> tuple[int, dict[str, Any], str | None]:
    """A write of that kind, of an object that is there where it must be: code, body and X-In-Force-On."""
    paths = {"POST": "/upstreams", "PUT": "/upstreams/2"}
    content = "" if method == "DELETE" else json.dumps(UPSTREAM)
    answer = await gateway.send(method, paths.get(method, "/upstreams/1") + query, content)
    return answer.status_code, answer.json(), answer.headers.get("X-In-Force-On")


WRITES = pytest.mark.parametrize(
    ("method", "code"), [("POST", 201), ("PUT", 201), ("PATCH", 200), ("DELETE", 200)]
)


@WRITES
async def test_a_write_that_is_in_force_everywhere(
    gateway: Gateway, store: Store, method: str, code: int
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    for node in ("a", "b"):
        await tell(store, node, 10**6)
    told, body, on = await write(gateway, method, "?wait=all&timeout=9s")
    assert (told, on) == (code, "2")
    assert set(body) == ({"deleted", "key"} if method == "DELETE" else {"key", "value"})


@WRITES
async def test_a_write_that_is_not_in_force_everywhere(
    gateway: Gateway, store: Store, method: str, code: int
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    await tell(store, "fast", 10**6)
    await tell(store, "slow", 1)
    told, body, on = await write(gateway, method, "?wait=all&timeout=1s")
    assert (told, on) == (202, "1")
    assert body["stragglers"] == [record("slow", 1).model_dump()]
    assert body["revision"] == (await store.list("")).revision  # nothing was written after it
    assert body["key"].startswith("/apisix/upstreams/")
    assert ("deleted" in body) == (method == "DELETE")


@WRITES
async def test_nobody_waits_who_does_not_ask(
    gateway: Gateway, store: Store, method: str, code: int
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    await tell(store, "slow", 1)
    told, body, on = await write(gateway, method, "")
    assert (told, on, "stragglers" in body) == (code, None, False)


async def test_the_revision_that_is_waited_for_is_that_of_the_write(
    gateway: Gateway, store: Store
) -> None:
    await tell(store, "a", 1)

    async def follow() -> None:
        """As a data plane does."""
        async with store.watch("/apisix/", after=1) as watch:
            async for batch in watch:
                if batch.events:
                    await tell(store, "a", batch.revision)
                    return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        assert (await write(gateway, "PUT", "?wait=all&timeout=9s"))[0] == 201


@WRITES
@pytest.mark.parametrize(
    "query", ["?wait=some", "?wait=", "?wait=all&timeout=soon", "?wait=all&timeout=61s"]
)
async def test_a_wait_that_cannot_be_is_refused_before_anything_is_written(
    gateway: Gateway, store: Store, method: str, code: int, query: str
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    before = await store.list("")
    told, body, on = await write(gateway, method, query)
    assert (told, on) == (400, None)
    assert "invalid argument" in body["error_msg"]
    assert await store.list("") == before


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("PUT", "/upstreams/1", 400),  # not an upstream
        ("PATCH", "/upstreams/none", 404),
        ("DELETE", "/upstreams/none", 404),
        ("GET", "/upstreams", 200),
    ],
)
async def test_what_writes_nothing_does_not_wait(
    gateway: Gateway, store: Store, method: str, path: str, code: int
) -> None:
    await tell(store, "slow", 0)
    answer = await gateway.send(method, path + "?wait=all", '{"nodes": 7}')
    assert (answer.status_code, "X-In-Force-On" in answer.headers) == (code, False)


async def test_a_wait_is_not_bounded_by_the_time_for_the_store(
    settings: Settings, store: Store
) -> None:
    admin = settings.admin.model_copy(update={"store_timeout": 1.0, "body_timeout": 1.0})
    gateway = Gateway(settings.model_copy(update={"admin": admin}), store)
    await tell(store, "slow", 0)
    async with gateway.running():
        told, body, _ = await write(gateway, "PUT", "?wait=all&timeout=2500ms")
    assert (told, len(body["stragglers"])) == (202, 1)


@WRITES
async def test_waiting_on_each_store(any_gateway: Gateway, method: str, code: int) -> None:
    store, prefix = any_gateway.store, any_gateway.prefix
    written = await any_gateway.put("/upstreams/1", UPSTREAM)
    assert written["nodes"] == NODES
    key = records_prefix(prefix) + "a"
    await store.put(key, record("a", 1).encode(), ttl=60)
    told, body, on = await write(any_gateway, method, "?wait=all&timeout=1s")
    assert (told, on) == (202, "0")
    assert [one["id"] for one in body["stragglers"]] == ["a"]
    await any_gateway.put("/upstreams/1", UPSTREAM)
    await store.put(key, record("a", 2**60).encode(), ttl=60)
    if method == "PUT":
        code = 200  # there by now
    assert (await write(any_gateway, method, "?wait=all"))[::2] == (code, "1")


# -- /nodes


async def test_what_there_is_of_data_planes(gateway: Gateway, store: Store) -> None:
    assert await gateway.ask("GET", "/nodes") == (200, {"list": [], "total": 0})
    for node, revision in (("edge-2:7085", 70), ("edge-1", 69)):
        await tell(store, node, revision)
    one, two = record("edge-1", 69).model_dump(), record("edge-2:7085", 70).model_dump()
    for path in ("/nodes", "/nodes/"):
        assert await gateway.ask("GET", path) == (200, {"list": [one, two], "total": 2})
    assert await gateway.ask("GET", "/nodes/edge-1") == (200, one)
    assert await gateway.ask("GET", "/nodes/edge-2:7085") == (200, two)
    async with gateway.client() as client:
        assert (await client.get("http://admin/admin/nodes")).json()["total"] == 2
        assert (await client.get("http://admin/admin/nodes/edge-1")).json() == one


@pytest.mark.parametrize("node", ["edge", "edge-12", "edge-1%00", "%FF", "a" * 5000])
async def test_a_data_plane_that_is_not_there(gateway: Gateway, store: Store, node: str) -> None:
    await tell(store, "edge-1", 69)
    assert await gateway.ask("GET", f"/nodes/{node}") == NOT_FOUND


async def test_a_data_plane_whose_time_is_over(gateway: Gateway, store: Store, clock: Any) -> None:
    await tell(store, "a", 69, ttl=15)
    clock.now += 14
    assert (await gateway.ask("GET", "/nodes"))[1]["total"] == 1
    clock.now += 1
    assert (await gateway.ask("GET", "/nodes"))[1]["total"] == 0
    assert await gateway.ask("GET", "/nodes/a") == NOT_FOUND


async def test_who_may_read_them(gateway: Gateway, store: Store) -> None:
    await tell(store, "a", 69)
    for path in ("/nodes", "/nodes/a"):
        assert (await gateway.send("GET", path, key=VIEWER_KEY)).status_code == 200
        for key in (None, "a-key-that-nobody-has"):
            answer = await gateway.send("GET", path, key=key)
            assert answer.status_code == 401
            assert "69" not in answer.text


@pytest.mark.parametrize("path", ["/nodes", "/nodes/a", "/nodes/a/revision"])
@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_they_are_not_written_by_the_api(
    gateway: Gateway, store: Store, method: str, path: str
) -> None:
    await tell(store, "a", 69)
    before = await store.list("")
    answer = await gateway.send(method, path + "?wait=all", record("a", 70).encode())
    assert answer.status_code == 404
    assert (await gateway.send(method, path, key=VIEWER_KEY)).status_code == 401
    assert await store.list("") == before


@pytest.mark.parametrize(("path", "code"), [("/nodes", 200), ("/nodes/a", 200), ("/nodes/b", 404)])
async def test_head_tells_what_get_would(
    gateway: Gateway, store: Store, path: str, code: int
) -> None:
    await tell(store, "a", 69)
    assert (await gateway.send("HEAD", path)).status_code == code


@pytest.mark.parametrize("path", ["/nodes", "/nodes/a"])
async def test_nodes_of_a_store_that_is_away(settings: Settings, store: Store, path: str) -> None:
    gateway = Gateway(settings, Doubtful(store, fails_at=1))
    code, body = await gateway.ask("GET", path)
    assert (code, body) == (503, {"error_msg": "http://127.0.0.1:2379: connection refused"})
