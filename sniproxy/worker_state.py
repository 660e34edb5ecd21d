"""What every session of a worker shares."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from sniproxy.forbidden import Forbidden
from sniproxy.health import open_circuits
from sniproxy.journal import Journal
from sniproxy.limits import Limits, open_limits
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.metrics.counts import NO_WAITS, NONE_READ
from sniproxy.names import Names
from sniproxy.refusals import Recorder, Sampler
from sniproxy.relay import Relay
from sniproxy.settings import Overload, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.tallies import MOST
from sniproxy.turns import Turns
from sniproxy.upstream import Ways


@dataclass(slots=True)
class Worker:
    """What every session of a worker shares. Its settings may change: a session asks for each when it needs it."""

    settings: Proxy
    snapshot: Snapshot
    relay: Relay
    metrics: Metrics
    log: Log
    limits: Limits
    turns: Turns
    names: Names
    journal: Journal
    recorder: Recorder
    own: Sequence[str]  # HOST:PORT that no session is connected to, beside the listeners
    forbidden: Forbidden
    workers: int = 1  # of the data plane: each logs its share of what is sampled
    drained: frozenset[str] = frozenset()  # routes that take no new session
    short_of_memory: bool = False  # nobody is let in
    routed: Counter[str] = field(default_factory=Counter)  # sessions by route; not planned ones
    placed: Counter[str] = field(default_factory=Counter)  # those that have come to a node, by it

    def settle(self, settings: Proxy, overload: Overload) -> None:
        """Goes on by other settings, for those who come from now on."""
        self.settings = settings
        self.forbidden = Forbidden(settings, self.own)
        self.turns.settings = overload
        self.limits.settle(settings)
        self.relay.settle(settings)
        self.names.settle(settings.dns)
        self.journal.sampler.interval = settings.refused_log_interval * self.workers
        self.forget_plans()

    @property
    def ways(self) -> Ways:
        """What sessions connect by from now on."""
        settings = self.settings
        return Ways(
            self.names,
            self.forbidden,
            self.metrics,
            settings.connect_timeout,
            settings.keepalive_idle,
        )

    def forget_plans(self) -> None:
        """What was decided for others who come may be wrong by now."""
        if self.relay.front is not None:
            self.relay.front.forget()

    def playing(self) -> dict[str, int]:
        """Sessions now, by route."""
        counts = Counter(self.routed)
        if self.relay.front is not None:
            for plan, _, count in self.relay.front.playing():
                counts[plan.route.id] += count
        return counts

    def playing_on(self) -> dict[str, int]:
        """Sessions now that have come to a game server, by host:port."""
        counts = Counter(self.placed)
        if self.relay.front is not None:
            for plan, pick, count in self.relay.front.playing():
                counts[plan.node(pick)] += count
        return counts


def open_worker(
    settings: Proxy,
    snapshot: Snapshot,
    relay: Relay,
    log: Log,
    limits: Limits | None = None,
    overload: Overload | None = None,
    workers: int = 1,
    own: Sequence[str] = (),
    most_routes: int = MOST,
) -> Worker:
    """One of so many workers; without `limits` it shares them with nobody, not even with a relay that accepts by itself."""
    limits = limits or open_limits(settings)
    turns = Turns(overload or Overload())
    front = relay.front
    if front is not None:
        snapshot.on_change = front.forget
    metrics = Metrics(
        lambda: limits.active,
        lambda: limits.uncounted,
        lambda: front.accepted if front is not None else 0,
        lambda: front.hellos if front is not None else NONE_READ,
        lambda: front.waits if front is not None else NO_WAITS,
        lambda: front.handshakes if front is not None else NONE_READ,
        exists=lambda route: snapshot.has("stream_routes", route),
        most_routes=most_routes,
    )
    metrics.setups.set_function(lambda: turns.inside)
    metrics.setups_waiting.set_function(lambda: turns.waiting)
    metrics.circuits_open.set_function(lambda: open_circuits(trio.current_time()))
    return Worker(
        settings=settings,
        snapshot=snapshot,
        relay=relay,
        metrics=metrics,
        log=log,
        limits=limits,
        turns=turns,
        names=Names(settings.dns, log, metrics),
        journal=Journal(log, Sampler(settings.refused_log_interval * workers)),
        recorder=Recorder(settings.refused_kept),
        own=own,
        forbidden=Forbidden(settings, own),
        workers=workers,
    )
