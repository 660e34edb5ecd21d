"""A pod for tests of the agent: what outlives its processes, a process of it, and a worker that follows its copy."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from sniproxy.agent import Agent
from sniproxy.following import Freshness, follow
from sniproxy.logs import Log
from sniproxy.metrics import PodMetrics
from sniproxy.settings import Etcd, EtcdUrl, Proxy, Settings
from sniproxy.store import Batch, Deleted, Entry, Listing
from sniproxy.store.mirror import Mirror, Origin
from tests.support.gateway import Lines, open_lines
from tests.support.memory_store import MemoryStore

PATIENCE = 60.0  # seconds for anything that must happen
WAIT = 0.2  # seconds for which a store that is away is waited for
RETRY = 0.1  # seconds between two tries to have the copy on disk
LONG_AGO = 1_700_000_000.0


@dataclass
class Pod:
    """What outlives the process: the disk, and the store somewhere else."""

    state_dir: Path
    memory: Path
    store: MemoryStore
    time: float = LONG_AGO
    watch_silence: float = 10.0

    @property
    def settings(self) -> Settings:
        return Settings(
            store="etcd://one:2379,two:2379/apisix",
            state_dir=self.state_dir,
            proxy=Proxy(
                store_wait=WAIT if self.store.away else PATIENCE,
                store_retry=0.01,
                store_retry_max=0.05,
            ),
            etcd=Etcd(watch_silence=self.watch_silence),
        )

    @property
    def file(self) -> Path:
        return self.state_dir / "mirror.db"

    def mirror(self) -> Mirror:
        """The writing side of its file, as another process or the next one would have it."""
        where = self.settings.where
        assert isinstance(where, EtcdUrl)
        return Mirror(self.file, Origin(where.prefix, frozenset(where.endpoints)))

    def agent(self, metrics: PodMetrics, log: Log) -> Agent:
        agent = Agent(
            self.settings, self.store, metrics, log, memory=self.memory, now=lambda: self.time
        )
        agent.copy._poll = 0.05
        return agent

    def kept_in_memory(self) -> list[Path]:
        return list(self.memory.iterdir())

    async def has_run(self) -> None:
        """Once, in good order, with the store there."""
        async with running(self):
            pass


class Worker:
    """A follower of the copy that keeps what it was given, and how often it was given a list."""

    def __init__(self) -> None:
        self.revision = 0
        self.state: dict[str, Entry] = {}
        self.lists = 0
        self.empty = False  # whether it ever lost everything

    async def load(self, listing: Listing) -> None:
        self.state = {one.key: one for one in listing.entries}
        self.revision = listing.revision
        self.lists += 1
        self.empty |= not self.state

    async def apply(self, batch: Batch) -> None:
        for event in batch.events:
            if isinstance(event, Deleted):
                self.state.pop(event.key, None)
            else:
                self.state[event.key] = event
        self.revision = batch.revision
        self.empty |= not self.state


@dataclass
class Running:
    """One process of a pod."""

    pod: Pod
    agent: Agent
    metrics: PodMetrics
    lines: Lines
    nursery: trio.Nursery
    worker: Worker = field(default_factory=Worker)
    started: bool = False

    async def start(self) -> None:
        """The agent, and once it has a configuration a worker that follows."""
        await self.nursery.start(self.agent.run)
        self.started = True
        freshness = Freshness(1000)
        log, _ = open_lines()
        await self.nursery.start(
            partial(follow, settings=self.pod.settings.proxy, freshness=freshness, log=log),
            self.agent.copy,
            "/apisix",
            self.worker,
        )

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(f"sniproxy_config_{name}")
        assert value is not None
        return value

    def logged(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines.all if line["event"] == event]

    async def in_step(self) -> None:
        """Until the worker has what the store has."""
        store = self.pod.store
        await until(lambda: self.worker.state == store.entries)
        await until(lambda: self.worker.revision == store.revision)

    async def on_disk(self, yes: bool = True) -> None:
        await until(lambda: self.metric("mirror_on_disk") == yes)


async def until(what: Callable[[], bool]) -> None:
    """Until it is so, or TooSlowError."""
    with trio.fail_after(PATIENCE):
        while not what():  # noqa: ASYNC110  # threads, files and metrics have no event to wait for
            await trio.sleep(0.005)


@asynccontextmanager
async def running(pod: Pod, *, started: bool = True) -> AsyncIterator[Running]:
    """A process of the pod, until the block is left. started: wait until it has a configuration."""
    log, lines = open_lines()
    metrics = PodMetrics()
    async with trio.open_nursery() as nursery:
        agent = pod.agent(metrics, log)
        metrics.show_freshness(agent.freshness)
        process = Running(pod, agent, metrics, lines, nursery)
        nursery.start_soon(process.start)
        if started:
            await until(lambda: process.worker.lists > 0)
        yield process
        nursery.cancel_scope.cancel()
