"""Lines for people at a terminal: what stands where, and that nobody's bytes are more than text."""

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sniproxy.log_text import text_line, visible
from sniproxy.logs import open_log

HEAD = {"time": "2026-11-28T23:47:32.123456Z", "level": "info", "component": "proxy"}
SESSION = {
    **HEAD,
    "event": "session",
    "session": "0011223344556677",
    "reason": "client_closed",
    "started": "2026-11-28T23:47:20.000000Z",
    "client": "192.0.2.1:50000",
    "listener": "0.0.0.0:8888",
    "sni": "play.example.com",
    "alpn": None,
    "route": "r1",
    "node": "gs-1:7777",
    "node_address": "10.0.0.5:7777",
    "source": "10.0.0.9:40000",
    "tls": "passthrough",
    "bytes_in": 1234,
    "bytes_out": 3_400_000,
    "duration_ms": 12_400.3,
    "hello_ms": 0.31,
    "connect_ms": 12.0,
}
COLOUR = re.compile(r"\x1b\[(?:0|2|31|33)m")


def test_a_session_is_a_line_in_columns() -> None:
    start = "23:47:32.123 info  client_closed     play.example.com             "
    way = "192.0.2.1:50000       > gs-1:7777               12.4s    1.2k    3.4M  "
    more = "route=r1 tls=passthrough hello=0.3ms connect=12ms session=0011223344556677"
    assert text_line(SESSION, colours=False) == start + way + more


def test_what_never_was_is_a_dash() -> None:
    missing = dict.fromkeys(("sni", "route", "node", "tls", "node_address", "source"))
    refused = {**SESSION, **missing, "reason": "hello_broken", "detail": "name b'a b'"}
    line = text_line(refused, colours=False)
    assert "hello_broken      -   " in line
    assert " > -   " in line
    assert "route" not in line
    assert """detail="name b'a b'" session=""" in line


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"event": "ready", "ports": [8888]}, "info  ready             ports=[8888]"),
        ({"event": "few descriptors", "level": "warning"}, "warn  few descriptors"),
        ({"event": "x", "level": "critical", "a": None}, "error x                 a=-"),
        ({"event": "x", "component": "admin"}, "info  x                 component=admin"),
        ({"event": "x", "cause": "a=b"}, 'info  x                 cause="a=b"'),
        ({"event": "x", "cause": ""}, 'info  x                 cause=""'),
        ({"event": "x", "cause": 'q"'}, 'info  x                 cause="q\\""'),
        ({"event": "x", "on": True, "n": 1.5}, "info  x                 on=true n=1.5"),
        ({"event": "session"}, "info  session"),  # of another kind
    ],
)
def test_other_lines_are_pairs(members: Mapping[str, Any], line: str) -> None:
    assert text_line({**HEAD, **members}, colours=False) == f"23:47:32.123 {line}"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("duration_ms", 0.04, "  0.0ms "),
        ("duration_ms", 350.4, "  350ms "),
        ("duration_ms", 59_940, "  59.9s "),
        ("duration_ms", 61_000, "  1m01s "),
        ("duration_ms", 7_500_000, "  2h05m "),
        ("bytes_out", 0, "      0  "),
        ("bytes_out", 999, "    999  "),
        ("bytes_out", 1000, "   1.0k  "),
        ("bytes_out", 12_345, "    12k  "),
        ("bytes_out", 2**64 - 1, "    18E  "),
    ],
)
def test_numbers_are_short(name: str, value: float, shown: str) -> None:
    assert shown in text_line({**SESSION, name: value}, colours=False)


@pytest.mark.parametrize(
    ("members", "colour"),
    [
        ({"reason": "client_closed"}, ""),
        ({"reason": "no_route"}, "\x1b[33m"),
        ({"reason": "upstream_refused"}, "\x1b[31m"),
        ({"event": "x", "level": "warning"}, "\x1b[33m"),
        ({"event": "x", "level": "error"}, "\x1b[31m"),
    ],
)
def test_colours_say_how_bad_it_is(members: Mapping[str, Any], colour: str) -> None:
    line = text_line({**SESSION, **members}, colours=True)
    assert set(COLOUR.findall(line)) == {"\x1b[2m", "\x1b[0m", *([colour] if colour else [])}
    assert COLOUR.sub("", line) == text_line({**SESSION, **members}, colours=False)


def test_a_traceback_is_indented_lines() -> None:
    trace = 'Traceback:\n  File "x"\nValueError: a\r\nforged \u2028 b\x1b[2J\x85\u202e'
    _, *lines = text_line({**HEAD, "event": "x", "exception": trace}, colours=False).split("\n")
    assert lines[:3] == ["    | Traceback:", '    |   File "x"', "    | ValueError: a"]
    assert all(line.startswith("    | ") and visible(line) == line for line in lines)


ANYTHING = st.text() | st.none() | st.integers() | st.lists(st.text(), max_size=2)
NAMES = sorted({*SESSION, "cause", "detail", "left_out"} - {*HEAD, "event"})
MEMBERS = st.dictionaries(st.sampled_from(NAMES), ANYTHING)


@given(MEMBERS, st.sampled_from(["session", "x"]))
@example({"bytes_in": 999_999_999_999_999_934_464}, "session")
@example({"bytes_in": 10**400, "bytes_out": -(10**400)}, "session")
def test_no_value_is_more_than_text(members: dict[str, Any], event: str) -> None:
    """Nothing ends a line, and nothing that a terminal would obey or a reader not see."""
    line = text_line({**SESSION, **members, **HEAD, "event": event}, colours=False)
    assert line.isascii()
    assert line.isprintable()


# Which form is chosen


class Terminal(io.StringIO):
    """A stream that people see."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "form", "environment", "text", "coloured"),
    [
        (io.StringIO, "auto", {}, False, False),
        (io.StringIO, "json", {}, False, False),
        (io.StringIO, "text", {}, True, False),
        (Terminal, "auto", {}, True, True),
        (Terminal, "text", {}, True, True),
        (Terminal, "json", {}, False, False),
        (Terminal, "auto", {"NO_COLOR": "1"}, True, False),
        (Terminal, "auto", {"NO_COLOR": ""}, True, True),
        (Terminal, "auto", {"TERM": "dumb"}, True, False),
    ],
)
def test_text_is_for_terminals_and_for_who_asks(
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    form: str,
    environment: dict[str, str],
    text: bool,
    coloured: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = stream()
    log = open_log("proxy", out)
    log.choose(form)
    log.warning("ready", port=1)
    log.info_many("session", ['"reason": "killed", "sni": "a\\nb"}'] * 2)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert ("\x1b" in out.getvalue()) is coloured
    if text:
        assert [COLOUR.sub("", line).split()[2] for line in lines] == ["ready", "killed", "killed"]
    else:
        assert [json.loads(line)["event"] for line in lines] == ["ready", "session", "session"]


def test_the_form_may_change() -> None:
    out = io.StringIO()
    log = open_log("proxy", out)
    for form in ("json", "text", "json"):
        log.choose(form)
        log.info("x")
    assert [line.startswith("{") for line in out.getvalue().splitlines()] == [True, False, True]
