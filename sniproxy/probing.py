"""The probes of a data plane: run in one of its workers, for every upstream with `checks.active`, before anybody plays.

A game server that several upstreams name, with the same checks, is probed once. The first probe comes after a random part
of the interval, and each pause is jittered, so that thousands do not come at one moment. One of weight 0 is not probed: it
gets nobody. The opinion goes on where another worker takes over, and where an object is written again with the same checks;
a game server that is new is well until it is found otherwise.
"""

import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from sniproxy.balancer import Target
from sniproxy.balancing import Node
from sniproxy.defects import report
from sniproxy.discovery import discovered
from sniproxy.errors import SessionEnded
from sniproxy.health import Failure, Health, Thresholds
from sniproxy.objects.upstream import Active
from sniproxy.probes import Finding, Probe
from sniproxy.worker_state import Worker

LOOK_EVERY = 0.25  # seconds between two looks at which upstreams there are
NAMES_EVERY = 5.0  # seconds between two looks at what DNS has for those with a service_name ...
NAMES_WITHIN = 2.0  # ... and for one look
MOST_PROBES = 100  # at once; each has a socket and a timeout
MOST_A_SECOND = (
    500  # begun: with more game servers intervals get longer, as those who play go first
)
SAY_EVERY = 0.1  # seconds between two times that others are told: thousands may fail together
JITTER = 0.1  # part of a pause by which it is longer or shorter
AT_A_TIME = 500  # upstreams that are looked at before sessions have their turn

Check = Callable[[Probe], Awaitable[Finding]]


@dataclass(slots=True)
class _Watched:
    """A game server that is probed."""

    where: str  # host:port
    probe: Probe
    health: Health
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def pause(self) -> float:
        """Seconds."""
        active = self.probe.active
        return active.healthy.interval if self.health.healthy else active.unhealthy.interval


