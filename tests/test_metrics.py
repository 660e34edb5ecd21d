"""The counters of a worker and of the parent: every reason has one from the start, and each worker has its own."""

from typing import Any

import pytest

from sniproxy.errors import CloseReason
from sniproxy.following import Freshness
from sniproxy.metrics import Metrics, PodMetrics

pytestmark = pytest.mark.anyio  # the number of tasks is read from the loop


def value(metrics: Metrics | PodMetrics, name: str, **labels: Any) -> float | None:
    """A sample as /metrics shows it."""
    return metrics.registry.get_sample_value(name, labels)


async def test_every_reason_is_counted_from_the_start() -> None:
    metrics = Metrics()
    for reason in CloseReason:
        assert value(metrics, "sniproxy_sessions_closed_total", reason=reason.value) == 0
    metrics.closed[CloseReason.NO_ROUTE].inc()
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
    one.opened.inc()
    assert value(one, "sniproxy_sessions_opened_total") == 1
    assert value(other, "sniproxy_sessions_opened_total") == 0


async def test_connections_that_the_relay_has_accepted_are_opened_too() -> None:
    accepted = [5]
    metrics = Metrics(accepted=lambda: accepted[0])
    metrics.opened.inc()
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
    assert {name for name in worker & parent if not name.startswith("process_")} == set()
    assert "process_open_fds" in worker & parent


async def test_reasons_and_routes_are_the_only_labels() -> None:
    """A label value from a client would be a way to fill the memory."""
    metrics = Metrics()
    metrics.session_errors.labels("7").inc()
    labels = {
        label
        for registry in (metrics.registry, PodMetrics().registry)
        for family in registry.collect()
        for sample in family.samples
        for label in sample.labels.items()
    }
    assert labels == {("reason", reason.value) for reason in CloseReason} | {("route", "7")}
