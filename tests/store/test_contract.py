"""What every store promises: run on SQLite, on every etcd found, on asyncio and on trio."""

import anyio
import anyio.abc
import pytest

from sniproxy.errors import Compacted, Conflict, StoreUnavailable
from sniproxy.store import KEEP, Deleted, Entry, Store
from tests.support.stores import PATIENCE, Source, next_batch, take, told

pytestmark = pytest.mark.anyio


async def revision_now(store: Store, source: Source) -> int:
    return (await store.list(source.prefix)).revision


# -- reading and writing


async def test_a_key_that_is_not_there(source: Source) -> None:
    store = source.open()
    assert await store.get(source.prefix + "none") is None
    assert (await store.list(source.prefix)).entries == ()
    assert await store.delete(source.prefix + "none") is None


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"plain", bytes(range(256)), b"x" * 300_000], ids=len
)
async def test_a_value_comes_back_as_it_went_in(source: Source, value: bytes) -> None:
    store = source.open()
    key = source.prefix + "1"
    revision = await store.put(key, value)
    entry = Entry(key, value, revision, revision)
    assert await store.get(key) == entry
    listing = await store.list(source.prefix)
    assert listing.entries == (entry,)
    assert listing.revision >= revision


@pytest.mark.parametrize(
    "name", ["ключ", "a b", "%2F", "'\"\\", "日本/語", "\U0001f3ae", "b\udcff"]
)
async def test_keys_of_any_characters(source: Source, name: str) -> None:
    store = source.open()
    key = source.prefix + name
    await store.put(key, b"v")
    assert [e.key for e in (await store.list(source.prefix)).entries] == [key]
    found = await store.get(key)
    assert found is not None
    assert found.key == key


async def test_a_list_is_exactly_the_prefix_in_key_order(source: Source) -> None:
    store = source.open()
    for name in ("a/10", "a/2", "a/1", "b/1", "a", "a0", "a/", "a/\u00ff", "a/\U0001f3ae"):
        await store.put(source.prefix + name, name.encode())

    async def names(prefix: str) -> list[str]:
        entries = (await store.list(source.prefix + prefix)).entries
        return [e.key.removeprefix(source.prefix) for e in entries]

    assert await names("a/") == ["a/", "a/1", "a/10", "a/2", "a/\u00ff", "a/\U0001f3ae"]
    assert await names("a/1") == ["a/1", "a/10"]
    assert await names("b") == ["b/1"]
    assert await names("c") == []


async def test_the_empty_prefix_lists_everything(source: Source) -> None:
    store = source.open()
    await store.put(source.prefix + "1", b"v")
    assert source.prefix + "1" in [e.key for e in (await store.list("")).entries]


async def test_revisions_increase_over_all_keys_and_stores(source: Source) -> None:
    one, two = source.open(), source.open()
    start = await revision_now(one, source)
    revisions = [
        await one.put(source.prefix + "1", b"a"),
        await two.put(source.prefix + "2", b"b"),
        await one.put(source.prefix + "1", b"a"),
        await two.delete(source.prefix + "2") or 0,
        await one.put(source.prefix + "2", b"c"),
    ]
    assert [start, *revisions] == sorted({start, *revisions})
    assert await revision_now(two, source) >= revisions[-1]


async def test_create_revision_stays_until_the_key_is_deleted(source: Source) -> None:
    store = source.open()
    key = source.prefix + "1"
    first = await store.put(key, b"a")
    second = await store.put(key, b"b")
    assert await store.get(key) == Entry(key, b"b", first, second)
    await store.delete(key)
    third = await store.put(key, b"c")
    assert await store.get(key) == Entry(key, b"c", third, third)


# -- compare and write


async def test_put_that_expects(source: Source) -> None:
    store = source.open()
    key = source.prefix + "1"
    with pytest.raises(Conflict, match="1"):
        await store.put(key, b"never", expect=7)
    first = await store.put(key, b"a", expect=0)
    with pytest.raises(Conflict):
        await store.put(key, b"never", expect=0)
    second = await store.put(key, b"b", expect=first)
    with pytest.raises(Conflict):
        await store.put(key, b"never", expect=first)
    assert await store.get(key) == Entry(key, b"b", first, second)
    assert await revision_now(store, source) == second


async def test_delete_that_expects(source: Source) -> None:
    store = source.open()
    key = source.prefix + "1"
    assert await store.delete(key, expect=0) is None
    with pytest.raises(Conflict):
        await store.delete(key, expect=7)
    first = await store.put(key, b"a")
    for wrong in (0, first + 1):
        with pytest.raises(Conflict):
            await store.delete(key, expect=wrong)
    assert await store.get(key) == Entry(key, b"a", first, first)
    second = await store.delete(key, expect=first)
    assert second is not None
    assert second > first
    assert await store.get(key) is None


