"""A Kubernetes of one node, with containers: its own programs, in a cgroup of their own and the test's network namespace.

There is no DNS and no kube-proxy: pods are reached by their addresses, as a load balancer with ip targets reaches them.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import if_nameindex
from typing import Any

import yaml

from bench.processes import end
from tests.support.charts import NAMESPACE, Object
from tests.support.cluster_image import make_root, pack, write_image
from tests.support.kube_server import TOKEN, KubeServer, find_kubernetes, kube_server, newest_etcd

ADDRESS = "192.0.2.10"  # the node's, in a namespace without a way out (RFC 5737)
STORE = f"{ADDRESS}:2379"  # an etcd for the objects of sniproxy
PODS = "10.244.0.0/24"
IMAGE = "docker.io/local/sniproxy"
TAGS = ("first", "second")
PAUSE = "docker.io/local/pause:1"
CGROUPS = Path("/sys/fs/cgroup")
START_DEADLINE = 60.0  # seconds until the node must be ready
STOP_DEADLINE = 10.0  # seconds until a program must be gone


@dataclass(frozen=True)
class Cluster:
    """What is asked and told of it."""

    server: KubeServer
    group: str  # of its pods' processes

    def processes(self, word: str) -> Iterator[Path]:
        """The folders in /proc of all processes in pods whose command has a word in it."""
        for one in Path("/proc").glob("[0-9]*"):
            try:
                group = (one / "cgroup").read_text().replace("//", "/")
                command = (one / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if f"{self.group}/kubepods" in group and word.encode() in command:
                yield one

    def pods(self) -> list[Object]:
        found: Any = self.server.client.get(f"/api/v1/namespaces/{NAMESPACE}/pods")
        return list(found.raise_for_status().json()["items"])

    def ready(self, service: str) -> list[str]:
        """Addresses of a Service's pods that are ready, as a load balancer learns them."""
        found = self.server.client.get(
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices",
            params={"labelSelector": f"kubernetes.io/service-name={service}"},
        ).raise_for_status()
        return [
            address
            for it in found.json()["items"]
            for endpoint in it["endpoints"] or ()
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
        ]


@contextmanager
def cluster(node: Path, folder: Path) -> Iterator[Cluster]:
    """One whose node is ready, and has two tags of our image. As root; `node`: what `make cluster` has unpacked."""
    programs = find_kubernetes()
    path = f"{node}/usr/bin:{node}/usr/sbin:{os.environ['PATH']}"
    with ExitStack() as stack:
        _make_network()
        group = stack.enter_context(_cgroup(f"sniproxy-{os.getpid()}"))
        socket = folder / "containerd.sock"
        _configure(folder, node, socket, group)

        def start(*command: str | Path) -> None:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*map(str, command)],
                    stdout=log, stderr=log, env={**os.environ, "PATH": path}, start_new_session=True,
                )  # fmt: skip
            stack.callback(end, process, STOP_DEADLINE)

        def ctr(*command: str | Path) -> str:
            words = [node / "usr/bin/ctr", "--address", socket, "--namespace", "k8s.io", *command]
            done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True)
            return done.stdout

        stack.callback(_unmount, folder)
        start(node / "usr/bin/containerd", "--config", folder / "containerd.toml")
        _wait(lambda: ctr("version"), START_DEADLINE)
        stack.callback(_end_containers, ctr)
        for archive in _images(node, folder, programs):
            ctr("image", "import", archive)
        start(newest_etcd(), "--data-dir", folder / "objects", "--listen-client-urls", f"http://{STORE}",
              "--advertise-client-urls", f"http://{STORE}")  # fmt: skip
        server = stack.enter_context(kube_server(folder, ADDRESS))
        config = _kubeconfig(server, folder)
        common = ("--kubeconfig", config, "--cert-dir", folder)
        start(programs / "kube-controller-manager", *common, "--leader-elect=false",
              "--service-account-private-key-file", folder / "accounts.pem",
              "--root-ca-file", server.ca)  # fmt: skip
        start(programs / "kube-scheduler", *common, "--leader-elect=false")
        start(programs / "kubelet", *common, "--config", folder / "kubelet.yaml", "--node-ip", ADDRESS,
              "--root-dir", folder / "kubelet", "--hostname-override", "node")  # fmt: skip
        _wait(lambda: _check_ready(server), START_DEADLINE)
        yield Cluster(server, group.rstrip("/"))


