"""A store whose outcomes are data, and `follow` working on it, for tests on virtual time."""

import io
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from sniproxy.config import InForce
from sniproxy.errors import StoreUnavailable
from sniproxy.following import Freshness, follow
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics, PodMetrics
from sniproxy.settings import Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.store import Batch, Deleted, Entry, Event, Listing, Ttl

AWAY = StoreUnavailable("away")
BOUND = 10.0  # seconds without a sign of life
SETTINGS = Proxy(store_retry=1, store_retry_max=8)

# What a store does, in order: waits so many seconds, gives this, fails like that. At the end it waits for ever.
Outcome = float | Listing | Batch | Exception
Script = Sequence[Outcome]


@dataclass
class ScriptedStore:
    """A store whose outcomes are data. Obeys the contract: a watch gives nothing that is not after its start."""

    lists: list[Script]
    watches: list[Script] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)  # when, and what
    watching: int = 0

    async def list(self, prefix: str) -> Listing:
        self._ask(prefix, "list")
        listing = await _outcome(iter(self.lists.pop(0)))
        assert isinstance(listing, Listing)
        return listing

    @asynccontextmanager
    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        self._ask(prefix, f"watch {after}")
        self.watching += 1
        try:
            yield _Batches(iter(self.watches.pop(0) if self.watches else ()), after)
        finally:
            self.watching -= 1

    def _ask(self, prefix: str, what: str) -> None:
        assert prefix == "/apisix/"
        self.asked.append((trio.current_time(), what))

    async def get(self, key: str) -> Entry | None:
        raise AssertionError(key)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        raise AssertionError(key)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        raise AssertionError(key)

    async def aclose(self) -> None:
        raise AssertionError("it is not ours to close")


class _Batches:
    def __init__(self, script: Iterator[Outcome], after: int) -> None:
        self._script = script
        self._after = after

    def __aiter__(self) -> "_Batches":
        return self

    async def __anext__(self) -> Batch:
        batch = await _outcome(self._script)
        assert isinstance(batch, Batch)
        if batch.events:
            assert self._after < batch.revision == batch.events[-1].mod_revision
        assert self._after <= batch.revision
        self._after = batch.revision
        return batch


async def _outcome(script: Iterator[Outcome]) -> Listing | Batch:
    for outcome in script:
        if isinstance(outcome, Exception):
            await trio.lowlevel.checkpoint()
            raise outcome
        if isinstance(outcome, Listing | Batch):
            await trio.lowlevel.checkpoint()
            return outcome
        await trio.sleep(outcome)
    await trio.sleep_forever()


@dataclass
class Following:
    """What `follow` works on, and what came of it."""

    store: ScriptedStore
    snapshot: Snapshot = field(
        default_factory=lambda: Snapshot("/apisix", Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="]))
    )  # fmt: skip
    metrics: Metrics = field(default_factory=Metrics)
    pod_metrics: PodMetrics = field(default_factory=PodMetrics)
    output: io.StringIO = field(default_factory=io.StringIO)
    started: list[float] = field(default_factory=list)
    changed: list[tuple[float, int]] = field(
        default_factory=list
    )  # when, and the revision in force
    follower: InForce | None = None  # another than the snapshot in force
    chance: float = 1  # the whole of every pause

    async def run(self, *, until: float, of_copy: bool = False) -> None:
        """Follows up to that time of the clock."""
        log = open_log("t", self.output)
        freshness = Freshness(BOUND)
        self.pod_metrics.show_freshness(freshness)
        self.pod_metrics.show_watches(freshness)
        follower = self.follower or InForce(self.snapshot, self.metrics, log, self._note)
        with trio.move_on_at(until):
            async with trio.open_nursery() as nursery:
                work = partial(
                    follow,
                    settings=SETTINGS,
                    freshness=freshness,
                    log=log,
                    chance=lambda: self.chance,
                    of_copy=of_copy,
                )
                await nursery.start(work, self.store, "/apisix", follower)
                self.started.append(trio.current_time())

    def _note(self) -> None:
        self.changed.append((trio.current_time(), self.snapshot.revision))

    def metric(self, name: str) -> float | None:
        """A gauge as /metrics shows it."""
        values = (
            one.registry.get_sample_value(f"sniproxy_{name}")
            for one in (self.metrics, self.pod_metrics)
        )
        return next((value for value in values if value is not None), None)

    def log(self) -> list[dict[str, Any]]:
        """The lines without what is the same in all of them."""
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [
            {name: value for name, value in line.items() if name not in ("time", "component", "level")}
            for line in lines
        ]  # fmt: skip

    def upstreams(self) -> set[str]:
        """The ids in force."""
        return {key.removeprefix("/apisix/upstreams/") for key in self.snapshot._loaded}


def put(upstream: str, revision: int, value: bytes = b'{"nodes": {}}') -> Entry:
    """An upstream was written."""
    return Entry(f"/apisix/upstreams/{upstream}", value, revision, revision)


def gone(upstream: str, revision: int) -> Deleted:
    """An upstream was deleted."""
    return Deleted(f"/apisix/upstreams/{upstream}", revision)


def listing(revision: int, *entries: Entry) -> Listing:
    """A full list."""
    return Listing(entries, revision)


def batch(*events: Event) -> Batch:
    """A batch as the contract has it."""
    return Batch(events[-1].mod_revision, events)


def alive(revision: int) -> Batch:
    """A sign of life."""
    return Batch(revision, ())
