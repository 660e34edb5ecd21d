"""What is said and counted of an error of ours."""

import traceback

import pytest

from sniproxy.defects import last_line, report
from sniproxy.metrics import Metrics
from tests.support.gateway import open_lines

pytestmark = pytest.mark.anyio  # the lines can be waited for


def failure(message: str) -> str:
    """A traceback."""
    try:
        raise ZeroDivisionError(message)
    except ZeroDivisionError:
        return traceback.format_exc()


def counted(metrics: Metrics, route: str) -> float | None:
    """How many of a route."""
    return metrics.registry.get_sample_value("sniproxy_session_errors_total", {"route": route})


async def test_it_is_logged_whole_and_counted_with_its_route() -> None:
    metrics, (log, lines) = Metrics(), open_lines()
    report(metrics, log, failure("here"), session="1f", route="7")
    report(metrics, log, failure("there"))
    first, second = lines.all
    assert (first["event"], first["level"]) == ("session failed", "error")
    assert (first["session"], first["route"]) == ("1f", "7")
    assert first["exception"].startswith("Traceback (most recent call last):")
    assert first["exception"].endswith("\nZeroDivisionError: here")
    assert (second["session"], second["route"]) == (None, None)
    assert (counted(metrics, "7"), counted(metrics, ""), counted(metrics, "8")) == (1, 1, None)


async def test_a_log_that_fails_costs_the_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    metrics, (log, lines) = Metrics(), open_lines()
    monkeypatch.setattr(log, "error", failing)
    report(metrics, log, failure("here"), route="7")
    assert lines.all == []
    assert counted(metrics, "7") == 1


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (failure("here"), "ZeroDivisionError: here"),
        (failure(""), "ZeroDivisionError"),
        ("", ""),
        ("one line", "one line"),
    ],
)
def test_the_last_line_names_the_error(trace: str, line: str) -> None:
    assert last_line(trace) == line