class Probing:
    """`run` runs in one worker of a data plane."""

    def __init__(
        self,
        worker: Worker,
        tell: Callable[[frozenset[str]], None],
        *,
        check: Check | None = None,
        dice: Random | None = None,
    ) -> None:
        """tell: hears the names of all that are not well, whenever they are others. check: in place of a real probe."""
        self._worker = worker
        self._snapshot = worker.snapshot
        self._tell = tell
        self._check = check or self._really
        self._dice = dice or Random()
        self._line = trio.CapacityLimiter(MOST_PROBES)
        self._watched: dict[str, _Watched] = {}
        self._barred: set[str] = set()  # that cannot be probed, which was said
        self._told = self._snapshot.unhealthy
        self._seen = -1  # edition of what is to be probed
        self._free_at = 0.0  # when the next probe may begin
        self._news = trio.Event()  # an opinion has changed, or one is gone
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Ends `run`."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until `stop`."""
        with self._scope:
            while True:
                try:
                    await self._run()
                except Exception:  # a defect of ours costs a pause, and no player
                    report(self._worker.metrics, self._worker.log, traceback.format_exc())
                    await trio.sleep(NAMES_EVERY)

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_names)
                nursery.start_soon(self._say_now_and_then)
                while True:
                    if self._seen != self._snapshot.probed_edition:
                        await self._look(nursery)
                    await trio.sleep(LOOK_EVERY)
        finally:
            self._worker.metrics.upstream_unhealthy.set(0)  # another tells by now
            self._watched.clear()
            self._seen = -1

    # -- which there are

    async def _look(self, nursery: trio.Nursery) -> None:
        """Begins with those that are new, ends with those that are gone."""
        self._seen = self._snapshot.probed_edition
        await self._discover([one for one in self._services() if one.discovered is None])
        wanted = set()
        for number, target in enumerate(list(self._snapshot.probed.values()), 1):
            for name, node, active in _nodes(target):
                wanted.add(name)
                if name not in self._watched and name not in self._barred:
                    absolute = target.service is not None
                    self._begin(nursery, name, node, active, absolute=absolute)
            if number % AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        for name in self._watched.keys() - wanted:
            self._watched.pop(name).scope.cancel()
        self._barred &= wanted
        self._news.set()

    def _begin(
        self, nursery: trio.Nursery, name: str, node: Node, active: Active, *, absolute: bool
    ) -> None:
        where = f"{node.host}:{active.port or node.port or ''}"
        try:
            probe = Probe(node, active, absolute=absolute)
        except ValueError as error:
            self._barred.add(name)
            self._worker.log.warning("game server not probed", node=where, cause=str(error))
            return
        health = Health(Thresholds.of(active))
        health.healthy = name not in self._snapshot.unhealthy
        watched = self._watched[name] = _Watched(where, probe, health)
        nursery.start_soon(self._watch, watched)

    async def _follow_names(self) -> None:
        """What DNS has for an upstream changes though no object does."""
        while True:
            await trio.sleep(NAMES_EVERY)
            if services := self._services():
                await self._discover(services)
                self._seen = -1

    def _services(self) -> list[Target]:
        return [one for one in self._snapshot.probed.values() if one.service is not None]

    async def _discover(self, targets: list[Target]) -> None:
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(self._discover_one, target)

    async def _discover_one(self, target: Target) -> None:
        try:
            with trio.move_on_after(NAMES_WITHIN):
                await discovered(target, self._worker.names)
        except SessionEnded:
            pass  # said by names; those of before are probed on

    # -- what is found

    async def _watch(self, one: _Watched) -> None:
        with one.scope:
            await trio.sleep(one.pause * self._dice.random())
            while True:
                await self._turn()
                async with self._line:
                    finding = await self._try(one.probe)
                self._take(one, finding)
                await trio.sleep(one.pause * self._dice.uniform(1 - JITTER, 1 + JITTER))

    async def _turn(self) -> None:
        now = trio.current_time()
        due = max(now, self._free_at)
        self._free_at = due + 1 / MOST_A_SECOND
        await trio.sleep_until(due)

    async def _try(self, probe: Probe) -> Finding:
        try:
            return await self._check(probe)
        except Exception:  # a defect of ours costs this probe
            report(self._worker.metrics, self._worker.log, traceback.format_exc())
            return Finding(None, "a defect of ours", counts=False)

    async def _really(self, probe: Probe) -> Finding:
        return await probe.run(self._worker.names, self._worker.forbidden)

    def _take(self, one: _Watched, finding: Finding) -> None:
        self._worker.metrics.probes.labels(finding.result).inc()
        if not finding.counts:
            return
        kind = one.probe.active.type
        if finding.failure is not None:
            if one.health.fail(finding.failure):
                cause = f"{finding.failure.value}: {finding.why}"
                self._worker.log.warning(
                    "game server unhealthy", node=one.where, probe=kind, cause=cause
                )
                self._news.set()
        elif one.health.succeed():
            successes = one.health.successes
            self._worker.log.info(
                "game server healthy", node=one.where, probe=kind, successes=successes
            )
            self._news.set()

    async def _say_now_and_then(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            self._say()
            await trio.sleep(SAY_EVERY)

    def _say(self) -> None:
        unhealthy = frozenset(name for name, one in self._watched.items() if not one.health.healthy)
        self._worker.metrics.upstream_unhealthy.set(len(unhealthy))
        if unhealthy != self._told:
            self._told = unhealthy
            self._tell(unhealthy)

    # -- what is shown

    def state(self) -> list[dict[str, Any]]:
        """Of each upstream with probes, as APISIX's `/v1/healthcheck` has it."""
        shown = []
        for key, target in self._snapshot.probed.items():
            found = list(_nodes(target))
            nodes = [
                _shown(node, self._watched[name])
                for name, node, _ in found
                if name in self._watched
            ]
            assert target.checkup is not None
            assert target.checkup.active is not None
            shown.append({"name": key, "type": target.checkup.active.type, "nodes": nodes})
        return shown


def _nodes(target: Target) -> Iterator[tuple[str, Node, Active]]:
    """Those of an upstream that get sessions, by the name of their probe."""
    target = target.discovered or target
    checkup = target.checkup
    if checkup is not None and checkup.active is not None:
        for node in target.balancer.nodes:
            yield checkup.name(node), node, checkup.active


def _shown(node: Node, one: _Watched) -> dict[str, Any]:
    return {
        "hostname": node.bare_host,
        "ip": one.probe.address,
        "port": one.probe.port,
        "status": _status(one.health),
        "counter": {
            "success": one.health.successes,
            **{failure.value: one.health.failures[failure] for failure in Failure},
        },
    }


def _status(health: Health) -> str:
    """mostly: what came last is not what the opinion says."""
    if health.healthy:
        return "mostly_healthy" if any(health.failures.values()) else "healthy"
    return "mostly_unhealthy" if health.successes else "unhealthy"
