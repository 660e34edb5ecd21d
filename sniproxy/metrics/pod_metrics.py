"""What the parent of the workers counts itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sniproxy.metrics.catalogue import help_of
from sniproxy.metrics.counts import histogram
from sniproxy.metrics.process import Process
from sniproxy.store.etcd_health import EtcdHealth

CONNTRACK = Path("/proc/sys/net/netfilter")


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


class HasWatches(Protocol):
    """Somebody who follows a remote store."""

    @property
    def watches(self) -> int:
        """That were begun so far."""
        ...


class PodMetrics:
    """One per pod."""

    def __init__(self, conntrack: Path = CONNTRACK) -> None:
        """conntrack: where the kernel tells of the connections that it tracks."""
        self.registry = CollectorRegistry()
        self.registry.register(Process())
        self.registry.register(_Conntrack(conntrack))
        self.config_lists = self._counter("sniproxy_config_lists")
        self.config_mirror_on_disk = self._gauge("sniproxy_config_mirror_on_disk")
        self.config_mirror_set_aside = self._counter("sniproxy_config_mirror_set_aside")
        self.node_record_failures = self._counter("sniproxy_node_record_failures")
        self.statistics_failures = self._counter("sniproxy_statistics_failures")
        self.workers = self._gauge("sniproxy_workers")
        self.worker_crashes = self._counter("sniproxy_worker_crashes")
        self.sessions_lost = self._counter("sniproxy_worker_sessions_lost")
        self.draining = self._gauge("sniproxy_draining")
        self.memory_used = self._gauge("sniproxy_memory_used_bytes")
        self.memory_limit = self._gauge("sniproxy_memory_limit_bytes")

    def show_freshness(self, freshness: HasFreshness) -> None:
        """How old the configuration may be, from now on."""
        self._gauge("sniproxy_config_stale").set_function(lambda: freshness.stale)
        self._gauge("sniproxy_config_age_seconds").set_function(lambda: freshness.age)

    def show_watches(self, watches: HasWatches) -> None:
        """How often the watch was begun, from now on."""
        self.registry.register(_Watches(watches))

    def show_etcd(self, health: EtcdHealth) -> None:
        """How etcd answers, from now on."""
        self.registry.register(_Etcd(health))

    def _gauge(self, name: str) -> Gauge:
        return Gauge(name, help_of(name), registry=self.registry)

    def _counter(self, name: str) -> Counter:
        return Counter(name, help_of(name), registry=self.registry)


class _Watches(Collector):
    def __init__(self, watches: HasWatches) -> None:
        self._watches = watches

    def collect(self) -> Iterable[Metric]:
        name = "sniproxy_config_watch_reconnects"
        yield CounterMetricFamily(name, help_of(name), value=max(0, self._watches.watches - 1))


class _Etcd(Collector):
    def __init__(self, health: EtcdHealth) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        if self._health.up is not None:  # asked by now
            yield GaugeMetricFamily(
                "sniproxy_etcd_up", help_of("sniproxy_etcd_up"), value=self._health.up
            )
        yield histogram("sniproxy_etcd_request_seconds", self._health.requests)
        name = "sniproxy_etcd_leader_changes"
        yield CounterMetricFamily(name, help_of(name), value=self._health.leader_changes)


class _Conntrack(Collector):
    def __init__(self, where: Path) -> None:
        self._where = where

    def collect(self) -> Iterable[Metric]:
        for name, file in (
            ("sniproxy_conntrack_entries", "nf_conntrack_count"),
            ("sniproxy_conntrack_limit", "nf_conntrack_max"),
        ):
            try:
                value = int((self._where / file).read_text())
            except (OSError, ValueError):
                continue
            yield GaugeMetricFamily(name, help_of(name), value=value)
