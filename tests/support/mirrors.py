"""Events and lists for tests of the local copy, and what is in one."""

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
