"""What docs/eks.md and docs/migrate-from-apisix.md give to helm, and what they expect of the chart."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chart_tools import kubeconform
from tests.support.charts import CHART, KUBERNETES, Rendered, run_helm
from tests.support.eks import FOLDER, NAMED, NAMESPACE, PAGE, RELEASE
from tests.support.fenced import blocks, commands

APISIX = FOLDER / "docs" / "migrate-from-apisix.md"
# Flags that are for a cluster, and have no part in what is rendered.
FOR_A_CLUSTER = r"--(reset-then-reuse-values|create-namespace|wait|wait-for-jobs|timeout=\w+)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of values that the pages show, under the names that they have there."""
    for page in (PAGE, APISIX):
        for block in blocks(page, "yaml"):
            name = re.match(r"# (?:in )?([\w-]+\.yaml)", block)
            if name is not None and not block.startswith("# in "):
                (tmp_path / name[1]).write_text(block)
    return tmp_path


def given(command: str, folder: Path) -> list[str]:
    """The values that a command gives: -f and --set, with files of this machine."""
    program, verb, release, chart, *flags = shlex.split(command)
    assert (program, release, chart) == ("helm", RELEASE, "charts/sniproxy")
    assert verb in {"install", "upgrade"}
    kept, told = [], run_helm(verb, "--help").stdout
    while flags:
        flag = flags.pop(0)
        assert re.search(rf"(^|\s){re.escape(flag.partition('=')[0])}(,|\s)", told), flag
        if re.fullmatch(FOR_A_CLUSTER, flag):
            continue
        value = flags.pop(0)
        if flag == "-n":
            assert value == NAMESPACE
        elif flag == "-f":
            kept += [flag, str(FOLDER / value if (FOLDER / value).exists() else folder / value)]
        else:
            assert flag == "--set"
            kept += [flag, value]
    return kept


def rendered(values: list[str]) -> Rendered:
    """What helm makes of them."""
    version = ("--kube-version", f"{KUBERNETES[0]}.0")
    done = run_helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *version, *values)
    assert done.returncode == 0, done.stderr
    return Rendered(tuple(one for one in yaml.safe_load_all(done.stdout) if one))


def helm_commands(page: Path) -> list[str]:
    """Those that give values, the first of all at the front."""
    found = [one for one in commands(page) if re.match("helm (install|upgrade) ", one)]
    assert found[0].startswith("helm install ")
    return found


def pod(found: Rendered, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = found.one("Deployment", name)["spec"]["template"]["spec"]
    return spec


def test_what_helm_is_given(folder: Path) -> None:
    """Each upgrade of docs/eks.md over what was installed."""
    first, *later = helm_commands(PAGE)
    base = given(first, folder)
    installed = rendered(base)
    for name in (one for one, origin in NAMED.items() if origin == "chart"):
        kind, _, what = name.partition("/")
        kinds = {"statefulset": "StatefulSet", "cronjob": "CronJob"}
        assert installed.named(kinds.get(kind, kind.capitalize()), what), name
    changed = {
        command.partition("--set ")[2]: rendered(base + given(command, folder)) for command in later
    }
    assert pod(changed["image.tag=0.2.0"], RELEASE)["containers"][0]["image"].endswith(":0.2.0")
    assert changed["proxy.replicas=5"].one("Deployment", RELEASE)["spec"]["replicas"] == 5
    (scaled,) = (one for text, one in changed.items() if "autoscaling" in text)
    spec = scaled.one("HorizontalPodAutoscaler", RELEASE)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 12)
    (canary,) = (one for text, one in changed.items() if "canary" in text)
    other = canary.one("Deployment", f"{RELEASE}-canary")
    assert other["spec"]["template"]["metadata"]["labels"]["sniproxy/track"] == "canary"
    assert other["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":0.2.0")


def test_what_the_page_expects_of_the_chart(folder: Path) -> None:
    (certificates,) = (one for one in blocks(PAGE, "yaml") if one.startswith("# in mine.yaml"))
    (folder / "more.yaml").write_text(certificates)
    base = given(helm_commands(PAGE)[0], folder)
    found = rendered([*base, "-f", str(folder / "more.yaml")])
    # ports and names that commands have
    ports = {one["name"]: one["port"] for one in found.one("Service", RELEASE)["spec"]["ports"]}
    assert 443 in ports.values()
    assert found.one("Service", f"{RELEASE}-admin")["spec"]["ports"][0]["port"] == 9180
    (proxy,) = pod(found, RELEASE)["containers"]
    assert 7085 in {one["containerPort"] for one in proxy["ports"]}
    for name in (RELEASE, f"{RELEASE}-admin"):
        (container,) = pod(found, name)["containers"]
        assert container["args"][1:] == ["-c", "/etc/sniproxy/sniproxy.yaml"]
    assert "admin" in found.one("Secret", f"{RELEASE}-admin")["data"]
    components = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in found.objects}
    text = PAGE.read_text()
    assert set(re.findall(r"app\.kubernetes\.io/component=([a-z-]+)", text)) <= components
    # files that an ssl object names
    (sources,) = (
        one["projected"]["sources"] for one in pod(found, RELEASE)["volumes"] if "projected" in one
    )
    paths = {item["path"] for one in sources for item in one.get("secret", {}).get("items", [])}
    for path in re.findall(r"\$file:///etc/sniproxy/([\w/.-]+)", text):
        assert path in paths


