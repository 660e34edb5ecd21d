"""The report: what it says of a result, and that it touches nothing but its part of the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.report import (
    BEGIN,
    END,
    Unmarked,
    figure,
    ratio,
    replace_between,
    report,
    rounded,
    write_report,
)
from bench.side_by_side import anonymous, medians, most_sessions
from bench.works import COST, QUICK

OURS, PEER = "sniproxy, native relay", "HAProxy"


@pytest.fixture
def result() -> dict[str, Any]:
    point = {OURS: {"cpu": 0.05}, PEER: {"cpu": 0.1}}
    return {
        "machine": "a machine",
        "date": "2026-11-21",
        "seconds": 61,
        "others": 0.25,
        "cores": {"proxy": 0, "load": 1},
        "descriptors": 20_000,
        "plan": QUICK.__dict__,
        "contestants": {
            OURS: {"version": "0.1.0", "ours": True},
            PEER: {"version": "2.6", "ours": False},
        },
        "absent": {"Envoy": "no envoy in PATH"},
        "configs": {OURS: "store: x\n", PEER: "global\n"},
        "units": {"connections": {OURS: {"cpu": 0.05}, PEER: {"cpu": 0.1}}},
        "curves": {"routes": {1: point, 1000: point}},
        "failures": [],
    }


def test_medians_are_taken_of_each_member() -> None:
    samples = [{"cpu": 3.0, "p50": 1.0}, {"cpu": 1.0, "p50": 9.0}, {"cpu": 2.0, "p50": 2.0}]
    assert medians(samples) == {"cpu": 2.0, "p50": 2.0}


def test_a_session_needs_two_descriptors() -> None:
    assert most_sessions(20_000) == 9_850


def test_ratio_is_ours_over_the_best_peer(result: dict[str, Any]) -> None:
    assert ratio(result, COST[0]) == pytest.approx(0.5)


def test_no_ratio_without_peers(result: dict[str, Any]) -> None:
    del result["contestants"][PEER]
    del result["units"]["connections"][PEER]
    del result["configs"][PEER]
    result["curves"] = {}
    assert ratio(result, COST[0]) is None
    assert "| 0.050 | - |" in report(result)


def test_report_names_the_absent_the_machine_and_the_configurations(result: dict[str, Any]) -> None:
    text = report(result)
    assert "**Envoy** was absent from this run: no envoy in PATH." in text
    assert "a machine. Other programs used 0.25 of its cores meanwhile." in text
    assert "<summary>HAProxy 2.6</summary>\n\n```\nglobal\n```" in text


def test_a_contestant_that_failed_is_said_to_have_failed(result: dict[str, Any]) -> None:
    del result["units"]["connections"][PEER]
    result["failures"] = ["connections: HAProxy: broken"]
    text = report(result)
    assert "| 0.050 | failed | - |" in text
    assert "Failed: connections: HAProxy: broken" in text


def test_tables_have_as_many_cells_in_each_row(result: dict[str, Any]) -> None:
    rows = [line for line in report(result).splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}


@pytest.mark.parametrize(
    ("value", "text"), [(0.0543, "0.054"), (1.417, "1.42"), (13.56, "13.6"), (612.3, "612")]
)
def test_figures_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert figure(value) == text


def test_only_what_stands_between_the_marks_changes() -> None:
    page = f"head\n{BEGIN}\nold\n{END}\ntail\n"
    changed = replace_between(page, BEGIN, END, "new")
    assert changed == f"head\n{BEGIN}\n\nnew\n\n{END}\ntail\n"
    assert replace_between(changed, BEGIN, END, "new") == changed


@pytest.mark.parametrize(
    "page", ["nothing", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_page_without_its_marks_is_left_alone(page: str) -> None:
    with pytest.raises(Unmarked):
        replace_between(page, BEGIN, END, "new")


def test_numbers_are_rounded_wherever_they_stand() -> None:
    value = {"a": [1.23456789, 2], "b": (0.000012345678, "x")}
    assert rounded(value) == {"a": [1.23457, 2], "b": [1.23457e-05, "x"]}


def test_configurations_do_not_tell_where_they_lay() -> None:
    assert anonymous("crt /tmp/x/1/pair.pem", Path("/tmp/x")) == "crt FOLDER/1/pair.pem"


def test_files_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(f"{BEGIN}{END}")
    write_report(result, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "](benchmarks/routes.svg)" in page
    assert (tmp_path / "benchmarks" / "routes.svg").read_text().startswith("<svg")
    kept = json.loads((tmp_path / "benchmarks" / "side_by_side.json").read_text())
    assert kept["units"]["connections"][OURS]["cpu"] == 0.05
