"""From one version to the next on the same sockets: what the parent of the workers leaves to the program that it becomes.

The parent executes the new program in its own place, so its process id stays, and with it whatever watches over it. Workers
of the old version go on, its children still: they let players in until the new ones do, then finish their sessions.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import trio

from sniproxy.errors import UpgradeRefused
from sniproxy.scrape import Family

LEFT = "_SNIPROXY_LEFT_BY_OLD_VERSION"  # names the descriptor of what is left
# Those that we act on. They wait while nobody is there to hear them: by default each would end the process.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
CHECK_WITHIN = 30.0  # seconds for the new version to say whether it could run
HELD = "_SNIPROXY_HELD"  # names the addresses that a check need not have
CHECK = "--check"  # the option of `sniproxy proxy` that only looks whether it could run
_unheard: set[int] = set()  # signals that have come


@dataclass(frozen=True, slots=True)
class OldWorker:
    """A worker that was started by the version before."""

    worker: int
    pid: int
    channel: int  # descriptor
    unread: str  # what was read from it and is no whole message yet
    active: int = 0  # its sessions, until it says how many there are
    counted: list[Family] = field(default_factory=list)  # until it says more


@dataclass(frozen=True, slots=True)
class Estate:
    """What is left. All descriptors are the heir's."""

    version: str
    doors: dict[str, list[int]]  # descriptors of listening sockets, by address
    status: tuple[str, int]  # the status port's address and descriptor
    workers: list[OldWorker]
    drained: list[str]  # routes that take no new session
    generation: int  # how many versions this process has been
    counted: list[Family]  # by those of whom nothing else is left
    unhealthy: list[str] = field(default_factory=list)  # game servers, by their probes' names
    statistics: dict[str, Any] = field(default_factory=dict)  # what is not written of them

    @property
    def descriptors(self) -> Iterator[int]:
        """All of them."""
        for group in self.doors.values():
            yield from group
        yield self.status[1]
        for one in self.workers:
            yield one.channel

    def execute(self) -> None:
        """Becomes the new program. OSError if it cannot be executed: this one may go on with what it has left."""
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        late, noted = os.pipe()
        os.set_blocking(noted, False)
        # This thread gets none any more, but others may until the very end, when no code of ours runs after them: the
        # interpreter itself notes those.
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
        os.write(noted, bytes(_unheard))
        number = os.memfd_create("sniproxy-estate")
        os.write(number, json.dumps({**_plain(self), "signals": late}).encode())
        for one in (number, late, *self.descriptors):
            os.set_inheritable(one, True)
        try:
            os.execve(sys.executable, command(), {**os.environ, LEFT: str(number)})
        finally:  # it has failed
            signal.set_wakeup_fd(-1)
            for one in (number, late, noted):
                os.close(one)

    @classmethod
    def inherited(cls) -> Self | None:
        """What the version before has left to this process, once; it may be older than this one, or newer."""
        number = os.environ.pop(LEFT, None)
        if number is None:
            return None
        with os.fdopen(int(number), "rb") as file:
            file.seek(0)
            left = json.load(file)
        estate = cls(
            version=left["version"],
            doors=left["doors"],
            status=tuple(left["status"]),
            workers=[OldWorker(**_known(one)) for one in left["workers"]],
            drained=left.get("drained", []),
            generation=left.get("generation", 0),
            counted=left.get("counted", []),
            unhealthy=left.get("unhealthy", []),
            statistics=left.get("statistics", {}),
        )
        for one in estate.descriptors:
            os.set_inheritable(one, False)
        if "signals" in left:
            with os.fdopen(left["signals"], "rb") as file:
                _unheard.update(file.read())  # to its end: who wrote went with the old program
        return estate


def command(*more: str) -> list[str]:
    """How this program was started, with the interpreter that runs it."""
    return [sys.executable, *sys.orig_argv[1:], *more]


async def check_new_version(held: list[str]) -> None:
    """UpgradeRefused, with what it said, if the version that is installed now could not run with the settings of now.

    held: addresses that are ours, and will be its.
    """
    with trio.move_on_after(CHECK_WITHIN):
        done = await trio.run_process(
            command(CHECK),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, HELD: json.dumps(held)},
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().removeprefix("sniproxy: ")
            raise UpgradeRefused(said or f"it ended with exit code {done.returncode}")
        return
    raise UpgradeRefused(f"it did not start within {CHECK_WITHIN:g} s")


def held_addresses() -> list[str] | None:
    """What whoever asks for a check will leave to us; None: nobody asks who would end for us."""
    held: list[str] | None = json.loads(os.environ.get(HELD, "null"))
    return held


def hold() -> None:
    """Until `hear`, and after whoever hears signals has ended: those that come are kept for whoever hears them next."""
    for one in SIGNALS:
        signal.signal(one, lambda number, _: _unheard.add(number))


def hear() -> None:
    """From now on signals are acted on, also those that came while the program changed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while _unheard:
        signal.raise_signal(_unheard.pop())


def _known(members: dict[str, Any]) -> dict[str, Any]:
    return {name: members[name] for name in OldWorker.__slots__ if name in members}


def _plain(estate: Estate) -> dict[str, Any]:
    return {
        "version": estate.version,
        "doors": estate.doors,
        "status": list(estate.status),
        "drained": estate.drained,
        "generation": estate.generation,
        "counted": estate.counted,
        "unhealthy": estate.unhealthy,
        "statistics": estate.statistics,
        "workers": [
            {name: getattr(one, name) for name in OldWorker.__slots__} for one in estate.workers
        ],
    }
