"""What is kept at hand of the store: always as the store is, whoever wrote to it, and at the price of what has changed."""

import json
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.catalog import Catalog, Collection
from admin.rules import encode
from sniproxy.errors import Compacted, ObjectRefused, StoreUnavailable
from sniproxy.store import Changes, Entry, Listing, Store
from tests.admin.gateway import NODES, Doubtful, Gateway

pytestmark = pytest.mark.anyio
PREFIX = "/apisix/upstreams/"


def tls(ssl_id: Any) -> dict[str, Any]:
    return {"tls": {"client_cert_id": ssl_id}}


def ids(collection: Collection) -> list[str]:
    return [item.object_id for item in collection.items()]


async def put(store: Store, object_id: str, **members: Any) -> int:
    return await store.put(PREFIX + object_id, encode({"id": object_id, **members}))


async def as_stored(store: Store) -> list[tuple[str, bytes, int]]:
    entries = (await store.list(PREFIX)).entries
    return [(one.key, one.value, one.mod_revision) for one in entries if one.value != b"init_dir"]


def as_known(collection: Collection) -> list[tuple[str, bytes, int]]:
    entries = [item.entry for item in collection.items()]
    return [(one.key, one.value, one.mod_revision) for one in entries]


async def test_it_is_as_the_store_whoever_writes(any_gateway: Gateway) -> None:
    store = any_gateway.store
    prefix = f"{any_gateway.prefix}/upstreams/"
    collection = Collection(store, prefix)
    steps: list[tuple[str, bytes | None]] = [
        ("", b"init_dir"),
        ("2", b'{"id":"2"}'),
        ("1", b'{"id":"1","name":"a"}'),
        ("2", b'{"id":"2","name":"b"}'),
        ("3", b"no JSON"),
        ("1", None),
        ("3", b'{"id":3}'),
        ("3", b"[]"),
        ("2", None),
        ("2", b'{"id":"2"}'),
    ]
    known: dict[str, bytes] = {}
    for name, value in steps:
        if value is None:
            await store.delete(prefix + name)
            known.pop(name, None)
        else:
            await store.put(prefix + name, value)
            known[name] = value
        await collection.refresh()
        objects = {one.object_id: one.entry.value for one in collection.items()}
        expected = {one: text for one, text in known.items() if one and text[:1] == b"{"}
        assert objects == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "look", "forget"]), st.sampled_from("abcd")),
        max_size=25,
    )
)
def test_after_any_history(steps: list[tuple[str, str]]) -> None:
    """Deletions by others and by us, writes after them, looks in between: a look never misses one."""

    async def main() -> None:
        store = MemoryHistory()
        collection = Collection(store, PREFIX)
        for number, (step, name) in enumerate(steps):
            if step == "put":
                store.put_now(PREFIX + name, b'{"n":%d}' % number)
            elif step == "look":
                await collection.refresh()
                assert as_known(collection) == await as_stored(store)
            elif (revision := store.delete_now(PREFIX + name)) and step == "forget":
                collection.forget(PREFIX + name, revision)
        await collection.refresh()
        assert as_known(collection) == await as_stored(store)

    anyio.run(main)


class MemoryHistory(Doubtful):
    """Lists and changes as the contract has them, over a dict."""

    def __init__(self) -> None:
        super().__init__(self)
        self.entries: dict[str, Entry] = {}
        self.revision = 0

    def put_now(self, key: str, value: bytes) -> None:
        self.revision += 1
        known = self.entries.get(key)
        created = known.create_revision if known else self.revision
        self.entries[key] = Entry(key, value, created, self.revision)

    def delete_now(self, key: str) -> int:
        if self.entries.pop(key, None) is None:
            return 0
        self.revision += 1
        return self.revision

    async def list(self, prefix: str) -> Listing:
        assert prefix == PREFIX
        entries = sorted(self.entries.values(), key=lambda one: one.key)
        return Listing(tuple(entries), self.revision)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        listing = await self.list(prefix)
        newer = tuple(one for one in listing.entries if one.mod_revision > after)
        return Changes(newer, len(listing.entries), self.revision)


async def test_what_has_not_changed_is_not_listed_again(store: Store) -> None:
    for number in range(5):
        await put(store, str(number))
    doubtful = Doubtful(store)
    collection = Collection(doubtful, PREFIX)
    await collection.refresh()
    assert doubtful.calls == ["list"]
    await put(store, "7", name="new")
    await collection.refresh()
    assert ids(collection) == ["0", "1", "2", "3", "4", "7"]
    assert doubtful.calls == ["list", "changes"]
    revision = await store.delete(PREFIX + "3")
    assert revision is not None
    collection.forget(PREFIX + "3", revision)
    await collection.refresh()
    assert ids(collection) == ["0", "1", "2", "4", "7"]
    assert doubtful.calls == ["list", "changes", "changes"]
    await store.delete(PREFIX + "4")  # by somebody else
    await collection.refresh()
    assert ids(collection) == ["0", "1", "2", "7"]
    assert doubtful.calls == ["list", "changes", "changes", "changes", "list"]


async def test_what_was_written_after_our_deletion_is_not_forgotten(store: Store) -> None:
    await put(store, "1")
    collection = Collection(store, PREFIX)
    await collection.refresh()
    revision = await store.delete(PREFIX + "1")
    assert revision is not None
    await put(store, "1", name="again")
    await collection.refresh()
    collection.forget(PREFIX + "1", revision)
    assert ids(collection) == ["1"]


