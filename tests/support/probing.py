"""Probing of a snapshot on a clock that jumps: each probe finds what the test says."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from sniproxy.health import Failure
from sniproxy.limits import open_limits
from sniproxy.names import Names
from sniproxy.probes import Finding, Probe
from sniproxy.probing import Probing
from sniproxy.relay.opening import open_relay
from sniproxy.settings import Proxy
from sniproxy.store import Deleted, Entry
from sniproxy.worker_state import Worker, open_worker
from tests.support.gateway import PREFIX, Lines, Objects, fill, open_lines
from tests.support.names import NOWHERE, Resolver

GOOD = Finding()
REFUSED = Finding(Failure.TCP, "Connection refused")
SILENT = Finding(Failure.TIMEOUT, "no answer in 1 s")
BAD = Finding(Failure.HTTP, "HTTP status 503")
ODD = Finding(None, "HTTP status 418", counts=False)


def upstream(*ports: int, host: str = "10.0.0.1", **active: Any) -> dict[str, Any]:
    """One with probes."""
    return {
        "nodes": {f"{host}:{port}": 1 for port in ports},
        "checks": {"active": {"type": "tcp", **active}},
    }


@dataclass
class Probed:
    """What a test sees of it."""

    worker: Worker
    lines: Lines
    probing: Probing
    asked: list[tuple[int, float]] = field(default_factory=list)  # port, and when
    finds: dict[int, Finding | Exception] = field(default_factory=dict)  # by port; otherwise GOOD
    told: list[frozenset[str]] = field(default_factory=list)
    takes: float = 0.0  # seconds of a probe
    at_once: int = 0  # the most that ran beside each other
    _running: int = 0

    async def check(self, probe: Probe) -> Finding:
        """In place of a real probe."""
        self.asked.append((probe.port, trio.current_time()))
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        try:
            await trio.sleep(self.takes)
        finally:
            self._running -= 1
        found = self.finds.get(probe.port, GOOD)
        if isinstance(found, Exception):
            raise found
        return found

    def hear(self, unhealthy: frozenset[str]) -> None:
        """As all workers do by way of the parent."""
        self.told.append(unhealthy)
        self.worker.snapshot.hear(unhealthy)

    def change(self, objects: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Puts them in force, None being a deletion."""
        snapshot = self.worker.snapshot
        broken = snapshot.apply(
            Deleted(f"{PREFIX}/{key}", revision)
            if value is None
            else Entry(f"{PREFIX}/{key}", json.dumps(value).encode(), revision, revision)
            for revision, (key, value) in enumerate(objects.items(), snapshot.revision + 1)
        )
        assert not broken, broken

    def times(self, port: int) -> list[float]:
        """When that was probed, in seconds."""
        return [at for one, at in self.asked if one == port]

    def down(self) -> list[str]:
        """host:port of those that get no sessions, of all upstreams."""
        found = set[str]()
        for target in self.worker.snapshot.probed.values():
            live = target.discovered or target
            assert live.checkup is not None
            out = live.checkup.out(trio.current_time())
            found |= {f"{one.host}:{one.port}" for one in live.balancer.nodes if id(one) in out}
        return sorted(found)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines.all if line["event"] == event]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.worker.metrics.registry.get_sample_value(f"sniproxy_{name}", labels)


@asynccontextmanager
async def probed(
    objects: Objects, resolver: Resolver | None = None, *, runs: bool = True
) -> AsyncIterator[Probed]:
    """Until the block is left. runs: at once."""
    log, lines = open_lines()
    proxy = Proxy(relay="trio")
    limits = open_limits(proxy)
    async with open_relay(proxy, limits.places) as relay, trio.open_nursery() as nursery:
        worker = open_worker(proxy, fill(objects), relay, log, limits)
        ask = (resolver or Resolver({})).ask
        worker.names = Names(proxy.dns, log, worker.metrics, ask=ask, hosts=NOWHERE)
        await nursery.start(worker.names.run)
        stage: Probed

        async def check(probe: Probe) -> Finding:
            return await stage.check(probe)

        def hear(unhealthy: frozenset[str]) -> None:
            stage.hear(unhealthy)

        probing = Probing(worker, hear, check=check, dice=Random(7))
        stage = Probed(worker, lines, probing)
        if runs:
            nursery.start_soon(probing.run)
        yield stage
        nursery.cancel_scope.cancel()
