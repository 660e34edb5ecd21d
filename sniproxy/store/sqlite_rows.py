"""What stands in the tables of a store's file, read within a call's transaction."""

import math
import sqlite3

from sniproxy.errors import Conflict
from sniproxy.store import Deleted, Entry, Event
from sniproxy.store.keys import decode, encode, prefix_end

Row = tuple[bytes, bytes, int, int]


def to_event(row: tuple[bytes, bytes | None, int, int]) -> Event:
    """A row of `history`."""
    key, value, created, revision = row
    if value is None:
        return Deleted(decode(key), revision)
    return Entry(decode(key), value, created, revision)


def to_entry(row: Row) -> Entry:
    """A row of `kv`."""
    return Entry(decode(row[0]), row[1], row[2], row[3])


def lookup(conn: sqlite3.Connection, key: str, now: float) -> Entry | None:
    """The entry that has not outlived its time at `now`, or None."""
    row = conn.execute(
        "SELECT key, value, create_revision, mod_revision FROM kv"
        " WHERE key = ? AND (expires_at IS NULL OR expires_at > ?)",
        (encode(key), now),
    ).fetchone()
    return to_entry(row) if row else None


def expected(conn: sqlite3.Connection, key: str, now: float, expect: int | None) -> Entry | None:
    """The entry as it stands, or Conflict when it is not at the expected revision."""
    entry = lookup(conn, key, now)
    found = entry.mod_revision if entry else 0
    if expect is not None and expect != found:
        raise Conflict(f"{key}: expected revision {expect}, found {found}")
    return entry


def within(prefix: bytes) -> tuple[str, tuple[bytes, ...]]:
    """A condition on `key` for "starts with prefix" that an index answers, and its parameters."""
    end = prefix_end(prefix)
    if end is None:
        return "key >= ?", (prefix,)
    return "key >= ? AND key < ?", (prefix, end)


def meta(conn: sqlite3.Connection, name: str) -> int:
    """A number of the file's own, such as "compacted"."""
    (value,) = conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(value)


def lineage_of(conn: sqlite3.Connection) -> int:
    """Which history the file has: another number, another history."""
    row = conn.execute("SELECT value FROM meta WHERE name = 'lineage'").fetchone()
    return int(row[0]) if row else 0


def last_revision(conn: sqlite3.Connection) -> int:
    """The store's."""
    return meta(conn, "revision")


def next_expiry(conn: sqlite3.Connection) -> float:
    """When the next entry outlives its time to live, in seconds since the epoch; infinity for never."""
    (due,) = conn.execute("SELECT min(expires_at) FROM kv WHERE expires_at IS NOT NULL").fetchone()
    return math.inf if due is None else float(due)
