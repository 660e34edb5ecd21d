"""The log: one JSON object per line, whatever a value holds."""

import io
import json
from typing import Any

import pytest

from sniproxy.logs import dropped_lines, open_log, stamp


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
    log.info_many("session", ['"number": 1}'] * 5)
    log.info_many("session", [])
    assert dropped_lines() == before + 7


# Many at once


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_many_lines_are_each_whole_and_headed_as_one_would_be(count: int) -> None:
    stream = io.StringIO()
    log = open_log("worker", stream)
    log.info_many("session", [f'"number": {number}, "sni": "a\\nb"}}' for number in range(count)])
    log.info("session", number=count, sni="a\nb")
    assert stream.getvalue().count("\n") == count + 1
    written = lines(stream)
    assert [list(line) for line in written] == [list(written[-1])] * (count + 1)
    assert [line.pop("number") for line in written] == list(range(count + 1))
    assert all(line.pop("time").endswith("Z") for line in written)
    assert written == [written[-1]] * (count + 1)


class Counting(io.StringIO):
    """A stream that counts what it is asked for."""

    writes = flushes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def flush(self) -> None:
        self.flushes += 1


def test_many_lines_are_written_at_once() -> None:
    stream = Counting()
    log = open_log("worker", stream)
    log.info_many("session", [])
    assert (stream.writes, stream.flushes) == (0, 0)
    log.info_many("session", ['"number": 1}'] * 100)
    assert (stream.writes, stream.flushes) == (1, 1)
    assert len(lines(stream)) == 100


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (-0.25, "1969-12-31T23:59:59.750000Z"),
        (1_795_896_000.5, "2026-11-28T20:00:00.500000Z"),
        (1_795_895_999.999999, "2026-11-28T19:59:59.999999Z"),
        (0.9999999999, "1970-01-01T00:00:00.999999Z"),
        (4_102_444_800.000_25, "2100-01-01T00:00:00.000249Z"),
    ],
)
def test_a_time_is_written_to_the_microsecond(at: float, written: str) -> None:
    assert stamp(at) == written
