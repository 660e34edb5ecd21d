"""Every object that the chart makes is one that Kubernetes takes, or whoever else it is for: by their schemas, strictly."""

import functools
from typing import Any

import pytest

from tests.support.chart_tools import kubeconform
from tests.support.charts import ALL, KUBERNETES, Object, render, rendered


def broken() -> dict[str, Object]:
    """Objects that nobody must take: what is wrong -> object."""
    deployment = render().one("Deployment")
    everything = rendered("everything").objects
    (monitor,) = (it for it in everything if it["kind"] == "ServiceMonitor")
    (binding, _) = (
        it for it in rendered("target groups").objects if it["kind"] == "TargetGroupBinding"
    )
    (certificate,) = (it for it in everything if it["kind"] == "Certificate")

    def but(it: Object, **spec: Any) -> Object:
        return {**it, "spec": {**it["spec"], **spec}}

    return {
        "a number as a text": but(deployment, replicas="3"),
        "a member that is not known": but(deployment, surprise=1),
        "no name of a container": but(
            deployment, template={"spec": {"containers": [{"image": "x"}]}}
        ),
        "a monitor's member": but(monitor, endpoints=[{"port": "status", "every": "15s"}]),
        "a binding's kind of target": but(binding, targetType="pod"),
        "a certificate's names": but(certificate, dnsNames="*.x.y"),
        "a kind that is not known": {**deployment, "kind": "Surprise"},
    }


@functools.cache
def refused(version: str) -> dict[str, list[str]]:
    """What is said in that version to all renders at once, and to what is broken."""
    good = {case: rendered(case).objects for case in ALL}
    return kubeconform(version, {**good, **{what: (it,) for what, it in broken().items()}})


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", ALL)
def test_every_object_is_taken(case: str, version: str) -> None:
    assert refused(version)[case] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("what", list(broken()))
def test_one_that_is_wrong_is_not(what: str, version: str) -> None:
    assert len(refused(version)[what]) == 1
