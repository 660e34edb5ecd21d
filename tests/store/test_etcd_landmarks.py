"""An etcd restored from a backup that nothing in its headers gives away: it is known by what is not there any more."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sniproxy.errors import Compacted
from sniproxy.store import Deleted, Entry, Event
from sniproxy.store.etcd import MAX_LANDMARKS, EtcdStore
from sniproxy.store.etcd_history import Landmarks
from tests.support.etcd import EtcdServer
from tests.support.etcd_store import opened
from tests.support.stores import sign_of_life, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what differs between them is tested elsewhere, and each test starts etcd again and again."""
    return "trio"


Write = Callable[[EtcdStore], Awaitable[object]]


def put(key: str, revision: int, created: int | None = None) -> Entry:
    return Entry(key, b"", created or revision, revision)


LISTED = [put("a", 5), put("b", 9), put("c", 7, created=2)]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], Landmarks(3, ("b", 9), None)),
        ([put("d", 11)], Landmarks(4, ("d", 11), None)),
        ([put("a", 11, created=5)], Landmarks(3, ("a", 11), None)),
        ([Deleted("a", 11)], Landmarks(2, ("b", 9), "a")),
        ([Deleted("b", 11)], Landmarks(2, None, "b")),
        ([Deleted("b", 11), put("a", 12, created=5)], Landmarks(2, ("a", 12), "b")),
        ([Deleted("b", 11), put("b", 12)], Landmarks(3, ("b", 12), None)),
        ([put("d", 11), Deleted("d", 12)], Landmarks(3, None, "d")),
    ],
)
def test_what_is_known_after_some_events(events: list[Event], expected: Landmarks) -> None:
    assert Landmarks.of(LISTED).after(events) == expected


def test_an_empty_store_has_none_but_that() -> None:
    assert Landmarks.of([]) == Landmarks(0)
    assert Landmarks.of([]).after([put("a", 3), Deleted("a", 4)]) == Landmarks(0, None, "a")


LOST: dict[str, list[Write]] = {
    "replaced": [lambda store: store.put("/old", b"lost")],
    "new": [lambda store: store.put("/new", b"lost")],
    "deleted": [lambda store: store.delete("/old")],
    "new_and_deleted": [lambda store: store.put("/new", b"lost"), lambda store: store.delete("/old")],
    "replaced_and_deleted": [
        lambda store: store.put("/old", b"lost"),
        lambda store: store.delete("/other"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_restored_etcd_whose_term_is_higher_than_ours(
    etcd: EtcdServer, tmp_path: Path, lost: list[Write], watched: bool
) -> None:
    data, backup = tmp_path / "etcd" / "data", tmp_path / "backup"
    async with opened(etcd.url) as store:
        for key in ("/old", "/other", "/third"):
            await store.put(key, b"v")
        etcd.stop()
        shutil.copytree(data, backup)
        etcd.start()
        after = (await store.list("/")).revision
        if watched:
            async with store.watch("/", after=after) as watch:
                for write in lost:
                    await write(store)
                after = (await take(watch, len(lost)))[-1].mod_revision
        else:
            for write in lost:
                await write(store)
            after = (await store.list("/")).revision
        etcd.stop()
        shutil.rmtree(data)
        shutil.move(backup, data)
        for _ in range(2):  # each start is an election, and a term
            etcd.start()
            etcd.stop()
        etcd.start()
        newest = 0
        while newest <= after:
            newest = await store.put("/third", b"others")
        with pytest.raises(Compacted):
            async with store.watch("/", after=after):
                pass
        listing = await store.list("/")
        assert [entry.key for entry in listing.entries] == ["/old", "/other", "/third"]
        async with store.watch("/", after=listing.revision) as watch:
            await sign_of_life(watch)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_one_that_was_only_away_is_the_same(etcd: EtcdServer, lost: list[Write]) -> None:
    async with opened(etcd.url) as store:
        for key in ("/old", "/other", "/third"):
            await store.put(key, b"v")
        after = (await store.list("/")).revision
        async with store.watch("/", after=after) as watch:
            for write in lost:
                await write(store)
            after = (await take(watch, len(lost)))[-1].mod_revision
        etcd.kill()
        etcd.start()
        written = await store.put("/third", b"later")
        async with store.watch("/", after=after) as watch:
            (event,) = await take(watch, 1)
            assert (event.key, event.mod_revision) == ("/third", written)


async def test_so_many_places_are_remembered_and_no_more(etcd: EtcdServer) -> None:
    async with opened(etcd.url) as store:
        for number in range(MAX_LANDMARKS + 5):
            await store.list(f"/{number}/")
        assert len(store._landmarks) == MAX_LANDMARKS
        assert ("/4/", 1) not in store._landmarks
