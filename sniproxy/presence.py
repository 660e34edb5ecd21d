"""The node record: this data plane's entry in the store, renewed while it lives and at once when a change is in force."""

import socket
from collections.abc import Callable

import trio

from sniproxy.errors import StoreUnavailable
from sniproxy.logs import Log
from sniproxy.metrics import PodMetrics
from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.settings import Settings, split_address
from sniproxy.store import Store

RENEWALS = 3  # in the time that a record lives
RETRY = 1.0  # seconds before a record that could not be written is tried again
LEAST_GAP = 0.02  # seconds between two writes: a burst of changes is one record
MOST_GAP = 0.1  # seconds, to which it grows while each has several changes: records cost the store what changes do
INTRODUCTION = 1.0  # seconds for the first record, before players are let in
FAREWELL = 1.0  # seconds for taking the record away at the end


def node_id(settings: Settings) -> str:
    """The setting, or the host's name with the status port, which no other data plane on that host has."""
    return settings.node or f"{socket.gethostname()}:{split_address(settings.status.address)[1]}"


class Presence:
    """Writes one data plane's record for as long as it lives."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        describe: Callable[[], NodeRecord],
        metrics: PodMetrics,
        log: Log,
    ) -> None:
        """describe: the record as of now."""
        self._store = store
        self._ttl = settings.node_ttl
        self._key = records_prefix(settings.where.prefix) + node_id(settings)
        self._describe = describe
        self._metrics = metrics
        self._log = log
        self._changed = trio.Event()
        self._changes = 0  # since the last record
        self._failing = False
        self._stays = False
        self._tried = trio.Event()

    def stays(self) -> None:
        """Another process goes on with it: it is not taken away at the end."""
        self._stays = True

    def changed(self) -> None:
        """What the record says is not true any more."""
        self._changes += 1
        self._changed.set()

    async def introduced(self) -> None:
        """Until the store has the first record, did not take it, or is slow: players are not kept waiting for it long."""
        with trio.move_on_after(INTRODUCTION):
            await self._tried.wait()

    async def run(self) -> None:
        """Never returns. The record is taken away when it is cancelled."""
        gap = LEAST_GAP
        try:
            while True:
                self._changed, self._changes = trio.Event(), 0
                await self._write()
                self._tried.set()
                await trio.sleep(gap)
                gap = min(2 * gap, MOST_GAP) if self._changes > 1 else LEAST_GAP
                with trio.move_on_after(RETRY if self._failing else self._ttl / RENEWALS):
                    await self._changed.wait()
        finally:
            if not self._stays:
                with trio.move_on_after(FAREWELL, shield=True):
                    await self._remove()

    async def _write(self) -> None:
        """A store that is away is no reason to end: it is known elsewhere, and asked again soon."""
        try:
            await self._store.put(self._key, self._describe().encode(), ttl=self._ttl)
        except StoreUnavailable as error:
            self._metrics.node_record_failures.inc()
            if not self._failing:
                self._log.warning("node record not written", key=self._key, cause=str(error))
            self._failing = True
        else:
            self._failing = False

    async def _remove(self) -> None:
        try:
            await self._store.delete(self._key)
        except StoreUnavailable as error:
            self._log.warning("node record not removed", key=self._key, cause=str(error))
