"""docs/eks.md, typed word for word in a Kubernetes of one node, without what is of AWS: registry, NLB, disks."""

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest
import yaml

from tests.support.charts import find_helm
from tests.support.cluster import IMAGE, Cluster
from tests.support.cluster_network import ADDRESS, GATEWAY
from tests.support.cluster_players import wait_until
from tests.support.eks import FOLDER, NAMESPACE, PAGE, RELEASE
from tests.support.fenced import blocks, commands
from tests.support.proxy_headers import addresses, v2
from tests.support.tcp_relay import TcpRelay

FOLLOWED = 15.0  # seconds after which a data plane must have what is in another etcd
PLAYER = "198.51.100.7"  # who he is, as the NLB says
# Over mine.yaml: one node of two CPUs in place of three, and an NLB that is us.
HERE = {
    "balancerNetworks": [f"{GATEWAY}/32", f"{ADDRESS}/32"],
    "proxy": {"minReadySeconds": 5, "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    "networkPolicy": {"upstreams": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "game"}}}]},
    "admin": {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    "etcd": {"hardAntiAffinity": False, "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
}  # fmt: skip
# Who reaches whom, by the NetworkPolicies of these values: pod, Service and port, and whether.
WAYS = [
    ("game", "gs-1", "sniproxy.sniproxy:443", True),
    ("game", "gs-1", "sniproxy-admin.sniproxy:9180", False),
    ("game", "gs-1", "sniproxy-etcd.sniproxy:2379", False),
    ("sniproxy", "sniproxy-admin", "sniproxy-etcd:2379", True),
    ("sniproxy", "sniproxy-admin", "gs-1.game:9001", False),
    ("sniproxy", "sniproxy", "sniproxy-etcd:2379", True),
    ("sniproxy", "sniproxy", "gs-1.game:9001", True),
    ("sniproxy", "sniproxy", "sniproxy-admin:9180", False),
]
# What is said, by how the command begins; the first that fits. Of others only the exit code is looked at.
SAYS = {
    "curl -s http://127.0.0.1:9180/apisix/admin/nodes": r'("version": ?"0\.1.*){3}',
    "(echo hello; sleep 2) | openssl s_client -connect $NLB:443 -servername gs-1.com": r"\[test-server-1\] hello",
    "(echo hello; sleep 2) | openssl s_client -connect $NLB:443 -servername gs-2.com": r"\[test-server-2\] hello",
    "kubectl -n sniproxy exec deployment/sniproxy -- sniproxy explain": r"gs-1\.com",
    "curl -s http://127.0.0.1:7085/readyz": r"(^|\n)ok\n",
    "curl -s http://127.0.0.1:7085/sessions": r"\{",
    "kubectl -n sniproxy logs -l app.kubernetes.io/component=proxy": rf'"client": "{PLAYER}:',
    "openssl x509 -in gs-1.crt -noout -serial": r"serial=[0-9A-F]+\n$",
    "openssl s_client -connect $NLB:443 -servername gs-1.com < /dev/null": r"serial=[0-9A-F]+\n$",
    "kubectl -n sniproxy logs -l sniproxy/track=canary": r'"event": "',
    "kubectl -n sniproxy logs $SAVED -c keep": r"snapshot-now-",
    "kubectl -n sniproxy exec -i deployment/sniproxy-admin -- sniproxy restore": r"5 objects: 5 restored",
}  # fmt: skip

pytestmark = [
    pytest.mark.skipif("SNIPROXY_CLUSTER" not in os.environ, reason="only in make cluster"),
    pytest.mark.timeout(2400),
]


class Shell:
    """One bash, in which one command after the other is typed."""

    MARK = "--- typed: "

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def type(self, command: str) -> str:
        """What it has said, once it is over; it must succeed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # What begins in the background has the rest of the terminal, too: it goes on, and may say something later.
        self._process.stdin.write(
            f"{{ {command}\n}} < /dev/null\nended=$?; echo; echo '{self.MARK}'$ended\n"
        )
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line.startswith(self.MARK):
                break
            said.append(line)
        answer = "".join(said).removesuffix("\n")
        assert line == f"{self.MARK}0\n", f"{command}\n{answer}"
        return answer

    def end(self) -> None:
        """Its children, too."""
        os.killpg(self._process.pid, SIGTERM)
        self._process.communicate()


def written(name: str) -> str:
    """The file of values that the page shows under this name, from our registry."""
    (block,) = (one for one in blocks(PAGE, "yaml") if one.startswith(f"# {name}\n"))
    return re.sub(r"repository: \S+(?=})", f"repository: {IMAGE}", block)


def open_way(port: int) -> None:
    """Until a port-forward is there."""

    def knock() -> bool:
        socket.create_connection(("127.0.0.1", port)).close()
        return True

    wait_until(knock, 30)


@contextmanager
def balancer(kubernetes: Cluster) -> Iterator[None]:
    """An NLB: it has a name, which the Service says, and tells who a player is."""
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}"
    client = kubernetes.server.client
    service = client.get(path).raise_for_status().json()
    status = {"status": {"loadBalancer": {"ingress": [{"hostname": "localhost"}]}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    client.patch(f"{path}/status", json=status, headers=headers).raise_for_status()
    where, said = service["spec"]["clusterIP"], v2(addresses(PLAYER, "10.0.0.1", 56324, 443))
    with TcpRelay(443, target_host=where, port=443, greeting=said):
        yield


@contextmanager
def playing() -> Iterator[Any]:
    """A player of gs-1 who stays; what he says is answered."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", 443), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="gs-1.com") as player,
    ):

        def say(text: str) -> str:
            player.sendall(f"{text}\n".encode())
            return player.recv(1000).decode()

        yield say