def test_what_reads_a_snapshot_is_of_the_chart(folder: Path) -> None:
    """Its Secrets, its disk, its etcd, and the container whose log is looked at."""
    found = rendered(given(helm_commands(PAGE)[0], folder))
    read = yaml.safe_load((FOLDER / "examples" / "eks" / "read-snapshot.yaml").read_text())["spec"]
    for container in read["containers"]:
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                secret = variable["valueFrom"]["secretKeyRef"]
                assert secret["key"] in found.one("Secret", secret["name"])["data"]
    (claim,) = (
        one["persistentVolumeClaim"]["claimName"]
        for one in read["volumes"]
        if "persistentVolumeClaim" in one
    )
    assert found.one("PersistentVolumeClaim", claim)
    members = found.one("StatefulSet", f"{RELEASE}-etcd")["spec"]["template"]["spec"]
    images = {one["image"] for one in (*read["initContainers"], *read["containers"])}
    assert images == {members["containers"][0]["image"], "sniproxy"}
    (job,) = found.kind("CronJob").values()
    spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]] == ["keep"]
    assert "/snapshots/$(POD)" in str(spec)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_what_the_page_applies(version: str) -> None:
    applied = [
        *(FOLDER / "examples").glob("*/k8s/*.yaml"),
        FOLDER / "examples/eks/read-snapshot.yaml",
    ]
    found = [
        it for file in applied for it in yaml.safe_load_all(file.read_text()) if it is not None
    ]
    assert len(found) == 5
    assert kubeconform(version, {"applied": found}) == {"applied": []}


def test_beside_an_apisix(folder: Path) -> None:
    first, second = helm_commands(APISIX)
    beside = rendered(given(first, folder))
    settings = yaml.safe_load(beside.one("ConfigMap", RELEASE)["data"]["sniproxy.yaml"])
    assert settings["store"] == "etcd://etcd.apisix.svc:2379/apisix"
    assert not beside.kind("StatefulSet")
    assert not beside.kind("TargetGroupBinding")
    assert beside.one("Service", RELEASE)["spec"]["type"] == "ClusterIP"
    switched = rendered(given(second, folder))
    (bound,) = switched.kind("TargetGroupBinding").values()
    assert f"NEW={bound['spec']['targetGroupARN']}" in APISIX.read_text()
    (container,) = pod(switched, RELEASE)["containers"]
    ports = {one["containerPort"] for one in container["ports"]}
    assert ports == {8443, 7085}  # as the page says of the target group


def test_values_that_take_the_place_of_apisix_are_there() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = re.findall(
        r"^\| `[^|]*\| ([^|]*)\|$", APISIX.read_text().partition("## 2.")[2], re.MULTILINE
    )
    named = {one for row in rows for one in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)[`:]", row)}
    assert len(named) >= 12
    for path in named:
        found: Any = values
        for step in path.split("."):
            assert step in found, path
            found = found[step]
