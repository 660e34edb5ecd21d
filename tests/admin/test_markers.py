"""Marks of empty collections, without which an APISIX takes them for missing."""

import io
import json

import anyio
import anyio.lowlevel
import pytest

from admin import markers
from admin.markers import COLLECTIONS, MARK, write_markers
from sniproxy.logs import Log, open_log
from sniproxy.store import Store
from sniproxy.store.etcd_gateway import Refused
from tests.admin.gateway import Doubtful, Gateway
from tests.support.stores import PATIENCE

pytestmark = pytest.mark.anyio

KEYS = [f"/apisix/{collection}/" for collection in COLLECTIONS]


@pytest.fixture
def log() -> Log:
    return open_log("admin")


async def marks(store: Store, prefix: str = "/apisix") -> list[str]:
    """The keys that are marks."""
    entries = (await store.list(prefix + "/")).entries
    return [one.key for one in entries if one.value == MARK]


async def test_all_of_them_once(store: Store, log: Log) -> None:
    await write_markers(store, "/apisix", log)
    listing = await store.list("/")
    assert [one.key for one in listing.entries] == KEYS
    await write_markers(store, "/apisix", log)
    assert await store.list("/") == listing


async def test_what_is_there_stays(store: Store, log: Log) -> None:
    await store.put("/apisix/ssls/", b"somebody's")
    await store.put("/apisix/routes/1", b"{}")
    await write_markers(store, "/apisix", log)
    assert await marks(store) == [key for key in KEYS if key != "/apisix/ssls/"]
    entry = await store.get("/apisix/ssls/")
    assert entry is not None
    assert entry.value == b"somebody's"


@pytest.mark.parametrize("fails_at", range(1, len(KEYS) + 1))
async def test_a_store_that_goes_away_gets_the_rest_later(
    store: Store, log: Log, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setattr(markers, "RETRY", 0.001)
    doubtful = Doubtful(store, fails_at)
    with anyio.fail_after(PATIENCE):
        await write_markers(doubtful, "/apisix", log)
    assert await marks(store) == KEYS
    assert doubtful.calls.count("put") == len(KEYS) + 1


async def test_a_mark_that_is_refused_keeps_no_other_from_being_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the role may write it, it is there as well."""
    monkeypatch.setattr(markers, "RETRY", 0.001)
    doubtful, lines = Doubtful(store), io.StringIO()
    forbidden = KEYS[1:3]

    async def refuse(key: str) -> None:
        if len(await marks(store)) == len(KEYS) - len(forbidden):
            forbidden.clear()
        if key in forbidden:
            raise Refused("http://etcd", 7, "etcdserver: permission denied")

    doubtful.before_put = refuse
    with anyio.fail_after(PATIENCE):
        await write_markers(doubtful, "/apisix", open_log("admin", lines))
    assert await marks(store) == KEYS
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["key"] for one in told] == KEYS[1:3]
    assert all("permission denied" in one["cause"] for one in told)


async def test_the_admin_writes_them_beside_its_requests(any_gateway: Gateway) -> None:
    """Into an etcd; a store in SQLite is read by no APISIX."""
    await any_gateway.put("/upstreams/1", {"nodes": {}})
    store, prefix = any_gateway.store, any_gateway.prefix
    if "sqlite" in any_gateway.settings.store:
        assert await marks(store, prefix) == []
        return
    with anyio.fail_after(PATIENCE):
        while len(await marks(store, prefix)) < len(COLLECTIONS):
            await anyio.lowlevel.checkpoint()
    listed = (await any_gateway.ask("GET", "/upstreams"))[1]
    assert [one["key"] for one in listed["list"]] == [f"{prefix}/upstreams/1"]
    for collection in ("ssls", "upstreams", "services", "stream_routes"):
        assert (await any_gateway.ask("GET", f"/{collection}/"))[0] == 200
    assert (await any_gateway.ask("DELETE", "/upstreams/1"))[0] == 200
    assert (await any_gateway.ask("GET", "/upstreams"))[1] == {"list": [], "total": 0}
