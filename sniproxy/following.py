"""Keeping something equal to a store: list, then watch from that revision, for ever.

A watch that is lost goes on from the last revision that was taken over; a history that is gone, or is another one, means a
new list. Meanwhile what was taken over last stays in force, and `Freshness` says how old that may be.
"""

import random
from collections.abc import Callable
from typing import Protocol

import trio

from sniproxy.errors import Compacted, StoreError, StoreUnavailable
from sniproxy.logs import Log
from sniproxy.settings import Proxy
from sniproxy.store import Batch, Listing, Store


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
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Never returns. `started` once the first full list was taken over.

    chance: from 0 to 1, how much of the second half of a pause is kept: a fleet must not come back in step.
    """
    ready: Callable[[], None] | None = task_status.started
    listed = False
    pause = settings.store_retry
    while True:
        begun = trio.current_time()
        try:
            if not listed:
                await follower.load(await store.list(prefix + "/"))
                freshness.proven()
                listed, pause = True, settings.store_retry
                if ready is not None:
                    ready()
                    ready = None
            async with store.watch(prefix + "/", after=follower.revision) as batches:
                freshness.proven()
                async for batch in batches:
                    if batch.events:
                        pause = settings.store_retry
                    await follower.apply(batch)
                    freshness.proven()
        except (Compacted, OutOfStep) as missed:
            listed = False
            log.info("listing anew", cause=str(missed))
            if (
                trio.current_time() - begun < settings.store_retry
            ):  # it vanishes faster than we list
                await trio.sleep(_spread(settings.store_retry, chance))
        except StoreUnavailable as error:
            freshness.lost()
            # It was followed, though perhaps nothing changed, or it was slow to fail: no need to spare it.
            if trio.current_time() - begun > settings.store_retry_max:
                pause = settings.store_retry
            slept = _spread(pause, chance)
            retry_s = round(slept, 3)
            log.warning("store lost", cause=str(error), retry_s=retry_s, revision=follower.revision)
            await trio.sleep(slept)
            pause = min(pause * 2, settings.store_retry_max)


def _spread(pause: float, chance: Callable[[], float]) -> float:
    """Between half of a pause and the whole."""
    return pause * (1 + chance()) / 2
