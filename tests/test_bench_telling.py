"""What the bench of the log and of traces is made of: sessions that are told of, and bars that can be missed."""

import pytest

from bench.telling import PLANNED_US, SERVED_US, WAYS, Cost, measure, report


@pytest.mark.parametrize("planned", [False, True])
def test_sessions_are_told_of(planned: bool) -> None:
    for way in WAYS:
        if not way.traced:
            assert measure(way, 200, planned=planned).loop > 0


@pytest.mark.parametrize(
    ("served", "planned", "missed"),
    [(SERVED_US, PLANNED_US, 0), (SERVED_US + 1, 0.0, 1), (SERVED_US + 1, PLANNED_US + 1, 2)],
)
def test_bars_can_be_missed(
    served: float, planned: float, missed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {(way.name, one): Cost(0.0, 0.0) for way in WAYS for one in (False, True)}
    costs["lines as JSON", False] = Cost(served, 1.0)
    costs["lines as JSON", True] = Cost(planned, 1.0)
    assert len(report(costs)) == missed
    assert f"| lines as JSON | {served:.1f} | 1.0 |" in capsys.readouterr().out
