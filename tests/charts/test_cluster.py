"""The chart in a Kubernetes of one node: pods as restricted as they may be, an upgrade and evictions under players."""

import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import TOO_MANY_REQUESTS

import pytest
import trio
import trustme

from examples.game_echo.server import serve
from tests.support.charts import CHART, NAME, NAMESPACE, RELEASE
from tests.support.cluster import IMAGE, TAGS, Cluster
from tests.support.cluster_network import ADDRESS
from tests.support.cluster_players import (
    END_DEADLINE,
    PORT,
    START_DEADLINE,
    echo,
    helm,
    installed,
    is_ready,
    joined,
    manage,
    wait_until,
)

PLAYERS = 40
ACCEPT, DEADLINE, SPREAD = 10, 40, 5  # seconds of a drain
ROLLOUT_DEADLINE = 240  # seconds until the old ones must be gone
VALUES = {
    "proxy": {"replicas": 2, "drain": {"accept": ACCEPT, "deadline": DEADLINE, "spread": SPREAD}}
}
pytestmark = [
    pytest.mark.skipif("SNIPROXY_CLUSTER" not in os.environ, reason="only in make cluster"),
    pytest.mark.timeout(START_DEADLINE + ROLLOUT_DEADLINE + END_DEADLINE + 120),
]


@pytest.fixture(scope="module")
def release(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With the chart in it."""
    with installed(kubernetes, tmp_path_factory.mktemp("values"), VALUES):
        yield kubernetes


def test_pods_run_as_restricted_as_they_may_be(release: Cluster) -> None:
    """What the kernel says of each process."""
    processes = list(release.processes("sniproxy"))
    assert len(processes) >= 3
    for process in processes:
        status = dict(
            re.findall(r"^(\w+):\s*(.*)$", (process / "status").read_text(), re.MULTILINE)
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
        options = {mount[1]: mount[3].split(",")[0] for mount in mounts}
        assert options["/"] == "ro"
        assert not any("serviceaccount" in path for path in options)


@dataclass
class Played:
    """What players have seen: address -> when their sessions ended; newcomers, and what failed for them."""

    ends: dict[str, list[float]] = field(default_factory=dict)
    newcomers: int = 0
    failures: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)  # when a pod was told to end


async def play(address: str, context: ssl.SSLContext, played: Played) -> None:
    async with joined(address, context) as player:
        while await echo(player):  # noqa: ASYNC110
            await trio.sleep(0.2)
        played.ends.setdefault(address, []).append(trio.current_time())


async def arrive(context: ssl.SSLContext, played: Played) -> None:
    """Newcomers for ever, ten a second, wherever the load balancer would send them."""
    while True:
        try:
            with trio.fail_after(5):
                async with joined(random.choice(played.targets), context) as player:
                    assert await echo(player)
                    await player.aclose()
            played.newcomers += 1
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, AssertionError) as error:
            played.failures.append(repr(error))
        await trio.sleep(0.1)


async def watch(kubernetes: Cluster, played: Played) -> None:
    while True:
        played.targets = await trio.to_thread.run_sync(kubernetes.ready, NAME)
        for pod in await trio.to_thread.run_sync(kubernetes.pods):
            if pod["metadata"].get("deletionTimestamp") and "podIP" in pod["status"]:
                played.told.setdefault(pod["status"]["podIP"], trio.current_time())
        await trio.sleep(0.2)


def upgrade(kubernetes: Cluster, olds: list[str]) -> None:
    change = ("--reset-then-reuse-values", "--set", f"image.tag={TAGS[1]}")
    helm(kubernetes, "upgrade", RELEASE, CHART, *change)


def evict(kubernetes: Cluster, olds: list[str]) -> None:
    """One after the other, each as soon as the disruption budget lets it, as `kubectl drain` does with those of a node."""
    client = kubernetes.server.client
    refused = 0
    for pod in [it for it in kubernetes.pods() if it["status"]["podIP"] in olds]:
        metadata = {"name": pod["metadata"]["name"], "namespace": NAMESPACE}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{metadata['name']}/eviction"
        give_up = time.monotonic() + START_DEADLINE
        while (answer := client.post(path, json=eviction)).status_code == TOO_MANY_REQUESTS:
            assert time.monotonic() < give_up
            refused += 1
            time.sleep(0.5)
        answer.raise_for_status()
    assert refused  # the second, until there was another one in place of the first


@pytest.mark.parametrize("end", [upgrade, evict])
def test_nobody_is_refused_or_thrown_out(
    release: Cluster, end: Callable[[Cluster, list[str]], None]
) -> None:
    """A newcomer always finds a pod; who plays has all the time that the drain promises."""
    authority, played = trustme.CA(), Played()
    manage(release, authority)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def main() -> None:
        played.targets = olds = release.ready(NAME)
        assert len(olds) == 2
        async with trio.open_nursery() as others:
            await others.start(serve, "gs-1", ADDRESS, PORT)
            others.start_soon(watch, release, played)
            others.start_soon(arrive, context, played)
            async with trio.open_nursery() as players:
                for number in range(PLAYERS):
                    players.start_soon(play, olds[number % 2], context, played)
                await trio.sleep(2)
                await trio.to_thread.run_sync(end, release, olds)
                players.cancel_scope.deadline = trio.current_time() + ROLLOUT_DEADLINE
            others.cancel_scope.cancel()
        assert played.ends.keys() == set(olds)

    trio.run(main)
    assert not played.failures, played.failures[:5]
    assert played.newcomers > PLAYERS
    assert sum(map(len, played.ends.values())) == PLAYERS
    for address, ends in played.ends.items():
        promised = played.told[address] + ACCEPT + DEADLINE
        assert promised - 1 <= min(ends) <= max(ends) <= promised + SPREAD + 5
    # On one node the last one has room only once another has gone.
    wait_until(lambda: len(serving(release)) == 2, START_DEADLINE)
    assert serving(release) == [f"{IMAGE}:{TAGS[1]}"] * 2  # by the upgrade, which comes first


def serving(kubernetes: Cluster) -> list[str]:
    """The image of each data plane that is ready."""
    pods = filter(is_ready, kubernetes.pods())
    proxies = [it for it in pods if "admin" not in it["metadata"]["name"]]
    return [it["spec"]["containers"][0]["image"] for it in proxies]