async def test_another_history_is_listed_anew(store: Store) -> None:
    class Restored(Doubtful):
        async def changes(self, prefix: str, *, after: int) -> Changes:
            await super().changes(prefix, after=after)
            raise Compacted(1)

    restored = Restored(store)
    collection = Collection(restored, PREFIX)
    await put(store, "1")
    await collection.refresh()
    await put(store, "2")
    await collection.refresh()
    assert ids(collection) == ["1", "2"]
    assert restored.calls == ["list", "changes", "list"]


async def test_a_store_that_was_away_has_cost_nothing(store: Store) -> None:
    await put(store, "1")
    doubtful = Doubtful(store, fails_at=2)
    collection = Collection(doubtful, PREFIX)
    await collection.refresh()
    await put(store, "2")
    with pytest.raises(StoreUnavailable):
        await collection.refresh()
    await collection.refresh()
    assert ids(collection) == ["1", "2"]


async def test_all_who_ask_meanwhile_share_one_answer(store: Store) -> None:
    """But not the answer to a question that was asked before they came."""

    class Slow(Doubtful):
        def __init__(self, real: Store) -> None:
            super().__init__(real)
            self.asked, self.go_on = anyio.Event(), anyio.Event()

        async def list(self, prefix: str) -> Listing:
            listing = await super().list(prefix)
            self.asked.set()
            await self.go_on.wait()
            return listing

    slow = Slow(store)
    collection = Collection(slow, PREFIX)
    seen: list[list[str]] = []

    async def look() -> None:
        await collection.refresh()
        seen.append(ids(collection))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        await slow.asked.wait()
        await put(store, "1")
        for _ in range(10):
            tasks.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        slow.go_on.set()
    assert seen == [[], *[["1"]] * 10]
    assert slow.calls == ["list", "changes"]


async def test_whoever_asked_and_left_takes_nothing_with_him(store: Store) -> None:
    collection = Collection(store, PREFIX)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await collection.refresh()
    await put(store, "1")
    await collection.refresh()
    assert ids(collection) == ["1"]


async def test_a_key_that_is_no_text_hides_no_other(gateway: Gateway) -> None:
    """Any tool can write one into an etcd; an answer that held it could not be sent."""
    await gateway.store.put("/apisix/services/\udcff", b'{"upstream_id":"1"}')
    await gateway.put("/upstreams/1", {"nodes": NODES})
    await gateway.put("/services/1", {"upstream_id": "1"})
    code, body = await gateway.ask("GET", "/services")
    assert (code, body["total"]) == (200, 1)
    await gateway.ask("DELETE", "/services/1")
    assert (await gateway.ask("DELETE", "/upstreams/1"))[0] == 200


async def test_by_age_and_by_key(store: Store) -> None:
    for name in ("b", "a", "c"):
        await put(store, name)
    await put(store, "b", desc="written again, and not younger for it")
    collection = Collection(store, PREFIX)
    await collection.refresh()
    assert ids(collection) == ["a", "b", "c"]
    assert [item.object_id for item in collection.items_by_age()] == ["b", "a", "c"]
    assert json.loads(collection.items()[1].entry.value)["desc"]


async def test_who_refers_to_what_follows_every_change(store: Store) -> None:
    catalog = Catalog(store, "/apisix")
    await catalog.check_unused("ssls", "1")
    await put(store, "x", **tls(1))
    await put(store, "w", **tls("1"))
    for user in ("w", "x"):
        with pytest.raises(ObjectRefused, match=rf"upstream \[{user}\] is still using it now"):
            await catalog.check_unused("ssls", "1")
        await put(store, user, **tls("2"))
    await catalog.check_unused("ssls", "1")
    await store.delete(PREFIX + "w")
    with pytest.raises(ObjectRefused, match=r"upstream \[x\]"):
        await catalog.check_unused("ssls", "2")
    await store.delete(PREFIX + "x")
    await catalog.check_unused("ssls", "2")


@pytest.mark.parametrize(
    ("used", "referrer", "value", "why"),
    [
        ("upstreams", "services", {"upstream_id": "1"}, "upstream, service"),
        ("upstreams", "stream_routes", {"upstream_id": 1}, "upstream, stream route"),
        ("services", "stream_routes", {"service_id": "1"}, "service, stream route"),
        ("ssls", "upstreams", tls(1), "ssl, upstream"),
        ("ssls", "services", {"upstream": tls("1")}, "ssl, service"),
        ("ssls", "stream_routes", {"upstream": tls("1")}, "ssl, stream route"),
        ("upstreams", "services", {"upstream_id": "10"}, ""),
        ("upstreams", "services", {"service_id": "1"}, ""),
        ("upstreams", "upstreams", {"upstream_id": "1"}, ""),
        ("ssls", "upstreams", {"tls": ["client_cert_id"]}, ""),
        ("stream_routes", "services", {"upstream_id": "1"}, ""),
    ],
)  # fmt: skip
async def test_what_is_in_use(
    store: Store, used: str, referrer: str, value: dict[str, Any], why: str
) -> None:
    await store.put(f"/apisix/{referrer}/", b"init_dir")
    await store.put(f"/apisix/{referrer}/a", encode({"id": "a"}))
    await store.put(f"/apisix/{referrer}/b", encode(value))
    await store.put(f"/elsewhere/{referrer}/c", encode({"upstream_id": "2", "service_id": "2"}))
    catalog = Catalog(store, "/apisix")
    if why:
        title, _, user = why.partition(", ")
        with pytest.raises(ObjectRefused) as caught:
            await catalog.check_unused(used, "1")
        assert str(caught.value) == (
            f"can not delete this {title}, {user} [b] is still using it now"
        )
    else:
        await catalog.check_unused(used, "1")
    await catalog.check_unused(used, "2")
    await catalog.check_unused(used, "None")  # not what an object without a reference has
