"""A proxy seen from outside: what it holds, what it has counted and logged, and what it must be back to."""

import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.processes import allocated, memory
from bench.settling import settled
from bench.works import REST, Ready, Running
from tests.support.stack import read_metrics, retry_until

PATIENCE = 60.0  # seconds until all has ended once no player is left
GROWTH = 1024.0  # KiB that a proxy may keep after short sessions: allocators do not give all back
SHARE = 0.02  # or this share of what it had, whichever is more
LINE = b'"event": "session"'  # of the log, once for each session


@dataclass(frozen=True)
class State:
    """What a proxy holds once no session is left, and what it has counted so far."""

    descriptors: int
    tasks: int
    active: int
    opened: int
    closed: int
    lines: int  # of sessions
    memory: float  # KiB, PSS
    allocated: float  # KiB of it that are no file's


def left_behind(before: State, after: State, sessions: int) -> list[str]:
    """What is not as it must be after so many sessions more, memory apart."""
    missed = []
    for name in ("descriptors", "tasks", "active"):
        was, found = getattr(before, name), getattr(after, name)
        if was != found:
            missed.append(f"{name}: {was} before, {found} after")
    for name in ("opened", "closed", "lines"):
        more = getattr(after, name) - getattr(before, name)
        if more != sessions:
            missed.append(f"{name}: {more} more, of {sessions} sessions")
    return missed


def grown(before: State, after: State) -> list[str]:
    """Whether memory is beyond its bar.

    What is allocated counts: the part of a mapped file that is a process's changes with who else maps it.
    """
    most = max(GROWTH, SHARE * before.allocated)
    more = after.allocated - before.allocated
    return [f"memory: {more:+.0f} KiB, at most {most:.0f} are allowed"] if more > most else []


def described(before: State, after: State) -> str:
    """Before and after, for people."""
    back = ", ".join(
        f"{name} {getattr(before, name):.0f} -> {getattr(after, name):.0f}{unit}"
        for name, unit in (
            ("descriptors", ""),
            ("tasks", ""),
            ("active", ""),
            ("memory", " KiB"),
            ("allocated", " KiB"),
        )
    )
    more = ", ".join(
        f"{name} {getattr(after, name) - getattr(before, name):+}"
        for name in ("opened", "closed", "lines")
    )
    return f"{back}; {more}"


def counts(metrics: dict[str, float]) -> tuple[int, int]:
    """Sessions opened, and closed for whichever reason."""
    closed = (
        value
        for name, value in metrics.items()
        if name.startswith("sniproxy_sessions_closed_total{")
    )
    return int(metrics["sniproxy_sessions_opened_total"]), int(sum(closed))


class SessionLines:
    """The lines of sessions in a log that grows; each is read once."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0  # bytes
        self._found = 0

    def count(self) -> int:
        """How many there are by now."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._read += len(line)
                self._found += LINE in line
        return self._found


class Observed:
    """A proxy of ours that serves."""

    def __init__(self, pid: int, status: str, log: Path) -> None:
        """status: the address of its status port."""
        self.pid = pid
        self._status = status
        self._lines = SessionLines(log)

    @property
    def active(self) -> int:
        """Sessions that it has now."""
        return int(self.metrics()["sniproxy_sessions_active"])

    def metrics(self) -> dict[str, float]:
        """Its counters."""
        return read_metrics(self._status, timeout=PATIENCE)

    def state(self) -> State:
        """Once all has ended; AssertionError where that takes too long."""
        left = settled(self, PATIENCE)
        for _ in retry_until(PATIENCE, "as many sessions closed as opened"):
            opened, closed = counts(self.metrics())
            if opened == closed:
                break
        time.sleep(REST)
        lines = self._lines.count()
        return State(*left, opened, closed, lines, memory(self.pid), allocated(self.pid))


class Watched(Observed):
    """One that was started for a comparison."""

    def __init__(self, ready: Ready, running: Running) -> None:
        status: str = yaml.safe_load(ready.launch.config)["status"]["address"]
        super().__init__(running.pid, status, ready.setup.folder / "output.log")
        self.running = running
