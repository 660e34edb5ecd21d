"""The bench of picks runs; whether its bars are met is for whoever runs it."""

import pytest
from click.testing import CliRunner

from bench.picks import BARS, TYPES, main, measure


def test_it_runs_and_prints_a_line_for_each_balancer_and_size() -> None:
    done = CliRunner().invoke(main, ["--picks", "20", "--no-bars"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.output.splitlines()[2:]
    assert len(lines) == len(TYPES) * len(BARS)


def test_a_bar_that_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.picks.BARS", {10: 0})
    done = CliRunner().invoke(main, ["--picks", "20"])
    assert done.exit_code == 1
    assert all(line.endswith("MISSED") for line in done.output.splitlines()[2:])


def test_what_is_measured_takes_time() -> None:
    first, each = measure("chash", 10, 20)
    assert first > each > 0
