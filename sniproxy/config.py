"""A worker's side of a change: what its store gives is put in force, and what cannot be used is told once.

Reading all of a large configuration takes seconds, in which players play: the loop turns meanwhile, and what was read is
put in force together at the end. What names a file is read in a thread, as a disk may keep whoever reads it waiting, and
waited for only so long: then its last good version stays in force, and each look at files tries again.
"""

from collections.abc import Callable, Iterable

import trio

from sniproxy.following import OutOfStep
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.references import References
from sniproxy.snapshot import Broken, Change, Snapshot
from sniproxy.store import Batch, Event, Listing

PATIENCE = 5.0  # seconds
READERS = 32  # threads, that is objects whose files may hang, as on a mount of another machine that went away
READ_AT_ONCE = 10  # objects, between two turns of the loop: a millisecond or two


class InForce:
    """The snapshot as what is kept equal to a store. Implements `sniproxy.following.Follower`.

    log: None where another worker tells of the same objects. changed: called once a change is in force.
    patience: seconds that the files of one object may take to be read.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metrics: Metrics,
        log: Log | None,
        changed: Callable[[], None] = lambda: None,
        patience: Callable[[], float] = lambda: PATIENCE,
    ) -> None:
        self._snapshot = snapshot
        self._metrics = metrics
        self._log = log
        self._changed = changed
        self._patience = patience
        self._readers = trio.CapacityLimiter(READERS)
        self._hanging: set[str] = (
            set()
        )  # keys of objects that a thread reads, perhaps long given up
        self._taking = trio.Lock()  # held from reading a change until it is in force

    @property
    def revision(self) -> int:
        return self._snapshot.revision

    async def load(self, listing: Listing) -> None:
        begun = trio.current_time()
        self._snapshot.behind = False
        await self._take(self._snapshot.difference(listing), listing.revision)
        self._metrics.counts.config_apply.observe(trio.current_time() - begun)
        self._changed()

    async def apply(self, batch: Batch) -> None:
        if self._snapshot.behind:
            raise OutOfStep("another keyring may open what was skipped")
        begun = trio.current_time()
        await self._take(batch.events, max(self._snapshot.revision, batch.revision))
        if batch.events:
            self._metrics.counts.config_apply.observe(trio.current_time() - begun)
            self._changed()

    async def _take(self, events: Iterable[Event], revision: int) -> None:
        async with self._taking:
            changes: list[Change] = []
            for number, event in enumerate(events, 1):
                if self._snapshot.names_files(event):
                    changes.append(await self._read_files(event))
                else:
                    changes += self._snapshot.read([event])
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
            read = [await self._read_files(event) for event in self._snapshot.naming(changed)]
            changes = [change for change in read if not self._snapshot.is_known(change)]
            self._report(self._snapshot.enforce(changes, self._snapshot.revision))
        if self._log is not None:
            for change in changes:
                if change.why is None:
                    self._log.info("files of an object changed", key=change.event.key)

    async def _read_files(self, event: Event) -> Change:
        """Reads an object that names files. One that hangs is waited for once, and is late until its thread has ended.

        The more of them hang, the less is waited for the next: all together cost four times the patience.
        """

        def read() -> Change:
            self._hanging.add(event.key)
            try:
                (change,) = self._snapshot.read([event])
                return change
            finally:
                self._hanging.discard(event.key)

        hanging = len(self._hanging)
        if hanging < READERS and event.key not in self._hanging:
            with trio.move_on_after(self._patience() / (1 + hanging)):
                return await trio.to_thread.run_sync(
                    read, abandon_on_cancel=True, limiter=self._readers
                )
        return self._snapshot.late(event)

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
