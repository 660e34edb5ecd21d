"""The Helm chart, rendered: helm itself, what it makes of values, and which values are tried."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sniproxy"
EXAMPLES = CHART / "examples"
KUBERNETES = ("1.29", "1.37")  # the oldest that the chart allows, and the newest with schemas
RELEASE, NAMESPACE = "game", "play"
NAME = f"{RELEASE}-sniproxy"
PATIENCE = 60  # seconds for one run of helm

Values = Mapping[str, Any]
Object = dict[str, Any]


def find_helm() -> str:
    """What `make helm` has built, else the one on PATH. Without one CI fails, and anybody else goes on without."""
    built = sorted((ROOT / ".cache").glob("helm-*/helm"))
    found = str(built[-1]) if built else shutil.which("helm")
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail("there is no helm, and CI must not leave out the chart's tests: make helm")
    pytest.skip("there is no helm: make helm builds one where Go is installed")


def run_helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """helm without the settings of whoever runs the tests."""
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if name == "PATH"}
        homes = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [find_helm(), *map(str, arguments)],
            env={**kept, **homes, "KUBECONFIG": os.devnull, "HOME": home},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip


def with_values(
    values: Values, *files: Path, command: tuple[str, ...] = ("template", RELEASE)
) -> subprocess.CompletedProcess[str]:
    """helm on the chart with the files of values, and `values` over them."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
        json.dump(values, own)
        own.flush()
        given = [flag for file in (*files, Path(own.name)) for flag in ("--values", str(file))]
        version = ("--kube-version", f"{KUBERNETES[0]}.0")
        return run_helm(*command, CHART, "--namespace", NAMESPACE, *version, *given)