def reaches(shell: Shell, namespace: str, deployment: str, where: str) -> bool:
    """Whether a pod of the deployment gets a connection to there."""
    host, _, port = where.partition(":")
    knock = f'import socket; socket.create_connection(("{host}", {port}), 3)'
    who = f"kubectl -n {namespace} exec deployment/{deployment} -- python -c '{knock}'"
    said = shell.type(f"{who} 2>&1 && echo reached || true")
    assert said == "reached\n" or "timed out" in said or "refused" in said, said
    return said == "reached\n"


def in_force(kubernetes: Cluster) -> bool:
    """Whether every data plane has both routes, those that drain too."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    proxies = {
        "labelSelector": "app.kubernetes.io/component=proxy",
        "fieldSelector": "status.phase=Running",
    }
    found = kubernetes.server.client.get(path, params=proxies).raise_for_status().json()["items"]
    routes = {f"/apisix/stream_routes/gs-{number}" for number in (1, 2)}
    return all(
        routes <= httpx.get(f"http://{pod['status']['podIP']}:7085/config").json()["objects"].keys()
        for pod in found
    )


def test_the_page(kubernetes: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("charts", "examples"):
        (folder / name).symlink_to(FOLDER / name)
    (folder / "mine.yaml").write_text(written("mine.yaml"))
    (folder / "here.yaml").write_text(yaml.safe_dump(HERE))
    path = f"{kubernetes.programs}:{Path(find_helm()).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "KUBECONFIG": str(kubernetes.kubeconfig), "HOME": str(tmp_path)}
    shell = Shell(folder, env)
    try:
        walk(shell, kubernetes)
    finally:
        shell.end()


def walk(shell: Shell, kubernetes: Cluster) -> None:
    said: dict[str, str] = {}

    def do(command: str) -> None:
        """As it is typed by whoever has AWS, but for what is said here."""
        began = time.monotonic()
        if command.startswith("make image "):
            return
        if command.startswith("export IMAGE="):
            command = f"export IMAGE={IMAGE}"
        if command.startswith("export SAVED="):
            pods = (
                "kubectl -n sniproxy get pods -l batch.kubernetes.io/job-name=snapshot-now -o name"
            )
            command = f"export SAVED=$({pods} | cut -d/ -f2)"
        if command.startswith("helm install "):
            command += " -f here.yaml"
        answer = shell.type(command)
        if command.startswith("kubectl create namespace "):
            shell.type(
                f"kubectl label namespace {command.split()[-1]} pod-security.kubernetes.io/enforce=restricted"
            )
        if way := re.search(r"port-forward \S+ (\d+):", command):
            open_way(int(way[1]))
        expected = next((SAYS[one] for one in SAYS if command.startswith(one)), "")
        assert re.search(expected, answer, re.DOTALL), (command, answer)
        said[command] = answer
        print(f"{time.monotonic() - began:6.1f} s  {command}\n{answer}")

    page = commands(PAGE)
    players = next(i for i, one in enumerate(page) if one.startswith("export NLB="))
    lost = next(i for i, one in enumerate(page) if " scale statefulset " in one)
    filled = next(i for i, one in enumerate(page) if "-- sniproxy restore " in one) + 1
    for command in page[:players]:
        do(command)
    with balancer(kubernetes):
        for command in page[players:lost]:
            do(command)
        for *way, wanted in WAYS:
            assert reaches(shell, *way) == wanted, way
        ours, served = (
            text.splitlines()[-1] for one, text in said.items() if one.endswith("-noout -serial")
        )
        assert ours == served
        with playing() as say:
            assert say("before") == "[test-server-1] before\n"
            for command in page[lost:filled]:
                do(command)
            assert say("after") == "[test-server-1] after\n"
        wait_until(lambda: in_force(kubernetes), FOLLOWED)
        for command in page:
            if command.startswith("(echo hello;"):
                do(command)
    for command in page[filled:]:
        do(command)
    assert [one for one in SAYS if not any(text.startswith(one) for text in said)] == []
