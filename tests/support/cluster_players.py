"""The chart installed in a Kubernetes of one node, with a game server, and players of it."""

import base64
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
import trustme
import yaml

from tests.support.charts import CHART, NAME, NAMESPACE, RELEASE
from tests.support.cluster import IMAGE, STORE, TAGS, Cluster
from tests.support.cluster_network import ADDRESS

HOST = "gs-1.com"
PORT = 9001  # of the game server
START_DEADLINE = 90  # seconds until the pods must be ready
END_DEADLINE = 90  # seconds until they must be gone
VALUES = {
    "image": {"repository": IMAGE, "tag": TAGS[0], "pullPolicy": "Never"},
    "proxyProtocol": False,
    "balancerNetworks": [],
    "service": {"type": "ClusterIP"},
    "networkPolicy": {"enabled": False},
    "etcd": {"bundled": False, "endpoints": [STORE], "auth": False, "existingSecret": "", "tls": {"enabled": False}},
    "admin": {"replicas": 1},
}  # fmt: skip


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@contextmanager
def installed(kubernetes: Cluster, folder: Path, own: dict[str, Any]) -> Iterator[None]:
    """With the chart in it, and as many pods ready as are wanted. `own`: values of the test's."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    if kubernetes.server.get("Namespace", "", NAMESPACE) is None:
        kubernetes.server.create(namespace, "").raise_for_status()
    values = folder / "mine.yaml"
    values.write_text(yaml.safe_dump(VALUES | own))
    helm(kubernetes, "install", RELEASE, CHART, "--values", values)
    try:
        wanted = own["proxy"]["replicas"] + 1
        wait_until(
            lambda: len(kubernetes.pods()) == wanted and all(map(is_ready, kubernetes.pods())),
            START_DEADLINE,
        )
        yield
    finally:  # what fails here is not to fail what comes next
        helm(kubernetes, "uninstall", RELEASE)
        wait_until(lambda: not kubernetes.pods(), END_DEADLINE)


def wait_until(what: Callable[[], object], seconds: float) -> None:
    """Until it is so, and raises nothing."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except (OSError, httpx.HTTPError):
            pass
        assert time.monotonic() < give_up
        time.sleep(0.1)


def helm(within: Cluster, *arguments: str | Path) -> None:
    done = within.server.helm(*arguments, "--namespace", NAMESPACE)
    assert done.returncode == 0, done.stderr


def manage(kubernetes: Cluster, authority: trustme.CA) -> None:
    """One name, its certificate and its game server."""
    secret = kubernetes.server.get("Secret", NAMESPACE, f"{NAME}-admin")
    key = base64.b64decode(secret["data"]["admin"]).decode()
    (admin,) = [it for it in kubernetes.pods() if "admin" in it["metadata"]["name"]]
    url = f"http://{admin['status']['podIP']}:9180/apisix/admin"
    pair = authority.issue_cert(HOST)
    certificate = pair.cert_chain_pems[0].bytes().decode()
    private = pair.private_key_pem.bytes().decode()
    ssl_object = {"snis": [HOST], "cert": certificate, "key": private}
    route = {"sni": HOST, "upstream": {"nodes": {f"{ADDRESS}:{PORT}": 1}}}
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
