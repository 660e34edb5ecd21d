"""The chart and Kubernetes' own API server: each object is taken, each pod let in, and a release comes, changes and goes."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chart_tools import definitions
from tests.support.charts import ALL, CHART, EXAMPLES, NAME, RELEASE, Rendered, rendered
from tests.support.kube_server import HIGH, KubeServer, kube_server

TRIED, LIVED = "tried", "lived"  # namespaces


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    with kube_server(tmp_path_factory.mktemp("kubernetes")) as server:
        # Kubernetes' own admission says whether pods are as restricted as they may be.
        labels = {
            f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
        }
        for name in (TRIED, LIVED):
            namespace = {"name": name, "labels": labels}
            created = {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}
            server.create(created, name).raise_for_status()
        for definition in definitions():
            server.define(definition)
        server.create({"apiVersion": "scheduling.k8s.io/v1", **HIGH}, TRIED).raise_for_status()
        yield server


@pytest.mark.parametrize("case", ALL)
def test_each_object_is_taken_without_a_warning(server: KubeServer, case: str) -> None:
    for it in rendered(case).objects:
        own = copy.deepcopy(it)
        own["metadata"].pop("namespace", None)
        answer = server.create(own, TRIED, try_only=True)
        name = f"{it['kind']} {it['metadata']['name']}"
        assert answer.is_success, f"{name}: {answer.text}"
        assert "warning" not in answer.headers, f"{name}: {answer.headers['warning']}"


def claims(objects: Rendered, kind: str, name: str) -> list[str]:
    """What a StatefulSet mounts beside the volumes of its template."""
    templates = objects.one(kind, name)["spec"].get("volumeClaimTemplates", ())
    return [one["metadata"]["name"] for one in templates]


@pytest.mark.parametrize("case", ALL)
def test_each_pod_is_let_in(server: KubeServer, case: str) -> None:
    for where, template in rendered(case).pods():
        spec = copy.deepcopy(template["spec"])
        for claim in claims(rendered(case), *where.split()):
            volume = {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
            spec.setdefault("volumes", []).append(volume)
        account = spec.get("serviceAccountName", "default")
        metadata = {"name": account}
        created = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        server.create(created, TRIED)  # or it is there
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
        answer = server.create(pod, TRIED, try_only=True)
        assert answer.is_success, f"{where}: {answer.text}"
        assert "warning" not in answer.headers, where


def test_a_pod_that_may_do_more_is_not_let_in(server: KubeServer) -> None:
    """The server would find it out."""
    (_, template), *_ = rendered("eks").pods()
    spec = copy.deepcopy(template["spec"])
    spec["containers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    answer = server.create(pod, TRIED, try_only=True)
    assert answer.is_client_error
    assert "violates PodSecurity" in answer.text


def test_a_member_that_is_not_known_is_refused(server: KubeServer) -> None:
    it = copy.deepcopy(rendered("eks").one("Deployment"))
    it["metadata"].pop("namespace", None)
    it["spec"]["surprise"] = 1
    answer = server.create(it, TRIED, try_only=True)
    assert answer.is_client_error
    assert "surprise" in answer.text


def test_a_release_comes_changes_goes_back_and_goes(server: KubeServer) -> None:
    def run(*arguments: str | Path) -> str:
        done = server.helm(*arguments, "--namespace", LIVED)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def image() -> Any:
        found = server.get("Deployment", LIVED, NAME)
        return found["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2]

    def secrets() -> dict[str, Any]:
        names = {f"{NAME}-{name}" for name in ("keyring", "admin", "etcd-users", "etcd-tls")}
        found = {name: server.get("Secret", LIVED, name) for name in names}
        return {name: it["data"] for name, it in found.items() if it is not None}

    run("install", RELEASE, CHART, "--values", EXAMPLES / "eks-nlb.yaml")
    before, made = image(), secrets()
    assert len(made) == 4
    run("upgrade", RELEASE, CHART, "--reset-then-reuse-values", "--set", "image.tag=0.2.0")
    assert image() == "0.2.0"
    run("upgrade", RELEASE, CHART, "--reset-then-reuse-values", "--set", "canary.enabled=true")
    assert image() == "0.2.0"
    assert server.get("Deployment", LIVED, f"{NAME}-canary") is not None
    run("rollback", RELEASE, "1")
    assert image() == before
    assert server.get("Deployment", LIVED, f"{NAME}-canary") is None
    assert secrets() == made  # made once, and kept
    run("uninstall", RELEASE)
    assert server.get("Deployment", LIVED, NAME) is None
    left = secrets()
    assert left == {name: data for name, data in made.items() if name != f"{NAME}-admin"}
    # Who comes back finds what was kept.
    refused = server.helm("install", RELEASE, CHART, "--namespace", LIVED)
    assert refused.returncode != 0  # without values of its own
    run("install", RELEASE, CHART, "--values", EXAMPLES / "eks-nlb.yaml")
    again = secrets()
    assert {name: again[name] for name in left} == left
    assert again.keys() == made.keys()
