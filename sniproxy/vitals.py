"""How a worker is: how late its loop turns, and how much of a core its relay's thread uses. Both of the last ten seconds.

A loop is late by whatever ran in it for too long: nobody who comes is served meanwhile.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

LOOK_EVERY = 0.25  # seconds
WINDOW = 10.0  # seconds
THREADS = Path("/proc/self/task")
RELAY = "relay"  # the name of its thread, as the crate gives it


class Lag:
    """The worst of the window. Pure."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()  # when, and how late; the worst first

    def note(self, now: float, late: float) -> None:
        """It was so many seconds late."""
        while self._seen and self._seen[-1][1] <= late:
            self._seen.pop()
        self._seen.append((now, late))

    def worst(self, now: float) -> float:
        """In seconds."""
        while self._seen and self._seen[0][0] < now - WINDOW:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0


class Load:
    """Which share of the window a thread has run. Pure."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def note(self, now: float, used: float) -> None:
        """It has run so many seconds since it began."""
        self._seen.append((now, used))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()

    @property
    def share(self) -> float:
        """From 0 to 1."""
        if len(self._seen) < 2:
            return 0.0
        (began, before), (now, used) = self._seen[0], self._seen[-1]
        return max(0.0, used - before) / (now - began) if now > began else 0.0


class Vitals:
    """One worker's. `run` must run."""

    def __init__(self, threads: Path = THREADS) -> None:
        self.lag = Lag()
        self.load = Load()
        self.thread = _find(threads)  # of the relay; None: it has none

    @property
    def relay_load(self) -> Callable[[], float] | None:
        """What tells it, where the relay has a thread."""
        return None if self.thread is None else lambda: self.load.share

    async def run(self) -> None:
        """Never returns."""
        while True:
            begun = trio.current_time()
            self.look(begun)
            await trio.sleep(LOOK_EVERY)
            now = trio.current_time()
            self.lag.note(now, max(0.0, now - begun - LOOK_EVERY))

    def look(self, now: float) -> None:
        """At the relay's thread."""
        if self.thread is not None and (used := _used(self.thread)) is not None:
            self.load.note(now, used)

    def worst_lag(self) -> float:
        """In seconds."""
        return self.lag.worst(trio.current_time())


def _find(threads: Path) -> Path | None:
    try:
        for thread in threads.iterdir():
            if (thread / "comm").read_text().strip() == RELAY:
                return thread
    except OSError:
        pass
    return None


def _used(thread: Path) -> float | None:
    """Seconds of a core; None where the kernel does not say."""
    try:
        return int((thread / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
