"""What workers and their parent count. Label values come from our own enums and the configuration, never from a client."""

from collections.abc import Callable, Iterable
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from sniproxy.errors import CloseReason
from sniproxy.logs import dropped_lines


class HasFreshness(Protocol):
    """How sure somebody is to have what the store has."""

    @property
    def age(self) -> float:
        """Seconds since it was last proven."""
        ...

    @property
    def stale(self) -> bool:
        """Whether changes may be missing."""
        ...


class _Opened(Collector):
    """Connections, those that the worker accepts and those that the relay does."""

    def __init__(self, elsewhere: Callable[[], int]) -> None:
        self._here = 0
        self._elsewhere = elsewhere

    def inc(self) -> None:
        """One that the worker has accepted."""
        self._here += 1

    def collect(self) -> Iterable[Metric]:
        total = self._here + self._elsewhere()
        yield CounterMetricFamily("sniproxy_sessions_opened", "Connections accepted", value=total)


class Metrics:
    """One registry per worker."""

    def __init__(
        self,
        active: Callable[[], int] = lambda: 0,
        uncounted: Callable[[], int] = lambda: 0,
        accepted: Callable[[], int] = lambda: 0,
    ) -> None:
        """`active`: sessions now; `uncounted`: keys that the limits had no room for; `accepted`: by the relay itself."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU, descriptors
        Gauge(
            "sniproxy_loop_tasks", "Tasks of the event loop", registry=self.registry
        ).set_function(lambda: trio.lowlevel.current_statistics().tasks_living)
        self.opened = _Opened(accepted)
        self.registry.register(self.opened)
        closed = Counter(
            "sniproxy_sessions_closed",
            "Sessions ended, by the reason that their log line names",
            ["reason"],
            registry=self.registry,
        )
        self.closed = {reason: closed.labels(reason.value) for reason in CloseReason}
        self.session_errors = Counter(
            "sniproxy_session_errors",
            "Defects of ours that each ended a session, or cost its log line, by the route if it is known",
            ["route"],
            registry=self.registry,
        )
        Gauge(
            "sniproxy_sessions_active", "Sessions now, set-up included", registry=self.registry
        ).set_function(active)
        Gauge(
            "sniproxy_limits_uncounted",
            "Sessions let in without being counted: limits.table is too small",
            registry=self.registry,
        ).set_function(uncounted)
        self.setups = Gauge(
            "sniproxy_setups",
            "Sessions past the hello that are being set up",
            registry=self.registry,
        )
        self.setups_waiting = Gauge(
            "sniproxy_setups_waiting",
            "Sessions past the hello that wait to be set up",
            registry=self.registry,
        )
        self.bytes_to_upstream = Counter(
            "sniproxy_bytes_to_upstream", "Payload of ended sessions", registry=self.registry
        )
        self.bytes_to_client = Counter(
            "sniproxy_bytes_to_client", "Payload of ended sessions", registry=self.registry
        )
        self.accept_paused = Counter(
            "sniproxy_accept_paused",
            "Times that accepting paused because descriptors or memory ran out",
            registry=self.registry,
        )
        self.probes = Counter(
            "sniproxy_probes",
            "Probes of game servers, by what they found",
            ["result"],
            registry=self.registry,
        )
        self.upstream_unhealthy = Gauge(
            "sniproxy_upstream_unhealthy",
            "Game servers that probes find unhealthy now, told by the one worker that probes",
            registry=self.registry,
        )
        self.circuits_opened = Counter(
            "sniproxy_upstream_circuits_opened",
            "Times that a game server was left out because sessions failed there (checks.passive)",
            registry=self.registry,
        )
        self.circuits_open = Gauge(
            "sniproxy_upstream_circuits_open",
            "Game servers that are left out because sessions failed there, each worker's by itself",
            registry=self.registry,
        )
        self.panics = Counter(
            "sniproxy_upstream_panics",
            "Sessions that were sent to a game server which was left out, as no other was there to try",
            registry=self.registry,
        )
        self.names_resolved = Counter(
            "sniproxy_names_resolved",
            "Answers of DNS that held an address or a service",
            registry=self.registry,
        )
        self.names_failed = Counter(
            "sniproxy_names_failed",
            "Names of game servers that DNS did not know, or not answer for, each time",
            registry=self.registry,
        )
        self.names_stale = Counter(
            "sniproxy_names_stale",
            "Sessions that went by an answer of DNS whose time had run out",
            registry=self.registry,
        )
        Gauge(
            "sniproxy_log_lines_dropped",
            "Log lines that the stream did not take",
            registry=self.registry,
        ).set_function(dropped_lines)
        self.config_revision = Gauge(
            "sniproxy_config_revision", "Store revision in force", registry=self.registry
        )
        self.config_broken = Gauge(
            "sniproxy_config_broken_objects",
            "Objects in the store that cannot be used",
            registry=self.registry,
        )


class PodMetrics:
    """What the parent of the workers counts itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.config_lists = Counter(
            "sniproxy_config_lists",
            "Full lists taken from the store: at the start, and where changes may have been missed",
            registry=self.registry,
        )
        self.config_mirror_on_disk = Gauge(
            "sniproxy_config_mirror_on_disk",
            "1 while the local copy of a remote store is written to disk",
            registry=self.registry,
        )
        self.config_mirror_set_aside = Counter(
            "sniproxy_config_mirror_set_aside",
            "Local copies that were damaged or of another store, and not served from",
            registry=self.registry,
        )
        self.node_record_failures = Counter(
            "sniproxy_node_record_failures",
            "Times that this data plane's record could not be written to the store",
            registry=self.registry,
        )
        self.statistics_failures = Counter(
            "sniproxy_statistics_failures",
            "Times that traffic statistics could not be written to the store; they are kept, and written later",
            registry=self.registry,
        )
        self.workers = Gauge(
            "sniproxy_workers", "Workers that serve players", registry=self.registry
        )
        self.worker_crashes = Counter(
            "sniproxy_worker_crashes", "Workers that died unasked", registry=self.registry
        )
        self.sessions_lost = Counter(
            "sniproxy_worker_sessions_lost",
            "Sessions that ended with a worker that died; no log line tells of them",
            registry=self.registry,
        )
        self.draining = Gauge(
            "sniproxy_draining", "1 while this data plane is to end", registry=self.registry
        )
        self.memory_used = Gauge(
            "sniproxy_memory_used_bytes",
            "What counts against overload.max_memory",
            registry=self.registry,
        )
        self.memory_limit = Gauge(
            "sniproxy_memory_limit_bytes",
            "overload.max_memory; 0: there is no limit",
            registry=self.registry,
        )

    def show_freshness(self, freshness: "HasFreshness") -> None:
        """How old the configuration may be, from now on."""
        Gauge(
            "sniproxy_config_stale",
            "1 while the store is not followed: changes may be missing",
            registry=self.registry,
        ).set_function(lambda: freshness.stale)
        Gauge(
            "sniproxy_config_age_seconds",
            "Since the configuration was last known to be the store's",
            registry=self.registry,
        ).set_function(lambda: freshness.age)
