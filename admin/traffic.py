"""Traffic by the hour and by the day, as the store has it: what data planes have written so far, added up."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import anyio
import anyio.to_thread

from sniproxy.objects.traffic import (
    DAY,
    Part,
    Places,
    Stored,
    Traffic,
    day_name,
    hour_name,
    joined_day,
    joined_hour,
)
from sniproxy.store import Entry, Store

MONTH = 7  # characters of a day's name
T = TypeVar("T")
Told = Iterator[tuple[int, Traffic]]


class TrafficReader:
    """Reads one store. Whole numbers of hours and days are since 1970.

    `tell` gets those of which there is something, in their order, each unpacked when it is asked for: a month of a
    thousand routes would be large in memory. It runs in a thread, as it may take seconds, and one at a time.
    """

    def __init__(self, store: Store, prefix: str, max_routes: int) -> None:
        self._store = store
        self._places = Places(prefix)
        self._max_routes = max_routes
        self._thread: anyio.CapacityLimiter | None = None  # made on the event loop

    async def hours(self, first: int, end: int, tell: Callable[[Told], T]) -> T:
        """What is told of them. StoreUnavailable, and whatever `tell` raises."""
        pending = await self._pending(first, end)
        days = sorted({day_name(hour // DAY) for hour in range(first, end)})
        entries = await self._under(self._places.hours, days)

        def read() -> Told:
            for hour in range(first, end):
                held = _decoded(entries.get(self._places.hour(hour)))
                if held is not None or hour in pending:
                    joined = joined_hour(held or Stored(), pending[hour], self._max_routes)
                    yield hour, joined.traffic

        return await self._in_thread(tell, read())

    async def days(self, first: int, end: int, tell: Callable[[Told], T]) -> T:
        """The same of days."""
        pending = await self._pending(first * DAY, end * DAY)
        months = sorted({day_name(day)[:MONTH] for day in range(first, end)})
        entries = await self._under(self._places.days, months)
        for hour in list(pending):  # read after its parts: what is not there any more is here
            key = self._places.hour(hour)
            if (entry := await self._store.get(key)) is not None:
                entries[key] = entry

        def read() -> Told:
            for day in range(first, end):
                held = _decoded(entries.get(self._places.day(day)))
                for hour in range(day * DAY, (day + 1) * DAY):
                    if hour in pending:
                        of_hour = _decoded(entries.get(self._places.hour(hour))) or Stored()
                        joined = joined_hour(of_hour, pending[hour], self._max_routes)
                        held = joined_day(held or Stored(), joined, pending[hour], self._max_routes)
                if held is not None:
                    yield day, held.traffic

        return await self._in_thread(tell, read())

    async def _in_thread(self, tell: Callable[[Told], T], read: Told) -> T:
        if self._thread is None:
            self._thread = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(tell, read, limiter=self._thread)

    async def _pending(self, first: int, end: int) -> defaultdict[int, list[Part]]:
        """The parts of those hours that lie by themselves. They are read before what they may be added to meanwhile."""
        pending: defaultdict[int, list[Part]] = defaultdict(list)
        listing = await self._store.list(self._places.parts)
        for entry in listing.entries:
            part = self._places.read_part(entry.key, entry.value, entry.mod_revision)
            if part is not None and first <= part.hour < end:
                pending[part.hour].append(part)
        return pending

    async def _under(self, place: str, names: Iterable[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for name in names:
            listing = await self._store.list(place + name)
            found |= {entry.key: entry for entry in listing.entries}
        return found


def _decoded(entry: Entry | None) -> Stored | None:
    return None if entry is None else Stored.decode(entry.value)


def hour_text(hour: int) -> str:
    """Such as 2026-11-28T23:00:00Z."""
    return f"{hour_name(hour)}:00:00Z"
