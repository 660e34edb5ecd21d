"""The data plane's parent: it holds the listening sockets and the pod's one watch of a remote store, keeps the workers
running, answers on the status port and the control socket, and does what signals ask for. No player's byte passes here.

    SIGTERM, SIGINT   drain, then end; a second one ends at once
    SIGHUP            read the settings again
    SIGUSR2           become the version that is installed now, on the same sockets
"""

import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import trio

from sniproxy import __version__
from sniproxy.agent import Agent
from sniproxy.bookkeeping import Books
from sniproxy.cgroup import cpus
from sniproxy.channel import Channel
from sniproxy.control import ANSWER_WITHIN, Control, open_control
from sniproxy.crew import Crew
from sniproxy.descriptors import raise_descriptor_limit
from sniproxy.doors import Doors, addresses
from sniproxy.drain import Drain, Phase, Terms
from sniproxy.errors import NoKeyYet, SettingsError, UpgradeRefused
from sniproxy.keyring import open_keyring, warn_of_published
from sniproxy.listener import bind, listen
from sniproxy.logs import Log
from sniproxy.member import Member
from sniproxy.metrics import PodMetrics
from sniproxy.objects.node_record import NodeRecord
from sniproxy.orders import Report
from sniproxy.presence import Presence, node_id
from sniproxy.pressure import watch_memory
from sniproxy.relay.opening import choose_relay
from sniproxy.reload import live
from sniproxy.scrape import Family, counters, export, merge
from sniproxy.settings import EtcdUrl, Proxy, Settings
from sniproxy.small_http import serve_http
from sniproxy.status import NOT_YET, PodFreshness, Status
from sniproxy.store import Store
from sniproxy.store.etcd import EtcdStore
from sniproxy.store.opening import open_store
from sniproxy.tracing import check_traces
from sniproxy.upgrade import (
    SIGNALS,
    Estate,
    OldWorker,
    check_new_version,
    hear,
    held_addresses,
    hold,
)

STATUS_BACKLOG = 64  # connections to the status port that the kernel keeps for us


async def run_parent(
    settings: Settings,
    read_again: Callable[[], Settings],
    log: Log,
    left: Estate | None = None,
) -> Estate | None:
    """Until it was told to end; what it leaves, if another version is to go on.

    read_again: the settings as they are by then, or SettingsError. left: by the version before.
    SettingsError when something cannot be had; WorkersFailed when no worker stays alive.
    """
    async with AsyncExitStack() as stack:
        hold()
        signals = stack.enter_context(trio.open_signal_receiver(*SIGNALS))
        hear()
        plane = DataPlane(settings, read_again, log, left, stack)
        return await plane.run(signals)