async def test_one_of_many_that_compare_wins(source: Source) -> None:
    key = source.prefix + "1"
    won: list[str] = []

    async def compete(name: str) -> None:
        try:
            await source.open().put(key, name.encode(), expect=0)
        except Conflict:
            return
        won.append(name)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(compete, f"w{number}")
    entry = await source.open().get(key)
    assert entry is not None
    assert won == [entry.value.decode()]


# -- time to live


async def test_a_key_ends_with_its_time(source: Source) -> None:
    store, key = source.open(), source.prefix + "1"
    written = await store.put(key, b"v", ttl=1)
    assert await store.get(key) is not None
    async with store.watch(source.prefix, after=written) as watch:
        source.pass_time(1.1)
        (event,) = await take(watch, 1)
    assert isinstance(event, Deleted)
    assert event.key == key
    assert event.mod_revision > written
    assert await store.get(key) is None
    assert await revision_now(store, source) >= event.mod_revision


async def test_a_later_put_sets_the_time_anew(source: Source) -> None:
    store, witness = source.open(), source.prefix + "witness"
    kept = []
    for again in (None, 60):
        key = f"{source.prefix}{again}"
        await store.put(key, b"a", ttl=1)
        kept.append((key, await store.put(key, b"b", ttl=again)))
    written = await store.put(witness, b"w", ttl=1)
    async with store.watch(source.prefix, after=written) as watch:
        source.pass_time(1.1)
        # the witness's time began later than the first ones of the keys
        assert told(await take(watch, 1)) == [(witness, None)]
    entries = (await store.list(source.prefix)).entries
    assert sorted((e.key, e.mod_revision) for e in entries) == sorted(kept)


async def test_a_put_may_leave_the_time_as_it_is(source: Source) -> None:
    store = source.open()
    short, long, none = (source.prefix + name for name in ("short", "long", "none"))
    await store.put(long, b"a", ttl=60)
    first = await store.put(none, b"a")
    revision = await store.put(short, b"a", ttl=3)
    for key, expect in ((short, revision), (long, None), (none, first)):
        last = await store.put(key, b"b", expect=expect, ttl=KEEP)
    async with store.watch(source.prefix, after=last) as watch:
        source.pass_time(3.1)
        assert told(await take(watch, 1)) == [(short, None)]
    assert [one.key for one in (await store.list(source.prefix)).entries] == sorted([long, none])


async def test_a_key_with_a_time_can_be_expected(source: Source) -> None:
    store, key = source.open(), source.prefix + "1"
    first = await store.put(key, b"a", expect=0, ttl=60)
    with pytest.raises(Conflict):
        await store.put(key, b"never", expect=0, ttl=60)
    await store.put(key, b"b", expect=first, ttl=60)
    entry = await store.get(key)
    assert entry is not None
    assert entry.value == b"b"


@pytest.mark.parametrize("ttl", [0, -1])
async def test_a_time_of_nothing_is_a_mistake(source: Source, ttl: int) -> None:
    with pytest.raises(ValueError, match="at least 1 second"):
        await source.open().put(source.prefix + "1", b"v", ttl=ttl)


# -- watch


async def test_watch_replays_what_was_and_goes_on(source: Source) -> None:
    store, key = source.open(), source.prefix + "1"
    start = await revision_now(store, source)
    first = await store.put(key, b"a")
    second = await store.put(key, b"b")
    third = await store.delete(key)
    assert third is not None
    past = [Entry(key, b"a", first, first), Entry(key, b"b", first, second), Deleted(key, third)]
    async with store.watch(source.prefix, after=start) as watch:
        assert await take(watch, 3) == past
        fourth = await store.put(key, b"")
        assert await take(watch, 1) == [Entry(key, b"", fourth, fourth)]
    async with store.watch(source.prefix, after=first) as watch:
        assert (await take(watch, 3))[:2] == past[1:]


async def test_watch_sees_its_prefix_only(source: Source) -> None:
    store = source.open()
    start = await revision_now(store, source)
    async with store.watch(source.prefix + "a/1", after=start) as watch:
        for name in ("a/0", "a/1", "a/2", "b", "a/10", "a", "a/1/x"):
            await store.put(source.prefix + name, b"v")
        await store.delete(source.prefix + "a/2")
        await store.delete(source.prefix + "a/1")
        names = ["a/1", "a/10", "a/1/x", "a/1"]
        assert [e.key for e in await take(watch, 4)] == [source.prefix + n for n in names]


