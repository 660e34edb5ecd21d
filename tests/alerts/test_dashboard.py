"""The dashboard: as it is described, of what is exported, and nothing of it is anybody's installation."""

import itertools
import re
import subprocess
from pathlib import Path

import yaml

from charts.dashboard import FILE, text
from charts.grafana import COLUMNS
from charts.traffic import FAILED
from sniproxy.errors import CloseReason
from sniproxy.metrics.catalogue import BY_NAME
from tests.support.dashboard import DASHBOARD, expressions, panels
from tests.support.prometheus import find_program, metrics_in, rules, samples_of

FOREIGN = {"ALERTS", "node_nf_conntrack_entries", "node_nf_conntrack_entries_limit"}
OURS = {sample for told in BY_NAME.values() for sample in samples_of(told)}
# Shown by others better, or of use in a single case: /metrics has them.
NOT_SHOWN = {
    "sniproxy_config_mirror_set_aside",
    "sniproxy_loop_tasks",
    "sniproxy_traces_sent",
    "sniproxy_upstream_unhealthy",  # by name: sniproxy_upstream_node_healthy
    "sniproxy_upstream_circuits_open",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}


def test_it_is_as_described() -> None:
    assert FILE.read_text() == text(), "run `make dashboard`"


def test_promtool_takes_each_expression(tmp_path: Path) -> None:
    records = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(expressions())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    done = subprocess.run(
        [find_program("promtool"), "check", "rules", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_shows_what_is_exported_and_all_of_it() -> None:
    shown = set[str]().union(*map(metrics_in, expressions()))
    assert shown - FOREIGN <= OURS
    missing = {name for name, told in BY_NAME.items() if not shown & samples_of(told)}
    assert missing == NOT_SHOWN


def test_failures_are_those_of_the_alerts() -> None:
    (failed,) = (rule["expr"] for rule in rules() if "sessions_failed" in rule.get("record", ""))
    assert f'reason=~"{FAILED}"' in failed
    assert set(FAILED.split("|")) <= set(CloseReason)


def test_the_data_source_and_all_names_are_variables() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "pod", "route"]
    for name in ("namespace", "pod", "route"):
        assert (variables[name]["multi"], variables[name]["includeAll"]) == (True, True)
    uids = re.findall(r'"uid": "([^"]*)"', FILE.read_text())
    assert set(uids) == {"sniproxy", "${datasource}"}  # the dashboard's own, and the data source's


def test_ids_are_unique_and_no_panel_lies_on_another() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    places = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= COLUMNS for _, place in places)
    for (one, a), (other, b) in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one, other)
