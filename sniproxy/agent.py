"""The agent: a pod's one watch on a remote store, and the local copy that its workers follow.

A change comes in by the watch, is written into the copy (`store/mirror.py`), and the workers are woken. Started without the
store, the pod serves from the copy of last time. Where no copy can be written, be it a full disk or one that can only be
read, the copy lives in memory until one can: a disk that fails costs the cold start and no change.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from sniproxy.errors import StoreUnavailable
from sniproxy.following import Freshness, OutOfStep, follow
from sniproxy.logs import Log
from sniproxy.metrics import PodMetrics
from sniproxy.settings import EtcdUrl, Settings
from sniproxy.store import Batch, Listing, Store
from sniproxy.store.mirror import Copy, Held, Kept, Mirror, Origin, is_abandoned
from sniproxy.store.sqlite_file import translated

T = TypeVar("T")

FILE = "mirror.db"
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one
IN_MEMORY = "sniproxy-"  # begins the name of a copy's directory there
DISK_RETRY = 30.0  # seconds between two tries to have the copy on disk again


class Agent:
    """One per pod, for a store that is not on this machine. `copy`: what workers follow, once `run` has started."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: PodMetrics,
        log: Log,
        *,
        moved: Callable[[Path], None] = lambda _: None,
        memory: Path = MEMORY,
        now: Callable[[], float] = time.time,
    ) -> None:
        """moved: hears where the copy lies from now on. memory: a directory for the copy that no disk takes.

        now: seconds since the epoch.
        """
        where = settings.where
        assert isinstance(where, EtcdUrl)
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._log = log
        self._moved = moved
        self._now = now
        origin = Origin(where.prefix, frozenset(where.endpoints))
        self._disk = Mirror(settings.state_dir / FILE, origin)
        self._origin = origin
        self._scratch = memory
        self._memory: Mirror | None = None  # made when the disk fails
        self._try_disk_at = 0.0  # of trio's clock, while the copy is in memory
        self._thread = trio.CapacityLimiter(1)
        self._listed = trio.Event()
        self._revision = 0
        self.freshness = Freshness(settings.etcd.watch_silence)
        self.copy = Copy(self._disk.path)

    @property
    def path(self) -> Path:
        """Where the copy lies."""
        return (self._memory or self._disk).path

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Never returns. `started` once the copy has a configuration: the store's, or after a while that of last time."""
        proxy = self._settings.proxy
        try:
            kept = await self._open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(follow, settings=proxy, freshness=self.freshness, log=self._log),
                    self._store,
                    self._settings.where.prefix,
                    self,
                )
                with trio.move_on_after(proxy.store_wait):
                    await self._listed.wait()
                if not self._listed.is_set():
                    await self._start_without(kept)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                await self.copy.aclose()
                await self._in_thread(self._close)

    async def _start_without(self, kept: Kept | None) -> None:
        """The store does not answer: the copy is served from, or there is nothing to serve by."""
        if kept is None:
            advice = "the store does not answer, and there is no copy of it from last time"
            self._log.warning("no configuration yet", advice=advice)
            await self._listed.wait()
        else:
            age = round(self.freshness.age, 1)
            self._log.warning("serving from the mirror", revision=kept.revision, age_s=age)

    # -- what the store gives; implements `sniproxy.following.Follower`

    @property
    def revision(self) -> int:
        """Of the copy."""
        return self._revision

    async def load(self, listing: Listing) -> None:
        """Takes a full list over, on disk or else in memory."""
        self._metrics.config_lists.inc()
        try:
            await self._in_thread(self._disk.take_over, listing, self._now())
        except StoreUnavailable as error:
            await self._load_in_memory(listing, error)
        else:
            await self._leave_memory()
        self._revision = listing.revision
        self._listed.set()

    async def apply(self, batch: Batch) -> None:
        """Writes what has changed; OutOfStep where it cannot be written."""
        mirror = self._memory or self._disk
        try:
            await self._in_thread(mirror.apply, batch, self._now())
        except StoreUnavailable as error:
            raise OutOfStep(str(error)) from error
        self._revision = batch.revision
        if self._memory is not None and trio.current_time() >= self._try_disk_at:
            await self._try_disk(self._memory)

    # -- where the copy lies

    def _move(self, path: Path) -> None:
        self.copy.move(path)
        self._moved(path)

    async def _load_in_memory(self, listing: Listing, error: StoreUnavailable) -> None:
        if self._memory is None:
            advice = "changes are followed in memory; started without the store, it would be behind"
            self._log.warning("mirror not on disk", cause=str(error), advice=advice)
            folder = await self._in_thread(_make_folder, self._scratch)
            self._memory = Mirror(folder / FILE, self._origin)
            self._metrics.config_mirror_on_disk.set(0)
        self._try_disk_at = trio.current_time() + DISK_RETRY
        await self._in_thread(self._memory.take_over, listing, self._now())
        self._move(self._memory.path)

    async def _try_disk(self, memory: Mirror) -> None:
        """A full list out of memory, which costs the store nothing."""
        self._try_disk_at = trio.current_time() + DISK_RETRY
        try:
            # It may be damaged by now: then it is set aside, and made anew.
            await self._look_at_disk()
            listing = await self._in_thread(memory.listing)
            await self._in_thread(self._disk.take_over, listing, self._now())
        except StoreUnavailable:
            return  # as before, and told when it began
        await self._leave_memory()

    async def _leave_memory(self) -> None:
        if self._memory is not None:
            self._log.info("mirror on disk again")
            self._move(self._disk.path)
            await self._in_thread(_remove, self._memory)  # cancelled before that, `_close` does it
            self._memory = None
        self._metrics.config_mirror_on_disk.set(1)

    # -- the files

    async def _open(self) -> Kept | None:
        """What is there from last time, if it can be trusted."""
        try:
            kept = await self._look_at_disk()
        except StoreUnavailable as error:
            self._log.warning("mirror not usable", cause=str(error))
            kept = None if isinstance(error, Held) else await self._open_in_memory()
        else:
            self._metrics.config_mirror_on_disk.set(kept is not None)
        if kept is not None:
            self._revision = kept.revision
            self.freshness.begin_old(max(0.0, self._now() - kept.proven_at))
        return kept

    async def _open_in_memory(self) -> Kept | None:
        """What is there from last time on a disk that is full or can only be read, where SQLite opens nothing."""
        try:
            folder = await self._in_thread(_make_folder, self._scratch)
            self._memory = Mirror(folder / FILE, self._origin)
            await self._in_thread(self._disk.copy_to, self._memory.path)
            kept, why = await self._in_thread(self._memory.open)
        except StoreUnavailable as error:
            kept, why = None, str(error)
        if kept is not None and self._memory is not None:
            self._move(self._memory.path)
            return kept
        self._log.warning("mirror not read", cause=why or "it holds nothing")
        if self._memory is not None:
            await self._in_thread(_remove, self._memory)
            self._memory = None
        return None

    async def _look_at_disk(self) -> Kept | None:
        kept, why = await self._in_thread(self._disk.open)
        if why:
            self._metrics.config_mirror_set_aside.inc()
            self._log.warning("mirror set aside", file=str(self._disk.path), cause=why)
        return kept

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)

    def _close(self) -> None:
        self._disk.close()
        if self._memory is not None:
            _remove(self._memory)


def _make_folder(memory: Path) -> Path:
    """For a copy: in memory, or else where temporary files lie."""
    with translated(memory):
        usable = os.access(memory, os.W_OK)
        scratch = memory if usable else Path(tempfile.gettempdir())
        # What a process left that was killed: memory is not given back by itself.
        for left in filter(is_abandoned, scratch.glob(f"{IN_MEMORY}*/{FILE}")):
            shutil.rmtree(left.parent, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=IN_MEMORY, dir=scratch))


def _remove(mirror: Mirror) -> None:
    mirror.close()
    shutil.rmtree(mirror.path.parent, ignore_errors=True)
