"""Values that contradict each other, or are none, are refused before anything is installed."""

import json
from typing import Any

import pytest

from tests.support.charts import EXAMPLES, EXTERNAL, LISTENERS, TARGETS, with_values

TLS = LISTENERS[0]
DIGEST = "sha256:" + "5" * 64
PROXY_ANNOTATION = "service.beta.kubernetes.io/aws-load-balancer-proxy-protocol"


def refused(values: dict[str, Any]) -> str:
    """What helm says to these values over examples/eks-nlb.yaml."""
    done = with_values(values, EXAMPLES / "eks-nlb.yaml")
    assert done.returncode != 0, "not refused"
    return done.stderr


def under(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} of "a.b"."""
    first, _, rest = path.partition(".")
    return {first: under(rest, value) if rest else value}


# Each row: values -> what is said. Rows of one render: all messages come at once.
TOGETHER: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {
            "balancerNetworks": [],
            "service": {
                "nlb": {"idleTimeout": 300, "targetGroupAttributes": {"preserve_client_ip.enabled": "true"}},
                "annotations": {PROXY_ANNOTATION: "*"},
                "targetGroups": [{**TARGETS[0], "idleTimeout": 300, "proxyProtocol": False}, TARGETS[1]],
            },
            "proxy": {
                "drain": {"accept": 119, "deadline": 60, "spread": 0},
                "terminationGracePeriodSeconds": 208,
                "state": {"existingClaim": "one"},
                "autoscaling": {
                    "enabled": True, "cpuPercent": None, "minReplicas": 5, "maxReplicas": 4, "scaleDownAfter": 89,
                },
            },
            "config": {"proxy": {"listeners": []}, "etcd": {"password": "x"}},
            "image": {"tag": "0.2.0", "digest": DIGEST},
            "canary": {"config": {"admin": {"keys": []}}, "imageTag": "0.3.0", "imageDigest": DIGEST},
            "certificates": [
                {"name": "a", "secretName": "a", "dnsNames": ["x.y"]},
                {"name": "a", "secretName": "a"},
            ],
            "admin": {"ingress": {"enabled": True}},
            "etcd": {"persistence": {"storageClass": ""}, "endpoints": ["x:1"], "auth": False},
        },
        (
            "balancerNetworks: not set, but proxyProtocol is true",
            "balancerNetworks: not set, but admin.ingress is enabled",
            "service.nlb.idleTimeout: 300 s is not above proxy.keepaliveIdle, 300 s",
            "service.nlb.targetGroupAttributes: preserve_client_ip.enabled is computed",
            f"service.annotations: {PROXY_ANNOTATION} is computed",
            "service.targetGroups: are for a load balancer made beforehand",
            "service.targetGroups: the idleTimeout of port 443, 300 s, is not above",
            "service.targetGroups: port 443 has proxyProtocol false, and the listeners have proxyProtocol true",
            "service.targetGroups: port 7000 is no listener's",
            "proxy.drain.accept: 119 s is less than the 120 s",
            "proxy.terminationGracePeriodSeconds: 208 s is less than the drain needs: accept + deadline + spread + 30 = 209",
            "proxy.state.existingClaim: is for one replica only",
            "proxy.autoscaling: neither cpuPercent nor sessionsPerPod is set",
            "proxy.autoscaling: minReplicas 5 is above maxReplicas 4",
            "proxy.autoscaling.scaleDownAfter: 89 s is less than 90 s",
            "config.proxy.listeners: comes from the other values",
            "config.etcd.password: comes from the other values",
            "canary.config.admin.keys: comes from the other values",
            "image.tag: 0.2.0 would count for nothing, as image.digest is set",
            "canary.imageTag: 0.3.0 would count for nothing, as canary.imageDigest is set",
            "certificates: the name a is taken twice",
            "certificates: a has only one of issuerRef and dnsNames",
            "admin.ingress.host: not set",
            "etcd.persistence.storageClass: not set: name one that `kubectl get storageclass` shows",
            "etcd.snapshots.storageClass: not set",
            "etcd.endpoints: are those of another etcd, but etcd.bundled is true",
            "etcd: the bundled one has etcd.auth and etcd.tls.enabled, always",
        ),
    ),
    (
        {
            "listeners": [TLS, {**TLS}, {**TLS, "name": "status", "port": 1, "containerPort": 7085}],
            "service": {"type": "ClusterIP"},
            "proxy": {"kind": "DaemonSet", "autoscaling": {"enabled": True},
                      "extraEnv": [{"name": "SNIPROXY_PROXY__WORKERS", "value": "3"}]},
            "etcd": {"tls": {"clientCertificate": True}, "prefix": "/sniproxy/x"},
        },
        (
            "listeners: the name tls is taken twice",
            "listeners: the name status is taken twice, or by the status port",
            "listeners: port 443 is taken twice",
            "listeners: containerPort 8443 is taken twice",
            "listeners: containerPort 7085 is taken twice, or by the status port",
            "proxyProtocol: is true, but nothing sends it",
            "proxy.autoscaling: a DaemonSet has one pod per node",
            "etcd.tls.clientCertificate: is for an etcd that is not bundled",
            "etcd.prefix: /sniproxy/ is where sniproxy keeps its own keys",
            "proxy.extraEnv: SNIPROXY_PROXY__WORKERS is a setting: it goes into config",
        ),
    ),
    (
        {
            "proxyProtocol": False,
            "service": {"nlb": {"enabled": False}, "externalProxyProtocol": True,
                        "annotations": {PROXY_ANNOTATION: "*"}},
            "etcd": {"bundled": False, "tls": {"clientCertificate": True}},
        },
        (
            "service.externalProxyProtocol: is true, but proxyProtocol is false",
            "etcd.endpoints: not set, and etcd.bundled is false",
            "etcd.existingSecret: not set: a Secret with admin-user, admin-password, proxy-user and proxy-password",
            "etcd.tls.clientCertificate: needs etcd.tls.enabled and etcd.tls.existingSecret",
        ),
    ),
    (
        {
            "proxy": {"state": {"sizeLimit": "1.5Gi"},
                      "resources": {"limits": {"ephemeral-storage": "1855Mi"}}},
            "etcd": {"persistence": {"enabled": False, "size": "1G"}},
            "config": {"admin": {"shutdown_delay": 60}},
        },
        (
            "proxy.resources.limits.ephemeral-storage: 1855Mi does not hold proxy.state.sizeLimit, 1.5Gi, and 320Mi",
            "etcd.resources.limits.ephemeral-storage: 512Mi does not hold etcd.persistence.size, 1G, and 320Mi",
            "config.admin.shutdown_delay: comes from the other values",
        ),
    ),
    (
        {"proxyProtocol": False, "service": {"annotations": {PROXY_ANNOTATION: "*"}}},
        (f"service.annotations: {PROXY_ANNOTATION} is set, but proxyProtocol is false",),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "messages"), TOGETHER)
def test_what_contradicts_itself(values: dict[str, Any], messages: tuple[str, ...]) -> None:
    said = refused(values)
    assert "These values cannot be used:" in said
    for message in messages:
        assert message in said
    lines = [line for line in said.splitlines() if ": " in line and "Error:" not in line]
    assert len(lines) == len(messages), said


def test_without_values_it_says_what_it_needs() -> None:
    done = with_values({})
    assert done.returncode != 0
    for name in (
        "balancerNetworks",
        "etcd.persistence.storageClass",
        "etcd.snapshots.storageClass",
    ):
        assert f"{name}: not set" in done.stderr


# Value -> where the schema says no.
UNKNOWN = {
    "proxy.drain.acept": 120,
    "service.nlb.scheme": "public",
    "service.nlb.idleTimeout": 59,
    "service.nlb.crossZone": "yes",
    "service.annotations.a": True,
    "proxy.kind": "StatefulSet",
    "proxy.drain.accept": 120.5,
    "proxy.resources.limits": {"cpu": None},
    "etcd.replicas": 2,
    "etcd.prefix": "apisix",
    "etcd.endpoints": ["http://x:2379"],
    "balancerNetworks": ["10.0.0.0"],
    "listeners": [],
    "config.store": "sqlite:////tmp/x",
    "image.digest": "latest",
    "canary.imageDigest": DIGEST[:-1],
    "admin.ingress.hosts": ["x"],
    "metrics.serviceMonitor.interval": "often",
    "surprise": 1,
}


def test_what_is_no_value() -> None:
    """All at once: helm tells of every one that its schema refuses."""
    values: dict[str, Any] = {}
    for path, value in UNKNOWN.items():
        merge(values, under(path, value))
    said = refused(values)
    for path in UNKNOWN:
        *above, last = path.split(".")
        where = "/" + "/".join((*above, last))
        known = f"at '{where}" in said
        unknown = f"additional properties '{last}' not allowed" in said
        listed = "additional properties" in said and f"'{last}'" in said
        assert known or unknown or listed, f"{path}: {said}"


def merge(under: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            merge(under[key], value)
        else:
            under[key] = json.loads(json.dumps(value))


def test_an_etcd_elsewhere_needs_no_storage_class() -> None:
    done = with_values(
        {"balancerNetworks": ["10.0.0.0/16"], "etcd": EXTERNAL}, command=("template", "game")
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "proxy",
    [
        {"state": {"sizeLimit": "1.5Gi"}, "resources": {"limits": {"ephemeral-storage": "1856Mi"}}},
        {"state": {"sizeLimit": "1000k"}, "resources": {"limits": {"ephemeral-storage": "340M"}}},
        {"resources": {"limits": {"ephemeral-storage": None}}},
        {"replicas": 1, "state": {"existingClaim": "one", "sizeLimit": "9Gi"}},
    ],
)
def test_what_a_nodes_disk_holds(proxy: dict[str, Any]) -> None:
    done = with_values({"proxy": proxy}, EXAMPLES / "eks-nlb.yaml")
    assert done.returncode == 0, done.stderr
