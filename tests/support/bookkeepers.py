"""Data planes that keep books on a store that may fail, on a clock of their own."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar

import anyio.lowlevel

from sniproxy.bookkeeping import Books
from sniproxy.errors import Conflict, StoreUnavailable
from sniproxy.logs import open_log
from sniproxy.metrics import PodMetrics
from sniproxy.scrape import family_of
from sniproxy.settings import Settings
from sniproxy.store import Batch, Changes, Entry, Listing, Store, Ttl

Fails = Literal["before", "after"]
T = TypeVar("T")


class InMemory:
    """A store that keeps the contract, but for what nobody here asks of it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0

    async def get(self, key: str) -> Entry | None:
        await anyio.lowlevel.checkpoint()
        return self._entries.get(key)

    async def list(self, prefix: str) -> Listing:
        await anyio.lowlevel.checkpoint()
        found = [one for key, one in sorted(self._entries.items()) if key.startswith(prefix)]
        return Listing(tuple(found), self._revision)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        raise NotImplementedError

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        await anyio.lowlevel.checkpoint()
        created = self._expect(key, expect)
        self._revision += 1
        self._entries[key] = Entry(key, value, created or self._revision, self._revision)
        return self._revision

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        await anyio.lowlevel.checkpoint()
        self._expect(key, expect)
        if self._entries.pop(key, None) is None:
            return None
        self._revision += 1
        return self._revision

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is open."""

    def _expect(self, key: str, expect: int | None) -> int:
        """The revision that created it, or 0."""
        entry = self._entries.get(key)
        if expect is not None and expect != (entry.mod_revision if entry else 0):
            raise Conflict(key)
        return entry.create_revision if entry else 0


class Failing:
    """A store in front of a real one. The next writes may fail before they reach it, or their answers on the way back."""

    def __init__(self, real: Store) -> None:
        self.real = real
        self.fails: list[Fails | None] = []  # what becomes of the next writes
        self.puts = 0
        self.before_put: Callable[[str], Awaitable[object]] | None = None

    async def get(self, key: str) -> Entry | None:
        return await self.real.get(key)

    async def list(self, prefix: str) -> Listing:
        return await self.real.list(prefix)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        return await self.real.changes(prefix, after=after)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        self.puts += 1
        if self.before_put is not None:
            await self.before_put(key)
        fails = self._next("before")
        revision = await self.real.put(key, value, expect=expect, ttl=ttl)
        return self._answer(fails, revision)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        fails = self._next("before")
        revision = await self.real.delete(key, expect=expect)
        return self._answer(fails, revision)

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        return self.real.watch(prefix, after=after)

    async def aclose(self) -> None:
        await self.real.aclose()

    def _next(self, now: Fails) -> Fails | None:
        fails = self.fails.pop(0) if self.fails else None
        if fails == now:
            raise StoreUnavailable("away")
        return fails

    def _answer(self, fails: Fails | None, revision: T) -> T:
        if fails == "after":
            raise StoreUnavailable("no answer")
        return revision


class Clock:
    """Unix seconds, as a test has it."""

    def __init__(self, now: float = 1_000 * 3600.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Pod:
    """One data plane: what its workers have counted, and its books."""

    def __init__(self, store: Store, clock: Clock, node: str = "n1", **statistics: Any) -> None:
        self.counts: dict[str, list[Any]] = {}
        self.metrics = PodMetrics()
        self.lines = io.StringIO()
        self._store = store
        self._clock = clock
        self.settings = Settings.model_validate(
            {"store": "sqlite:///x", "node": node, "statistics": statistics}
        )
        self.books = self._open(None)

    def _open(self, left: dict[str, Any] | None) -> Books:
        return Books(
            self._store,
            self.settings,
            lambda: [[family_of(dict(self.counts))]],
            self.metrics,
            open_log("proxy", self.lines),
            left,
            self._clock,
        )

    def play(self, route: str, up: int = 1, down: int = 2) -> None:
        """One session, with so many bytes."""
        had = self.counts.get(route, [0, 0, 0, 0, {}])
        self.counts[route] = [had[0] + 1, 1, had[2] + up, had[3] + down, {}]

    def restart(self) -> None:
        """As after a kill: workers and parent begin anew."""
        self.counts = {}
        self.books = self._open(None)

    def upgrade(self) -> None:
        """Another version goes on."""
        self.books = self._open(self.books.leave())
