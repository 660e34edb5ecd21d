"""The log: one JSON object per line, whatever a value holds."""

import io
import json
from typing import Any

import pytest

from sniproxy.logs import dropped_lines, open_log


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged, each line parsed on its own."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_names_its_component_level_and_time() -> None:
    stream = io.StringIO()
    log = open_log("worker", stream)
    log.info("ready", ports=[8888])
    log.warning("store lost", retry_s=0.1)
    first, second = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {"component": "worker", "level": "info", "event": "ready", "ports": [8888]}
    assert second["level"] == "warning"


def test_debug_is_left_out() -> None:
    stream = io.StringIO()
    open_log("worker", stream).debug("noise")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "hostile", ["a\nb", 'quote"', "\x1b[31m", "\u2028", "\0", "\ud800", "ä", "{}", "%s {x}"]
)
def test_a_value_cannot_break_out_of_its_line(hostile: str) -> None:
    stream = io.StringIO()
    open_log("worker", stream).info("session", sni=hostile)
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["sni"] == hostile


def test_an_exception_comes_with_its_traceback() -> None:
    stream = io.StringIO()
    log = open_log("worker", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("session failed", session="1")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: boom")


def test_without_a_stream_it_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    open_log("worker").info("ready")
    assert json.loads(capsys.readouterr().out)["event"] == "ready"


class FullDisk(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [FullDisk(), io.StringIO()])
def test_a_stream_that_takes_no_more_costs_lines_and_nothing_else(stream: io.StringIO) -> None:
    if not isinstance(stream, FullDisk):
        stream.close()
    before = dropped_lines()
    log = open_log("worker", stream)
    log.info("session")
    log.warning("session")
    assert dropped_lines() == before + 2