@dataclass(frozen=True)
class Rendered:
    """The objects that a render consists of."""

    objects: tuple[Object, ...]

    def one(self, kind: str, name: str = NAME) -> Object:
        """The only object of this kind and name."""
        (found,) = self.named(kind, name)
        return found

    def named(self, kind: str, name: str = NAME) -> list[Object]:
        """All objects of this kind and name."""
        return [it for it in self.objects if (it["kind"], it["metadata"]["name"]) == (kind, name)]

    def kind(self, kind: str) -> dict[str, Object]:
        """All of a kind by name."""
        return {it["metadata"]["name"]: it for it in self.objects if it["kind"] == kind}

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Kind and name of what starts pods -> their template."""
        for it in self.objects:
            spec = it.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template is not None:
                yield f"{it['kind']} {it['metadata']['name']}", template

    def settings(self, name: str = NAME) -> Any:
        """sniproxy.yaml of a ConfigMap."""
        return yaml.safe_load(self.one("ConfigMap", name)["data"]["sniproxy.yaml"])


def read_objects(text: str) -> Rendered:
    """What helm has written."""
    return Rendered(tuple(it for it in yaml.safe_load_all(text) if it is not None))


@functools.cache
def _render(values: str, files: tuple[Path, ...]) -> Rendered:
    done = with_values(json.loads(values), *files)
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def render(values: Values | None = None, *files: Path) -> Rendered:
    """The chart with these values over those of the files, without any of examples/eks-nlb.yaml. Rendered once."""
    return _render(json.dumps(values or {}, sort_keys=True), files or (EXAMPLES / "eks-nlb.yaml",))


EXTERNAL = {
    "bundled": False,
    "endpoints": ["10.1.0.1:2379", "etcd.x:2380"],
    "existingSecret": "users",
}
TARGETS = [
    {"port": port, "arn": f"arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/{port}/1",
     "proxyProtocol": True, "idleTimeout": 400}
    for port in (443, 7000)
]  # fmt: skip
LISTENERS = [
    {"name": "tls", "port": 443, "containerPort": 8443, "tls": True, "tlsPassthrough": True},
    {
        "name": "plain",
        "port": 7000,
        "containerPort": 7000,
        "allow": ["192.0.2.0/24"],
        "deny": ["::/0"],
    },
]

# name -> values over examples/eks-nlb.yaml. Together they reach every branch of every template.
MATRIX: dict[str, Values] = {
    "eks": {},
    "everything": {
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
        "timezone": "Europe/Berlin",
        "listeners": LISTENERS,
        "service": {
            "annotations": {"service.beta.kubernetes.io/aws-load-balancer-subnets": "a,b"},
            "loadBalancerClass": "eks.amazonaws.com/nlb",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "nlb": {"scheme": "internal", "idleTimeout": 6000, "crossZone": False,
                    "targetGroupAttributes": {"stickiness.enabled": True}},
        },
        "proxy": {
            "workers": 2, "keepaliveIdle": 5999,
            "drain": {"accept": 150, "deadline": 7200, "spread": 0},
            "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
            "extraEnv": [{"name": "CERT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "nodeSelector": {"role": "x"}, "priorityClassName": "high",
            "affinity": {"nodeAffinity": {}}, "tolerations": [{"operator": "Exists"}],
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%"}},
            "podDisruptionBudget": {"maxUnavailable": "20%"},
            "autoscaling": {"enabled": True, "sessionsPerPod": 5000},
        },
        "canary": {"enabled": True, "imageTag": "next", "config": {"proxy": {"max_sessions": 7}}},
        "config": {"proxy": {"max_sessions": 1048576, "limits": {"address_sessions": 50}}, "node_ttl": 20},
        "certificates": [
            {"name": "there", "secretName": "there-tls"},
            {"name": "made", "secretName": "made-tls", "dnsNames": ["*.x.y"],
             "issuerRef": {"name": "le", "kind": "ClusterIssuer"}},
        ],
        "admin": {
            "replicas": 2, "allow": ["10.0.0.0/8"], "tlsSecretName": "admin-tls",
            "ingress": {"enabled": True, "host": "admin.x", "certificateArn": "arn:aws:acm:1", "annotations": {"a": "b"}},
            "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "nodeSelector": {"role": "x"},
        },
        "etcd": {
            "replicas": 5, "hardAntiAffinity": False, "quotaBytes": 8589934592, "priorityClassName": "high",
            "snapshots": {"storageClass": "-", "schedule": "0 3 * * *", "keep": 7},
        },
        "serviceAccount": {"annotations": {"a": "b"}},
        "networkPolicy": {"players": ["0.0.0.0/0"]},
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                    "rules": {"enabled": True}, "dashboard": {"enabled": True}},
    },
    "target groups": {"listeners": LISTENERS, "service": {"type": "ClusterIP", "targetGroups": TARGETS}},
    "daemon set, own secrets": {
        "proxy": {"kind": "DaemonSet", "nodeSelector": {"role": "x"}},
        "canary": {"enabled": True},
        "admin": {"existingSecret": "keys"}, "keyring": {"existingSecret": "ring"},
        "etcd": {"existingSecret": "users", "tls": {"existingSecret": "tls"}, "initialClusterState": "existing",
                 "persistence": {"storageClass": "-"}},
        "fullnameOverride": "game-sniproxy",
    },
    "etcd elsewhere, by TLS": {
        "etcd": {**EXTERNAL, "tls": {"existingSecret": "tls", "clientCertificate": True}},
        "serviceAccount": {"create": False, "name": "mine"},
    },
    "etcd elsewhere, open": {
        "etcd": {**EXTERNAL, "auth": False, "existingSecret": "", "tls": {"enabled": False}, "prefix": "/a/b"},
        "admin": {"enabled": False}, "networkPolicy": {"enabled": False},
        "proxy": {"podDisruptionBudget": {"enabled": False}},
    },
    "another load balancer": {
        "service": {"nlb": {"enabled": False}, "externalProxyProtocol": True},
        "proxy": {"replicas": 1, "state": {"existingClaim": "mirror"}},
    },
    "no PROXY protocol": {"proxyProtocol": False, "balancerNetworks": [], "service": {"type": "NodePort"}},
}  # fmt: skip

EXAMPLE_FILES = {
    "eks-nlb.yaml": ("eks-nlb.yaml",),
    "graviton.yaml": ("eks-nlb.yaml", "graviton.yaml"),
    "dev.yaml": ("dev.yaml",),
}
ALL = (*MATRIX, *EXAMPLE_FILES)


def rendered(case: str) -> Rendered:
    """A row of the matrix, or an example."""
    if case in MATRIX:
        return render(MATRIX[case])
    return render({}, *(EXAMPLES / name for name in EXAMPLE_FILES[case]))
