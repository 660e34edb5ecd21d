"""The chart in a Kubernetes of one node: pods as restricted as they may be, and an upgrade under players."""

import base64
import os
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
import yaml

from examples.game_echo.server import serve
from tests.support.charts import CHART, NAME, NAMESPACE, RELEASE
from tests.support.cluster import IMAGE, STORE, TAGS, Cluster
from tests.support.cluster_network import ADDRESS

HOST = "gs-1.com"
PLAYERS = 40
ACCEPT, DEADLINE, SPREAD = 10, 40, 5  # seconds of a drain
START_DEADLINE = 90  # seconds until the pods must be ready
ROLLOUT_DEADLINE = 240  # seconds until the old ones must be gone
VALUES = {
    "image": {"repository": IMAGE, "tag": TAGS[0], "pullPolicy": "Never"},
    "proxyProtocol": False,
    "balancerNetworks": [],
    "service": {"type": "ClusterIP"},
    "networkPolicy": {"enabled": False},
    "etcd": {"bundled": False, "endpoints": [STORE], "auth": False, "existingSecret": "", "tls": {"enabled": False}},
    "admin": {"replicas": 1},
    "proxy": {"replicas": 2, "drain": {"accept": ACCEPT, "deadline": DEADLINE, "spread": SPREAD}},
}  # fmt: skip
pytestmark = [
    pytest.mark.skipif("SNIPROXY_CLUSTER" not in os.environ, reason="only in make cluster"),
    pytest.mark.timeout(START_DEADLINE + ROLLOUT_DEADLINE + 120),
]


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@pytest.fixture(scope="module")
def installed(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With the chart in it, and its pods ready."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    kubernetes.server.create(namespace, NAMESPACE).raise_for_status()
    values = tmp_path_factory.mktemp("values") / "mine.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    helm(kubernetes, "install", RELEASE, CHART, "--values", values)
    give_up = time.monotonic() + START_DEADLINE
    while not (len(kubernetes.pods()) == 3 and all(map(is_ready, kubernetes.pods()))):
        assert time.monotonic() < give_up, [pod["status"] for pod in kubernetes.pods()]
        time.sleep(0.5)
    yield kubernetes
    helm(kubernetes, "uninstall", RELEASE)


def helm(within: Cluster, *arguments: str | Path) -> None:
    done = within.server.helm(*arguments, "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr


def test_pods_run_as_restricted_as_they_may_be(installed: Cluster) -> None:
    """What the kernel says of each process."""
    processes = list(installed.processes("sniproxy"))
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


def manage(installed: Cluster, authority: trustme.CA) -> None:
    """One name, its certificate and its game server."""
    secret = installed.server.get("Secret", NAMESPACE, f"{NAME}-admin")
    key = base64.b64decode(secret["data"]["admin"]).decode()
    (admin,) = [it for it in installed.pods() if "admin" in it["metadata"]["name"]]
    url = f"http://{admin['status']['podIP']}:9180/apisix/admin"
    pair = authority.issue_cert(HOST)
    certificate = pair.cert_chain_pems[0].bytes().decode()
    private = pair.private_key_pem.bytes().decode()
    ssl_object = {"snis": [HOST], "cert": certificate, "key": private}
    route = {"sni": HOST, "upstream": {"nodes": {f"{ADDRESS}:9001": 1}}}
    with httpx.Client(headers={"X-API-KEY": key}, timeout=20) as client:
        client.put(f"{url}/ssls/gs-1", json=ssl_object).raise_for_status()
        client.put(f"{url}/stream_routes/gs-1?wait=all", json=route).raise_for_status()


@asynccontextmanager
async def joined(
    address: str, context: ssl.SSLContext
) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A player, whose connection ends with the block, whatever happens in it."""
    stream = await trio.open_tcp_stream(address, 8443)
    player = trio.SSLStream(stream, context, server_hostname=HOST, https_compatible=True)
    try:
        await player.do_handshake()
        yield player
    finally:
        await trio.aclose_forcefully(player)


async def echo(player: trio.SSLStream[trio.SocketStream]) -> bool:
    """Says a line; whether it came back."""
    await player.send_all(b"line\n")
    heard = b""
    while not heard.endswith(b"\n"):
        more = await player.receive_some()
        if not more:
            return False
        heard += more
    assert heard == b"[gs-1] line\n"
    return True


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


async def watch(installed: Cluster, played: Played) -> None:
    while True:
        played.targets = await trio.to_thread.run_sync(installed.ready, NAME)
        for pod in await trio.to_thread.run_sync(installed.pods):
            if pod["metadata"].get("deletionTimestamp") and "podIP" in pod["status"]:
                played.told.setdefault(pod["status"]["podIP"], trio.current_time())
        await trio.sleep(0.2)


def test_nobody_is_refused_or_thrown_out_by_an_upgrade(installed: Cluster) -> None:
    """A newcomer always finds a pod; who plays has all the time that the drain promises."""
    authority, played = trustme.CA(), Played()
    manage(installed, authority)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def main() -> None:
        played.targets = olds = installed.ready(NAME)
        assert len(olds) == 2
        async with trio.open_nursery() as others:
            await others.start(serve, "gs-1", ADDRESS, 9001)
            others.start_soon(watch, installed, played)
            others.start_soon(arrive, context, played)
            async with trio.open_nursery() as players:
                for number in range(PLAYERS):
                    players.start_soon(play, olds[number % 2], context, played)
                await trio.sleep(2)
                change = ("--reset-then-reuse-values", "--set", f"image.tag={TAGS[1]}")
                await trio.to_thread.run_sync(helm, installed, "upgrade", RELEASE, CHART, *change)
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
    proxies = [
        it for it in installed.pods() if is_ready(it) and "admin" not in it["metadata"]["name"]
    ]
    images = [it["spec"]["containers"][0]["image"] for it in proxies]
    assert images == [f"{IMAGE}:{TAGS[1]}"] * 2
