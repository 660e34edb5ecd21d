"""A line of the log for people at a terminal: short, in columns, and as safe as the JSON it stands for. Pure.

    23:47:32.123 info  client_closed     play.example.com   192.0.2.1:50000 > 10.0.0.5:7777   12.4s    1.2k    3.4M  route=1

A value is written as it is where it is made of plain characters, and else as JSON writes it, in ASCII and in quotes: nothing
that a client sends can end a line, look like another member, or tell a terminal what to do.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sniproxy.errors import ORDINARY, REFUSALS

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII but blanks, quotes, backslashes and "="
_UNSEEN = re.compile(r"[^ -~]+")
_encode = json.JSONEncoder(default=repr).encode

_LEVELS = {"warning": "warn", "critical": "error"}
_DIM, _YELLOW, _RED, _END = "\x1b[2m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_COLOURS = {"warning": _YELLOW, "error": _RED, "critical": _RED}
_UNITS = " kMGTPE"
# Of a session: what stands in columns, and what only the JSON has.
_COLUMNS = frozenset(
    {"reason", "sni", "client", "node", "duration_ms", "bytes_in", "bytes_out", "session"}
)
_LEFT_OUT = frozenset({"started", "listener", "node_address", "source"})


def text_line(members: Mapping[str, Any], *, colours: bool) -> str:
    """The line of these members, which begin with time, level, component and event. A traceback is lines of its own."""
    rest = dict(members)
    clock = str(rest.pop("time"))[11:23]
    level, event = str(rest.pop("level")), str(rest.pop("event"))
    component, trace = str(rest.pop("component")), rest.pop("exception", None)
    if event == "session" and "reason" in rest:
        what, colour, text = str(rest["reason"]), _colour_of(str(rest["reason"])), _session(rest)
    else:
        what, colour = event, _COLOURS.get(level, "")
        text = _pairs(rest | ({} if component == "proxy" else {"component": component}))
    dim = _DIM if colours else ""
    colour = colour if colours else ""
    start = f"{dim}{clock}{dim and _END} {_LEVELS.get(level, level):5} "
    line = f"{start}{colour}{visible(what):17}{colour and _END} {text}".rstrip()
    if trace is None:
        return line
    return "\n".join([line, *(f"    | {visible(one)}" for one in str(trace).splitlines())])


def _session(members: Mapping[str, Any]) -> str:
    way = f"{_value(members.get('client')):21} > {_value(members.get('node')):21}"
    moved = f"{_bytes(members.get('bytes_in')):>7} {_bytes(members.get('bytes_out')):>7}"
    lasted = f"{_duration(members.get('duration_ms')):>7}"
    skip = _COLUMNS | _LEFT_OUT
    more = {name: one for name, one in members.items() if one is not None and name not in skip}
    shown = {
        name.removesuffix("_ms"): _duration(one) if name.endswith("_ms") else one
        for name, one in more.items()
    }
    if "session" in members:
        shown["session"] = members["session"]
    return f"{_value(members.get('sni')):28} {way} {lasted} {moved}  {_pairs(shown)}"


def _pairs(members: Mapping[str, Any]) -> str:
    return " ".join(f"{_plain(name)}={_value(value)}" for name, value in members.items())


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return _plain(value)
    return _encode(value)


def _plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _encode(text)


def visible(text: str) -> str:
    """Printable ASCII, quotes and blanks as they are, and all else as JSON writes it."""
    return _UNSEEN.sub(lambda found: _encode(found[0])[1:-1], text)


def _colour_of(reason: str) -> str:
    if reason in ORDINARY:
        return ""
    return _YELLOW if reason in REFUSALS else _RED


def _duration(milliseconds: object) -> str:
    """1.5ms, 350ms, 12.4s, 3m20s, 2h05m."""
    if not isinstance(milliseconds, int | float):
        return _value(milliseconds)
    if milliseconds < 10:
        return f"{milliseconds:.1f}ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def _bytes(count: object) -> str:
    """999, 1.2k, 34M."""
    if not isinstance(count, int) or abs(count) >= 1000 ** len(_UNITS):
        return _value(count)
    size, power = float(count), 0
    while (
        size >= 1000 and power < len(_UNITS) - 1
    ):  # what is just below the next unit may be rounded to it
        size, power = size / 1000, power + 1
    unit = _UNITS[power] if power else ""
    return f"{size:.0f}{unit}" if size >= 10 or not unit else f"{size:.1f}{unit}"
