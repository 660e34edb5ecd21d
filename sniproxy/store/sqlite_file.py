"""The file of the SQLite store: made, opened, checked, and its errors told in words. No keys and no revisions here.

Rules that are easy to break:

- The file is made with O_EXCL and never opened by us besides SQLite. Closing any descriptor of a file drops every POSIX
  lock this process holds on it, those of its SQLite connections too.
- Nothing is written, not even the journal mode, before the file is known to be ours or empty.
- Whoever comes first makes the tables, in one transaction; the others wait for it.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from sniproxy.errors import StoreUnavailable

Identity = tuple[int, int]  # device and inode

APPLICATION_ID = 0x534E4950  # "SNIP", in the file's header
SCHEMA_VERSION = 1
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
WAL_RETRY = 0.01  # seconds between two tries to switch the journal while another process does so

TABLES = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"INSERT INTO meta VALUES ('schema', {SCHEMA_VERSION}), ('revision', 0), ('compacted', 0)",
    "CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,"
    " mod_revision INTEGER NOT NULL, expires_at REAL) WITHOUT ROWID",
    "CREATE INDEX kv_expires_at ON kv (expires_at) WHERE expires_at IS NOT NULL",
    # value is NULL for a deletion; one write touches one key, so a revision is one row
    "CREATE TABLE history (revision INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB,"
    " create_revision INTEGER NOT NULL)",
)

ADVICE = {
    sqlite3.SQLITE_BUSY: "another process holds it locked; look for one that hangs or a backup that runs",
    sqlite3.SQLITE_LOCKED: "another process holds it locked; look for one that hangs",
    sqlite3.SQLITE_NOTADB: "move it away, or name another file for the store",
    sqlite3.SQLITE_CORRUPT: "stop sniproxy, then restore a backup or `sqlite3 FILE .recover` into a new file",
    sqlite3.SQLITE_FULL: "free space on its disk; nothing was written",
    sqlite3.SQLITE_READONLY: "let this user write the file and its directory",
    sqlite3.SQLITE_PERM: "let this user write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "let this user read and write the file and its directory",
    sqlite3.SQLITE_IOERR: "look at the disk and its free space (`dmesg`, `df`)",
}
PRIMARY_CODE = 0xFF  # SQLite's extended codes carry the primary one in the low byte


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the kernel raise into StoreUnavailable naming the file and the way out."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE
        advice = ADVICE.get(code, "see the reason above")
        raise StoreUnavailable(f"store file {path}: {error}: {advice}") from error
    except OSError as error:
        advice = "let this user make the directory and the file"
        raise StoreUnavailable(f"store file {path}: {error.strerror}: {advice}") from error


@contextlib.contextmanager
def transaction(conn: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of the block or none of it. `DEFERRED` for one snapshot to read from."""
    conn.execute(f"BEGIN {kind}")
    try:
        yield
        conn.execute("COMMIT")
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def connect(path: Path, busy: float) -> sqlite3.Connection:
    """A plain connection that waits up to `busy` seconds for locks; usable from any one thread at a time.

    It makes no file, which would be one that others can read.
    """
    uri = path.absolute().as_uri() + "?mode=rw"
    return sqlite3.connect(
        uri, uri=True, timeout=busy, isolation_level=None, check_same_thread=False
    )


def open_file(path: Path, busy: float, *, make: bool = True) -> tuple[sqlite3.Connection, Identity]:
    """Make the file if nobody has and `make` is set, check that it is ours, and return a connection.

    Raises StoreUnavailable.
    """
    with translated(path):
        while True:
            if make:
                _create(path)
            before = identity(path)
            if before is None and not make:
                raise StoreUnavailable(f"store file {path}: there is none yet")
            conn = connect(path, busy)
            try:
                _prepare(conn, path, busy, make=make)
                if before is not None and before == identity(path):
                    return conn, before
            except BaseException:
                conn.close()
                raise
            conn.close()  # it was replaced just now: which of the two is open cannot be told


def identity(path: Path) -> Identity | None:
    """Which file the path names now, to notice one that was replaced; None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _create(path: Path) -> None:
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def _prepare(conn: sqlite3.Connection, path: Path, busy: float, *, make: bool) -> None:
    if _is_empty(conn, path) and not make:
        raise StoreUnavailable(f"store file {path}: nothing is in it yet")
    _use_wal(conn, path, busy)
    conn.execute("PRAGMA synchronous = FULL")
    if _is_empty(conn, path):
        with transaction(conn):
            if _is_empty(conn, path):
                for statement in TABLES:
                    conn.execute(statement)
    (schema,) = conn.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if schema != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"store file {path}: schema version {schema}, this sniproxy knows {SCHEMA_VERSION}:"
            " run the version that wrote it, or name another file"
        )


def _is_empty(conn: sqlite3.Connection, path: Path) -> bool:
    """Whether there is nothing in the file yet; StoreUnavailable when there is something and it is not ours."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION_ID:
        return False
    (tables,) = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or tables:
        # another process may have made the tables between the two looks
        if conn.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,):
            return False
        raise StoreUnavailable(
            f"store file {path}: a database of another program: name another file for the store"
        )
    return True


def _use_wal(conn: sqlite3.Connection, path: Path, busy: float) -> None:
    give_up = time.monotonic() + busy
    while True:
        try:
            (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while two connections switch the journal at once
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > give_up:
                raise
            time.sleep(WAL_RETRY)
            continue
        if mode != "wal":
            raise StoreUnavailable(
                f"store file {path}: its file system cannot share memory between processes:"
                " put the store on a local disk"
            )
        return
