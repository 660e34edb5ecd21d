"""What was written since a list: on SQLite, on every etcd found, on asyncio and on trio."""

import pytest

from sniproxy.errors import Compacted
from sniproxy.store.etcd import PAGE
from tests.support.stores import Source

pytestmark = pytest.mark.anyio


async def test_what_was_written_since_a_list(source: Source) -> None:
    store, writer = source.open(), source.open()
    for name in ("a", "b", "c"):
        await writer.put(source.prefix + name, b"1")
    listing = await store.list(source.prefix)
    nothing = await store.changes(source.prefix, after=listing.revision)
    assert (nothing.entries, nothing.count) == ((), 3)
    assert nothing.revision >= listing.revision
    await writer.put(source.prefix + "d", b"new")
    await writer.delete(source.prefix + "a")
    await writer.put(source.prefix + "b", b"2")
    await writer.put("/elsewhere/x", b"3")
    changes = await store.changes(source.prefix, after=listing.revision)
    assert [(one.key, one.value) for one in changes.entries] == [
        (source.prefix + "b", b"2"),
        (source.prefix + "d", b"new"),
    ]
    assert changes.count == 3
    after = await store.changes(source.prefix, after=changes.revision)
    assert (after.entries, after.count) == ((), 3)
    again = await store.changes(source.prefix, after=changes.entries[0].mod_revision - 1)
    assert again.entries == changes.entries[:1]


async def test_what_has_outlived_its_time_does_not_count(source: Source) -> None:
    store = source.open()
    await store.list(source.prefix)
    await store.put(source.prefix + "a", b"1")
    before = await store.put(source.prefix + "b", b"1", ttl=1)
    source.pass_time(5)
    await told_gone(source)
    changes = await store.changes(source.prefix, after=before)
    assert (changes.entries, changes.count) == ((), 1)


async def told_gone(source: Source) -> None:
    """Waits until `b` is gone, as the store says by itself."""
    store = source.open()
    listing = await store.list(source.prefix)
    if len(listing.entries) > 1:
        async with store.watch(source.prefix, after=listing.revision) as batches:
            async for batch in batches:
                if batch.events:
                    return


async def test_more_than_one_page(source: Source) -> None:
    store = source.open()
    before = (await store.list(source.prefix)).revision
    for number in range(PAGE + 5):
        await store.put(f"{source.prefix}{number:05d}", b"x")
    changes = await store.changes(source.prefix, after=before)
    assert (len(changes.entries), changes.count) == (PAGE + 5, PAGE + 5)
    assert [one.key for one in changes.entries] == sorted(one.key for one in changes.entries)


async def test_a_revision_from_the_future_is_another_history(source: Source) -> None:
    store = source.open()
    listing = await store.list(source.prefix)
    with pytest.raises(Compacted):
        await store.changes(source.prefix, after=listing.revision + 1000)
