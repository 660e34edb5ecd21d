"""The counters of a worker and of the parent: every reason has one from the start, and each worker has its own."""

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason, Limit
from sniproxy.following import Freshness
from sniproxy.metrics import Metrics, PodMetrics
from sniproxy.metrics.catalogue import BY_NAME, ROUTES
from sniproxy.metrics.counts import SOUND
from sniproxy.metrics.objects import certificates, circuits, nodes
from sniproxy.relay.trio_relay import open_trio_relay
from sniproxy.settings import Proxy
from sniproxy.store import Deleted
from sniproxy.store.etcd_health import EtcdHealth
from sniproxy.tallies import GRACE, OTHER, SWEEP_EVERY
from sniproxy.worker_state import open_worker
from tests.support.gateway import fill, open_lines, route

pytestmark = pytest.mark.anyio  # the number of tasks is read from the loop


OF_EACH = {name for name in BY_NAME if name.startswith("process_")} | {"sniproxy_fds_ratio"}


class Side(Enum):
    """Who counts."""

    WORKER = "worker"
    PARENT = "parent"


def value(metrics: Metrics | PodMetrics, name: str, **labels: Any) -> float | None:
    """A sample as /metrics shows it."""
    return metrics.registry.get_sample_value(name, labels)


async def test_every_reason_is_counted_from_the_start() -> None:
    metrics = Metrics()
    for reason in CloseReason:
        assert value(metrics, "sniproxy_sessions_closed_total", reason=reason.value) == 0
    metrics.counts.close(CloseReason.NO_ROUTE)
    assert value(metrics, "sniproxy_sessions_closed_total", reason="no_route") == 1


async def test_sessions_now_are_read_when_asked() -> None:
    sessions = [1, 2]
    metrics = Metrics(lambda: len(sessions), lambda: 7)
    assert value(metrics, "sniproxy_sessions_active") == 2
    sessions.pop()
    assert value(metrics, "sniproxy_sessions_active") == 1
    assert value(metrics, "sniproxy_limits_uncounted") == 7


async def test_the_tasks_of_the_loop_are_counted() -> None:
    assert (value(Metrics(), "sniproxy_loop_tasks") or 0) >= 1


async def test_workers_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.counts.opened += 1
    assert value(one, "sniproxy_sessions_opened_total") == 1
    assert value(other, "sniproxy_sessions_opened_total") == 0


async def test_connections_that_the_relay_has_accepted_are_opened_too() -> None:
    accepted = [5]
    metrics = Metrics(accepted=lambda: accepted[0])
    metrics.counts.opened += 1
    assert value(metrics, "sniproxy_sessions_opened_total") == 6
    accepted[0] += 1
    assert value(metrics, "sniproxy_sessions_opened_total") == 7


async def test_how_old_the_configuration_is_is_read_when_asked() -> None:
    metrics, freshness = PodMetrics(), Freshness(bound=10)
    assert value(metrics, "sniproxy_config_stale") is None  # nobody knows yet
    metrics.show_freshness(freshness)
    assert value(metrics, "sniproxy_config_stale") == 1
    freshness.proven()
    assert value(metrics, "sniproxy_config_stale") == 0
    freshness.begin_old(60)
    assert 60 <= (value(metrics, "sniproxy_config_age_seconds") or 0) < 120


async def test_what_a_worker_counts_its_parent_does_not() -> None:
    """But for what every process has: else it would be counted twice, or one of the two be without it."""
    worker, parent = (
        {family.name for family in one.registry.collect()} for one in (Metrics(), PodMetrics())
    )
    assert {name for name in worker & parent if name not in OF_EACH} == set()
    assert "process_open_fds" in worker & parent


