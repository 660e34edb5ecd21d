"""A SQLite file that is the copy of another store: its lineage, and revisions of many rows."""

import sqlite3
from pathlib import Path

import pytest

from sniproxy.errors import Compacted
from sniproxy.store.sqlite import BATCH_ROWS
from tests.support.stores import next_batch, take, told
from tests.support.stores import opened_sqlite as opened

pytestmark = pytest.mark.anyio


def rewrite(path: Path, *statements: str) -> None:
    """What a process does that keeps the file as a copy."""
    other = sqlite3.connect(path)
    with other:
        for statement in statements:
            other.execute(statement)
    other.close()


LINEAGE = "INSERT OR REPLACE INTO meta VALUES ('lineage', 1)"


async def test_another_lineage_is_another_history(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"v")
        async with store.watch("/", after=0) as watch:
            await take(watch, 1)
            rewrite(path, LINEAGE)
            with pytest.raises(Compacted):
                await next_batch(watch)
        with pytest.raises(Compacted):  # whoever begins anew is told too, until there was a list
            async with store.watch("/", after=1):
                pass
        assert (await store.list("/")).revision == 1
        async with store.watch("/", after=1) as watch:
            await store.put("/2", b"w")
            assert told(await take(watch, 1)) == [("/2", b"w")]


async def test_a_list_of_one_hides_no_lineage_from_the_watch_of_another(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"v")
        async with store.watch("/", after=0) as watch:
            await take(watch, 1)
            rewrite(path, LINEAGE)
            await store.list("/elsewhere/")
            with pytest.raises(Compacted):
                await next_batch(watch)


async def test_a_lineage_there_from_the_start_is_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"v")
    rewrite(path, LINEAGE)
    async with opened(path) as store, store.watch("/", after=0) as watch:
        assert told(await take(watch, 1)) == [("/1", b"v")]


async def test_a_revision_of_many_rows_is_not_split(tmp_path: Path) -> None:
    path, crowd = tmp_path / "config.db", 2 * BATCH_ROWS
    async with opened(path) as store:
        await store.list("/")
        rewrite(
            path,
            "DROP TABLE history",
            "CREATE TABLE history (revision INTEGER, key BLOB, value BLOB, create_revision INTEGER,"
            " PRIMARY KEY (revision, key)) WITHOUT ROWID",
        )
        filler = sqlite3.connect(path)
        with filler:
            # the batch would be full in the midst of revision 2
            rows = [(1, b"/a", b"v", 1), *((2, b"/%04d" % n, None, 1) for n in range(crowd))]
            rows += [(3, b"/b", b"v", 3), (3, b"/a", None, 1)]
            filler.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", rows)
            filler.execute("UPDATE meta SET value = 3 WHERE name = 'revision'")
        filler.close()
        async with store.watch("/", after=0) as watch:
            batches = [await next_batch(watch) for _ in range(2)]
    assert [(b.revision, len(b.events)) for b in batches] == [(2, 1 + crowd), (3, 2)]
    assert [e.key for e in batches[1].events] == ["/a", "/b"]


async def test_a_long_history_comes_in_bounded_batches(tmp_path: Path) -> None:
    path, total = tmp_path / "config.db", 2 * BATCH_ROWS + 1
    async with opened(path) as store:
        await store.list("/")
        filler = sqlite3.connect(path)
        with filler:
            rows = [(n, b"/%d" % n, b"v", n) for n in range(1, total + 1)]
            filler.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", rows)
            filler.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (total,))
        filler.close()
        async with store.watch("/", after=0) as watch:
            sizes = [len((await next_batch(watch)).events) for _ in range(3)]
    assert sizes == [BATCH_ROWS, BATCH_ROWS, 1]
