"""The reading side of a local copy: what is missing, or not whole yet, is never taken for an empty configuration."""

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import Batch, Entry, Listing
from sniproxy.store.mirror import Copy, Mirror, Origin
from sniproxy.store.sqlite import SqliteStore
from tests.support.stores import next_batch, take

pytestmark = pytest.mark.anyio

ORIGIN = Origin("/apisix", frozenset({"http://a:2379"}))
A, B = (Entry(f"/apisix/{name}", b"v", at, at) for name, at in (("a", 70), ("b", 71)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mirror.db"


@pytest.fixture
def mirror(path: Path) -> Iterator[Mirror]:
    mirror = Mirror(path, ORIGIN)
    yield mirror
    mirror.close()


@pytest.fixture
async def copy(path: Path) -> AsyncIterator[Copy]:
    copy = Copy(path, poll=0.01)
    yield copy
    await copy.aclose()


async def nothing(path: Path) -> None:
    """Not even a directory."""


async def empty_folder(path: Path) -> None:
    path.parent.mkdir()


async def empty_file(path: Path) -> None:
    await empty_folder(path)
    await anyio.Path(path).touch()


async def a_store(path: Path) -> None:
    store = SqliteStore(path)
    await store.put("/apisix/a", b"v")
    await store.aclose()


async def no_list_yet(path: Path) -> None:
    mirror = Mirror(path, ORIGIN)
    with pytest.raises(StoreUnavailable):
        mirror.apply(Batch(9, (A,)), 0)  # makes the tables
    mirror.close()


@pytest.mark.parametrize("make", [nothing, empty_folder, empty_file, a_store, no_list_yet])
async def test_what_is_no_whole_copy_is_not_read(
    copy: Copy, path: Path, make: Callable[[Path], Awaitable[None]]
) -> None:
    await make(path)
    before = sorted(path.parent.parent.rglob("*"))
    with pytest.raises(StoreUnavailable, match="store file"):
        await copy.list("/apisix/")
    with pytest.raises(StoreUnavailable, match="store file"):
        await copy.get("/apisix/a")
    with pytest.raises(StoreUnavailable, match="store file"):
        async with copy.watch("/apisix/", after=0):
            pass
    assert [one for one in sorted(path.parent.parent.rglob("*")) if one not in before] == []


async def test_once_it_is_whole_it_is_read(copy: Copy, mirror: Mirror) -> None:
    with pytest.raises(StoreUnavailable):
        await copy.list("/apisix/")
    mirror.take_over(Listing((A,), 70), 0)
    assert await copy.list("/apisix/") == Listing((A,), 70)


async def test_a_file_that_was_removed_is_made_again_by_its_writer_alone(
    copy: Copy, mirror: Mirror, path: Path
) -> None:
    mirror.take_over(Listing((A,), 70), 0)
    assert await copy.list("/apisix/") == Listing((A,), 70)
    async with copy.watch("/apisix/", after=70) as watch:
        for file in path.parent.glob("mirror.db*"):
            if not file.is_dir() and not file.name.endswith(".lock"):
                file.unlink()
        with pytest.raises(StoreUnavailable, match="replaced or removed"):
            await next_batch(watch)
    with pytest.raises(StoreUnavailable):
        await copy.list("/apisix/")
    assert not await anyio.Path(path).exists()
    with pytest.raises(StoreUnavailable, match="no list"):  # and not into the file without a name
        mirror.apply(Batch(71, (B,)), 0)
    with pytest.raises(StoreUnavailable, match="no full list"):
        await copy.list("/apisix/")
    mirror.take_over(Listing((A, B), 71), 0)
    with pytest.raises(Compacted):  # another lineage
        async with copy.watch("/apisix/", after=70):
            pass
    assert await copy.list("/apisix/") == Listing((A, B), 71)
    assert stat.S_IMODE((await anyio.Path(path).stat()).st_mode) == 0o600


async def test_a_copy_that_moves_is_followed_to_where_it_is(
    copy: Copy, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.take_over(Listing((A,), 70), 0)
    await copy.list("/apisix/")
    other = Mirror(tmp_path / "memory" / "mirror.db", ORIGIN)
    async with copy.watch("/apisix/", after=70) as watch:
        other.take_over(Listing((A, B), 71), 0)
        copy.move(other.path)
        with pytest.raises(StoreUnavailable):
            await next_batch(watch)
    with pytest.raises(Compacted):
        async with copy.watch("/apisix/", after=70):
            pass
    assert await copy.list("/apisix/") == Listing((A, B), 71)
    async with copy.watch("/apisix/", after=71) as watch:
        await anyio.to_thread.run_sync(
            other.apply, Batch(72, (Entry("/apisix/c", b"", 72, 72),)), 0
        )
        assert [one.key for one in await take(watch, 1)] == ["/apisix/c"]
    other.close()
