"""A worker's side of a change: what its store gives is put in force, and what cannot be used is told once.

Reading all of a large configuration takes seconds, in which players play: the loop turns meanwhile, and what was read is
put in force together at the end. What names a file is read in a thread, as a disk may keep whoever reads it waiting.
"""

from collections.abc import Callable, Iterable, Iterator

import trio

from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.references import References
from sniproxy.snapshot import Broken, Change, Snapshot
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
        self._taking = trio.Lock()  # held from reading a change until it is in force

    @property
    def revision(self) -> int:
        return self._snapshot.revision

    async def load(self, listing: Listing) -> None:
        await self._take(self._snapshot.difference(listing), listing.revision)
        self._changed()

    async def apply(self, batch: Batch) -> None:
        await self._take(batch.events, max(self._snapshot.revision, batch.revision))
        if batch.events:
            self._changed()

    async def _take(self, events: Iterable[Event], revision: int) -> None:
        async with self._taking:
            changes: list[Change] = []
            for number, event in enumerate(events, 1):
                change = self._snapshot.read([event])
                changes += await _in_thread(change) if self._snapshot.names_files(event) else change
                if number % READ_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            self._report(self._snapshot.enforce(changes, revision))

    async def look_after_files(self, references: References, every: Callable[[], float]) -> None:
        """Never returns. Puts in force what changes in the files that objects name, looking each so many seconds.

        references: those that the snapshot resolves with.
        """
        while True:
            await trio.sleep(every())
            await self.look(references)

    async def look(self, references: References) -> None:
        """Reads anew what names a file that has changed. What cannot be used then leaves its last good version in force."""
        files = self._snapshot.files
        if not files:
            return
        changed = await trio.to_thread.run_sync(references.changed, files)
        if not changed:
            return
        async with self._taking:
            changes = await _in_thread(self._snapshot.reread(changed))
            self._report(self._snapshot.enforce(changes, self._snapshot.revision))
        if self._log is not None:
            for change in changes:
                if change.why is None:
                    self._log.info("files of an object changed", key=change.event.key)

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


async def _in_thread(changes: Iterator[Change]) -> list[Change]:
    return await trio.to_thread.run_sync(list, changes)
