"""The benches of what counting and a scrape cost run; whether their bars are met is for whoever runs them."""

import pytest
from click.testing import CliRunner

from bench import observing, scrape
from sniproxy.relay.native import BUILT


def test_counting_prints_a_line_for_each_kind() -> None:
    done = CliRunner().invoke(
        observing.main, ["--sessions", "128", "--turns", "2", "--no-bars"], catch_exceptions=False
    )
    assert done.exit_code == 0
    kinds = ["by", "served", "message", *(["native"] if BUILT else [])]
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == kinds


def test_a_scrape_prints_both_sides() -> None:
    done = CliRunner().invoke(scrape.main, ["--routes", "5", "--no-bars"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()[2:]] == ["export", "scrape"]


@pytest.mark.parametrize("bench", [observing, scrape])
def test_a_bar_that_is_missed(bench: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for bar in ("BAR", "BAR_SESSION"):
        monkeypatch.setattr(bench, bar, -100.0, raising=False)
    count = ["--sessions", "128", "--turns", "2"] if bench is observing else ["--routes", "5"]
    assert CliRunner().invoke(bench.main, count).exit_code == 1  # type: ignore[attr-defined]
