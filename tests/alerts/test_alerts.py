"""The alerts: they fire when they should and not when they should not, name what we export, and lead to a runbook."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sniproxy.errors import REFUSALS, CloseReason
from sniproxy.metrics.catalogue import BY_NAME
from sniproxy.metrics.objects import MOST_NODES
from tests.support.prometheus import ROOT, find_program, metrics_in, rules, samples_of

HERE = Path(__file__).parent
# Of other exporters: Prometheus itself, node_exporter.
FOREIGN = {"up", "node_nf_conntrack_entries", "node_nf_conntrack_entries_limit"}
OURS = {sample for told in BY_NAME.values() for sample in samples_of(told)}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
ALERTING = [rule for rule in rules() if "alert" in rule]
NAMES = [rule["alert"] for rule in ALERTING]
RULE_TESTS = sorted(HERE.glob("*.yaml"))
# Nobody is called for these: they are how sessions end well, or what limits and other alerts are for.
NO_FAILURES = REFUSALS | {
    CloseReason.CLIENT_CLOSED,
    CloseReason.UPSTREAM_CLOSED,
    CloseReason.CLIENT_TRUNCATED,
    CloseReason.UPSTREAM_TRUNCATED,
    CloseReason.CLIENT_RESET,
    CloseReason.UPSTREAM_RESET,
    CloseReason.IDLE_TIMEOUT,
    CloseReason.SESSION_TIMEOUT,
    CloseReason.KILLED,
    CloseReason.SHED,
    CloseReason.SHUTDOWN,
    CloseReason.PROBE,
    CloseReason.TLS_ERROR,
}


def test_they_fire_when_they_should_and_not_when_they_should_not() -> None:
    done = subprocess.run(
        [find_program("promtool"), "test", "rules", *RULE_TESTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_has_moments_when_it_fires_and_when_it_does_not() -> None:
    """Each test is named after its alert, and asks for that one alone."""
    tests = [test for file in RULE_TESTS for test in yaml.safe_load(file.read_text())["tests"]]
    assert sorted(test["name"] for test in tests) == sorted(NAMES)
    for test in tests:
        asked = test["promql_expr_test"]
        assert all(f'alertname="{test["name"]}"' in one["expr"] for one in asked)
        assert {bool(one["exp_samples"]) for one in asked} == {True, False}, test["name"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_it_reads_what_is_exported(rule: dict[str, str]) -> None:
    assert metrics_in(rule["expr"]) - RECORDED - FOREIGN <= OURS


def test_the_list_of_metrics_names_the_alerts_that_read_them() -> None:
    recorded = {rule["record"]: metrics_in(rule["expr"]) for rule in rules() if "record" in rule}
    readers: dict[str, set[str]] = {}
    for rule in ALERTING:
        for name in metrics_in(rule["expr"]):
            for sample in recorded.get(name, {name}):
                readers.setdefault(sample, set()).add(rule["alert"])
    for told in BY_NAME.values():
        read_by = set().union(*(readers.get(sample, set()) for sample in samples_of(told)))
        assert {name for name in told.alert.split(", ") if name} <= read_by, told.name
        assert not read_by or told.alert, f"{told.name} is read by {read_by}"


def test_reasons_are_those_of_sessions() -> None:
    found = [
        reason
        for rule in rules()
        for reasons in re.findall(r'reason=~?"([^"]*)"', rule["expr"])
        for reason in reasons.split("|")
    ]
    assert set(found) <= set(CloseReason)


def test_who_is_missing_of_very_many_game_servers_is_not_taken_for_down() -> None:
    (down,) = (rule["expr"] for rule in ALERTING if rule["alert"] == "SniproxyUpstreamDown")
    assert down.endswith(f">= {MOST_NODES}")


def test_a_failure_is_what_is_neither_a_good_end_nor_a_refusal() -> None:
    """A new reason has to be one or the other."""
    (failed,) = (rule["expr"] for rule in rules() if "sessions_failed" in rule.get("record", ""))
    (reasons,) = re.findall(r'reason=~"([^"]*)"', failed)
    assert set(reasons.split("|")) == set(CloseReason) - NO_FAILURES


@pytest.mark.parametrize("rule", ALERTING, ids=NAMES)
def test_it_says_what_is_wrong_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    anchor = str(rule["alert"]).lower()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{anchor}"


def test_each_has_a_runbook_and_each_runbook_an_alert() -> None:
    runbooks = (ROOT / "docs" / "runbooks.md").read_text()
    titles = re.findall(r"^### (.+)$", runbooks, re.MULTILINE)
    assert titles == NAMES  # in their order


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ('sum by (job, pod) (rate(a_total{b=~"c|d"}[5m])) > 2', {"a_total"}),
        (
            "a offset 10m < on (job) group_left () max without (x) (b:c:max) or 0 * d",
            {"a", "b:c:max", "d"},
        ),
        ("absent(a) and on (job, instance) b unless c - time() < 14 * 86400", {"a", "b", "c"}),
        ("1 + 2", set()),
    ],
)
def test_metrics_are_found_in_expressions(expression: str, names: set[str]) -> None:
    assert metrics_in(expression) == names
