"""A Kubernetes of one node, with containers: its own programs, in a cgroup of their own and the test's network namespace.

A load balancer is what it lacks; tests reach pods by their addresses, as one with ip targets does.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.processes import end
from tests.support.charts import CHART, NAMESPACE, Object
from tests.support.cluster_image import make_root, make_small_root, pack, write_image
from tests.support.cluster_network import (
    ADDRESS,
    DOMAIN,
    make_network,
    start_dns,
    start_policies,
    start_services,
    write_pod_network,
)
from tests.support.etcd import newest_etcd
from tests.support.kube_server import TOKEN, KubeServer, find_kubernetes, kube_server

STORE = f"{ADDRESS}:2379"  # an etcd for the objects of sniproxy
IMAGE = "docker.io/local/sniproxy"
TAGS = ("0.1.0", "0.2.0")
PAUSE = "docker.io/local/pause:1"
STORAGE, VOLUMES = "gp3", 10  # the class of disks, and how many there are
CGROUPS = Path("/sys/fs/cgroup")
START_DEADLINE = 60.0  # seconds until the node must be ready
STOP_DEADLINE = 10.0  # seconds until a program must be gone


@dataclass(frozen=True)
class Cluster:
    """What is asked and told of it."""

    server: KubeServer
    kubeconfig: Path
    programs: Path  # kubectl is among them
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
        make_network()
        group = stack.enter_context(_cgroup(f"sniproxy-{os.getpid()}"))
        socket = folder / "containerd.sock"
        _configure(folder, node, socket, group)

        def start(*command: str | Path, variables: Mapping[str, str] | None = None) -> None:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*map(str, command)],
                    stdout=log, stderr=log, env={**os.environ, "PATH": path, **(variables or {})}, start_new_session=True,
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
        _make_volumes(server, folder / "volumes")
        start(programs / "kube-scheduler", *common, "--leader-elect=false")
        start_dns(start, node / "bin/coredns", folder, config)
        start_services(start, programs, node, ("--kubeconfig", config))
        start(programs / "kubelet", *common, "--config", folder / "kubelet.yaml", "--node-ip", ADDRESS,
              "--root-dir", folder / "kubelet", "--hostname-override", "node")  # fmt: skip
        _wait(lambda: _check_ready(server), START_DEADLINE)
        start_policies(start, node, folder, config)
        yield Cluster(server, config, programs, group.rstrip("/"))


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
    write_pod_network(folder / "cni", folder / "addresses")
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
        "clusterDNS": [ADDRESS],
        "clusterDomain": DOMAIN,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {f"{one}.available": "100Mi" for one in ("memory", "nodefs", "imagefs")},
    }
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))


def _images(node: Path, folder: Path, programs: Path) -> Iterator[Path]:
    root, layer, archive = folder / "root", folder / "layer.tar", folder / "image.tar"
    make_root(node, root)
    pack(root, layer)
    write_image(layer, archive, [f"{IMAGE}:{tag}" for tag in TAGS], ["sniproxy"])
    yield archive
    values = yaml.safe_load((CHART / "values.yaml").read_text())["etcd"]["image"]
    etcd = [newest_etcd().with_name(one) for one in ("etcd", "etcdctl", "etcdutl")]
    for name, files, entry in (
        (f"{values['repository']}:{values['tag']}", etcd, []),
        (PAUSE, [programs / "pause"], ["/usr/local/bin/pause"]),
    ):  # fmt: skip
        shutil.rmtree(root)
        make_small_root(files, root)
        pack(root, layer)
        write_image(layer, archive, [name], entry)
        yield archive


def _make_volumes(server: KubeServer, folder: Path) -> None:
    """Disks that are there, in place of a driver that makes them: each is given to one claim, and is not used again."""
    parameters = {
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    kind = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE},
    }
    server.create(kind | parameters, "").raise_for_status()
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}
    for number in range(VOLUMES):
        (folder / str(number)).mkdir(parents=True)
        spec = {
            "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": STORAGE,
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": str(folder / str(number))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }  # fmt: skip
        metadata = {"name": f"disk-{number}"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": metadata,
            "spec": spec,
        }
        server.create(volume, "").raise_for_status()


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
    """Those, too, that are still on their way as the kubelet ends."""
    quiet = 0
    while quiet < 4:
        names = ctr("task", "list", "--quiet").split()
        quiet = 0 if names else quiet + 1
        for name in names:
            with suppress(subprocess.CalledProcessError):  # it has ended meanwhile
                ctr("task", "delete", "--force", name)
        time.sleep(0.5)


def _unmount(folder: Path) -> None:
    """What the kubelet and containerd have mounted under the folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=True)
