"""What a soak allows, and what it notices."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import soak
from bench.generator import Missing
from bench.soak import FULL, Plan, check_ports, main, slices, within
from bench.watch import SessionLines, State, counts, described, grown, left_behind

BEFORE = State(
    descriptors=20,
    tasks=10,
    active=0,
    opened=400,
    closed=400,
    lines=400,
    memory=60_000,
    allocated=50_000,
)
AFTER = replace(BEFORE, opened=500, closed=500, lines=500)


def test_all_that_is_back_is_no_miss() -> None:
    assert left_behind(BEFORE, AFTER, 100) == []
    assert grown(BEFORE, AFTER) == []


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"descriptors": 21}, "descriptors: 20 before, 21 after"),
        ({"descriptors": 19}, "descriptors: 20 before, 19 after"),
        ({"tasks": 11}, "tasks: 10 before, 11 after"),
        ({"active": 1}, "active: 0 before, 1 after"),
        ({"opened": 501}, "opened: 101 more, of 100 sessions"),
        ({"closed": 499}, "closed: 99 more, of 100 sessions"),
        ({"lines": 499}, "lines: 99 more, of 100 sessions"),
    ],
)
def test_one_too_many_or_too_few_is_a_miss(change: dict[str, int], missed: str) -> None:
    assert left_behind(BEFORE, replace(AFTER, **change), 100) == [missed]


@pytest.mark.parametrize(
    ("had", "more", "missed"),
    [
        (50_000, -9_000, False),
        (50_000, 1_024, False),  # 1 MiB, more than 2 % of it
        (50_000, 1_025, True),
        (100_000, 2_000, False),
        (100_000, 2_001, True),
    ],
)
def test_memory_may_grow_by_a_mib_or_a_fiftieth(had: float, more: float, missed: bool) -> None:
    before = replace(BEFORE, allocated=had)
    assert bool(grown(before, replace(AFTER, allocated=had + more))) is missed


def test_pages_of_files_are_no_growth() -> None:
    assert grown(BEFORE, replace(AFTER, memory=90_000)) == []


def test_description_names_all_of_it() -> None:
    assert described(BEFORE, AFTER) == (
        "descriptors 20 -> 20, tasks 10 -> 10, active 0 -> 0, memory 60000 -> 60000 KiB, "
        "allocated 50000 -> 50000 KiB; opened +100, closed +100, lines +100"
    )


def test_closed_sessions_are_summed_over_their_reasons() -> None:
    metrics = {
        "sniproxy_sessions_opened_total": 7.0,
        'sniproxy_sessions_closed_total{reason="client_closed"}': 4.0,
        'sniproxy_sessions_closed_total{reason="no_route"}': 2.0,
        'sniproxy_sessions_closed_created{reason="no_route"}': 1e9,
    }
    assert counts(metrics) == (7, 6)


def test_lines_are_counted_once_and_when_they_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = b'{"level": "info", "event": "session", "reason": "client_closed"}\n'
    log.write_bytes(line + b'{"event": "started"}\n' + line + line[:40])
    lines = SessionLines(log)
    assert lines.count() == 2
    with log.open("ab") as more:
        more.write(line[40:] + line)
    assert lines.count() == 4
    assert lines.count() == 4


@pytest.mark.parametrize(
    ("limit", "ports", "sessions"),
    [(1_000_000, 28_232, 20_000), (20_000, 28_232, 9_850), (1_000_000, 10_300, 10_000)],
)
def test_sessions_are_as_many_as_descriptors_and_ports_allow(
    limit: int, ports: int, sessions: int
) -> None:
    assert within(20_000, limit, ports) == sessions


def test_ports_that_are_not_given_out_again_must_be_enough() -> None:
    check_ports(1_000_000, 28_232, reuse=2)
    check_ports(14_116, 28_232, reuse=0)  # as many to warm up
    with pytest.raises(Missing, match="tcp_tw_reuse is 0"):
        check_ports(14_117, 28_232, reuse=0)


def test_slices_add_up() -> None:
    assert list(slices(5, 2)) == [2, 2, 1]
    assert list(slices(0, 2)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("missed", "code"), [([], 0), (["a bar"], 1)])
def test_a_miss_is_said_and_is_the_exit_code(
    missed: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []

    def run(plan: Plan, *_: Any) -> list[str]:
        plans.append(plan)
        return missed

    monkeypatch.setattr(soak, "run", run)
    monkeypatch.setattr(soak, "descriptors", lambda: 1_300)
    monkeypatch.setattr("bench.soak.signal.signal", lambda *_: None)
    monkeypatch.setattr("bench.soak.resource.setrlimit", lambda *_: None)
    result = CliRunner().invoke(main, ["--minutes", "3"])
    assert result.exit_code == code
    assert plans == [replace(FULL, sessions=500, minutes=3)]
    assert "500 sessions at once, not 20000: a process may have 1300 descriptors" in result.output
    assert ("FAILED: a bar" in result.output) is bool(missed)
