"""One worker: a process that follows the configuration, lets players in where its parent says, and serves them.

`python -m sniproxy.worker DESCRIPTOR` is how the parent starts one; all else comes over the channel (`orders.py`). A worker
whose parent is gone lets nobody in any more, finishes its sessions within `drain.deadline`, and ends.
"""

import ctypes
import gc
import mmap
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from prometheus_client.core import Metric

from sniproxy.channel import Channel, Message
from sniproxy.config import InForce
from sniproxy.errors import SettingsError
from sniproxy.following import Freshness, follow
from sniproxy.forbidden import own_addresses
from sniproxy.keyring import open_keyring
from sniproxy.limits import Limits
from sniproxy.logs import Log, open_log
from sniproxy.metrics.objects import certificates, circuits, nodes
from sniproxy.orders import REPORT_EVERY, REPORT_EVERY_LEAVING, Begin, Report, settings_of
from sniproxy.presence import node_id
from sniproxy.probing import Probing
from sniproxy.reception import Reception
from sniproxy.references import References
from sniproxy.relay.opening import open_relay
from sniproxy.scrape import export_worker
from sniproxy.settings import Listener, Settings
from sniproxy.snapshot import Snapshot
from sniproxy.status import config_of, flight_of, refused_of
from sniproxy.stick_table import StickTable, table_size
from sniproxy.store import Store
from sniproxy.store.mirror import Copy
from sniproxy.store.opening import open_store
from sniproxy.store.sqlite import POLL
from sniproxy.tracing import open_tracer
from sniproxy.vitals import Vitals
from sniproxy.worker_state import Worker, open_worker

MOST_SHED = 64  # sessions that are ended at once to free memory; more, if it does not suffice, in the next step
LAST_WORDS = 1.0  # seconds for the parent to take what a worker says at its end
GRAIN = 2.0  # seconds by which a relay may end a session late


