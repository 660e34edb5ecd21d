"""What a Kubernetes' autoscaler asks: metrics-server of CPU, and Prometheus through its adapter of sessions.

They are API servers of their own, on the node; Kubernetes' API server asks them on, as APIService objects say.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from bench.processes import end
from tests.support.charts import CHART, Object
from tests.support.cluster import Cluster
from tests.support.cluster_network import ADDRESS
from tests.support.fenced import blocks
from tests.support.ports import free_ports
from tests.support.prometheus import Prometheus

TARGETS = "targets.json"
STOP_DEADLINE = 10.0  # seconds until a program must be gone
CPU, SESSIONS = "metrics.k8s.io", "custom.metrics.k8s.io"  # their APIs


@contextmanager
def metrics(kubernetes: Cluster, node: Path, folder: Path) -> Iterator[None]:
    """Both; `node`: what `make cluster` has made. `find_pods` says in the folder what is scraped."""
    rules = folder / "adapter.yaml"
    rules.write_text(_rules())
    with (
        Prometheus(folder, {"file_sd_configs": [{"files": [str(folder / TARGETS)]}]}) as prometheus,
        _serving(kubernetes, folder, CPU, node / "bin/metrics-server",
                 "--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP",
                 "--metric-resolution=10s", "--kubelet-request-timeout=5s", "--kubeconfig"),
        _serving(kubernetes, folder, SESSIONS, node / "bin/adapter",
                 f"--prometheus-url={prometheus.url}", f"--config={rules}",
                 "--metrics-relist-interval=5s", "--metrics-max-age=1m", "--lister-kubeconfig"),
    ):  # fmt: skip
        yield


@contextmanager
def _serving(
    kubernetes: Cluster, folder: Path, group: str, program: Path, *words: str
) -> Iterator[None]:
    """An API server behind Kubernetes' own, for one group of it. The last word takes a kubeconfig."""
    (port,) = free_ports(1)
    config = kubernetes.kubeconfig
    command = [
        program, *words, config, "--authentication-kubeconfig", config, "--authorization-kubeconfig", config,
        "--secure-port", port, "--cert-dir", folder / f"{program.name}-certificates",
    ]  # fmt: skip
    name = program.name
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": ADDRESS, "ports": [{"port": port}]},
    }
    registered = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1beta1.{group}"},
        "spec": {
            "group": group, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": True, "service": {"namespace": "kube-system", "name": name, "port": port},
        },
    }  # fmt: skip
    with ExitStack() as stack:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
        stack.callback(end, process, STOP_DEADLINE)
        for it in (service, registered):
            kubernetes.server.create(it, "kube-system").raise_for_status()
            stack.callback(kubernetes.server.delete, it, "kube-system")
        yield


def _rules() -> str:
    """The adapter's, as the chart's page has them."""
    (found,) = (one for one in blocks(CHART / "README.md", "yaml") if one.startswith("rules:\n"))
    return found


async def find_pods(kubernetes: Cluster, monitor: Object, folder: Path) -> None:
    """Tells Prometheus for ever what its operator has it find by a ServiceMonitor: each pod, told from others by its labels.

    Debian's Prometheus cannot ask Kubernetes itself.
    """
    namespace, spec = monitor["metadata"]["namespace"], monitor["spec"]
    (endpoint,) = spec["endpoints"]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    query = {
        "labelSelector": ",".join(f"{k}={v}" for k, v in spec["selector"]["matchLabels"].items())
    }

    def targets() -> list[Any]:
        found = kubernetes.server.client.get(path, params=query).raise_for_status().json()
        return [
            {
                "targets": [f"{one['addresses'][0]}:{port['port']}"],
                "labels": {"namespace": namespace, "pod": one["targetRef"]["name"], "__metrics_path__": endpoint["path"]},
            }
            for it in found["items"]
            for one in it["endpoints"] or ()
            for port in it["ports"]
            if port["name"] == endpoint["port"]
        ]  # fmt: skip

    new = folder / "new.json"
    while True:
        new.write_text(json.dumps(await trio.to_thread.run_sync(targets)))
        new.rename(folder / TARGETS)
        await trio.sleep(1)
