"""Stores for tests: sources to open them on, and ways to read a watch that cannot hang."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import anyio

from sniproxy.store import Batch, Deleted, Event, Store
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from sniproxy.store.sqlite import SqliteStore
from tests.support.etcd import EtcdServer

PATIENCE = 60.0  # seconds that anything in a test may take
FAST_POLL = 0.01  # seconds: time that is virtual passes without ringing a bell


class Clock:
    """Wall-clock time that stands still until it is told to pass."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Source(Protocol):
    """One history; `open` gives any number of stores on it, closed with the source."""

    prefix: str

    def open(self) -> Store: ...

    async def compact(self) -> None:
        """Make the history up to now unreadable."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let time go by at once where time is virtual; elsewhere it goes by itself."""
        ...


class SqliteSource:
    """A file of its own, on virtual time."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.prefix = prefix
        self.path = path
        self.clock = Clock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def open(self) -> Store:
        return self._open(SqliteStore(self.path, clock=self.clock, poll=FAST_POLL))

    async def compact(self) -> None:
        store = self._open(SqliteStore(self.path, clock=self.clock, history=1))
        for value in (b"1", b"2"):
            await store.put("/elsewhere", value)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def _open(self, store: Store) -> Store:
        self._stack.push_async_callback(store.aclose)
        return store


@asynccontextmanager
async def opened_sqlite(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    """A store that looks often, as most tests are not about its bell."""
    store = SqliteStore(path, **{"poll": FAST_POLL, **options})
    try:
        yield store
    finally:
        await store.aclose()


class EtcdSource:
    """A shared server, on real time."""

    def __init__(self, server: EtcdServer, prefix: str) -> None:
        self.prefix = prefix
        self.server = server
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def open(self) -> Store:
        store = EtcdStore(EtcdConfig(endpoints=(self.server.url,)))
        self._stack.push_async_callback(store.aclose)
        return store

    async def compact(self) -> None:
        store = self.open()
        await store.put("/elsewhere", b"1")
        self.server.compact(await store.put("/elsewhere", b"2"))

    def pass_time(self, seconds: float) -> None:
        """Nothing to do: the test waits for the event."""


async def next_batch(watch: AsyncIterator[Batch], patience: float = PATIENCE) -> Batch:
    """The next batch with events, or TimeoutError. Signs of life are passed over."""
    with anyio.fail_after(patience):
        while not (batch := await anext(watch)).events:
            pass
        return batch


async def sign_of_life(watch: AsyncIterator[Batch], patience: float = PATIENCE) -> int:
    """The revision of the next batch, which has no events; or TimeoutError."""
    with anyio.fail_after(patience):
        batch = await anext(watch)
    assert not batch.events
    return batch.revision


async def take(watch: AsyncIterator[Batch], count: int) -> list[Event]:
    """The next `count` events, none split off a batch; checks the promises that every batch makes."""
    events: list[Event] = []
    while len(events) < count:
        batch = await next_batch(watch)
        revisions = [event.mod_revision for event in batch.events]
        assert revisions == sorted(revisions)
        assert batch.revision == revisions[-1]
        assert not events or events[-1].mod_revision < revisions[0]
        events += batch.events
    return events


def told(events: list[Event]) -> list[tuple[str, bytes | None]]:
    """What events say, without revisions; None for a deletion."""
    return [(e.key, None if isinstance(e, Deleted) else e.value) for e in events]