def _make_network() -> None:
    """The node's address; in a namespace that has nothing yet, and goes with the test."""
    names = [name for _, name in if_nameindex()]
    assert names == ["lo"], f"{names}: not in a network namespace of its own, as in make cluster"
    for command in (
        "ip link set lo up",
        "ip link add node type bridge",
        f"ip addr add {ADDRESS}/24 dev node",
        "ip link set node up",
        "ip route add default via 192.0.2.1 dev node",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        subprocess.run(command.split(), check=True)


@contextmanager
def _cgroup(name: str) -> Iterator[str]:
    """Its path: of each controller of cgroup v1; with v2, where there is one tree for all, that is its root."""
    if (CGROUPS / "cgroup.controllers").exists():
        yield "/"
        return
    made = [one / name for one in CGROUPS.iterdir() if (one / "cgroup.procs").exists()]
    for one in made:
        one.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (one / setting).exists():
                (one / setting).write_text((one.parent / setting).read_text())
    try:
        yield f"/{name}"
    finally:
        for one in made:
            for inner in sorted(one.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                with suppress(OSError):  # whatever is in use yet
                    inner.rmdir()
            with suppress(OSError):
                one.rmdir()


def _configure(folder: Path, node: Path, socket: Path, group: str) -> None:
    (folder / "cni").mkdir()
    network = {
        "cniVersion": "0.3.1", "name": "pods", "type": "bridge", "bridge": "pods", "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]],
                 "routes": [{"dst": "0.0.0.0/0"}], "dataDir": f"{folder}/addresses"},
    }  # fmt: skip
    (folder / "cni" / "pods.conf").write_text(json.dumps(network))
    (folder / "containerd.toml").write_text(
        f'version = 2\nroot = "{folder}/containerd"\nstate = "{folder}/state"\n'
        f'[grpc]\naddress = "{socket}"\n'
        '[plugins."io.containerd.grpc.v1.cri"]\n'
        f'sandbox_image = "{PAUSE}"\nrestrict_oom_score_adj = true\n'
        '[plugins."io.containerd.grpc.v1.cri".cni]\n'
        f'bin_dir = "{node}/usr/lib/cni"\nconf_dir = "{folder}/cni"\n'
    )
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "resolvConf": "",
        "localStorageCapacityIsolation": False,
        "imageGCHighThresholdPercent": 100,
    }
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))


def _images(node: Path, folder: Path, programs: Path) -> Iterator[Path]:
    root, layer, archive = folder / "root", folder / "layer.tar", folder / "image.tar"
    make_root(node, root)
    pack(root, layer)
    write_image(layer, archive, [f"{IMAGE}:{tag}" for tag in TAGS], ["sniproxy"])
    yield archive
    root = folder / "pause"
    root.mkdir()
    (root / "pause").write_bytes((programs / "pause").read_bytes())
    (root / "pause").chmod(0o755)
    pack(root, layer)
    write_image(layer, archive, [PAUSE], ["/pause"])
    yield archive


def _kubeconfig(server: KubeServer, folder: Path) -> Path:
    path = folder / "kubeconfig"
    where = {"server": server.url, "certificate-authority": str(server.ca)}
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": where}],
        "users": [{"name": "us", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "us"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def _check_ready(server: KubeServer) -> None:
    (node,) = server.client.get("/api/v1/nodes").raise_for_status().json()["items"]
    conditions = {one["type"]: one for one in node["status"]["conditions"]}
    if conditions["Ready"]["status"] != "True":
        raise RuntimeError(f"the node is not ready: {conditions['Ready']['message']}")


def _wait(check: Any, deadline: float) -> None:
    """Until it raises nothing; what it raised last, if that takes too long."""
    give_up = time.monotonic() + deadline
    while True:
        try:
            check()
        except Exception:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
        else:
            return


def _end_containers(ctr: Any) -> None:
    for name in ctr("task", "list", "--quiet").split():
        with suppress(subprocess.CalledProcessError):  # it has ended meanwhile
            ctr("task", "delete", "--force", name)


def _unmount(folder: Path) -> None:
    """What the kubelet and containerd have mounted under the folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=True)