class DataPlane:
    """All that the parent has, and what is done with it. Implements `drain.Emptied` and `control.Plane`."""

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        log: Log,
        left: Estate | None,
        stack: AsyncExitStack,
    ) -> None:
        """stack: gives back what is taken of the system here."""
        self.generation = left.generation + 1 if left else 0
        self.settings = settings
        self._read_again = read_again
        self._log = log
        self._workers = worker_count(settings.proxy)
        self._moved_by = choose_relay(settings.proxy.relay)
        warn_of_published(open_keyring(settings), log)  # what is wrong with it is said by us, once
        raise_descriptor_limit(-(-settings.proxy.max_sessions // self._workers), log)
        self._doors = stack.enter_context(
            Doors(settings.proxy, self._workers, left.doors if left else None)
        )
        self._status_socket = stack.enter_context(_status_socket(settings, left))
        self._control_socket = open_control(settings.state_dir, log)
        if self._control_socket is not None:
            stack.enter_context(self._control_socket)
        store = open_store(settings)
        stack.push_async_callback(_close, store)
        self._metrics = metrics = PodMetrics()
        self.crew = Crew(settings, self._workers, self._doors, metrics, log, self._changed)
        if left is not None:
            self.crew.adopt([_adopted(one) for one in left.workers], left.counted)
            self.crew.drained = frozenset(left.drained)
            self.crew.unhealthy = left.unhealthy
        self._agent: Agent | None = None
        if isinstance(settings.where, EtcdUrl):
            self._agent = Agent(settings, store, metrics, log, moved=self._copy_moved)
        freshness = PodFreshness(self.crew, self._agent.freshness if self._agent else None)
        metrics.show_freshness(freshness)
        if self._agent is not None:
            metrics.show_watches(self._agent.freshness)
        if isinstance(store, EtcdStore):
            metrics.show_etcd(store.health)
        self._status = Status(metrics.registry, self.crew, freshness, lambda: self.settings)
        self._books: Books | None = None
        if settings.statistics.enabled:
            before = left.statistics if left else None
            self._books = Books(store, settings, lambda: self.crew.known, metrics, log, before)
        started = int(time.time())
        describe = partial(_describe, settings, self.crew, freshness, started, self._books)
        self._presence = Presence(store, settings, describe, metrics, log)
        if left is not None:
            self._status.unready = ""  # the old workers serve
        self.draining = Drain(self, log)

    async def run(self, signals: AsyncIterator[int]) -> Estate | None:
        """Serves until a signal asks for the end, or for another version: then what it leaves."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.draining.run)
            nursery.start_soon(self.crew.run_old)
            serve = partial(serve_http, log=self._log)
            nursery.start_soon(serve, self._status_socket, self._status.answer)
            if self._control_socket is not None:
                control = Control(self)
                nursery.start_soon(serve, self._control_socket, control.answer, ANSWER_WITHIN)
            nursery.start_soon(self._serve, nursery)
            nursery.start_soon(
                watch_memory, self.crew, lambda: self.settings.overload, self._metrics, self._log
            )
            if self._books is not None:
                nursery.start_soon(self._books.run)
            leaves = await self._obey(signals)
            nursery.cancel_scope.cancel()
        return self._estate() if leaves else None  # nobody reads from a channel any more

    async def _serve(self, nursery: trio.Nursery) -> None:
        """From the start to the first player, and who goes on until the end."""
        log, settings = self._log, self.settings
        log.info("starting", relay=self._moved_by, store=settings.store, workers=self._workers)
        old = bool(self.crew.old)
        if old:  # they serve, whatever ours wait for
            nursery.start_soon(self._presence.run)
        if self._agent is not None:
            await nursery.start(self._agent.run)
            self.crew.copy = str(self._agent.path)
        nursery.start_soon(self.crew.run)
        await self.crew.first_ready.wait()
        if not old:
            nursery.start_soon(self._presence.run)
            if self._agent is None or not self._agent.freshness.stale:
                await self._presence.introduced()  # `?wait=all` waits for all who let players in
        if self.draining.phase in (Phase.SERVING, Phase.LEAVING):
            self._let_in()
        if self.draining.phase is Phase.SERVING:
            self._status.unready = ""
        log.info("ready", ports=self._doors.ports, revision=self.crew.revision)
        await self.crew.all_ready.wait()
        drain = self.settings.drain  # by now it may be another
        self.crew.replace_old(drain.upgrade_deadline, drain.spread)
        self._doors.leave_others()

    async def _obey(self, signals: AsyncIterator[int]) -> bool:
        """Until the end; whether another version is to go on."""
        async for number in signals:
            if number == signal.SIGHUP:
                self.reload()
            elif number == signal.SIGUSR2:
                with suppress(UpgradeRefused):  # it was logged
                    await self.prepare_upgrade()
                    await self.crew.flushed()
                    await self._finish_books()
                    self._presence.stays()
                    self._log.info("upgrading", version=__version__, sessions=self.active)
                    return True
            else:
                break
        terms = self.settings.drain
        self._log.info("stopping", signal=signal.Signals(number).name, sessions=self.active)
        known = self.crew.first_ready.is_set() or self.crew.old  # to balancers
        accept = terms.accept if known else 0.0
        self.draining.begin(Terms(accept, terms.deadline, terms.spread), final=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_at_once, signals, nursery.cancel_scope)
            await self.draining.over.wait()
            nursery.cancel_scope.cancel()
        await self._finish_books()
        await self.crew.stop()
        return False

    async def _finish_books(self) -> None:
        """What was counted up to now is written, if the store takes it."""
        if self._books is not None:
            await self.crew.counted()
            await self._books.finish()

    async def _end_at_once(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        """A second signal is final."""
        async for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                name = signal.Signals(number).name
                self._log.info("stopping at once", signal=name, sessions=self.active)
                scope.cancel()

    # -- emptying; see `drain.Emptied`

    @property
    def active(self) -> int:
        """Sessions now, set-up included."""
        return self.crew.active

    def retire(self) -> None:
        """Balancers are to send players elsewhere."""
        self._status.unready = "draining: no new players, please"
        self._metrics.draining.set(1)

    async def close(self) -> None:
        """Nobody comes any more. Who waits in a queue is let in before."""
        await self.crew.shut()
        await trio.lowlevel.checkpoint_if_cancelled()  # it may be open again by now
        self._doors.close()

    def drain(self, after: float, spread: float) -> None:
        """Those who still play then are ended."""
        self.crew.order({"drain": [after, spread]}, old=True)

    def reopen(self) -> None:
        """As if nothing had been said."""
        is_ready = self.crew.first_ready.is_set()
        if is_ready:
            self._let_in()
        self.crew.order({"undrain": True}, old=True)
        self._status.unready = "" if is_ready else NOT_YET
        self._metrics.draining.set(0)

    def _let_in(self) -> None:
        self._doors.open()
        self.crew.accept()

    def drain_route(self, route: str, drained: bool) -> None:
        """A route takes no new session from now on, or does again."""
        routes = self.crew.drained - {route}
        self.crew.drained = routes | {route} if drained else routes
        self.crew.order({"drained": sorted(self.crew.drained)}, old=True)
        self._log.info("route drained" if drained else "route drain taken back", route=route)

    # -- changes while it serves

    def reload(self) -> None:
        """Reads the settings again. Those that cannot be used change nothing."""
        try:
            settings, later = live(self.settings, self._read_again())
            warn_of_published(open_keyring(settings), self._log)
        except SettingsError as error:
            self._log.error(
                "settings not used", cause=str(error), advice="the old ones stay in force"
            )
            return
        self.settings = self.crew.settings = settings
        self._log.choose(settings.log.format)
        self._doors.settle(settings.proxy)
        self.crew.order({"settings": settings.model_dump(mode="json")})
        self._log.info("settings read again", need_upgrade=later)

    async def prepare_upgrade(self) -> None:
        """Looks whether the version that is installed now could run; UpgradeRefused, which is logged, if not."""
        try:
            self._refuse_while_draining()
            await check_new_version([*self._doors.groups, self.settings.status.address])
            self._refuse_while_draining()
        except UpgradeRefused as refused:
            self._log.error("upgrade refused", cause=str(refused), advice="this version goes on")
            raise

    def _refuse_while_draining(self) -> None:
        if self.draining.phase is not Phase.SERVING:
            raise UpgradeRefused("it is being drained: take that back first, or restart it")

    def _estate(self) -> Estate:
        """What the next version needs. Descriptors are doubled: ours are closed as at every end."""
        return Estate(
            version=__version__,
            doors={
                address: [os.dup(one) for one in group]
                for address, group in self._doors.groups.items()
            },
            status=(self.settings.status.address, os.dup(self._status_socket.fileno())),
            workers=[
                OldWorker(
                    worker=one.worker,
                    pid=one.pid,
                    channel=os.dup(one.channel.fileno()),
                    unread=one.channel.unread.decode(),
                    active=self.crew.active_in(one),
                    counted=one.counted,
                )
                for one in self.crew.everybody
                if not one.channel.gone
            ],
            drained=sorted(self.crew.drained),
            generation=self.generation,
            counted=merge([self.crew.buried, _own(self._metrics)]),
            unhealthy=self.crew.unhealthy,
            statistics=self._books.leave() if self._books else {},
        )

    def _changed(self) -> None:
        self._presence.changed()

    def _copy_moved(self, path: Path) -> None:
        self.crew.copy = str(path)
        self.crew.order({"follow": str(path)})


def check_settings(settings: Settings) -> None:
    """SettingsError for what a data plane could not run with, as far as can be seen without running it."""
    choose_relay(settings.proxy.relay)
    check_traces(settings.traces)
    with suppress(NoKeyYet):
        open_keyring(settings, make=False)
    open_store(settings)  # nothing is asked of it yet
    held = held_addresses()
    for address, setting in addresses(settings) if held is not None else ():
        if address not in (held or ()):
            bind(address, setting).close()


def worker_count(settings: Proxy) -> int:
    """How many workers there are to be."""
    return cpus() if settings.workers == "auto" else settings.workers


def _describe(
    settings: Settings, crew: Crew, freshness: PodFreshness, started: int, books: Books | None
) -> NodeRecord:
    return NodeRecord(
        id=node_id(settings),
        version=__version__,
        revision=crew.revision,
        age=round(freshness.age, 3),
        stale=freshness.stale,
        sessions=crew.active,
        started=started,
        rates=books.rates if books else None,
    )


def _status_socket(settings: Settings, left: Estate | None) -> socket.socket:
    address = settings.status.address
    if left is not None:
        before, number = left.status
        inherited = socket.socket(fileno=number)
        if before == address:
            inherited.setblocking(False)
            return inherited
        inherited.close()
    sock = bind(address, "status.address")
    listen(sock, "status.address", backlog=STATUS_BACKLOG)
    return sock


def _own(metrics: PodMetrics) -> list[Family]:
    """What the parent itself has counted, but for what the kernel counts of its process, which stays the same."""
    own = counters(export(metrics.registry))
    return [one for one in own if not one["name"].startswith("process_")]


def _adopted(old: OldWorker) -> Member:
    channel = Channel(socket.socket(fileno=old.channel), old.unread.encode())
    member = Member(old.worker, old.pid, channel)
    member.report = Report(active=old.active)
    member.counted = old.counted
    return member


async def _close(store: Store) -> None:
    with trio.CancelScope(shield=True):
        await store.aclose()
