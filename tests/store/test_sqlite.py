"""What only the SQLite store promises: one file, many processes, and what can go wrong with files."""

import itertools
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import sqlite_file
from sniproxy.store.sqlite import SqliteStore
from sniproxy.store.sqlite_rows import next_expiry
from tests.support.stores import PATIENCE, Clock, next_batch, take, told
from tests.support.stores import opened_sqlite as opened

pytestmark = pytest.mark.anyio

# writes `count` keys under a prefix and prints the revision of each once it is acknowledged
WRITER = """
import sys
from pathlib import Path
import anyio
from sniproxy.store.sqlite import SqliteStore

async def main(path, prefix, count):
    store = SqliteStore(Path(path))
    for number in range(int(count)):
        print(await store.put(f"{prefix}{number}", b"v" * 100), flush=True)
    await store.aclose()

anyio.run(main, *sys.argv[1:])
"""


def start_writer(path: Path, prefix: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), prefix, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def finish(writer: subprocess.Popen[str]) -> list[int]:
    """The revisions that it acknowledged."""
    output, _ = writer.communicate(timeout=PATIENCE)
    return [int(line) for line in output.splitlines()]


# -- several processes


async def test_processes_share_a_file_that_none_of_them_had(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.db"
    writers = [start_writer(path, f"/{name}/", 20) for name in "abcd"]
    acknowledged = [await anyio.to_thread.run_sync(finish, writer) for writer in writers]
    assert sorted(itertools.chain(*acknowledged)) == list(range(1, 81))
    async with opened(path) as store:
        listing = await store.list("/")
        assert len(listing.entries) == 80
        assert listing.revision == 80


async def test_a_watch_follows_another_process(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store, store.watch("/w/", after=0) as watch:
        writer = start_writer(path, "/w/", 30)
        events = await take(watch, 30)
        revisions = await anyio.to_thread.run_sync(finish, writer)
    assert [e.mod_revision for e in events] == revisions


async def test_what_was_acknowledged_outlives_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    writer = start_writer(path, "/k/", 1_000_000)

    def read_then_kill() -> list[int]:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines(keepends=True)
        writer.stdout.close()
        writer.wait()
        return [int(line) for line in lines + rest if line.endswith("\n")]

    acknowledged = await anyio.to_thread.run_sync(read_then_kill)
    assert len(acknowledged) >= 200
    async with opened(path) as store:
        listing = await store.list("/k/")
        assert set(acknowledged) <= {e.mod_revision for e in listing.entries}
        # at most the write under way when it was killed is there beside them
        assert len(acknowledged) <= len(listing.entries) <= len(acknowledged) + 1
        async with store.watch("/k/", after=0) as watch:
            events = await take(watch, len(listing.entries))
        assert [e.key for e in events] == [f"/k/{n}" for n in range(len(events))]


# -- the file


async def test_the_file_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "config.db"
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await store.put("/1", b"v")
            modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("config.db", "config.db-wal", "config.db-shm"), 384)
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_nothing_is_opened_before_the_first_call(tmp_path: Path) -> None:
    async with opened(tmp_path / "config.db"):
        assert os.listdir(tmp_path) == []


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE meta (name TEXT, value TEXT)")
    other.close()
    before = path.read_bytes()
    async with opened(path) as store:
        with pytest.raises(StoreUnavailable, match=r"other\.db.*another program.*another file"):
            await store.put("/1", b"v")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("content", [b"listeners: []\n" * 100, b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    async with opened(path) as store:
        with pytest.raises(StoreUnavailable, match=r"notes\.txt.*not a database.*move it away"):
            await store.list("/")
        with pytest.raises(StoreUnavailable, match=r"notes\.txt.*not a database"):
            async with store.watch("/", after=0):
                pass
    assert path.read_bytes() == content


async def test_a_schema_of_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"v")
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
    other.close()
    async with opened(path) as store:
        with pytest.raises(StoreUnavailable, match=r"config\.db: schema version 99"):
            await store.get("/1")


@pytest.mark.parametrize("name", ["file/config.db", "folder"])
async def test_a_place_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    async with opened(tmp_path / name) as store:
        with pytest.raises(StoreUnavailable, match=f"{name}.*let this user"):
            await store.get("/1")


async def test_a_full_disk_writes_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.db"
    connections: list[sqlite3.Connection] = []
    connect = sqlite_file.connect

    def remember(path: Path, busy: float) -> sqlite3.Connection:
        connections.append(connect(path, busy))
        return connections[-1]

    monkeypatch.setattr(sqlite_file, "connect", remember)
    async with opened(path) as store:
        first = await store.put("/1", b"v")
        connections[0].execute("PRAGMA max_page_count = 10")
        with pytest.raises(StoreUnavailable, match=r"config\.db.*full.*free space"):
            await store.put("/2", b"v" * 100_000)
        assert await store.get("/2") is None
        assert (await store.list("/")).revision == first
        connections[0].execute("PRAGMA max_page_count = 1000000")
        await store.put("/2", b"v" * 100_000)
        async with store.watch("/", after=0) as watch:
            assert [e.key for e in await take(watch, 2)] == ["/1", "/2"]


async def test_a_file_that_may_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"v")
        # root may write any file, so the kernel cannot say no here; SQLite can

        def read_only(path: Path, busy: float) -> sqlite3.Connection:
            uri = f"file:{path}?mode=ro"
            return sqlite3.connect(
                uri, busy, uri=True, isolation_level=None, check_same_thread=False
            )

        monkeypatch.setattr(sqlite_file, "connect", read_only)
        async with opened(path) as reader:
            assert await reader.get("/1") is not None
            with pytest.raises(StoreUnavailable, match=r"config\.db.*readonly.*let this user"):
                await reader.put("/1", b"w")


async def test_a_lock_held_too_long(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path, busy=0.05) as store:
        await store.put("/1", b"v")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"config\.db.*locked.*another process"):
            await store.put("/1", b"w")
        entry = await store.get("/1")
        assert entry is not None
        assert entry.value == b"v"
        other.execute("ROLLBACK")
        other.close()
        await store.put("/1", b"w")


