"""Waiting until every data plane has a write in force, and what the data planes say of themselves."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from admin.waiting import DataPlanes, Reached, read_wait
from sniproxy.errors import Compacted, ObjectRefused, StoreUnavailable
from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.store import Batch, Listing, Store
from tests.admin.gateway import NODES, Doubtful
from tests.admin.node_records import PREFIX, record, tell

pytestmark = pytest.mark.anyio

LONG = 10.0  # seconds: whoever waits so long has failed
SHORT = 0.3  # seconds: whoever waits for a straggler waits so long
UPSTREAM: dict[str, Any] = {"nodes": NODES}
GARBAGE = (b"", b"garbage", b"{}", b"[" * 100_000, b'{"id": "x", "revision": "far"}', b"\xff")


async def wait_for_all(store: Store, prefix: str, revision: int, seconds: float) -> Reached:
    data_planes = DataPlanes(store, prefix)
    async with data_planes.followed():
        return await data_planes.wait_for(revision, seconds)


def names(records: list[NodeRecord]) -> list[str]:
    return sorted(one.id for one in records)


# -- what a request may ask for


@pytest.mark.parametrize(
    ("wait", "timeout", "seconds"),
    [
        (None, None, None),
        (None, "nonsense", None),
        ("all", None, 5),
        ("all", "5s", 5),
        ("all", "5", 5),
        ("all", "2.5s", 2.5),
        ("all", "500ms", 0.5),
        ("all", "0.5ms", 0.0005),
        ("all", "1m", 60),
        ("all", "60s", 60),
        ("all", "60000ms", 60),
        ("all", "0060", 60),
    ],
)
def test_how_long_is_waited(wait: str | None, timeout: str | None, seconds: float | None) -> None:
    assert read_wait(wait, timeout, 60) == seconds


def test_the_default_is_no_longer_than_what_is_allowed() -> None:
    assert read_wait("all", None, 2) == 2


WRONG_WAITS = ["", "ALL", "any", "1", "true", "all ", "all,all"]
WRONG_TIMEOUTS = [
    *("", "0", "0s", "0ms", "0.0s", "-1", "-1s", "+1s", "60.001s", "61", "2m", "1h", "1e1", "inf", "nan"),
    *("5 s", " 5s", "5s ", "5s\n", "s", "ms", ".5s", "5.s", "1.2345s", "1_0", "0x5", "5S", "1234567ms"),
    *("٥", "५s", "5s5s", "9" * 5000),
]  # fmt: skip


@pytest.mark.parametrize("wait", WRONG_WAITS)
def test_what_cannot_be_waited_for(wait: str) -> None:
    with pytest.raises(ObjectRefused, match="argument wait"):
        read_wait(wait, None, 60)


@pytest.mark.parametrize("timeout", WRONG_TIMEOUTS)
def test_times_that_cannot_be_waited(timeout: str) -> None:
    with pytest.raises(ObjectRefused, match="argument timeout"):
        read_wait("all", timeout, 60)


# -- waiting


async def waited(
    store: Store, revision: int, seconds: float = LONG, *, then: Callable[[], Awaitable[object]]
) -> Reached:
    """What comes of waiting while `then` happens, a moment after it began."""
    found: list[Reached] = []

    async def wait() -> None:
        with anyio.fail_after(LONG - 1):  # it must not be the time that ends it
            found.append(await wait_for_all(store, PREFIX, revision, seconds))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.1)
        assert not found
        await then()
    return found[0]


async def test_all_have_it(store: Store) -> None:
    for node in ("a", "b"):
        await tell(store, node, 70)
    await tell(store, "c", 99)
    reached = await wait_for_all(store, PREFIX, 70, LONG)
    assert (reached.all, names(reached.applied), reached.stragglers) == (True, ["a", "b", "c"], [])


async def test_there_is_no_data_plane(store: Store) -> None:
    assert await wait_for_all(store, PREFIX, 70, LONG) == Reached(True, [], [])


async def test_one_is_behind_and_catches_up(store: Store) -> None:
    await tell(store, "a", 70)
    await tell(store, "b", 68)

    async def catch_up() -> None:
        await tell(store, "b", 69)  # not far enough
        await anyio.sleep(0.1)
        await tell(store, "b", 71)

    reached = await waited(store, 70, then=catch_up)
    assert (reached.all, names(reached.applied), reached.stragglers) == (True, ["a", "b"], [])


async def test_one_dies_while_it_is_waited_for(store: Store) -> None:
    await tell(store, "a", 70)
    await tell(store, "b", 68)
    reached = await waited(store, 70, then=lambda: store.delete(records_prefix(PREFIX) + "b"))
    assert (reached.all, names(reached.applied), reached.stragglers) == (True, ["a"], [])


async def test_one_appears_while_another_is_waited_for(store: Store) -> None:
    await tell(store, "a", 68)

    async def appear() -> None:
        await tell(store, "b", 60)
        await tell(store, "a", 70)
        await anyio.sleep(0.1)
        await tell(store, "b", 70)

    reached = await waited(store, 70, then=appear)
    assert (reached.all, names(reached.applied), reached.stragglers) == (True, ["a", "b"], [])


async def test_time_that_runs_out_names_who_is_behind(store: Store) -> None:
    await tell(store, "a", 70)
    await tell(store, "b", 69)
    await tell(store, "c", 0)
    data_planes = DataPlanes(store, PREFIX)
    async with data_planes.followed():
        assert (await data_planes.wait_for(0, LONG)).all  # so they are known
        reached = await data_planes.wait_for(70, SHORT)
    assert not reached.all
    assert names(reached.applied) == ["a"]
    assert reached.stragglers == [record("b", 69), record("c", 0)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_what_is_no_record_is_not_waited_for(store: Store, garbage: bytes) -> None:
    await tell(store, "a", 70)
    await store.put(records_prefix(PREFIX) + "odd", garbage)
    assert names((await wait_for_all(store, PREFIX, 70, LONG)).applied) == ["a"]
    assert names(await DataPlanes(store, PREFIX).list()) == ["a"]
    assert await DataPlanes(store, PREFIX).find("odd") is None


async def test_a_record_that_becomes_garbage_is_not_waited_for(store: Store) -> None:
    await tell(store, "a", 1)
    key = records_prefix(PREFIX) + "a"
    reached = await waited(store, 70, then=lambda: store.put(key, b"garbage"))
    assert reached == Reached(True, [], [])


async def test_data_planes_of_another_prefix_are_not_waited_for(store: Store) -> None:
    await store.put(records_prefix("/other") + "a", record("a", 1).encode())
    assert await wait_for_all(store, PREFIX, 70, LONG) == Reached(True, [], [])
    assert await DataPlanes(store, PREFIX).list() == []
    assert await DataPlanes(store, PREFIX).find("a") is None


class Lossy(Doubtful):
    """A store whose watches end so, and whose lists fail while it is away."""

    def __init__(self, real: Store, *ends: Exception) -> None:
        super().__init__(real)
        self.ends = list(ends)
        self.away = 0  # lists that fail

    async def list(self, prefix: str) -> Listing:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        return await super().list(prefix)

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        if self.ends:
            return self._ending(self.ends.pop(0))
        return super().watch(prefix, after=after)

    @asynccontextmanager
    async def _ending(self, end: Exception) -> AsyncIterator[AsyncIterator[Batch]]:
        yield _that_end(end)


async def _that_end(end: Exception) -> AsyncIterator[Batch]:
    for one in (end,):
        raise one
    yield Batch(0, ())


async def test_a_store_that_is_lost_while_waiting_is_asked_again(store: Store) -> None:
    await tell(store, "a", 1)
    lossy = Lossy(store, StoreUnavailable("lost"), Compacted(7))
    lossy.away = 2

    async def be_back() -> None:
        while lossy.ends or lossy.away:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await tell(store, "a", 70)

    reached = await waited(lossy, 70, then=be_back)
    assert (reached.all, names(reached.applied)) == (True, ["a"])
    assert (lossy.ends, lossy.away) == ([], 0)


async def test_a_store_that_stays_away_is_not_everywhere_in_force(store: Store) -> None:
    lossy = Lossy(store)
    lossy.away = 10**6
    assert await wait_for_all(lossy, PREFIX, 70, SHORT) == Reached(False, [], [])


async def test_what_was_known_before_the_store_was_lost_is_told(store: Store) -> None:
    await tell(store, "a", 70)
    await tell(store, "b", 1)

    class Once(Lossy):
        async def list(self, prefix: str) -> Listing:
            listing = await super().list(prefix)
            self.away = 10**6
            return listing

    # Long enough for the list to come.
    reached = await wait_for_all(Once(store, StoreUnavailable("lost")), PREFIX, 70, 2)
    assert (reached.all, names(reached.applied), names(reached.stragglers)) == (False, ["a"], ["b"])


async def test_a_record_that_comes_while_the_store_is_asked_for_the_first_one(store: Store) -> None:
    """The watch tells of it before the list has come back, and of nothing more for a while."""

    class Late(Doubtful):
        lists = 0

        async def list(self, prefix: str) -> Listing:
            listing = await super().list(prefix)
            self.lists += 1
            if self.lists == 2:  # not that of `followed`, but of who waits
                await tell(store, "a", 70)
                listing = await super().list(prefix)
                await anyio.sleep(SHORT)
            return listing

    with anyio.fail_after(LONG - 1):  # it must not be the time that ends it
        reached = await wait_for_all(Late(store), PREFIX, 70, LONG)
    assert (reached.all, names(reached.applied)) == (True, ["a"])


async def test_a_store_that_is_away_for_long_is_not_asked_ever_faster(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 8:
            enough.cancel()
        await real(0)

    real = anyio.sleep
    monkeypatch.setattr("admin.waiting.anyio.sleep", sleep)
    lossy = Lossy(store)
    lossy.away = 10**6
    with anyio.CancelScope() as enough:
        await wait_for_all(lossy, PREFIX, 70, LONG)
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


async def test_time_that_runs_out_while_the_watch_is_closed_changes_nothing(store: Store) -> None:
    class Slow(Doubtful):
        @asynccontextmanager
        async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
            async with self.real.watch(prefix, after=after) as batches:
                yield batches
                await anyio.sleep(LONG)

    await tell(store, "a", 1)
    reached = await waited(Slow(store), 70, 3, then=lambda: tell(store, "a", 70))
    assert (reached.all, names(reached.applied)) == (True, ["a"])
