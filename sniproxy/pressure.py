"""What is done when memory is short: nobody is let in, and who makes it short goes, one session after another.

The kernel ends a container that passes its limit, and all its sessions with it; so ours is a tenth lower. Sessions that play
hold next to nothing, but for those whose reader is slower than their writer.
"""

from collections.abc import Callable

import trio

from sniproxy import cgroup
from sniproxy.crew import Crew
from sniproxy.logs import Log
from sniproxy.metrics import PodMetrics
from sniproxy.settings import Overload

LOOK_EVERY = 0.25  # seconds
OF_CGROUP = 0.9  # of the cgroup's limit, where the setting is `auto`
RELIEVED = 0.95  # of the limit: below it players are let in again


class Pressure:
    """Whether memory is short. Pure."""

    def __init__(self) -> None:
        self.short = False

    def note(self, used: int, limit: int | None) -> int:
        """So many bytes are in use: how many of them are too many."""
        if limit is None:
            self.short = False
            return 0
        if used >= limit:
            self.short = True
        elif used < RELIEVED * limit:
            self.short = False
        return max(0, used - limit)


def limit_of(settings: Overload, allowed: int | None) -> int | None:
    """Bytes; `allowed`: by the cgroup."""
    if settings.max_memory == "auto":
        return None if allowed is None else int(OF_CGROUP * allowed)
    return settings.max_memory


async def watch_memory(
    crew: Crew, settings: Callable[[], Overload], metrics: PodMetrics, log: Log
) -> None:
    """Never returns."""
    pressure = Pressure()
    told = (
        None if crew.old else False
    )  # what the workers believe; None: what the version before has said
    allowed = cgroup.memory_limit()
    while True:
        limit = limit_of(settings(), allowed)
        used = cgroup.memory_used() if allowed is not None else None
        if used is None:  # the machine's memory is not ours alone
            used = cgroup.memory_of(crew.pids)
        metrics.memory_used.set(used)
        metrics.memory_limit.set(limit or 0)
        over = pressure.note(used, limit)
        if pressure.short != told:
            crew.short = pressure.short
            crew.order({"short": crew.short}, old=True)
            if crew.short:
                advice = "nobody is let in; raise overload.max_memory or the container's limit"
                log.warning("memory short", used=used, limit=limit, advice=advice)
            elif told:
                log.info("memory no longer short", used=used, limit=limit)
            told = crew.short
        if over:
            await _relieve(crew, over)
        await trio.sleep(LOOK_EVERY)


async def _relieve(crew: Crew, over: int) -> None:
    """Ends who holds most, in the worker that holds most."""
    held = await crew.ask("held", old=True)
    worst = max(held, key=lambda member: held[member], default=None)
    if worst is not None and held[worst]:
        worst.channel.send({"shed": over})
