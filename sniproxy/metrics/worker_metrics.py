"""What a worker counts."""

from collections.abc import Callable, Sequence

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge

from sniproxy.logs import dropped_lines
from sniproxy.metrics.catalogue import BY_NAME, help_of
from sniproxy.metrics.counts import NO_WAITS, NONE_READ, Counts, Waits
from sniproxy.metrics.process import Process
from sniproxy.metrics.rows import Rows, rows_of
from sniproxy.tallies import MOST


class Metrics:
    """One registry per worker; routes are told apart from it (`rows`)."""

    def __init__(
        self,
        active: Callable[[], int] = lambda: 0,
        uncounted: Callable[[], int] = lambda: 0,
        accepted: Callable[[], int] = lambda: 0,
        hellos: Callable[[], Sequence[int]] = lambda: NONE_READ,
        waits: Callable[[], Waits] = lambda: NO_WAITS,
        handshakes: Callable[[], Sequence[int]] = lambda: NONE_READ,
        exists: Callable[[str], bool] = lambda _: True,
        most_routes: int = MOST,
    ) -> None:
        """`active`: sessions now; `uncounted`: keys that the limits had no room for.

        `accepted`, `hellos`, `waits`, `handshakes`: by the relay itself. `exists`: whether a route is in the configuration.
        `most_routes`: that are told apart.
        """
        self.registry = CollectorRegistry()
        self.counts = Counts(accepted, hellos, waits, handshakes, most_routes)
        self.registry.register(self.counts)
        self.registry.register(Process())
        self._exists = exists
        self._gauge("sniproxy_loop_tasks").set_function(
            lambda: trio.lowlevel.current_statistics().tasks_living
        )
        self._gauge("sniproxy_sessions_active").set_function(active)
        self._gauge("sniproxy_limits_uncounted").set_function(uncounted)
        self._gauge("sniproxy_log_lines_dropped").set_function(dropped_lines)
        self.traces_sent = self._counter("sniproxy_traces_sent")
        self.traces_dropped = self._counter("sniproxy_traces_dropped")
        self.setups = self._gauge("sniproxy_setups")
        self.setups_waiting = self._gauge("sniproxy_setups_waiting")
        self.accept_paused = self._counter("sniproxy_accept_paused")
        self.probes = self._counter("sniproxy_probes")
        self.upstream_unhealthy = self._gauge("sniproxy_upstream_unhealthy")
        self.circuits_opened = self._counter("sniproxy_upstream_circuits_opened")
        self.circuits_open = self._gauge("sniproxy_upstream_circuits_open")
        self.panics = self._counter("sniproxy_upstream_panics")
        self.names_resolved = self._counter("sniproxy_names_resolved")
        self.names_failed = self._counter("sniproxy_names_failed")
        self.names_stale = self._counter("sniproxy_names_stale")
        self.config_revision = self._gauge("sniproxy_config_revision")
        self.config_broken = self._gauge("sniproxy_config_broken_objects")

    def show_vitals(self, lag: Callable[[], float], load: Callable[[], float] | None) -> None:
        """How late the loop is, and what the relay's thread uses, if it has one, from now on."""
        self._gauge("sniproxy_loop_lag_seconds").set_function(lag)
        if load is not None:
            self._gauge("sniproxy_relay_load_ratio").set_function(load)

    def err(self, route: str | None) -> None:
        """A defect of ours, in a session of that route if it is known."""
        if route is None:
            self.counts.errors += 1
        else:
            self.counts.tallies.of(route).errors += 1

    def rows(self) -> Rows:
        """What there is of each route. Those that are gone for long are let go."""
        self.counts.tallies.sweep(self._exists, trio.current_time())
        return rows_of(self.counts.tallies)

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, help_of(name), registry=self.registry)

    def _counter(self, name: str) -> Counter:
        return Counter(name, help_of(name), BY_NAME[name].labels, registry=self.registry)
