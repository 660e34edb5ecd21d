"""One worker process, as its parent sees it: started, spoken to, and known to have ended."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from sniproxy.channel import Channel
from sniproxy.orders import SILENCE, Begin, Report
from sniproxy.scrape import Family
from sniproxy.upgrade import SIGNALS

ANSWER_WITHIN = 2.0  # seconds for what a worker is asked
CATCH_UP = (
    5.0  # seconds for a worker to have in force what the others have; then it serves all the same
)
ROOT = Path(__file__).parent.parent  # where the package that runs was found


class Member:
    """A worker. `run` must run."""

    def __init__(
        self,
        worker: int,
        pid: int,
        channel: Channel,
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        """process: None for one that the version before has started."""
        self.worker = worker
        self.pid = pid
        self.channel = channel
        self.slots: list[int] = []  # that it was told to accept from
        self.report: Report | None = None
        self.unhealthy: list[str] | None = None  # what its probes have found; None: it has none
        self.counted: list[Family] = []  # the last that it has said
        self.lost = 0  # its sessions, by what it had said last when it ended
        self.in_step = False  # it has had in force what the others have
        self._reported_at = trio.current_time()
        self._give_up_at = math.inf  # to wait until it is
        self._process = process
        self._asked = (
            time.monotonic_ns()
        )  # not as in the process before: its answers are none of ours
        self._answers: dict[int, tuple[str, trio.Event, list[Any]]] = {}  # about what

    async def run(self, on_report: Callable[["Member"], None]) -> int:
        """Until it has ended; its exit code, or the number of the signal that ended it, negative.

        on_report: hears of each report, of what its probes find, and once there will be no more.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.channel.run)
            async for message in self.channel:
                if "report" in message:
                    self.heard(Report.decode(message["report"]))
                    on_report(self)
                elif "counted" in message:
                    self.counted = message["counted"]
                elif "unhealthy" in message:
                    self.unhealthy = message["unhealthy"]
                    on_report(self)
                elif message.get("answer") in self._answers:
                    about, event, contents = self._answers[message["answer"]]
                    contents.append(message["content"])
                    event.set()
                    if about == "metrics" and message["content"] is not None:
                        self.counted = message["content"]  # in the order in which it was said
            self.lost = self.active
            self.report, self.slots = None, []
            on_report(self)
            nursery.cancel_scope.cancel()
        for _, event, _ in self._answers.values():
            event.set()
        # Its end of the channel closes with the process, or a moment before.
        return await trio.to_thread.run_sync(self._wait, abandon_on_cancel=True)

    def heard(self, report: Report) -> None:
        """How it is now."""
        self.report, self._reported_at = report, trio.current_time()

    @property
    def hangs(self) -> bool:
        """Whether it says nothing any more."""
        return trio.current_time() - self._reported_at > SILENCE

    @property
    def ready(self) -> bool:
        """Whether it can serve."""
        return self.report is not None and self.report.ready

    @property
    def starting(self) -> bool:
        """Whether it is one of ours that has not said anything yet: nobody was let in by it."""
        return self._process is not None and self.report is None and not self.channel.gone

    def catch_up(self, revision: int) -> None:
        """That one is in force in all others: it is in step once it has it too, or has tried for CATCH_UP seconds."""
        if self.report is not None and self.report.ready and not self.in_step:
            now = trio.current_time()
            self._give_up_at = min(self._give_up_at, now + CATCH_UP)
            late = now >= self._give_up_at
            self.in_step = late or self.report.revision >= revision

    @property
    def active(self) -> int:
        """Sessions, by its last report."""
        return self.report.active if self.report else 0

    @property
    def age(self) -> float:
        """Seconds since its configuration was last known to be what it follows."""
        silent = trio.current_time() - self._reported_at
        return self.report.age + silent if self.report else silent

    @property
    def stale(self) -> bool:
        """Whether it may lack changes."""
        return self.report is None or self.report.stale or self.hangs

    async def ask(self, about: str, **more: Any) -> Any:
        """Its answer; None when none comes."""
        self._asked += 1
        number, answered, contents = self._asked, trio.Event(), list[Any]()
        self._answers[number] = about, answered, contents
        try:
            if self.channel.gone:
                return None
            self.channel.send({"ask": number, "about": about, **more})
            with trio.move_on_after(ANSWER_WITHIN):
                await answered.wait()
        finally:
            del self._answers[number]
        return contents[0] if contents else None

    def kill(self) -> None:
        """For one that does not end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self) -> int:
        if self._process is not None:
            return self._process.wait()
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # somebody else has waited for it
            return 0


def start(begin: Begin) -> Member:
    """A new process. OSError when the system has none left."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    listening = [one for slots in begin.listening for one in slots]
    # -P: what lies in the directory that we were started in is not imported from there.
    command = [sys.executable, "-P", "-m", "sniproxy.worker", str(number)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # It begins deaf and then ignores them: a terminal's Ctrl-C reaches the whole group.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(number, begin.table, *listening),
            env={**os.environ, "PYTHONPATH": path},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    channel = Channel(ours)
    channel.send({"begin": begin.encode()})
    return Member(begin.worker, process.pid, channel, process)