async def test_a_cancelled_write_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/1", b"a")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            # one waits for the lock inside its thread, the others for their turn
            for number in range(3):
                tasks.start_soon(store.put, f"/new{number}", b"b")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            other.execute("ROLLBACK")
        other.close()
        entries = (await store.list("/new")).entries
        assert len(entries) <= 1
        async with store.watch("/", after=0) as watch:
            keys = [e.key for e in await take(watch, 1 + len(entries))]
        assert keys == ["/1", *(e.key for e in entries)]
        await store.put("/1", b"c")


async def write_numbers(store: SqliteStore, count: int) -> None:
    for number in range(count):
        await store.put(f"/{number}", b"v")


async def test_a_replaced_file_is_another_history(tmp_path: Path) -> None:
    path, backup = tmp_path / "config.db", tmp_path / "backup.db"
    async with opened(backup) as store:
        await store.put("/old", b"v")
    async with opened(path) as store:
        await write_numbers(store, 5)
        async with store.watch("/", after=4) as watch:
            await take(watch, 1)
            for suffix in ("", "-wal", "-shm"):
                os.unlink(f"{path}{suffix}")
            shutil.move(backup, path)
            with pytest.raises(StoreUnavailable, match="replaced"):
                await next_batch(watch)
        with pytest.raises(Compacted) as caught:
            async with store.watch("/", after=5):
                pass
        assert caught.value.revision == 1
        assert [e.key for e in (await store.list("/")).entries] == ["/old"]
        await store.put("/new", b"v")


async def test_a_backup_restored_while_we_run_is_another_history(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(tmp_path / "backup.db") as store:
        await store.put("/old", b"v")
    async with opened(path) as store:
        await write_numbers(store, 5)
        async with store.watch("/", after=4) as watch:
            await take(watch, 1)
            source, target = (sqlite3.connect(p) for p in (tmp_path / "backup.db", path))
            source.backup(target)
            source.close()
            target.close()
            with pytest.raises(Compacted):
                await next_batch(watch)
        assert [e.key for e in (await store.list("/")).entries] == ["/old"]


# -- history and time


async def test_history_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path, history=10) as store:
        for number in range(25):
            await store.put(f"/{number % 3}", b"%d" % number)
        with pytest.raises(Compacted) as caught:
            async with store.watch("/", after=14) as watch:
                await next_batch(watch)
        assert caught.value.revision == 15
        async with store.watch("/", after=15) as watch:
            assert [e.mod_revision for e in await take(watch, 10)] == list(range(16, 26))
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM history").fetchone() == (10,)
    reader.close()


async def test_a_watch_on_quiet_keys_outlives_history_of_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "config.db", history=5) as store:
        await store.put("/quiet/1", b"v")
        async with store.watch("/quiet/", after=0) as watch:
            await take(watch, 1)
            for _ in range(3):
                await reach_end(store, watch, 4)
            await store.put("/quiet/2", b"v")
            assert told(await take(watch, 1)) == [("/quiet/2", b"v")]


async def reach_end(store: SqliteStore, watch: object, writes: int) -> None:
    """Write elsewhere, then let the watch look once: it hears nothing, yet knows it is up to date."""
    for _ in range(writes):
        await store.put("/busy", b"v")
    watch._read(None)  # type: ignore[attr-defined]


async def test_expired_keys_go_one_by_one_whoever_looks_first(tmp_path: Path) -> None:
    path, clock = tmp_path / "config.db", Clock()
    async with opened(path, clock=clock) as one, opened(path, clock=clock) as two:
        await one.put("/late", b"v", ttl=3)
        await one.put("/early", b"v", ttl=2)
        await one.put("/stays", b"v", ttl=60)
        clock.now += 10
        assert [e.key for e in (await two.list("/")).entries] == ["/stays"]
        assert (await one.list("/")).revision == 5
        async with one.watch("/", after=3) as watch:
            assert told(await take(watch, 2)) == [("/early", None), ("/late", None)]


async def test_a_watch_alone_notices_that_time_is_up(tmp_path: Path) -> None:
    path, clock = tmp_path / "config.db", Clock()
    async with opened(path, clock=clock) as writer:
        await writer.put("/1", b"v", ttl=2)
    async with opened(path, clock=clock) as store, store.watch("/", after=0) as watch:
        await take(watch, 1)
        clock.now += 2  # the very instant counts as over
        assert told(await take(watch, 1)) == [("/1", None)]
    async with opened(path, clock=clock) as store:
        assert await store.get("/1") is None
        assert (await store.list("/")).revision == 2


async def test_what_is_due_next_is_found_without_looking_at_every_key(tmp_path: Path) -> None:
    """Every call and every look of a watch asks for it."""
    path = tmp_path / "config.db"
    store = SqliteStore(path)
    for number in range(500):
        await store.put(f"/{number}", b"v")
    await store.put("/due", b"v", ttl=3600)
    await store.aclose()
    connection = sqlite3.connect(path)
    steps: list[None] = []
    connection.set_progress_handler(lambda: steps.append(None), 1)
    assert next_expiry(connection) < math.inf
    connection.close()
    assert len(steps) < 100
