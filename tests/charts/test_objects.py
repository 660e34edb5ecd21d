"""Every object that the chart makes: names, selectors and mounts that fit, and what no pod may do."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.charts import (
    ALL,
    CHART,
    EXAMPLE_FILES,
    EXAMPLES,
    KUBERNETES,
    NAME,
    NAMESPACE,
    Object,
    render,
    rendered,
    with_values,
)


def test_the_oldest_kubernetes_is_the_one_that_the_chart_allows() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


@pytest.mark.parametrize("case", ALL)
def test_names_stand_once(case: str) -> None:
    names = [(it["kind"], it["metadata"]["name"]) for it in rendered(case).objects]
    assert len(names) == len(set(names))


def test_the_longest_name_is_short_enough() -> None:
    """A pod's name is a label too, and a CronJob adds eleven characters to its own, a Job six."""
    longest = "a" * 36
    both = render({"fullnameOverride": longest, "canary": {"enabled": True}})
    cut = render({"fullnameOverride": "", "nameOverride": "b" * 36})
    for name in both.kind("CronJob"):
        assert name.startswith(longest)
        assert len(name) <= 52
    for all_of_it in (both, cut):
        for it in all_of_it.objects:
            assert len(it["metadata"]["name"]) <= 63 - len("-xxxxx")


@pytest.mark.parametrize("case", [name for name in EXAMPLE_FILES if name != "graviton.yaml"])
def test_lint_finds_nothing(case: str) -> None:
    done = with_values({}, EXAMPLES / case, command=("lint", "--strict"))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


# -- pods


def containers(template: Object) -> Iterator[Object]:
    yield from template["spec"].get("initContainers", [])
    yield from template["spec"]["containers"]


@pytest.mark.parametrize("case", ALL)
def test_no_pod_may_do_more_than_it_must(case: str) -> None:
    """The Pod Security Standard `restricted`, and then some."""
    for where, template in rendered(case).pods():
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, where
        assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (10001,) * 3
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for one in containers(template):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, where
            needed = {"cpu", "memory", "ephemeral-storage"}
            assert needed <= one["resources"]["limits"].keys(), where
            assert needed <= one["resources"]["requests"].keys(), where


@pytest.mark.parametrize("case", ALL)
def test_variables_of_services_are_not_taken_for_settings(case: str) -> None:
    """A Service named sniproxy would give every pod SNIPROXY_PORT and the like."""
    for _, template in rendered(case).pods():
        assert template["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("case", ALL)
def test_nothing_may_ask_the_api_server(case: str) -> None:
    objects = rendered(case).objects
    assert not {it["kind"] for it in objects} & {"Role", "ClusterRole", "RoleBinding"}
    for account in rendered(case).kind("ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", ALL)
def test_what_is_mounted_is_there(case: str) -> None:
    """Volumes, and the ConfigMaps and Secrets of the chart's own that they and variables name."""
    all_of_it = rendered(case)
    made = {*all_of_it.kind("ConfigMap"), *all_of_it.kind("Secret")}
    claims = {
        claim["metadata"]["name"]
        for it in all_of_it.kind("StatefulSet").values()
        for claim in it["spec"].get("volumeClaimTemplates", ())
    }
    for where, template in all_of_it.pods():
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | claims
        for one in containers(template):
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes, where
        for name in named_in(template):
            assert not name.startswith(NAME) or name in made, f"{where}: {name}"


def named_in(node: Any) -> Iterator[str]:
    """Names of ConfigMaps and Secrets."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("configMap", "secret", "secretKeyRef"):
                yield value.get("name", value.get("secretName"))
            yield from named_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from named_in(value)


@pytest.mark.parametrize("case", ALL)
def test_what_selects_pods_finds_some(case: str) -> None:
    all_of_it = rendered(case)
    labels = [template["metadata"]["labels"] for _, template in all_of_it.pods()]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
        for name, it in all_of_it.kind(kind).items():
            selector = it["spec"].get("selector", it["spec"].get("podSelector"))
            selector = selector.get("matchLabels", selector)
            assert selector, name
            assert any(selector.items() <= one.items() for one in labels), f"{kind} {name}"


@pytest.mark.parametrize("case", ALL)
def test_ports_that_are_named_are_there(case: str) -> None:
    all_of_it = rendered(case)
    for name, service in all_of_it.kind("Service").items():
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        for where, template in all_of_it.pods():
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items():
                open_ports = {
                    p["name"] for one in containers(template) for p in one.get("ports", ())
                }
                assert wanted <= open_ports, f"{name}: {where}"


@pytest.mark.parametrize("case", ALL)
def test_everything_is_in_the_release_and_says_so(case: str) -> None:
    for it in rendered(case).objects:
        assert it["metadata"]["labels"]["app.kubernetes.io/instance"] == "game"
        assert it["metadata"].get("namespace", NAMESPACE) == NAMESPACE
