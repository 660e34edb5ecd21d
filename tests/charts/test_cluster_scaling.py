"""The autoscaler in a Kubernetes of one node: pods come with players and go without throwing them out."""

import os
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from examples.game_echo.server import serve
from tests.support.chart_tools import definitions
from tests.support.charts import CHART, NAME, NAMESPACE, RELEASE
from tests.support.cluster import Cluster
from tests.support.cluster_metrics import find_pods, metrics
from tests.support.cluster_network import ADDRESS
from tests.support.cluster_players import (
    END_DEADLINE,
    PORT,
    START_DEADLINE,
    echo,
    helm,
    installed,
    joined,
    manage,
)

PER_POD, MOST = 10, 3  # sessions; pods
PLAYERS = 25  # as many as three pods are for
ACCEPT, DEADLINE, SPREAD = 5, 20, 3  # seconds of a drain
SCALE_DOWN_AFTER = 90  # seconds; less is refused
SCALED = 120  # seconds until the autoscaler must have done what it need not wait with
PROXY = {
    "replicas": 1,
    "drain": {"accept": ACCEPT, "deadline": DEADLINE, "spread": SPREAD},
    "minReadySeconds": 1,
    "autoscaling": {
        "enabled": True,
        "minReplicas": 1,
        "maxReplicas": MOST,
        "sessionsPerPod": PER_POD,
        "scaleDownAfter": SCALE_DOWN_AFTER,
    },
}
pytestmark = [
    pytest.mark.skipif("SNIPROXY_CLUSTER" not in os.environ, reason="only in make cluster"),
    pytest.mark.timeout(START_DEADLINE + 4 * SCALED + SCALE_DOWN_AFTER + END_DEADLINE),
]


class Players:
    """Who plays on which pod, and when it ended for whom it did."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.on: Counter[str] = Counter()
        self.ends: dict[str, list[float]] = {}

    async def play(self, address: str, until: trio.Event) -> None:
        async with joined(address, self._context) as player:
            self.on[address] += 1
            while not until.is_set():
                if not await echo(player):
                    self.ends.setdefault(address, []).append(trio.current_time())
                    break
                await trio.sleep(0.2)
            self.on[address] -= 1


def autoscaler(kubernetes: Cluster) -> dict[str, Any]:
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{NAME}"
    found: dict[str, Any] = kubernetes.server.client.get(path).raise_for_status().json()
    return found


def measured(kubernetes: Cluster) -> dict[str, float]:
    """What the autoscaler knows: CPU in percent of what is requested, and sessions per pod."""
    found = {}
    for one in autoscaler(kubernetes).get("status", {}).get("currentMetrics") or ():
        if one.get("type") == "Resource":
            found["cpu"] = float(one["resource"]["current"]["averageUtilization"])
        if one.get("type") == "Pods":
            value = one["pods"]["current"]["averageValue"]
            found["sessions"] = float(value.removesuffix("m")) / (1000 if "m" in value else 1)
    return found


async def happens(what: Callable[[], object], seconds: float = SCALED) -> None:
    """Until it is so."""
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(what):  # noqa: ASYNC110
            await trio.sleep(0.5)


def test_pods_come_and_go_with_players(kubernetes: Cluster, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for definition in definitions():
        kubernetes.server.define(definition)
    node = Path(os.environ["SNIPROXY_CLUSTER"])
    values = {"proxy": PROXY, "metrics": {"serviceMonitor": {"enabled": True}}}
    with installed(kubernetes, tmp_path, values):
        path = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/servicemonitors/{NAME}"
        monitor = kubernetes.server.client.get(path).raise_for_status().json()
        manage(kubernetes, authority)
        with metrics(kubernetes, node, tmp_path):
            trio.run(
                scale,
                kubernetes,
                Players(context),
                partial(find_pods, kubernetes, monitor, tmp_path),
            )


async def scale(
    kubernetes: Cluster, players: Players, discovery: Callable[[], Awaitable[None]]
) -> None:
    def ready() -> list[str]:
        return kubernetes.ready(NAME)

    def told_to_end() -> list[str]:
        return [
            pod["status"]["podIP"]
            for pod in kubernetes.pods()
            if pod["metadata"].get("deletionTimestamp")
        ]

    async with trio.open_nursery() as nursery:
        await nursery.start(serve, "gs-1", ADDRESS, PORT)
        nursery.start_soon(discovery)
        await happens(lambda: measured(kubernetes).keys() == {"cpu", "sessions"})
        (first,) = ready()
        leave, never = trio.Event(), trio.Event()
        for number in range(PLAYERS):
            nursery.start_soon(players.play, first, leave if number > 1 else never)
        await happens(lambda: len(ready()) == MOST)
        # A release leaves the number to the autoscaler; newcomers go everywhere.
        change = ("--reset-then-reuse-values", "--set", "metrics.rules.enabled=true")
        await trio.to_thread.run_sync(helm, kubernetes, "upgrade", RELEASE, CHART, *change)
        for address in ready():
            for _ in range(2):
                nursery.start_soon(players.play, address, never)
        await happens(lambda: players.on.total() == PLAYERS + 2 * MOST, 10)
        assert len(ready()) == MOST
        assert not told_to_end()
        average = pytest.approx((PLAYERS + 2 * MOST) / MOST, abs=0.01)
        await happens(lambda: measured(kubernetes)["sessions"] == average)

        leave.set()
        await happens(told_to_end, SCALE_DOWN_AFTER + SCALED)
        told = trio.current_time()
        (gone,) = told_to_end()
        await happens(lambda: not players.on[gone], ACCEPT + DEADLINE + SPREAD + 5)
        assert min(players.ends.pop(gone)) - told >= ACCEPT + DEADLINE - 2
        assert not players.ends
        assert gone not in ready()
        nursery.cancel_scope.cancel()
