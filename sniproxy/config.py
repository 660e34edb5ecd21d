"""A worker's side of a change: what its store gives is put in force, and what cannot be used is told once.

Reading all of a large configuration takes seconds, in which players play: the loop turns meanwhile, and what was read is
put in force together at the end.
"""

from collections.abc import Callable, Iterable

import trio

from sniproxy.following import OutOfStep
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.snapshot import Broken, Snapshot
from sniproxy.store import Batch, Event, Listing

READ_AT_ONCE = 10  # objects, between two turns of the loop: a millisecond or two


class InForce:
    """The snapshot as what is kept equal to a store. Implements `sniproxy.following.Follower`.

    log: None where another worker tells of the same objects. changed: called once a change is in force.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metrics: Metrics,
        log: Log | None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._snapshot = snapshot
        self._metrics = metrics
        self._log = log
        self._changed = changed

    @property
    def revision(self) -> int:
        return self._snapshot.revision

    async def load(self, listing: Listing) -> None:
        self._snapshot.behind = False
        await self._take(self._snapshot.difference(listing), listing.revision)
        self._changed()

    async def apply(self, batch: Batch) -> None:
        if self._snapshot.behind:
            raise OutOfStep("another keyring may open what was skipped")
        await self._take(batch.events, max(self._snapshot.revision, batch.revision))
        if batch.events:
            self._changed()

    async def _take(self, events: Iterable[Event], revision: int) -> None:
        """Nobody else changes the snapshot meanwhile: who follows does one thing after the other."""
        changes = []
        for change in self._snapshot.read(events):
            changes.append(change)
            if len(changes) % READ_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        self._report(self._snapshot.enforce(changes, revision))

    def _report(self, broken: Iterable[Broken]) -> None:
        self._metrics.config_revision.set(self._snapshot.revision)
        self._metrics.config_broken.set(len(self._snapshot.broken))
        if self._log is None:
            return
        for one in broken:
            self._log.warning(
                "object skipped",
                key=one.key,
                revision=one.revision,
                cause=one.why,
                last_good_version="in force" if one.kept else "none",
            )
