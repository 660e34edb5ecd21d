"""Traffic statistics on their way to the store: looks at the counters every few seconds, and writes what has come.

A store that is away costs nothing: what was counted is kept, and written later. Whoever is killed loses what came since the
last writing, `statistics.interval` seconds at most.
"""

import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

import trio

from sniproxy.errors import Conflict, StoreUnavailable
from sniproxy.folding import FOLD_EVERY, fold
from sniproxy.logs import Log
from sniproxy.metrics import PodMetrics
from sniproxy.objects.node_record import Rates
from sniproxy.objects.traffic import Places, Stored, hour_of
from sniproxy.presence import node_id
from sniproxy.scrape import Family, rows_in
from sniproxy.settings import Settings
from sniproxy.statistics import LOOK_EVERY, Growth, Ledger, OpenPart, look_at
from sniproxy.store import Store

FAREWELL = 2.0  # seconds for writing at the end
WRITE_WITHIN = 20.0  # seconds for all that is written at once
FOLD_WITHIN = 300.0  # seconds; what is not done by then is done the next time
SOONEST = 0.8  # of the interval: data planes that started together write apart
MOVES = 3  # times in one writing that a part may turn out to be sealed


class Books:
    """Of one data plane. `run` must run."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        counted: Callable[[], list[list[Family]]],
        metrics: PodMetrics,
        log: Log,
        left: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """counted: by all workers, as `scrape.py` has it. left: what `leave` gave, of the version before, or {}."""
        self._store = store
        self._settings = settings.statistics
        self._places = Places(settings.where.prefix)
        self._node = node_id(settings)
        self._counted = counted
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._look_every = min(LOOK_EVERY, self._settings.interval)
        self._growth = Growth({} if left is None else left.get("seen"), self._look_every)
        self._ledger = Ledger(lambda: secrets.token_hex(6))
        if left:
            self._take_over(left)
        self._looked: float | None = None  # on trio's clock
        self._busy = trio.Lock()
        self._failing = False

    def _take_over(self, left: dict[str, Any]) -> None:
        try:
            self._ledger.take_over(left["parts"])
        except (LookupError, TypeError, ValueError) as error:
            self._log.error("statistics not taken over", cause=repr(error))

    @property
    def rates(self) -> Rates | None:
        """What comes in a second, at the last look."""
        return self._growth.rates

    def leave(self) -> dict[str, Any]:
        """For the version that goes on, as JSON can hold it."""
        return {"seen": self._growth.seen, "parts": self._ledger.plain()}

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_now_and_then)
            nursery.start_soon(self._fold_now_and_then)

    async def finish(self) -> None:
        """The last that is written by this process."""
        await self.write(FAREWELL)

    async def _write_now_and_then(self) -> None:
        while True:
            await self._carefully(self._look_for_a_while)
            await self.write()

    async def _look_for_a_while(self) -> None:
        due = trio.current_time() + self._settings.interval * random.uniform(SOONEST, 1)
        while (left := due - trio.current_time()) > 0:
            await trio.sleep(min(self._look_every, left))
            self.take()

    async def _fold_now_and_then(self) -> None:
        while True:
            await trio.sleep(FOLD_EVERY * random.uniform(0.5, 1.5))
            await self._carefully(self._fold, FOLD_WITHIN)

    async def _fold(self) -> None:
        await fold(self._store, self._places, self._settings, self._clock())

    async def _carefully(
        self, work: Callable[[], Awaitable[None]], seconds: float = math.inf
    ) -> None:
        """For so long at most. A defect of ours costs figures, and no player."""
        try:
            with trio.fail_after(seconds):
                await work()
        except trio.TooSlowError:
            self._failed(f"not done in {seconds:g} s")
        except StoreUnavailable as error:
            self._failed(str(error))
        except Exception:
            self._metrics.statistics_failures.inc()
            self._log.exception("statistics failed")

    def take(self) -> None:
        """Counts what has come since the last look, in the hour that it is now."""
        now = trio.current_time()
        seconds = None if self._looked is None else now - self._looked
        rows = rows_in(chain.from_iterable(self._counted()))
        traffic = self._growth.take(look_at(rows), seconds)
        self._looked = now
        self._ledger.add(hour_of(self._clock()), traffic)

    async def write(self, seconds: float = WRITE_WITHIN) -> None:
        """All that is not written yet, within so many seconds. What cannot be is kept."""
        await self._carefully(self._write_all, seconds)

    async def _write_all(self) -> None:
        async with self._busy:
            self.take()
            try:
                for part in self._ledger.wanted():
                    await self._write(part)
            finally:
                self._ledger.forget(hour_of(self._clock()))
            if self._failing:
                self._log.info("statistics written again")
            self._failing = False

    async def _write(self, part: OpenPart) -> None:
        """Under the key of this part, or of another one where this is sealed. StoreUnavailable."""
        for _ in range(MOVES):
            if part.tried is not None:
                part = await self._find(part)
                if not part.wanted:
                    return
            value = part.begin(self._settings.max_routes)
            try:
                revision = await self._store.put(self._key(part), value, expect=part.revision)
            except Conflict:
                continue
            part.done(revision)
            return

    async def _find(self, part: OpenPart) -> OpenPart:
        """What became of the last writing; the part that is to be written on. StoreUnavailable."""
        entry = await self._store.get(self._key(part))
        if entry is not None:
            stored = Stored.decode(entry.value)
            part.found(stored.number if stored else None, entry.mod_revision)
            return part if stored and not stored.sealed else self._ledger.move(part)
        hour = await self._store.get(self._places.hour(part.hour))
        held = Stored.decode(hour.value) if hour is not None else None
        number = held.parts.get(part.token) if held is not None else None
        part.found(number, 0)
        return part if number is None and not part.number else self._ledger.move(part)

    def _key(self, part: OpenPart) -> str:
        return self._places.part(part.hour, self._node, part.token)

    def _failed(self, cause: str) -> None:
        self._metrics.statistics_failures.inc()
        if not self._failing:
            advice = "what was counted is kept, and written later"
            self._log.warning("statistics not written", cause=cause, advice=advice)
        self._failing = True
