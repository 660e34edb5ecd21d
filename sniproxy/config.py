"""Keeping the snapshot equal to the store: list, then watch from that revision, for ever.

A watch that is lost goes on from the last revision that was applied; a history that was compacted means a new list, of which
only the difference is applied. Meanwhile the last configuration stays in force.
"""

from collections.abc import Callable, Iterable

import trio

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.settings import Proxy
from sniproxy.snapshot import Broken, Snapshot
from sniproxy.store import Store


async def follow(
    store: Store,
    prefix: str,
    snapshot: Snapshot,
    *,
    settings: Proxy,
    metrics: Metrics,
    log: Log,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Never returns. `started` once the first full list is in force: before that there is nothing to serve by."""
    ready: Callable[[], None] | None = task_status.started
    listed = False
    pause = settings.store_retry
    while True:
        begun = trio.current_time()
        try:
            if not listed:
                _report(snapshot.load(await store.list(prefix + "/")), metrics, log, snapshot)
                listed, pause = True, settings.store_retry
                if ready is not None:
                    ready()
                    ready = None
            async with store.watch(prefix + "/", after=snapshot.revision) as batches:
                metrics.store_connected.set(1)
                async for batch in batches:
                    pause = settings.store_retry
                    broken = snapshot.apply(batch.events)
                    _report(broken, metrics, log, snapshot)
        except Compacted as compacted:
            listed = False
            log.info("listing anew", cause=str(compacted))
            if (
                trio.current_time() - begun < settings.store_retry
            ):  # it vanishes faster than we list
                await trio.sleep(settings.store_retry)
        except StoreUnavailable as error:
            metrics.store_connected.set(0)
            # It was followed, though perhaps nothing changed, or it was slow to fail: no need to spare it.
            if trio.current_time() - begun > settings.store_retry_max:
                pause = settings.store_retry
            log.warning("store lost", cause=str(error), retry_s=pause, revision=snapshot.revision)
            await trio.sleep(pause)
            pause = min(pause * 2, settings.store_retry_max)


def _report(broken: Iterable[Broken], metrics: Metrics, log: Log, snapshot: Snapshot) -> None:
    metrics.config_revision.set(snapshot.revision)
    metrics.config_broken.set(len(snapshot.broken))
    for one in broken:
        log.warning(
            "object skipped",
            key=one.key,
            revision=one.revision,
            cause=one.why,
            last_good_version="in force" if one.kept else "none",
        )
