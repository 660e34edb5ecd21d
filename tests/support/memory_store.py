"""A remote store of a test: keeps the contract in memory, and goes away when it is told to. For trio."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from sniproxy.errors import Compacted, Conflict, StoreUnavailable
from sniproxy.store import Batch, Changes, Deleted, Entry, Event, Listing, Ttl

SIGN_OF_LIFE = 0.05  # seconds


class MemoryStore:
    """One history and everybody who follows it."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.entries: dict[str, Entry] = {}
        self.lists = 0  # asked for and answered
        self.defect: Exception | None = None  # what every question ends with
        self._history: list[Event] = []
        self.away = False  # whoever asks or watches is told so
        self._moved = trio.Event()

    # -- what happens to it

    def write(self, name: str, value: bytes = b"v") -> int:
        """An object under /apisix was written."""
        key = f"/apisix/{name}"
        self.revision += 1
        before = self.entries.get(key)
        created = before.create_revision if before else self.revision
        self.entries[key] = Entry(key, value, created, self.revision)
        self._happened(self.entries[key])
        return self.revision

    def remove(self, name: str) -> int:
        """It was deleted."""
        key = f"/apisix/{name}"
        del self.entries[key]
        self.revision += 1
        self._happened(Deleted(key, self.revision))
        return self.revision

    def compact(self) -> None:
        """Nobody is told what happened up to now."""
        self.compacted = self.revision
        self._wake()

    def go_away(self) -> None:
        """Whoever asks or watches is told that it is not there."""
        self.away = True
        self._wake()

    def come_back(self) -> None:
        """It answers again."""
        self.away = False

    @property
    def listing(self) -> Listing:
        """What it has."""
        entries = sorted(self.entries.values(), key=lambda one: one.key)
        return Listing(tuple(entries), self.revision)

    # -- the contract

    async def get(self, key: str) -> Entry | None:
        await self._answering()
        return self.entries.get(key)

    async def list(self, prefix: str) -> Listing:
        await self._answering()
        assert prefix == "/apisix/"
        self.lists += 1
        return self.listing

    async def changes(self, prefix: str, *, after: int) -> Changes:
        raise AssertionError("a data plane watches")

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        await self._answering()
        raise Conflict(key)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        await self._answering()
        raise Conflict(key)

    @asynccontextmanager
    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        await self._answering()
        assert prefix == "/apisix/"
        async with aclosing(self._batches(after)) as batches:
            yield batches

    async def aclose(self) -> None:
        raise AssertionError("it is not ours to close")

    async def _batches(self, after: int) -> AsyncGenerator[Batch, None]:
        while True:
            moved = self._moved
            await self._answering()
            if after < self.compacted:
                raise Compacted(self.compacted)
            if after > self.revision:
                raise Compacted(self.revision)
            events = tuple(one for one in self._history if one.mod_revision > after)
            if events:
                after = events[-1].mod_revision
                yield Batch(after, events)
                continue
            with trio.move_on_after(SIGN_OF_LIFE) as quiet:
                await moved.wait()
            if quiet.cancelled_caught:
                after = self.revision
                yield Batch(after, ())

    async def _answering(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.defect is not None:
            raise self.defect
        if self.away:
            raise StoreUnavailable("away")

    def _happened(self, event: Event) -> None:
        self._history.append(event)
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
