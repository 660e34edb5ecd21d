"""The store in one SQLite file, shared by any number of processes of one machine. Keeps the contract of the package.

How it works:

- One connection per store, used in worker threads, one call at a time. A call that has begun runs to the end of its
  transaction even when its caller is cancelled; one that still waits for its turn never begins.
- Every write takes the next revision and leaves a row in `history`. Beyond the newest `history` revisions rows are
  dropped, and whoever watches from before that gets Compacted.
- Every commit rings the bells of all watches (`bell`), which then ask `PRAGMA data_version`. Who writes with other
  tools rings no bell: a watch asks by itself each `poll` seconds too, and gives a sign of life.
- A watch has a connection of its own, because `PRAGMA data_version` only moves for the writes of others. Asking it
  costs microseconds and never waits, so the event loop asks; rows are read in a thread.
- A file whose `lineage` in `meta` changes has another history under the same revisions: whoever keeps the file as the
  copy of another store took that one over anew. Watches end with Compacted, and a list goes on from there.
- Time to live is wall-clock time. Whoever looks first after it, a call or a watch, deletes the entry with a revision.
- A file that was replaced under our feet is noticed: calls open the new one, watches end. Whoever replaces it must
  remove its `-wal` and `-shm` as well; SQLite's own `.restore` is safe at any time, and seen as Compacted.
"""

import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import KEEP, Batch, Changes, Entry, Listing, Ttl
from sniproxy.store.bell import Bell, ring
from sniproxy.store.keys import check_ttl, encode
from sniproxy.store.sqlite_file import Identity, identity, open_file, transaction, translated
from sniproxy.store.sqlite_rows import (
    expected,
    last_revision,
    lineage_of,
    lookup,
    meta,
    next_expiry,
    to_entry,
    to_event,
    within,
)

T = TypeVar("T")

HISTORY = 10_000  # revisions kept
POLL = 1.0  # seconds between two looks of a watch that no bell wakes
BUSY = 5.0  # seconds to wait for the lock of another process
BATCH_ROWS = 1000  # rows after which a batch of a watch ends, with the revision that they end in
REPLACED_CHECK = 1.0  # seconds between two looks of a watch at whether its file was replaced


