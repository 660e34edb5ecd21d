"""The chart itself: its version, its values and their schema, what it packs, and what it leaves out."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniproxy import __version__
from tests.support.charts import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    MATRIX,
    NAME,
    ROOT,
    find_helm,
    read_objects,
    render,
    run_helm,
)

# What Kubernetes, or sniproxy itself, checks: the schema only says that it is an object.
OPEN = re.compile(
    r"(.*(annotations|Annotations|labels|Labels|nodeSelector|affinity|sysctls|updateStrategy)"
    r"|.*resources\.(requests|limits)|(config|canary\.config)\.\w+|.*tolerations\[\]|.*extraEnv\[\]"
    r"|service\.nlb\.targetGroupAttributes|networkPolicy\.(\w+From|upstreams)\[\]|global)"
)


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def values() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema of an object, with the value's path."""
    for choice in node.get("anyOf", [node]):
        if choice.get("type") == "object":
            yield path, choice
            for name, below in choice.get("properties", {}).items():
                yield from nodes(below, f"{path}.{name}".lstrip("."))
        elif "items" in choice:
            yield from nodes(choice["items"], f"{path}[]")


def test_its_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_no_value_is_unknown_to_the_schema() -> None:
    """Objects allow what they name and nothing else, but for those of Kubernetes' own and of sniproxy.yaml."""
    for path, node in nodes(schema()):
        closed = node.get("additionalProperties") is False
        assert closed != bool(OPEN.fullmatch(path)), path


def test_every_value_has_a_default_that_is_told() -> None:
    """values.yaml holds each value of the schema, and the schema each of values.yaml."""

    def compare(node: Any, default: Any, path: str) -> None:
        if node.get("type") == "object" and "properties" in node:
            missing = set() if path in ("config", "canary.config") else node["properties"].keys()
            assert missing - default.keys() - {"global"} == set(), path
            assert default.keys() <= node["properties"].keys(), path
            for name, below in node["properties"].items():
                if name in default:
                    compare(below, default[name], f"{path}.{name}".lstrip("."))

    compare(schema(), values(), "")


def test_every_value_is_used() -> None:
    """By some template; names of lists' items and of what is handed on whole are left out."""
    text = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    for path, node in nodes(schema()):
        if (
            "[]" in path
            or OPEN.fullmatch(path)
            or path.endswith(("config", "resources"))
            or not path
        ):
            continue
        for name in node.get("properties", {}):
            assert re.search(rf"\.{name}\b", text), f"{path}.{name}"


def test_defaults_are_those_of_sniproxy_or_safer() -> None:
    proxy = values()["proxy"]
    assert proxy["drain"]["accept"] == 120
    assert proxy["keepaliveIdle"] < values()["service"]["nlb"]["idleTimeout"]
    assert "127.0.0.0/8" in proxy["denyUpstreams"]
    assert "::1/128" in proxy["denyUpstreams"]


def test_no_secret_is_a_default_and_none_is_made_twice() -> None:
    first, second = (
        read_objects(run("template", "--values", EXAMPLES / "eks-nlb.yaml")) for _ in range(2)
    )
    for name, one in first.kind("Secret").items():
        other = second.one("Secret", name)
        same = {key for key in one["data"] if one["data"][key] == other["data"][key]}
        assert same <= {"admin-user", "proxy-user"}, name


def run(command: str, *arguments: str | Path, chart: Path = CHART) -> str:
    """The output of helm on a chart."""
    given = ("game", chart, *arguments) if command == "template" else (chart, *arguments)
    more = ("--kube-version", f"{KUBERNETES[0]}.0") if command == "template" else ()
    done = run_helm(command, *given, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alerts_and_dashboard_come_from_files_and_nothing_comes_of_none(tmp_path: Path) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "sniproxy"))
    asked = ("--values", EXAMPLES / "eks-nlb.yaml", "--set", "metrics.rules.enabled=true",
             "--set", "metrics.dashboard.enabled=true")  # fmt: skip
    for name in ("alerts.yaml", "dashboard.json"):
        (chart / "files" / name).unlink(missing_ok=True)
    without = read_objects(run("template", *asked, chart=chart))
    assert not without.kind("PrometheusRule")
    assert f"{NAME}-dashboard" not in without.kind("ConfigMap")
    summary = "{{ $labels.pod }} has {{ $value }}"
    groups = [{"name": "sniproxy", "rules": [{"alert": "A", "expr": "up == 0",
                                             "annotations": {"summary": summary}}]}]  # fmt: skip
    (chart / "files" / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    dashboard = {"title": "sniproxy {{pod}}", "panels": []}
    (chart / "files" / "dashboard.json").write_text(json.dumps(dashboard, indent=1))
    made = read_objects(run("template", *asked, chart=chart))
    assert made.one("PrometheusRule")["spec"] == {"groups": groups}
    config = made.one("ConfigMap", f"{NAME}-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["sniproxy.json"]) == dashboard


def test_a_service_monitor_finds_the_status_service() -> None:
    rendered = render(MATRIX["everything"])
    monitor = rendered.one("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    service = rendered.one("Service", f"{NAME}-status")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert not wanted.items() <= rendered.one("Service")["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "status", "path": "/metrics", "interval": "15s"}
    assert [port["name"] for port in service["spec"]["ports"]] == ["status"]


NOTES_AS_AN_OBJECT = """
kind: ConfigMap
metadata: {name: notes}
data:
  notes: |
    {{- tpl (.Files.Get "NOTES.txt") . | nindent 4 }}
"""


def test_what_is_said_after_an_install(tmp_path: Path) -> None:
    """helm says it to whoever has a cluster; here it is made an object."""
    chart = Path(shutil.copytree(CHART, tmp_path / "sniproxy"))
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    (chart / "templates" / "notes.yaml").write_text(NOTES_AS_AN_OBJECT)
    said = run("template", "--namespace", "play", "--values", EXAMPLES / "eks-nlb.yaml",
               "--set", "certificates[0].name=gs,certificates[0].secretName=gs-tls", chart=chart)  # fmt: skip
    notes = read_objects(said).one("ConfigMap", "notes")["data"]["notes"]
    for command in (
        f"kubectl -n play rollout status deployment/{NAME}\n",
        f"kubectl -n play port-forward service/{NAME}-admin 9180 &\n",
        f"kubectl -n play get secret {NAME}-admin -o jsonpath='{{.data.admin}}' | base64 -d)",
        f"kubectl -n play get secret {NAME}-keyring -o yaml > keyring.yaml\n",
        "kubectl label namespace play elbv2.k8s.aws/pod-readiness-gate-inject=enabled\n",
    ):
        assert command in notes
    assert "$file:///etc/sniproxy/certificates/gs/tls.crt" in notes
    assert "up to 780 seconds" in notes


def test_make_chart_packs_it(tmp_path: Path) -> None:
    """`make` finds a helm that is there; what it writes has the project's version."""
    done = subprocess.run(
        ["make", "chart", f"DIST={tmp_path}", f"HELM={find_helm()}", "--old-file=helm"],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packed = tmp_path / f"sniproxy-{__version__}.tgz"
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    for name in ("Chart.yaml", "values.schema.json", "files/etcd_users.py", "examples/dev.yaml"):
        assert f"sniproxy/{name}" in names


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_helm_ci_fails_and_others_go_on(ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.charts.ROOT", Path("/nowhere"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="make helm"):
        find_helm()
