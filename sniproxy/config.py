"""Keeping the snapshot equal to the store: list, then watch from that revision, for ever.

A watch that is lost goes on from the last revision that was given out; a history that was compacted means a new list, of
which only the difference is applied. Meanwhile the last configuration stays in force. Pauses are left to chance by half: a
fleet that lost its store at one instant shall not come back at one.
"""

import random
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
    chance: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Never returns. `started` once the first full list is in force: before that there is nothing to serve by.

    chance: from 0 to 1, how much of the second half of a pause is kept.
    """
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
                    if batch.events:
                        pause = settings.store_retry
                    broken = snapshot.apply(batch.events)
                    # beyond the last event when it was quiet: a watch that starts there is not compacted away
                    snapshot.revision = max(snapshot.revision, batch.revision)
                    _report(broken, metrics, log, snapshot)
        except Compacted as compacted:
            listed = False
            log.info("listing anew", cause=str(compacted))
            if (
                trio.current_time() - begun < settings.store_retry
            ):  # it vanishes faster than we list
                await trio.sleep(_spread(settings.store_retry, chance))
        except StoreUnavailable as error:
            metrics.store_connected.set(0)
            # It was followed, though perhaps nothing changed, or it was slow to fail: no need to spare it.
            if trio.current_time() - begun > settings.store_retry_max:
                pause = settings.store_retry
            slept = _spread(pause, chance)
            retry_s = round(slept, 3)
            log.warning("store lost", cause=str(error), retry_s=retry_s, revision=snapshot.revision)
            await trio.sleep(slept)
            pause = min(pause * 2, settings.store_retry_max)


def _spread(pause: float, chance: Callable[[], float]) -> float:
    """Between half of a pause and the whole."""
    return pause * (1 + chance()) / 2


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
