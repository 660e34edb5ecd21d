"""The workers of a data plane: kept running, given the slots that they accept from, and asked.

One that dies is started again within a second, and meanwhile others accept from its slots. One that dies again and again is
given up, and when all are, the data plane ends.
"""

import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import trio

from sniproxy.channel import Message
from sniproxy.crashes import Crashes
from sniproxy.doors import Doors
from sniproxy.errors import WorkersFailed
from sniproxy.logs import Log
from sniproxy.member import Member, start
from sniproxy.metrics import PodMetrics
from sniproxy.orders import REPORT_EVERY, Begin
from sniproxy.scrape import Family, Leaving, counters, merge
from sniproxy.settings import Settings
from sniproxy.slots import assign
from sniproxy.stick_table import Overview, prepare, table_size

LOOK_EVERY = 0.01  # seconds between two looks whether all have ended
STOP_WITHIN = 5.0  # seconds for a worker that was told to end; then it is killed
ADVICE = "the lines above say why it died; `sniproxy upgrade` or a restart tries again"


class Crew:
    """One data plane's. `run` must run. Implements `sniproxy.metrics.HasFreshness`."""

    def __init__(
        self,
        settings: Settings,
        workers: int,
        doors: Doors,
        metrics: PodMetrics,
        log: Log,
        changed: Callable[[], None],
    ) -> None:
        """changed: called when the revision that all workers have in force has changed."""
        self.settings = settings
        self.copy: str | None = None  # where the workers find the configuration; None: in the store
        self.drained: frozenset[str] = frozenset()  # routes
        self.short = False  # of memory
        self.unhealthy: list[str] = []  # what probes have found
        self.first_ready = trio.Event()
        self.all_ready = trio.Event()  # or given up
        self._doors = doors
        self._metrics = metrics
        self._log = log
        self._changed = changed
        self._workers = workers
        self._members: dict[int, Member] = {}
        self._old: list[Member] = []  # of the version before
        self._old_serve = False  # they let players in
        self._given_up: set[int] = set()
        self._accepting = False
        self._prober: Member | None = None  # the one that probes
        self._leaving = trio.Event()
        self._revision = 0
        self._buried: list[Family] = []  # what those had counted that have ended
        self._leaving_rows = Leaving()
        entries = settings.proxy.limits.table
        size = table_size(entries, workers)
        self._table = os.memfd_create("sniproxy-limits")
        os.ftruncate(self._table, size)
        memory = memoryview(mmap.mmap(self._table, size))
        self._overview = Overview(prepare(memory), entries=entries, workers=workers)

    # -- how they are

    @property
    def members(self) -> list[Member]:
        """Those that serve."""
        return [one for one in self._members.values() if one.ready and one.in_step]

    @property
    def old(self) -> list[Member]:
        """Those of the version before, whose sessions go on."""
        return self._old

    @property
    def everybody(self) -> list[Member]:
        """Those too that are not ready yet, or are of the version before."""
        return [*self._members.values(), *self._old]

    @property
    def active(self) -> int:
        """Sessions now, set-up included."""
        return self._overview.all_active + sum(one.active for one in self._old)

    def active_in(self, member: Member) -> int:
        """Sessions of one worker, set-up included."""
        of_old = member in self._old  # whose memory we do not share
        return member.active if of_old else self._overview.active(member.worker)

    @property
    def revision(self) -> int:
        """In force in all of them."""
        return self._revision

    @property
    def age(self) -> float:
        """Of the oldest configuration."""
        return max((one.age for one in self.members), default=0.0)

    @property
    def stale(self) -> bool:
        """Whether one of them may lack changes, or none is there."""
        members = self.members
        return not members or any(one.stale for one in members)

    @property
    def pids(self) -> list[int]:
        """Of all worker processes."""
        return [one.pid for one in self.everybody]

    # -- their life

    async def run(self) -> None:
        """Never returns, unless `stop` is called. WorkersFailed when all were given up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch_silence)
            for worker in range(self._workers):
                nursery.start_soon(self._keep, worker)

    async def watch_silence(self) -> None:
        """Whoever waits for a worker that hangs is let in by others. Never returns."""
        hang: set[Member] = set()
        while True:
            await trio.sleep(REPORT_EVERY)
            now = {one for one in self.members if one.hangs}
            for one in now - hang:
                advice = (
                    "others let players in for it; if it stays so, kill it: it is started again"
                )
                self._log.warning("worker hangs", worker=one.worker, pid=one.pid, advice=advice)
            if now != hang:
                hang = now
                self._assign()

    def adopt(self, old: list[Member], buried: list[Family]) -> None:
        """The workers of the version before: they let players in until those of this one do. Before `run_old`.

        buried: what others had counted there that have ended.
        """
        self._old, self._buried, self._old_serve = old, buried, True

    async def run_old(self) -> None:
        """Until those of the version before have ended. They are heard at once, whatever ours wait for."""
        async with trio.open_nursery() as nursery:
            for one in self._old:
                nursery.start_soon(self._see_off, one)

    async def _keep(self, worker: int) -> None:
        """Has one worker running, until it is given up or all are to end."""
        crashes = Crashes()
        while True:
            try:
                member = self._members[worker] = start(self._begin(worker))
            except OSError as error:
                self._log.error("worker not started", worker=worker, cause=str(error))
                code = 1
            else:
                code = await member.run(self._reported)
                self._bury(member)
                del self._members[worker]
            lost = self._overview.wipe(worker)
            if self._leaving.is_set():
                return
            self._assign()
            proxy = self.settings.proxy
            pause = crashes.note(trio.current_time(), proxy.max_crashes, proxy.crash_window)
            self._metrics.worker_crashes.inc()
            self._metrics.sessions_lost.inc(lost)
            cause = _described(code)
            self._log.error("worker died", worker=worker, cause=cause, sessions_lost=lost)
            if pause is None:
                break
            await trio.sleep(pause)
            if self._leaving.is_set():
                return
        self._given_up.add(worker)
        self._fail_without_any()
        cause = f"it died {self._too_often}"
        self._log.error("worker given up", worker=worker, cause=cause, advice=ADVICE)
        self._note_ready()

    @property
    def _too_often(self) -> str:
        proxy = self.settings.proxy
        return f"{proxy.max_crashes} times in {proxy.crash_window:g} s"

    def _fail_without_any(self) -> None:
        if len(self._given_up) == self._workers and not self._old:
            raise WorkersFailed(f"every worker has died {self._too_often}: {ADVICE}")

    async def _see_off(self, member: Member) -> None:
        """One of the version before, until it has ended."""
        code = await member.run(self._old_reported)
        self._bury(member)
        self._old.remove(member)
        if code:
            self._metrics.worker_crashes.inc()
            self._metrics.sessions_lost.inc(member.lost)
            cause = _described(code)
            self._log.error(
                "old worker died", pid=member.pid, cause=cause, sessions_lost=member.lost
            )
        else:
            self._log.info("old worker ended", pid=member.pid, left=len(self._old))
        self._fail_without_any()

    def _begin(self, worker: int) -> Begin:
        return Begin(
            worker=worker,
            workers=self._workers,
            settings=self.settings,
            copy=self.copy,
            listening=self._doors.descriptors,
            table=self._table,
            drained=sorted(self.drained),
            short=self.short,
            unhealthy=self.unhealthy,
        )

    def _reported(self, member: Member) -> None:
        member.catch_up(self._revision)
        if not (member.ready and member.slots):  # it comes, or it goes
            self._note_ready()
            self._assign()
        if member is self._prober:
            self._spread(member.unhealthy)
        self._note_revision()

    def _old_reported(self, member: Member) -> None:
        if self._prober is None:
            self._spread(member.unhealthy)
        self._note_revision()

    def _note_revision(self) -> None:
        serve = [*self.members, *(self._old if self._old_serve else ())]
        revision = min((one.report.revision for one in serve if one.report), default=0)
        if revision != self._revision:
            self._revision = revision
            self._changed()

    def _note_ready(self) -> None:
        if not self.members:
            return
        self.first_ready.set()
        if len(self.members) + len(self._given_up) >= self._workers:
            self.all_ready.set()

    def _bury(self, member: Member) -> None:
        self._buried = merge([self._buried, counters(member.counted)])

    # -- who accepts

    def accept(self) -> None:
        """Those who come are let in from now on."""
        self._accepting = True
        self._assign()

    async def shut(self) -> None:
        """Whoever waits is let in, and nobody after that."""
        self._accepting = False
        for one in self._members.values():
            one.slots = []
        await self.ask("shut", old=True)

    def _assign(self) -> None:
        members = [one for one in self.members if not one.hangs] or self.members
        shares = assign(self._doors.slots, sorted(one.worker for one in members))
        self._metrics.workers.set(len(shares))
        self._choose_prober(members)
        if not self._accepting or self._leaving.is_set():
            return
        for worker, slots in shares.items():
            member = self._members[worker]
            if member.slots != slots:
                member.slots = slots
                member.channel.send({"accept": slots})

    # -- who probes

    def _choose_prober(self, members: list[Member]) -> None:
        """The same for as long as it serves. What was found stays in force until the next one finds otherwise."""
        before = self._prober
        if before in members or (before is None and not members):
            return
        self._prober = members[0] if members else None
        for one in [*self._members.values(), *self._old]:
            if one is before or one in self._old:
                one.channel.send({"probe": False})
        if self._prober is not None:
            self._prober.unhealthy = None
            self._prober.channel.send({"probe": True})

    def _spread(self, unhealthy: list[str] | None) -> None:
        """What the one that probes has found, to all."""
        if unhealthy is not None and unhealthy != self.unhealthy:
            self.unhealthy = unhealthy
            self.order({"unhealthy": unhealthy}, old=True)

    # -- what they are told and asked

    def order(self, message: Message, *, old: bool = False) -> None:
        """To all that are there. What those who begin later must know too stands in `Begin`."""
        for one in self.everybody if old else self._members.values():
            one.channel.send(message)

    async def ask(self, about: str, *, old: bool = False, **more: Any) -> dict[Member, Any]:
        """The answers of those that answer. old: those of the version before too."""
        answers: dict[Member, Any] = {}

        async def ask_one(member: Member) -> None:
            answer = await member.ask(about, **more)
            if answer is not None:
                answers[member] = answer

        async with trio.open_nursery() as nursery:
            for one in [*self.members, *(self._old if old else ())]:
                nursery.start_soon(ask_one, one)
        return answers

    async def counted(self) -> list[list[Family]]:
        """What all have counted, those that have ended among them."""
        answers = await self.ask("metrics", old=True)
        living = [answers.get(one, one.counted) for one in self.everybody]
        self._buried = self._leaving_rows.keep(self._buried, living, trio.current_time())
        return [self._buried, *living]

    @property
    def known(self) -> list[list[Family]]:
        """The same, as they have said it last: nobody is asked."""
        return [self._buried, *(one.counted for one in self.everybody)]

    @property
    def buried(self) -> list[Family]:
        """What those had counted that nobody can ask any more."""
        gone = [counters(one.counted) for one in self.everybody if one.channel.gone]
        return merge([self._buried, *gone])

    async def answers(self, about: str, *, old: bool = False, **more: Any) -> list[Any]:
        """Implements `sniproxy.status.Workers`."""
        return list((await self.ask(about, old=old, **more)).values())

    async def flushed(self) -> None:
        """Until all have been sent what they were told."""
        with trio.move_on_after(STOP_WITHIN):
            for one in self.everybody:
                await one.channel.flushed()

    def replace_old(self, after: float | None, spread: float) -> None:
        """The workers of the version before let nobody in any more, and end when their sessions have."""
        for one in self._old:
            one.channel.send({"leave": [after, spread]})
        self._old_serve = False
        self._note_revision()

    async def stop(self) -> None:
        """All end now, with what they have; who does not is killed; at once, who has not said anything yet."""
        self._leaving.set()
        for one in self.everybody:
            if one.starting:
                one.kill()
            else:
                one.channel.send({"stop": True})
        with trio.move_on_after(STOP_WITHIN):
            while self.everybody:  # noqa: ASYNC110  # each ends in a task of its own
                await trio.sleep(LOOK_EVERY)
        for one in self.everybody:
            cause = "it did not end when told to"
            self._log.error("worker killed", worker=one.worker, cause=cause)
            one.kill()


def _described(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
