"""Others write at the same time, or a store does late what it was asked long ago: nobody's object is lost by it."""

import json
from pathlib import Path

import pytest

from admin.resources import IDS, RaceLost, Resources
from sniproxy.errors import Conflict
from sniproxy.objects import KINDS
from sniproxy.store.sqlite import SqliteStore
from tests.admin.gateway import KEYRING

pytestmark = pytest.mark.anyio

PREFIX = "/apisix"
UPSTREAM = {"nodes": {"10.0.0.5:7777": 1}}


class Crossed(SqliteStore):
    """Before each of the first `times` deletions somebody else replaces the object."""

    times = 0

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        if self.times:
            self.times -= 1
            await self.put(key, json.dumps({"id": "1", "desc": f"{self.times}"}).encode())
        return await super().delete(key, expect=expect)


async def test_a_new_object_takes_no_id_that_is_taken(tmp_path: Path) -> None:
    """A store that was restored has objects whose ids are revisions that are yet to come."""
    store = SqliteStore(tmp_path / "config.db")
    kind = KINDS["upstreams"]
    resources = Resources(store, PREFIX, KEYRING)
    held = {
        resources.key("upstreams", f"{number:020d}"): f'{{"desc": "{number}"}}'.encode()
        for number in range(1, 40)
    }
    for key, value in held.items():
        await store.put(key, value)
    made = [await resources.create(kind, UPSTREAM, None) for _ in range(3)]
    assert all(one.created for one in made)
    assert not {one.key for one in made} & held.keys()
    assert {key: entry.value for key in held if (entry := await store.get(key))} == held
    await store.aclose()


async def test_ids_are_not_tried_for_ever(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "config.db")
    resources = Resources(store, PREFIX, KEYRING)
    count = 3 * IDS
    for number in range(1, count):
        await store.put(resources.key("upstreams", f"{number + count - 1:020d}"), b"{}")
    with pytest.raises(RaceLost, match="ask again"):
        await resources.create(KINDS["upstreams"], UPSTREAM, None)
    await store.aclose()


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_delete_that_is_crossed_is_tried_on_the_new_value(
    tmp_path: Path, times: int
) -> None:
    store = Crossed(tmp_path / "config.db")
    resources = Resources(store, PREFIX, KEYRING)
    await resources.replace(KINDS["upstreams"], "1", UPSTREAM, None)
    store.times = times
    body, revision = await resources.delete(KINDS["upstreams"], "1", force=False)
    assert body == {"deleted": "1", "key": "/apisix/upstreams/1"}
    assert revision == (await store.list("/")).revision
    assert await store.get("/apisix/upstreams/1") is None
    await store.aclose()


async def test_a_delete_that_is_always_crossed_gives_up(tmp_path: Path) -> None:
    store = Crossed(tmp_path / "config.db")
    resources = Resources(store, PREFIX, KEYRING)
    await resources.replace(KINDS["upstreams"], "1", UPSTREAM, None)
    store.times = 1000
    with pytest.raises(RaceLost, match="before deleted"):
        await resources.delete(KINDS["upstreams"], "1", force=False)
    assert await store.get("/apisix/upstreams/1") is not None
    await store.aclose()


async def test_a_delete_that_comes_late_leaves_a_newer_object_alone(tmp_path: Path) -> None:
    """A member that hung carries out, once it is awake, what was answered with 503 long ago."""
    asked: list[int | None] = []

    class Late(SqliteStore):
        async def delete(self, key: str, *, expect: int | None = None) -> int | None:
            asked.append(expect)
            return expect

    store = Late(tmp_path / "config.db")
    resources = Resources(store, PREFIX, KEYRING)
    await resources.replace(KINDS["upstreams"], "1", UPSTREAM, None)
    await resources.delete(KINDS["upstreams"], "1", force=True)
    newer = await resources.replace(KINDS["upstreams"], "1", UPSTREAM | {"desc": "newer"}, None)
    with pytest.raises(Conflict):
        await SqliteStore.delete(store, newer.key, expect=asked[0])
    found = await store.get(newer.key)
    assert found is not None
    assert b"newer" in found.value
    await store.aclose()
