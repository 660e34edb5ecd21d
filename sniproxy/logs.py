"""The log: one JSON object per line on a stream, for whoever collects it.

A stream that takes no more (its reader is gone, the disk is full) costs lines, which are counted, and never a session.
"""

import json
import sys
from datetime import UTC, datetime
from typing import TextIO

import structlog

LEVELS = {"warn": "warning", "exception": "error"}  # methods that are named otherwise

Log = structlog.typing.FilteringBoundLogger


class _Lines:
    """Writes lines, and counts those that the stream did not take."""

    dropped = 0  # by this process

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            _Lines.dropped += 1

    info = warning = error = critical = write


def dropped_lines() -> int:
    """Lines of this process that nobody will read."""
    return _Lines.dropped


def open_log(component: str, stream: TextIO | None = None) -> Log:
    """A logger that names its component in every line. JSON escapes what a client may have put into a value."""
    log: Log = structlog.wrap_logger(
        _Lines(stream or sys.stdout),
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(20),  # info and above
        component=component,
    )
    return log


# One encoder for all lines: json.dumps makes a new one for each, if it is told what to do with other types.
_encode = json.JSONEncoder(default=repr).encode


def _render(logger: object, level: str, line: structlog.typing.EventDict) -> str:
    """The line as JSON; what every line has comes first, for people who read along.

    One processor in place of structlog's five: each session writes a line, and its cost is part of the session's.
    """
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, level, line)
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    heading = {"time": now, "level": LEVELS.get(level, level)}
    for name in ("component", "event"):
        heading[name] = line.pop(name)
    heading.update(line)
    return _encode(heading)