async def write_many(store: Store, prefix: str, count: int) -> None:
    for number in range(count):
        await store.put(f"{prefix}{number}", b"v")


async def test_watch_is_in_order_under_concurrent_writers(source: Source) -> None:
    start = await revision_now(source.open(), source)
    async with (
        source.open().watch(source.prefix, after=start) as watch,
        anyio.create_task_group() as tasks,
    ):
        for writer in "abcd":
            tasks.start_soon(write_many, source.open(), f"{source.prefix}{writer}", 25)
        events = await take(watch, 100)
    assert sorted(e.key for e in events) == sorted(
        f"{source.prefix}{w}{n}" for w in "abcd" for n in range(25)
    )
    for writer in "abcd":
        keys = [e.key for e in events if e.key.startswith(source.prefix + writer)]
        assert keys == [f"{source.prefix}{writer}{n}" for n in range(25)]


async def test_nothing_is_missed_or_repeated_between_list_and_watch(source: Source) -> None:
    store = source.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_many, source.open(), source.prefix, 60)
        for _ in range(3):
            listing = await store.list(source.prefix)
            async with store.watch(source.prefix, after=listing.revision) as watch:
                seen = {e.key for e in listing.entries}
                events = await take(watch, 60 - len(seen)) if len(seen) < 60 else []
            assert not seen & {e.key for e in events}
            assert len(seen) + len(events) == 60


async def test_two_watches_see_the_same(source: Source) -> None:
    store = source.open()
    start = await revision_now(store, source)
    async with (
        store.watch(source.prefix, after=start) as one,
        source.open().watch(source.prefix, after=start) as two,
    ):
        await write_many(store, source.prefix, 5)
        assert await take(one, 5) == await take(two, 5)


async def test_a_cancelled_watch_goes_on_where_it_was(source: Source) -> None:
    store = source.open()
    start = await revision_now(store, source)
    async with store.watch(source.prefix, after=start) as watch:
        for number in range(3):
            with anyio.move_on_after(0.05) as waiting:  # there is nothing to hear
                await next_batch(watch)
            assert waiting.cancelled_caught
            await store.put(f"{source.prefix}{number}", b"v")
            assert told(await take(watch, 1)) == [(f"{source.prefix}{number}", b"v")]


async def test_a_watch_can_be_left_while_it_waits(source: Source) -> None:
    store = source.open()
    start = await revision_now(store, source)

    async def follow(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with store.watch(source.prefix, after=start) as watch:
            await next_batch(watch)
            task_status.started()
            await next_batch(watch)

    await store.put(source.prefix + "1", b"v")
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(follow)
            tasks.cancel_scope.cancel()
    assert await store.get(source.prefix + "1") is not None


async def test_history_that_is_gone_is_told_apart(source: Source) -> None:
    store = source.open()
    old = await store.put(source.prefix + "1", b"a")
    await source.compact()
    with pytest.raises(
        Compacted
    ) as caught:  # by SQLite when the watch begins, by etcd in its first answer
        async with store.watch(source.prefix, after=old) as watch:
            await next_batch(watch)
    assert caught.value.revision > old
    listing = await store.list(source.prefix)
    async with store.watch(source.prefix, after=listing.revision) as watch:
        await store.put(source.prefix + "2", b"b")
        assert told(await take(watch, 1)) == [(source.prefix + "2", b"b")]


async def test_a_revision_from_the_future_is_another_history(source: Source) -> None:
    store = source.open()
    now = await store.put(source.prefix + "1", b"a")
    with pytest.raises(Compacted) as caught:
        async with store.watch(source.prefix, after=now + 1000):
            pass
    assert now <= caught.value.revision < now + 1000


async def test_a_watch_from_the_newest_revision_is_not_from_the_future(source: Source) -> None:
    store = source.open()
    now = await store.put(source.prefix + "1", b"a")
    async with store.watch(source.prefix, after=now) as watch:
        await store.put(source.prefix + "2", b"b")
        assert told(await take(watch, 1)) == [(source.prefix + "2", b"b")]


async def test_a_closed_store_says_so(source: Source) -> None:
    store = source.open()
    await store.put(source.prefix + "1", b"v")
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(source.prefix + "1")
    with pytest.raises(StoreUnavailable, match="closed"):
        async with store.watch(source.prefix, after=0) as watch:
            await next_batch(watch)
