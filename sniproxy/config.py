"""A worker's side of a change: what its store gives is put in force, and what cannot be used is told once."""

from collections.abc import Callable, Iterable

from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.snapshot import Broken, Snapshot
from sniproxy.store import Batch, Listing


class InForce:
    """The snapshot as what is kept equal to a store. Implements `sniproxy.following.Follower`.

    changed: called once a change is in force.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metrics: Metrics,
        log: Log,
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
        self._report(self._snapshot.load(listing))

    async def apply(self, batch: Batch) -> None:
        broken = self._snapshot.apply(batch.events)
        self._snapshot.revision = max(self._snapshot.revision, batch.revision)
        if batch.events:
            self._report(broken)
        self._metrics.config_revision.set(self._snapshot.revision)

    def _report(self, broken: Iterable[Broken]) -> None:
        self._metrics.config_revision.set(self._snapshot.revision)
        self._metrics.config_broken.set(len(self._snapshot.broken))
        for one in broken:
            self._log.warning(
                "object skipped",
                key=one.key,
                revision=one.revision,
                cause=one.why,
                last_good_version="in force" if one.kept else "none",
            )
        self._changed()
