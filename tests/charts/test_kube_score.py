"""kube-score over all that the chart makes: it finds what is meant to be so, and nothing else."""

import copy
import functools
import json
import subprocess

import pytest
import yaml

from tests.support.chart_tools import find_tool
from tests.support.charts import ALL, KUBERNETES, NAME, Object, rendered

PATIENCE = 60  # seconds
FINE = 7  # of its grades; a warning has 5
CHECKED = "container-seccomp-profile"  # which it leaves out unless it is told
MEANT = {  # check -> why the chart does otherwise
    "container-image-pull-policy": "a node that has the image needs no registry, and a digest says which image",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread pods, over nodes and over zones",
}

PROXY, CANARY, ADMIN = (f"Deployment/apps/v1//{NAME}{end}" for end in ("", "-canary", "-admin"))
# case -> what its values ask for.
Finding = tuple[str, str]  # check and object
ASKED_FOR: dict[str, set[Finding]] = {
    "everything": {("deployment-replicas", CANARY)},
    "daemon set, own secrets": {("deployment-replicas", CANARY)},
    "etcd elsewhere, open": {("pod-networkpolicy", PROXY), ("deployment-has-poddisruptionbudget", PROXY)},
    "another load balancer": {("deployment-replicas", PROXY), ("deployment-strategy", PROXY)},
    "no PROXY protocol": {("service-type", f"Service/v1//{NAME}")},
    "dev.yaml": {("deployment-replicas", PROXY), ("deployment-replicas", ADMIN)},
}  # fmt: skip


def score(objects: list[Object]) -> set[Finding]:
    """All findings, warnings too."""
    done = subprocess.run(
        [find_tool("kube-score"), "score", "--output-format", "json", "--kubernetes-version", f"v{KUBERNETES[0]}",
         "--enable-optional-test", CHECKED, "-"],
        input=yaml.safe_dump_all(objects),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert not done.stderr
    return {
        (check["check"]["id"], one["object_name"])
        for one in json.loads(done.stdout)
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < FINE
    }


@functools.cache
def found(case: str) -> set[Finding]:
    """What it says to a render."""
    return score(list(rendered(case).objects))


@pytest.mark.parametrize("case", ALL)
def test_nothing_is_found_but_what_is_meant(case: str) -> None:
    left = {one for one in found(case) if one[0] not in MEANT}
    assert left == ASKED_FOR.get(case, set())


@pytest.mark.parametrize("check", MEANT)
def test_what_is_meant_is_still_found(check: str) -> None:
    assert any(check == one for case in ALL for one, _ in found(case))


@pytest.mark.parametrize(
    ("check", "member"),
    [
        ("container-security-context-readonlyrootfilesystem", "securityContext"),
        ("container-ephemeral-storage-request-and-limit", "resources"),
        ("pod-probes", "readinessProbe"),
    ],
)
def test_what_is_left_out_is_found(check: str, member: str) -> None:
    objects = copy.deepcopy(list(rendered("eks").objects))
    (deployment,) = (
        it for it in objects if (it["kind"], it["metadata"]["name"]) == ("Deployment", NAME)
    )
    del deployment["spec"]["template"]["spec"]["containers"][0][member]
    assert (check, PROXY) in score(objects)
