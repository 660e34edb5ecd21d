"""The local copy of a remote store, with its revisions: what workers follow, and what a start without the store has.

One process writes it; any number follow it as they follow any store file (`SqliteStore`). It differs from a store file:

- `history` has a row for each key of a revision, as one transaction of etcd may write several. It is short: who comes late
  lists, which costs little here.
- A full list is taken over as a difference by value, under a new `lineage`, so that every follower lists too.
- Each row carries a digest of what it says, and `meta` their sum and the origin of the copy. A file in which these do not
  agree, or that is a copy of another store, is set aside and never served from. SQLite would not notice a flipped bit.
- The writer holds a lock on a file beside it. A second one would write what it has missed over what is there.
- Only the writer makes the file, and nobody reads it before a list was taken over: what is missing or not whole yet is no
  empty configuration. A file that was removed under the writer's feet is made again, beginning with a list.
- Commits are not waited for until they are on the disk (`synchronous = NORMAL`): after a power cut the copy may be some
  changes old, and whole. The store has the rest.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sniproxy.errors import StoreUnavailable
from sniproxy.store import Batch, Deleted, Entry, Listing
from sniproxy.store.bell import ring
from sniproxy.store.keys import decode, encode
from sniproxy.store.sqlite import SqliteStore
from sniproxy.store.sqlite_file import (
    DIRECTORY_MODE,
    FILE_MODE,
    PRIMARY_CODE,
    Identity,
    identity,
    open_file,
    transaction,
    translated,
)

MAX_LOG = 4 * 1024 * 1024  # bytes that SQLite's log keeps of the disk once it was emptied
HISTORY = 1000  # rows kept for those who follow
BUSY = 5.0  # seconds to wait for another process's lock
ASIDE = ".set-aside"  # added to the name of a file that is not trusted; the one before it goes
LOCK = ".lock"
PARTS = ("", "-wal", "-shm")  # of a file of SQLite's
SPOILED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

TABLES = (
    "DROP TABLE history",
    "CREATE TABLE history (revision INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,"
    " create_revision INTEGER NOT NULL, PRIMARY KEY (revision, key)) WITHOUT ROWID",
    "ALTER TABLE kv ADD COLUMN digest INTEGER",
    "INSERT INTO meta VALUES ('lineage', abs(random())), ('digest', 0), ('proven_at', 0), ('whole', 0)",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the original is. Members of a cluster come and go: one that both know makes it the same."""

    prefix: str
    endpoints: frozenset[str]

    def __str__(self) -> str:
        return json.dumps({"prefix": self.prefix, "endpoints": sorted(self.endpoints)})

    def is_that_of(self, text: object) -> bool:
        """Whether a copy that names its origin so is one of this store."""
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(str(text))
            shared = self.endpoints & set(told["endpoints"])
            return told["prefix"] == self.prefix and bool(shared)
        return False


@dataclass(frozen=True, slots=True)
class Kept:
    """A copy that can be served from. `proven_at`: seconds since the epoch when it was last known to be up to date."""

    revision: int
    proven_at: float


class Held(StoreUnavailable):
    """Another process writes the file."""


class Untrusted(Exception):
    """Why a file is not served from."""