class SqliteStore:
    """The contract on one file at `path`, made 0600 with its directory when it is not there.

    clock: seconds since the epoch, for time to live. history: revisions kept for watches. poll: seconds between two
    looks of a watch that no bell wakes. busy: seconds to wait for another process's lock before StoreUnavailable.
    """

    makes = True  # the file, where there is none

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        history: int = HISTORY,
        poll: float = POLL,
        busy: float = BUSY,
    ) -> None:
        self._path = path
        self._clock = clock
        self._history = history
        self._poll = poll
        self._busy = busy
        self._conn: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._turn: anyio.CapacityLimiter | None = None
        self._closed = False
        self._lineage: int | None = None  # the file's at the last list, or else at the first watch
        self._listed: dict[
            str, int
        ] = {}  # the lineage at the last list of each prefix of this file

    async def get(self, key: str) -> Entry | None:
        """The entry, or None. Raises StoreUnavailable."""
        return await self._run(lambda conn: lookup(conn, key, self._sweep(conn)))

    async def list(self, prefix: str) -> Listing:
        """Every entry under `prefix` in key order, from one revision. Raises StoreUnavailable."""
        return await self._run(lambda conn: self._list(conn, prefix))

    async def changes(self, prefix: str, *, after: int) -> Changes:
        """What was written since a list. Raises Compacted, StoreUnavailable."""
        return await self._run(lambda conn: self._changes(conn, prefix, after))

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        """Write and return the revision. Raises Conflict, StoreUnavailable, ValueError for a ttl below 1 second."""
        check_ttl(ttl)
        return await self._run(lambda conn: self._put(conn, key, value, expect, ttl))

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        """Delete; the revision, or None when there was nothing. Raises Conflict, StoreUnavailable."""
        return await self._run(lambda conn: self._delete(conn, key, expect))

    @asynccontextmanager
    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """Every event under `prefix` after revision `after`. Raises Compacted and StoreUnavailable.

        `after` beyond the store's revision means that the file was replaced by an older one: Compacted as well. So
        does another lineage than at the last list.
        """
        watch = _Watch(self, prefix, after)
        try:
            await watch.begin()
            yield watch
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(watch.close)

    async def aclose(self) -> None:
        """Close the file once the call under way has ended; later calls raise StoreUnavailable."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=self._limiter())

    async def sweep(self) -> None:
        """Delete what has outlived its time to live. Every call does so first; a watch does when the time has come."""
        await self._run(self._sweep)

    def open_own(self) -> tuple[sqlite3.Connection, Identity]:
        """A new connection, such as a watch needs for itself; call it in a thread, and use it under `translated`."""
        if self._closed:
            raise StoreUnavailable(f"store file {self._path}: closed by this process")
        return open_file(self._path, self._busy, make=self.makes)

    def lineage_to_expect(self, found: int) -> int:
        """The lineage that a watch holds the file to: the one found when there was none before."""
        if self._lineage is None:
            self._lineage = found
        return self._lineage

    # -- the connection

    def _limiter(self) -> anyio.CapacityLimiter:
        # made at first use: a limiter belongs to the event loop that runs
        if self._turn is None:
            self._turn = anyio.CapacityLimiter(1)
        return self._turn

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await anyio.to_thread.run_sync(self._work, work, limiter=self._limiter())

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._path):
            return work(self._connection())

    def _connection(self) -> sqlite3.Connection:
        if self._conn is not None and identity(self._path) != self._identity:
            self._conn.close()
            self._conn = None
            self._listed.clear()
        if self._conn is None:
            self._conn, self._identity = self.open_own()
        return self._conn

    def _close(self) -> None:
        self._closed = True
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _list(self, conn: sqlite3.Connection, prefix: str) -> Listing:
        condition, bounds = self._living(conn, prefix)
        with transaction(conn, "DEFERRED"):
            self._lineage = self._listed[prefix] = lineage_of(conn)
            return Listing(_entries(conn, condition, bounds), last_revision(conn))

    def _changes(self, conn: sqlite3.Connection, prefix: str, after: int) -> Changes:
        condition, bounds = self._living(conn, prefix)
        with transaction(conn, "DEFERRED"):
            revision = last_revision(conn)
            if revision < after or self._listed.get(prefix) != lineage_of(conn):
                raise Compacted(revision)
            (count,) = conn.execute(f"SELECT count(*) FROM kv WHERE {condition}", bounds).fetchone()
            written = _entries(conn, f"{condition} AND mod_revision > ?", (*bounds, after))
            return Changes(written, count, revision)

    def _living(self, conn: sqlite3.Connection, prefix: str) -> tuple[str, tuple[Any, ...]]:
        """A condition for what is under a prefix and has not outlived its time, and its parameters."""
        now = self._sweep(conn)
        condition, bounds = within(encode(prefix))
        return f"{condition} AND (expires_at IS NULL OR expires_at > ?)", (*bounds, now)

    # -- writing

    @contextmanager
    def _writing(self, conn: sqlite3.Connection) -> Iterator[None]:
        with transaction(conn):
            yield
        ring(self._path)

    def _put(
        self, conn: sqlite3.Connection, key: str, value: bytes, expect: int | None, ttl: Ttl
    ) -> int:
        now = self._sweep(conn)
        with self._writing(conn):
            before = expected(conn, key, now, expect)
            revision = last_revision(conn) + 1
            created = before.create_revision if before else revision
            expires = now + ttl if isinstance(ttl, int) else None
            conn.execute(
                "INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3, ?4,"
                " iif(?6, (SELECT expires_at FROM kv WHERE key = ?1), ?5))",
                (encode(key), value, created, revision, expires, ttl is KEEP),
            )
            self._record(conn, revision, encode(key), value, created)
        return revision

    def _delete(self, conn: sqlite3.Connection, key: str, expect: int | None) -> int | None:
        now = self._sweep(conn)
        with self._writing(conn):
            before = expected(conn, key, now, expect)
            return self._remove(conn, encode(key), before.create_revision) if before else None

    def _sweep(self, conn: sqlite3.Connection) -> float:
        """Delete what is due, each with a revision of its own; returns the time it was done for."""
        now = self._clock()
        if next_expiry(conn) <= now:
            with self._writing(conn):
                due = conn.execute(
                    "SELECT key, create_revision FROM kv WHERE expires_at <= ? ORDER BY expires_at",
                    (now,),
                ).fetchall()
                for key, created in due:
                    self._remove(conn, key, created)
        return now

    def _remove(self, conn: sqlite3.Connection, key: bytes, created: int) -> int:
        revision = last_revision(conn) + 1
        conn.execute("DELETE FROM kv WHERE key = ?", (key,))
        self._record(conn, revision, key, None, created)
        return revision

    def _record(
        self, conn: sqlite3.Connection, revision: int, key: bytes, value: bytes | None, created: int
    ) -> None:
        conn.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (revision, key, value, created))
        conn.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (revision,))
        gone = revision - self._history
        if gone > 0:
            conn.execute("DELETE FROM history WHERE revision <= ?", (gone,))
            conn.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'compacted'", (gone,))


class _Watch:
    """One watch: an iterator of batches that may be cancelled anywhere and iterated again."""

    def __init__(self, store: SqliteStore, prefix: str, after: int) -> None:
        self._store = store
        self._prefix = encode(prefix)
        self._after = after
        self._conn: sqlite3.Connection | None = None
        self._bell: Bell | None = None
        self._identity: Identity | None = None
        self._lineage: int | None = None
        self._ready: Batch | None = None  # read, not yet handed out
        self._version: int | None = None  # data_version when the history was last read to its end
        self._next_expiry = math.inf
        self._next_check = -math.inf

    def __aiter__(self) -> "_Watch":
        return self

    async def begin(self) -> None:
        """Open the file and read what there is. Raises Compacted and StoreUnavailable."""
        await anyio.to_thread.run_sync(self._read, None)

    async def __anext__(self) -> Batch:
        store = self._store
        idle_until = anyio.current_time() + store._poll
        while self._ready is None:
            if store._clock() >= self._next_expiry:
                await store.sweep()
                self._version = None
            version = self._data_version()
            if version is None or version != self._version:
                await anyio.to_thread.run_sync(self._read, version)
            elif (left := idle_until - anyio.current_time()) <= 0:
                return Batch(self._after, ())
            elif self._bell is not None:
                await self._bell.wait(min(left, max(0.0, self._next_expiry - store._clock())))
        batch, self._ready = self._ready, None
        return batch

    def close(self) -> None:
        """Close the watch's connection and its bell; called in a thread."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _data_version(self) -> int | None:
        """The number that moves with every commit of others; None when it cannot be told now."""
        if self._conn is None:
            return None
        self._check_replaced()
        try:
            (version,) = self._conn.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return None  # busy or broken: reading in the thread waits, or tells which
        return int(version)

    def _check_replaced(self) -> None:
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + REPLACED_CHECK
            with translated(self._store._path):
                now_there = identity(self._store._path)
            if now_there != self._identity:
                raise StoreUnavailable(
                    f"store file {self._store._path}: it was replaced or removed: watch again"
                )

    def _read(self, version: int | None) -> None:
        """Get the next batch ready, in a thread, where waiting for a lock does no harm."""
        with translated(self._store._path):
            if self._conn is None:
                self._conn, self._identity = self._store.open_own()
                # before the first look at the history, so that no commit falls between the two
                self._bell = Bell(self._store._path)
            self._conn.execute(f"PRAGMA busy_timeout = {round(self._store._busy * 1000)}")
            try:
                with transaction(self._conn, "DEFERRED"):
                    self._read_snapshot(self._conn, version)
            finally:
                self._conn.execute("PRAGMA busy_timeout = 0")

    def _read_snapshot(self, conn: sqlite3.Connection, version: int | None) -> None:
        revision, compacted, lineage = (
            last_revision(conn),
            meta(conn, "compacted"),
            lineage_of(conn),
        )
        if self._lineage is None:
            self._lineage = self._store.lineage_to_expect(lineage)
        if self._after < compacted:
            raise Compacted(compacted)
        if self._after > revision or self._lineage != lineage:
            raise Compacted(revision)
        condition, bounds = within(self._prefix)
        newer = f"FROM history WHERE revision > ? AND {condition}"
        full = conn.execute(
            f"SELECT revision {newer} ORDER BY revision LIMIT 1 OFFSET {BATCH_ROWS - 1}",
            (self._after, *bounds),
        ).fetchone()
        (last,) = full or (revision,)
        # by revision, not by row: one revision is several rows in a file that copies another store
        rows = conn.execute(
            f"SELECT key, value, create_revision, revision {newer} AND revision <= ?"
            " ORDER BY revision, key",
            (self._after, *bounds, last),
        ).fetchall()
        self._next_expiry = next_expiry(conn)
        self._version, self._after = None if full else version, last
        if rows:
            self._ready = Batch(rows[-1][3], tuple(map(to_event, rows)))


def _entries(
    conn: sqlite3.Connection, condition: str, parameters: tuple[Any, ...]
) -> tuple[Entry, ...]:
    rows = conn.execute(
        f"SELECT key, value, create_revision, mod_revision FROM kv WHERE {condition} ORDER BY key",
        parameters,
    )
    return tuple(map(to_entry, rows))
