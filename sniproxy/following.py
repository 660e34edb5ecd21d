"""Keeping something equal to a store: list, then watch from that revision, for ever.

A watch that is lost goes on from the last revision that was taken over; a history that is gone, or is another one, means a
new list, after ever longer pauses where that happens again and again. Meanwhile what was taken over last stays in force,
and `Freshness` says how old that may be.
"""

import math
import random
from collections.abc import Callable
from typing import Protocol

import trio

from sniproxy.errors import Compacted, StoreError, StoreUnavailable
from sniproxy.logs import Log
from sniproxy.settings import Proxy
from sniproxy.store import Batch, Listing, Store

LOST_AGAIN = 30.0  # seconds at least between two lines that say that a store is away


class OutOfStep(StoreError):
    """A follower may have missed something: list anew."""


class Follower(Protocol):
    """What is kept equal to the store."""

    @property
    def revision(self) -> int:
        """Up to which revision it is."""
        ...

    async def load(self, listing: Listing) -> None:
        """Take over a full list."""
        ...

    async def apply(self, batch: Batch) -> None:
        """Take over what was written since; a batch without events is a sign of life. OutOfStep when that fails."""
        ...


class Freshness:
    """How sure we are to have what the store has.

    bound: seconds without a sign of life after which we are not. source: how sure that is which we follow, if it is a copy.
    """

    def __init__(self, bound: float, source: "Freshness | None" = None) -> None:
        self._bound = bound
        self._source = source
        self.watches = 0  # that were begun
        self._connected = False
        self._proven_at = trio.current_time()

    def proven(self) -> None:
        """The store has just said that there is nothing newer, or given what there is."""
        self._connected = True
        self._proven_at = trio.current_time()

    def lost(self) -> None:
        """Nobody tells us of changes."""
        self._connected = False

    def begin_old(self, age: float) -> None:
        """What we have was last proven so many seconds ago, by an earlier process."""
        self._proven_at = trio.current_time() - age

    @property
    def age(self) -> float:
        """Seconds since it was last proven."""
        own = trio.current_time() - self._proven_at
        return own if self._source is None else max(own, self._source.age)

    @property
    def stale(self) -> bool:
        """Whether changes may be missing."""
        if self._source is not None and self._source.stale:
            return True
        return not self._connected or trio.current_time() - self._proven_at > self._bound


async def follow(
    store: Store,
    prefix: str,
    follower: Follower,
    *,
    settings: Proxy,
    freshness: Freshness,
    log: Log,
    chance: Callable[[], float] = random.random,
    of_copy: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Never returns. `started` once the first full list was taken over.

    chance: from 0 to 1, how much of the second half of a pause is kept: a fleet must not come back in step.
    of_copy: the store is a copy of another one, whose own follower has told why there is a new list.
    """
    ready: Callable[[], None] | None = task_status.started
    listed = False
    pause = relist = settings.store_retry
    outage = _Outage(log)
    while True:
        begun = watched = trio.current_time()
        try:
            if not listed:
                await follower.load(await store.list(prefix + "/"))
                freshness.proven()
                listed, pause = True, settings.store_retry
                outage.over(follower.revision)
                if ready is not None:
                    ready()
                    ready = None
            watched = trio.current_time()
            async with store.watch(prefix + "/", after=follower.revision) as batches:
                freshness.proven()
                freshness.watches += 1
                outage.over(follower.revision)
                async for batch in batches:
                    if batch.events:
                        pause = settings.store_retry
                    await follower.apply(batch)
                    freshness.proven()
        except (Compacted, OutOfStep) as missed:
            listed = False
            if not of_copy:
                log.info("listing anew", cause=str(missed))
            if trio.current_time() - watched > settings.store_retry:
                relist = settings.store_retry
            else:  # it vanishes faster than we list, and a full list costs the store more than any other question
                await trio.sleep(_spread(relist, chance))
                relist = min(relist * 2, settings.store_retry_max)
        except StoreUnavailable as error:
            freshness.lost()
            # It was followed, though perhaps nothing changed, or it was slow to fail: no need to spare it.
            if trio.current_time() - begun > settings.store_retry_max:
                pause = settings.store_retry
            slept = _spread(pause, chance)
            outage.failed(str(error), retry_s=round(slept, 3), revision=follower.revision)
            await trio.sleep(slept)
            pause = min(pause * 2, settings.store_retry_max)


class _Outage:
    """What the log says of a store that is away: a line at once, one now and then, and one when it is back."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tries = 0  # that have failed, in this outage
        self._begun = 0.0
        self._told = False  # of this outage
        self._tell_at = -math.inf  # also of the next one: a store may come and go all the time

    def failed(self, cause: str, *, retry_s: float, revision: int) -> None:
        now = trio.current_time()
        if not self._tries:
            self._begun = now
        self._tries += 1
        if now >= self._tell_at:
            self._told, self._tell_at = True, now + LOST_AGAIN
            self._log.warning(
                "store lost", cause=cause, retry_s=retry_s, revision=revision, tries=self._tries
            )

    def over(self, revision: int) -> None:
        if self._told:
            lost_s = round(trio.current_time() - self._begun, 3)
            self._log.info("store back", lost_s=lost_s, tries=self._tries, revision=revision)
        self._tries, self._told = 0, False


def _spread(pause: float, chance: Callable[[], float]) -> float:
    """Between half of a pause and the whole."""
    return pause * (1 + chance()) / 2