class Mirror:
    """The writing side of one copy. Calls block: make them in a thread, one at a time. All raise StoreUnavailable."""

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self._origin = origin
        self._conn: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._lock: int | None = None

    def open(self) -> tuple[Kept | None, str]:
        """What it holds from last time, or None; and why it was set aside, or ""."""
        with translated(self.path):
            if not self.path.exists():
                return None, ""
            self._hold()
            try:
                return self._check(), ""
            except (sqlite3.Error, StoreUnavailable, Untrusted, TypeError, ValueError) as error:
                if not _is_spoiled(error):  # busy, or not ours to read: it may be sound
                    raise
                why = str(error)
            self._disconnect()
            self._set_aside()
            return None, why

    def take_over(self, listing: Listing, at: float) -> int:
        """Becomes equal to a full list, proven at that time; how many keys were not."""
        with translated(self.path):
            conn = self._opened()
            with transaction(conn):
                went_back = listing.revision < _get(conn, "revision")
                changes = self._replace(conn, listing)
                _set(conn, revision=listing.revision, proven_at=at, whole=1)
                _set(conn, origin=str(self._origin))  # its members may be others by now
                if changes or went_back:
                    # Whoever follows lists too: which of the changes came when is not known.
                    conn.execute("DELETE FROM history")
                    _set(conn, compacted=listing.revision, lineage=secrets.randbits(62))
        ring(self.path)
        return changes

    def apply(self, batch: Batch, at: float) -> None:
        """Writes what a watch has given, proven at that time."""
        with translated(self.path):
            conn = self._opened()
            if not _get(conn, "whole"):
                raise StoreUnavailable(f"store file {self.path}: no list was taken over into it")
            with transaction(conn):
                digest = _get(conn, "digest")
                for event in batch.events:
                    digest ^= self._write(conn, event)
                    self._record(conn, event)
                _set(conn, revision=batch.revision, proven_at=at, digest=digest)
                _forget(conn)
        if batch.events:
            ring(self.path)

    def listing(self) -> Listing:
        """All that it holds."""
        with translated(self.path):
            conn = self._opened()
            with transaction(conn, "DEFERRED"):
                rows = conn.execute("SELECT key, value, create_revision, mod_revision FROM kv")
                entries = tuple(Entry(decode(key), *others) for key, *others in rows)
                return Listing(entries, _get(conn, "revision"))

    def copy_to(self, path: Path) -> None:
        """The file as it lies there, for a disk on which nothing can be opened; closed before, and looked at after."""
        with translated(self.path):
            self._disconnect()
            for part in PARTS[:2]:  # the index of the log is made anew
                with suppress(FileNotFoundError):
                    shutil.copyfile(
                        self.path.with_name(self.path.name + part), path.with_name(path.name + part)
                    )

    def close(self) -> None:
        """Closes the file and lets another process have it; the next call opens it again."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- opening

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _hold(self) -> None:
        """Keeps other writers out."""
        if self._lock is None:
            self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            name = self.path.with_name(self.path.name + LOCK)
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise Held(
                    f"store file {self.path}: another data plane writes it:"
                    " give each a state_dir of its own"
                ) from None
            self._lock = lock

    def _opened(self) -> sqlite3.Connection:
        self._hold()
        if self._conn is not None and identity(self.path) != self._identity:
            self._disconnect()  # nobody who opens the file by its name would see what is written
        if self._conn is None:
            conn, self._identity = open_file(self.path, BUSY)
            try:
                conn.execute("PRAGMA synchronous = NORMAL")
                # else the log stays as long as the longest list made it, until the process ends
                conn.execute(f"PRAGMA journal_size_limit = {MAX_LOG}")
                if not _is_mirror(conn):
                    if _get(conn, "revision"):
                        raise StoreUnavailable(
                            f"store file {self.path}: a store, not a copy of one"
                        )
                    with transaction(conn):
                        for statement in TABLES:
                            conn.execute(statement)
                        _set(conn, origin=str(self._origin))
            except BaseException:
                conn.close()
                raise
            self._conn = conn
        return self._conn

    def _check(self) -> Kept | None:
        """What a file holds, every byte of it looked at; Untrusted."""
        conn = self._opened()
        (sound,) = conn.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise Untrusted(f"damaged: {sound}")
        (origin,) = conn.execute("SELECT value FROM meta WHERE name = 'origin'").fetchone()
        if not self._origin.is_that_of(origin):
            raise Untrusted(f"it is a copy of another store: {origin}")
        digest = 0
        rows = conn.execute("SELECT key, value, create_revision, mod_revision, digest FROM kv")
        for key, value, created, modified, told in rows:
            if _digest(key, value, created, modified) != told:
                raise Untrusted(f"damaged: {decode(key)} is not what was written")
            digest ^= told
        if digest != _get(conn, "digest"):
            raise Untrusted("damaged: keys are missing, or there are some that nobody wrote")
        if not _get(conn, "whole"):
            return None  # no list has ever come to its end
        (proven_at,) = conn.execute("SELECT value FROM meta WHERE name = 'proven_at'").fetchone()
        return Kept(_get(conn, "revision"), float(proven_at))

    def _set_aside(self) -> None:
        """Out of the way, and still there for whoever wants to know."""
        for part in PARTS:
            before = self.path.with_name(self.path.name + part)
            with suppress(FileNotFoundError):
                before.replace(self.path.with_name(self.path.name + ASIDE + part))

    # -- writing

    def _replace(self, conn: sqlite3.Connection, listing: Listing) -> int:
        listed = {encode(one.key): one for one in listing.entries}
        held = {
            key: (value, created, modified)
            for key, value, created, modified in conn.execute(
                "SELECT key, value, create_revision, mod_revision FROM kv"
            )
        }
        changed = [
            one
            for key, one in listed.items()
            if held.get(key) != (one.value, one.create_revision, one.mod_revision)
        ]
        gone = [Deleted(decode(key), listing.revision) for key in held.keys() - listed.keys()]
        digest = _get(conn, "digest")
        events: Iterable[Entry | Deleted] = (*gone, *changed)
        for event in events:
            digest ^= self._write(conn, event)
        _set(conn, digest=digest)
        return len(gone) + len(changed)

    def _write(self, conn: sqlite3.Connection, event: Entry | Deleted) -> int:
        """Puts one event in its place; by what the sum of the digests changes."""
        key = encode(event.key)
        before = conn.execute("SELECT digest FROM kv WHERE key = ?", (key,)).fetchone()
        change = before[0] if before else 0
        if isinstance(event, Deleted):
            conn.execute("DELETE FROM kv WHERE key = ?", (key,))
            return int(change)
        digest = _digest(key, event.value, event.create_revision, event.mod_revision)
        conn.execute(
            "INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, NULL, ?)",
            (key, event.value, event.create_revision, event.mod_revision, digest),
        )
        return int(change) ^ digest

    def _record(self, conn: sqlite3.Connection, event: Entry | Deleted) -> None:
        value, created = None, 0
        if isinstance(event, Entry):
            value, created = event.value, event.create_revision
        row = (event.mod_revision, encode(event.key), value, created)
        conn.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)", row)


class Copy(SqliteStore):
    """The reading side: the contract on whichever file the copy lies in. It makes none, and reads none that is not whole."""

    makes = False

    def move(self, path: Path) -> None:
        """From now on the file at `path`: calls open it, watches end."""
        self._path = path

    def open_own(self) -> tuple[sqlite3.Connection, Identity]:
        """A new connection, for one watch or for all calls."""
        conn, found = super().open_own()
        try:
            if not _is_mirror(conn) or not _get(conn, "whole"):
                raise StoreUnavailable(f"store file {self._path}: it holds no full list yet")
        except BaseException:
            conn.close()
            raise
        return conn, found


def is_abandoned(path: Path) -> bool:
    """Whether a copy was written and nobody holds it any more."""
    try:
        lock = os.open(path.with_name(path.name + LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # not written yet, or somebody else's
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _forget(conn: sqlite3.Connection) -> None:
    """Drops what is more than HISTORY rows old, whole revisions of it."""
    oldest = conn.execute(
        "SELECT revision FROM history ORDER BY revision DESC LIMIT 1 OFFSET ?", (HISTORY,)
    ).fetchone()
    if oldest is not None:
        conn.execute("DELETE FROM history WHERE revision <= ?", oldest)
        _set(conn, compacted=oldest[0])


def _is_spoiled(error: Exception) -> bool:
    """Whether it was the file's content that could not be used."""
    cause = error.__cause__ or error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)  # None: text that Python could not decode
        return code is None or code & PRIMARY_CODE in SPOILED
    return not isinstance(cause, OSError)


def _is_mirror(conn: sqlite3.Connection) -> bool:
    return conn.execute("SELECT 1 FROM meta WHERE name = 'origin'").fetchone() is not None


def _digest(key: bytes, value: bytes, created: int, modified: int) -> int:
    """Of one row: 62 bits, so that sums of them are numbers that SQLite holds."""
    text = b"%d %d %d " % (len(key), created, modified)
    digest = hashlib.blake2b(text + key + value, digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def _get(conn: sqlite3.Connection, name: str) -> int:
    (value,) = conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(value)


def _set(conn: sqlite3.Connection, **values: float | str) -> None:
    conn.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