async def run_worker(begin: Begin, channel: Channel, log: Log) -> None:
    """Until it is told to end, or its parent is gone and the last session too."""
    settings = begin.settings
    log.choose(settings.log.format)
    references = References()
    keyring = open_keyring(settings)
    snapshot = Snapshot(settings.where.prefix, keyring, references.resolve)
    async with AsyncExitStack() as stack:
        store: Store = open_store(settings) if begin.copy is None else Copy(Path(begin.copy))
        stack.push_async_callback(_close, store)
        limits = _open_limits(begin)
        last = stack.enter_context(ExitStack())  # after the relay has told of its last sessions
        relay = await stack.enter_async_context(
            open_relay(settings.proxy, limits.places, keyring.ticket_secrets)
        )
        worker = open_worker(
            settings.proxy,
            snapshot,
            relay,
            log,
            limits,
            settings.overload,
            workers=begin.workers,
            own=own_addresses(settings),
            most_routes=settings.status.metrics_routes,
        )
        worker.journal.settle(settings.log, settings.traces)
        tracer = open_tracer(settings.traces, node_id(settings), worker.metrics, log)
        if tracer is not None:
            worker.journal.tracer = tracer
            last.callback(tracer.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        # Who cannot follow a copy knows as late as one who looks at it now and then.
        freshness = Freshness(settings.etcd.watch_silence + POLL)
        hand = Hand(begin, worker, freshness, store, channel, nursery)
        await nursery.start(worker.names.run)
        nursery.start_soon(channel.run)
        nursery.start_soon(hand.obey)
        nursery.start_soon(hand.report_now_and_then)
        vitals = Vitals()
        worker.metrics.show_vitals(vitals.worst_lag, vitals.relay_load)
        nursery.start_soon(vitals.run)
        following = partial(
            follow,
            settings=settings.proxy,
            freshness=freshness,
            log=log,
            of_copy=begin.copy is not None,
        )
        telling = log if begin.worker == 0 else None
        in_force = InForce(
            snapshot, worker.metrics, telling, hand.report, lambda: worker.settings.file_timeout
        )
        await nursery.start(following, store, settings.where.prefix, in_force)
        nursery.start_soon(in_force.look_after_files, references, lambda: worker.settings.file_poll)
        keep_out_of_collections()
        hand.ready = True
        hand.report()


def _open_limits(begin: Begin) -> Limits:
    entries, workers = begin.settings.proxy.limits.table, begin.workers
    memory = memoryview(mmap.mmap(begin.table, table_size(entries, workers)))
    table = StickTable(memory, entries=entries, worker=begin.worker, workers=workers)
    return Limits(begin.settings.proxy, table)


async def _close(store: Store) -> None:
    with trio.CancelScope(shield=True):
        await store.aclose()


class Hand:
    """Does what the parent says, and tells it how the worker is."""

    def __init__(
        self,
        begin: Begin,
        worker: Worker,
        freshness: Freshness,
        store: Store,
        channel: Channel,
        nursery: trio.Nursery,
    ) -> None:
        """nursery: of all that the worker does; cancelling it ends the worker."""
        self.ready = False
        self._settings = begin.settings
        self._worker = worker
        self._freshness = freshness
        self._store = store
        self._channel = channel
        self._nursery = nursery
        self._reception = Reception(worker, nursery)
        self._listening = [
            [socket.socket(fileno=one) for one in slots] for slots in begin.listening
        ]
        for one in (one for slots in self._listening for one in slots):
            one.setblocking(False)
        self._slots: list[int] = []
        self._leaving = False
        self._probing: Probing | None = None
        self._drained(begin.drained)
        self._short(begin.short)
        self._hear(begin.unhealthy)

    async def obey(self) -> None:
        """Until the worker ends."""
        async for message in self._channel:
            self._do(message)
        drain = self._settings.drain
        self._worker.log.warning(
            "parent gone", sessions=self._worker.limits.active, deadline_s=drain.deadline
        )
        self._leave(drain.deadline, drain.spread)

    def _do(self, message: Message) -> None:
        match message:
            case {"accept": slots}:
                self._accept(slots)
            case {"ask": number, "about": about, **more}:
                self._nursery.start_soon(self._answer, number, about, more)
            case {"follow": path} if isinstance(self._store, Copy):
                self._store.move(Path(path))
            case {"settings": members}:
                self._settle(settings_of(members))
            case {"drained": routes}:
                self._drained(routes)
            case {"short": short}:
                self._short(short)
            case {"unhealthy": names}:
                self._hear(names)
            case {"probe": probes}:
                self._probe(probes)
            case {"shed": count}:
                self._shed(count)
            case {"drain": [after, spread]}:
                self._worker.relay.drain(after, spread)
            case {"undrain": _}:
                self._worker.relay.undrain()
            case {"leave": [after, spread]}:
                self._leave(after, spread)
            case {"stop": _}:
                self._nursery.cancel_scope.cancel()

    # -- letting in

    def _accept(self, slots: list[int]) -> None:
        for slot in set(self._slots) - set(slots):
            for _, sock in self._of(slot):
                self._reception.close(sock)
        for slot in set(slots) - set(self._slots):
            for listener, sock in self._of(slot):
                self._reception.open(sock, listener)
        self._slots = slots

    def _of(self, slot: int) -> Iterator[tuple[Listener, socket.socket]]:
        """Its sockets. A listener may have fewer slots than others, as an earlier version has bound it."""
        for listener, group in zip(self._settings.proxy.listeners, self._listening, strict=True):
            if slot < len(group):
                yield listener, group[slot]

    def _shut(self) -> None:
        """Lets in who waits, and nobody after that."""
        for slot in self._slots:
            for _, sock in self._of(slot):
                self._reception.close(sock, empty=True)
        self._slots = []
        self.report()  # who is in by now counts before anybody asks whether it is empty

    def _leave(self, after: float | None, spread: float) -> None:
        """Another lets players in from now on, or nobody does."""
        self._leaving = True
        self._probe(False)
        self._accept([])
        for group in self._listening:
            for sock in group:
                sock.close()
        if after is not None:
            self._worker.relay.drain(after, spread)
        self._nursery.start_soon(self._end_when_empty, after, spread)

    async def _end_when_empty(self, after: float | None, spread: float) -> None:
        longest = float("inf") if after is None else after + spread + GRAIN
        with trio.move_on_after(longest):
            while self._worker.limits.active:  # noqa: ASYNC110  # the relay counts in its own thread
                await trio.sleep(REPORT_EVERY_LEAVING)
        # What has come since it was told last would be in nobody's books.
        self._channel.offer({"counted": export_worker(self._worker.metrics)})
        with trio.move_on_after(LAST_WORDS):
            await self._channel.flushed()
        self._nursery.cancel_scope.cancel()

    # -- what changes while it serves

    def _settle(self, settings: Settings) -> None:
        """Other settings. Players who come from now on have them."""
        slots = self._slots
        self._accept([])
        self._settings = settings
        self._worker.settle(settings.proxy, settings.overload)
        self._worker.journal.settle(settings.log, settings.traces)
        self._worker.log.choose(settings.log.format)
        self._worker.metrics.counts.tallies.most = settings.status.metrics_routes
        try:
            self._worker.snapshot.take_keys(open_keyring(settings))
        except SettingsError as error:  # its file cannot be read any more since the parent did
            self._worker.log.error("keyring not used", cause=str(error))
        self._accept(slots)

    def _drained(self, routes: list[str]) -> None:
        self._worker.drained = frozenset(routes)
        self._worker.forget_plans()

    def _short(self, short: bool) -> None:
        self._worker.short_of_memory = short
        self._worker.forget_plans()

    def _hear(self, names: list[str]) -> None:
        """What probes have found."""
        self._worker.snapshot.hear(frozenset(names))
        self._worker.forget_plans()

    def _probe(self, probes: bool) -> None:
        """Whether it is this worker that probes, from now on."""
        if probes and self._probing is None:
            self._probing = Probing(self._worker, self._found)
            self._nursery.start_soon(self._probing.run)
        elif not probes and self._probing is not None:
            self._probing.stop()
            self._probing = None

    def _found(self, unhealthy: frozenset[str]) -> None:
        self._channel.send({"unhealthy": sorted(unhealthy)})

    def _shed(self, count: int) -> None:
        """Ends those who hold the most bytes, until so many are free."""
        freed = sessions = 0
        while freed < count and sessions < MOST_SHED and (held := self._worker.relay.shed()):
            freed, sessions = freed + held, sessions + 1
        self._worker.log.warning("sessions ended to free memory", sessions=sessions, freed=freed)
        give_memory_back()

    # -- what it tells

    def report(self) -> None:
        """How it is now."""
        report = Report(
            revision=self._worker.snapshot.revision,
            stale=self._freshness.stale,
            age=round(self._freshness.age, 3),
            active=self._worker.limits.active,
            ready=self.ready,
        )
        self._channel.offer({"report": report.encode()})

    async def report_now_and_then(self) -> None:
        """For ever. What it has counted goes along, so that it is known if the worker dies."""
        while True:
            self.report()
            self._channel.offer({"counted": export_worker(self._worker.metrics)})
            await trio.sleep(REPORT_EVERY_LEAVING if self._leaving else REPORT_EVERY)

    async def _answer(self, number: int, about: str, more: dict[str, Any]) -> None:
        try:
            content = self._content(about, more)
        except Exception:  # a defect of ours costs this answer, and no player
            self._worker.log.exception("question not answered", about=about)
            content = None
        self._channel.send({"answer": number, "content": content})

    def _content(self, about: str, more: dict[str, Any]) -> Any:
        match about:
            case "metrics":
                return export_worker(self._worker.metrics, self._single_objects())
            case "config":
                return config_of(self._worker.snapshot)
            case "refused":
                return refused_of(self._worker.recorder)
            case "flight":
                return flight_of(self._worker.recorder, str(more.get("session")))
            case "routes":
                return self._worker.playing()
            case "sessions":
                return {"routes": self._worker.playing(), "nodes": self._worker.playing_on()}
            case "health":
                return None if self._probing is None else self._probing.state()
            case "held":
                return self._worker.relay.held()
            case "shut":
                self._shut()
                return True
        return None  # of a parent that knows more

    def _single_objects(self) -> Iterator[Metric]:
        snapshot = self._worker.snapshot
        yield certificates(snapshot)
        yield circuits(snapshot, trio.current_time())
        if self._probing is not None:
            yield nodes(self._probing.state())


def tame_garbage_collection() -> None:
    """No pause that grows with the number of sessions, and none while a configuration is loaded.

    A full collection walks every object: 80 ms beside 5 000 sessions in set-up, in which no player's byte moves. Sessions
    leave no reference cycles behind (a test holds that), so they are freed without it; only young objects, of whatever
    else makes cycles, are still looked at.
    """
    gc.set_threshold(5_000, 5, 1_000_000_000)


def keep_out_of_collections() -> None:
    """What is loaded by now stays for long: it is looked at once more, and never again."""
    gc.collect()
    gc.freeze()


def give_memory_back() -> None:
    """What was freed goes back to the system, where the C library can be told to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _main(number: int) -> None:
    channel = Channel(socket.socket(fileno=number))
    log = open_log("proxy")
    async for message in channel:
        if "begin" in message:
            begin = Begin.decode(message["begin"])
            try:
                await run_worker(begin, channel, log)
            except Exception as error:  # the parent says that it died, and this says why
                log.exception("worker failed", worker=begin.worker)
                raise SystemExit(1) from error
        return


if __name__ == "__main__":
    # The parent alone decides: a terminal's Ctrl-C and a service manager's SIGTERM reach the whole group.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(one, signal.SIG_IGN)
    tame_garbage_collection()
    trio.run(_main, int(sys.argv[1]))
