"""`?wait=all`: an answer that waits until every live data plane has the write in force, and `GET /nodes`.

Data planes say in the store which revision they have (`sniproxy.objects.node_record`); one that is gone is not waited for
once its record's time is over.
"""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from sniproxy.errors import Compacted, ObjectRefused, StoreUnavailable
from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.store import Entry, Event, Store

DEFAULT = 5.0  # seconds
RETRY = 0.1  # seconds before a store that was lost is asked again
RETRY_MAX = 2.0  # it doubles up to this: nobody may be waiting, and a store can be away for hours
DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m)?")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


@dataclass(frozen=True, slots=True)
class Reached:
    """Which data planes have a revision in force, and which do not, or not yet. `all`: none was left out of sight."""

    all: bool
    applied: list[NodeRecord]
    stragglers: list[NodeRecord]


def read_wait(wait: str | None, timeout: str | None, longest: float) -> float | None:
    """The seconds that a request wants to wait, None for not at all. ObjectRefused."""
    if wait is None:
        return None
    if wait != "all":
        raise ObjectRefused("invalid argument wait: expected all")
    if timeout is None:
        return min(DEFAULT, longest)
    matched = DURATION.fullmatch(timeout)
    seconds = float(matched[1]) * SECONDS[matched[2]] if matched else 0
    if not 0 < seconds <= longest:
        raise ObjectRefused(
            f"invalid argument timeout: expected such as 5s or 500ms, {longest:g}s at most"
        )
    return seconds


class DataPlanes:
    """All data planes by their records. Once somebody waits for them they are followed, by one watch for all who wait.

    A watch that was there before the write tells of it at once; etcd takes 100 ms to begin one where records come in.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = records_prefix(prefix)
        self._records: dict[str, NodeRecord] = {}
        self._known = False  # the records are those of the store, but for what is on its way
        self._changed = anyio.Event()
        self._wanted = anyio.Event()

    async def list(self) -> list[NodeRecord]:
        """Every live one. StoreUnavailable."""
        listing = await self._store.list(self._prefix)
        return [record for entry in listing.entries if (record := NodeRecord.decode(entry.value))]

    async def find(self, node: str) -> NodeRecord | None:
        """A live one. StoreUnavailable."""
        entry = await self._store.get(self._prefix + node)
        return NodeRecord.decode(entry.value) if entry is not None else None

    async def wait_for(self, revision: int, seconds: float) -> Reached:
        """Until every live one has that revision in force, or the time is over; within `followed`."""
        self._wanted.set()
        complete = False
        with anyio.move_on_after(seconds):
            while True:
                changed = self._changed  # of before the look, which takes a while
                if complete := await self._all_have(revision):
                    break
                await changed.wait()
        records = self._records.values()
        return Reached(
            all=complete,
            applied=[one for one in records if one.revision >= revision],
            stragglers=[one for one in records if one.revision < revision],
        )

    async def _all_have(self, revision: int) -> bool:
        if not self._known or any(one.revision < revision for one in self._records.values()):
            return False
        # Who has a write in force says so after it: then whoever was there before it is known, too. Where nobody says
        # anything, somebody who was there may still be on his way to us.
        try:
            return bool(self._records) or not await self.list()
        except StoreUnavailable:
            return False

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follows them while the block lasts, from the first time that somebody waits."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow)
            yield
            tasks.cancel_scope.cancel()

    async def _follow(self) -> None:
        await self._wanted.wait()
        pause = RETRY
        while True:
            try:
                listing = await self._store.list(self._prefix)
                self._records.clear()
                self._note(listing.entries)
                async with self._store.watch(self._prefix, after=listing.revision) as batches:
                    async for batch in batches:
                        pause = RETRY
                        self._note(batch.events)
            except (
                Compacted,
                StoreUnavailable,
            ):  # whoever waits has time left, or says who was behind
                self._known = False
                await anyio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX)

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            self._records.pop(event.key, None)
            if isinstance(event, Entry) and (record := NodeRecord.decode(event.value)) is not None:
                self._records[event.key] = record
        self._known = True
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
