"""Events and lists for tests of the local copy, what is in one, and how one is spoiled."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sniproxy.store import Batch, Deleted, Entry, Event, Listing
from sniproxy.store.mirror import Origin
from sniproxy.store.sqlite import SqliteStore

ORIGIN = Origin("/apisix", frozenset({"http://a:2379", "http://b:2379"}))
NOW = 1_700_000_000.5


def put(key: str, revision: int, value: bytes = b"v", created: int | None = None) -> Entry:
    return Entry(f"/apisix/{key}", value, created or revision, revision)


def gone(key: str, revision: int) -> Deleted:
    return Deleted(f"/apisix/{key}", revision)


def listing(revision: int, *entries: Entry) -> Listing:
    return Listing(tuple(sorted(entries, key=lambda one: one.key)), revision)


def batch(*events: Event) -> Batch:
    return Batch(events[-1].mod_revision, events)


async def held(path: Path) -> Listing:
    store = SqliteStore(path)
    try:
        return await store.list("/apisix/")
    finally:
        await store.aclose()


def all_in_file(path: Path) -> None:
    """Nothing is left in the log beside it, once nobody has it open.

    Whoever closes a file of SQLite's last empties its log, unless two close at the same time; then what is done to the
    file is made good by the log.
    """
    with closing(sqlite3.connect(path)) as connection:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy


def flip(path: Path, key: str) -> None:
    """One bit behind a key is another: of its value."""
    all_in_file(path)
    raw = path.read_bytes()
    where = raw.index(key.encode()) + len(key.encode())
    path.write_bytes(raw[:where] + bytes([raw[where] ^ 1]) + raw[where + 1 :])


def cut(path: Path) -> None:
    """Only the beginning is there."""
    all_in_file(path)
    os.truncate(path, 5000)