async def test_what_is_counted_stands_in_the_catalogue_and_all_of_it_is_counted(
    tmp_path: Path,
) -> None:
    """With every label that it has, as the kind that it is, and from the side that it says."""
    for file, count in (("nf_conntrack_count", 1000), ("nf_conntrack_max", 262_144)):
        (tmp_path / file).write_text(f"{count}\n")
    worker, parent, health = Metrics(), PodMetrics(tmp_path), EtcdHealth()
    worker.show_vitals(lambda: 0.5, lambda: 0.25)
    parent.show_freshness(Freshness(bound=10))
    parent.show_watches(Freshness(bound=10))
    health.answered(0.1, {})
    parent.show_etcd(health)
    snapshot = fill({})
    single = [certificates(snapshot), circuits(snapshot, 0.0), nodes([])]
    told = {
        Side.WORKER: [*worker.registry.collect(), *single],
        Side.PARENT: list(parent.registry.collect()),
    }
    for side, families in told.items():
        for family in families:
            described = BY_NAME[family.name]
            assert (family.type, family.documentation) == (described.kind, described.help)
            assert described.together or side is Side.PARENT, family.name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(described.labels), sample
    names = {family.name for families in told.values() for family in families}
    assert names | {one.name for one in ROUTES} == BY_NAME.keys()


async def test_every_label_value_is_a_word_of_ours() -> None:
    """One of a client would be a way to fill the memory."""
    metrics = Metrics()
    metrics.err("7")
    values = {
        value
        for registry in (metrics.registry, PodMetrics().registry)
        for family in registry.collect()
        for sample in family.samples
        for label, value in sample.labels.items()
        if label != "le"
    }
    assert values == {*CloseReason, *Limit, *SOUND, "7"}


async def test_a_connection_table_that_nobody_shows_is_no_metric(tmp_path: Path) -> None:
    assert value(PodMetrics(tmp_path), "sniproxy_conntrack_entries") is None
    (tmp_path / "nf_conntrack_count").write_text("many\n")
    (tmp_path / "nf_conntrack_max").write_text("262144\n")
    assert value(PodMetrics(tmp_path), "sniproxy_conntrack_entries") is None
    assert value(PodMetrics(tmp_path), "sniproxy_conntrack_limit") == 262_144


async def test_the_first_watch_is_no_reconnect() -> None:
    metrics, freshness = PodMetrics(), Freshness(bound=10)
    metrics.show_watches(freshness)
    for watches, reconnects in ((0, 0), (1, 0), (4, 3)):
        freshness.watches = watches
        assert value(metrics, "sniproxy_config_watch_reconnects_total") == reconnects


async def test_etcd_is_neither_up_nor_down_before_it_was_asked() -> None:
    metrics, health = PodMetrics(), EtcdHealth()
    metrics.show_etcd(health)
    assert value(metrics, "sniproxy_etcd_up") is None
    health.answered(0.004, {})
    assert value(metrics, "sniproxy_etcd_up") == 1
    health.answered(5.0, None)
    assert value(metrics, "sniproxy_etcd_up") == 0
    assert value(metrics, "sniproxy_etcd_request_seconds_count") == 2
    assert value(metrics, "sniproxy_etcd_request_seconds_bucket", le="0.005") == 1


def test_routes_that_are_gone_leave_with_the_clock_of_the_loop() -> None:
    there = {"7"}
    metrics = Metrics(exists=there.__contains__)
    for name in "78":
        metrics.counts.tallies.of(name).opened += 1
        metrics.counts.tallies.of(name).close(CloseReason.KILLED)

    async def look() -> None:
        assert metrics.rows().keys() == {"7", "8"}
        await trio.sleep(GRACE + SWEEP_EVERY)
        assert metrics.rows().keys() == {"7"}

    trio.run(look, clock=MockClock(autojump_threshold=0))


def test_a_worker_asks_its_configuration_which_routes_there_are() -> None:
    async def look() -> None:
        snapshot = fill({"stream_routes/7": route(9), "stream_routes/8": route(9)})
        log, _ = open_lines()
        async with open_trio_relay(buffer_size=1 << 12) as relay:
            worker = open_worker(Proxy(), snapshot, relay, log, most_routes=2)
            for name in "789":
                tally = worker.metrics.counts.tallies.of(name)
                tally.opened += 1
                tally.close(CloseReason.KILLED)
            assert worker.metrics.rows().keys() == {"7", "8", OTHER}
            snapshot.apply([Deleted("/apisix/stream_routes/8", 10)])
            worker.metrics.rows()
            await trio.sleep(GRACE + SWEEP_EVERY)
            worker.metrics.rows()
            await trio.sleep(GRACE + SWEEP_EVERY)
            assert worker.metrics.rows().keys() == {"7", OTHER}

    trio.run(look, clock=MockClock(autojump_threshold=0))
