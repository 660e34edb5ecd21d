"""The log: one JSON object per line on a stream, for whoever collects it.

A stream that takes no more (its reader is gone, the disk is full) costs lines, which are counted, and never a session.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

import structlog

LEVELS = {"warn": "warning", "exception": "error"}  # methods that are named otherwise

# One encoder for all lines: json.dumps makes a new one for each, if it is told what to do with other types.
encode = json.JSONEncoder(default=repr).encode


class _Lines:
    """Writes lines, and counts those that the stream did not take."""

    dropped = 0  # by this process

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str, count: int = 1) -> None:
        """`count`: how many lines it is."""
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            _Lines.dropped += count

    info = warning = error = critical = write


class Log:
    """A component's logger. Members of a line are named as they will stand in it."""

    def __init__(self, component: str, stream: TextIO) -> None:
        self._lines = _Lines(stream)
        self._component = component
        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            self._lines,
            processors=[_render],
            wrapper_class=structlog.make_filtering_bound_logger(20),  # info and above
            component=component,
        )
        self.debug = logger.debug
        self.info = logger.info
        self.warning = logger.warning
        self.error = logger.error
        self.exception = logger.exception

    def info_many(self, event: str, bodies: Sequence[str]) -> None:
        """A line for each body, which is JSON's members and a closing brace: `"a": 1}`. All are written at once."""
        if bodies:
            opened = encode(_heading(self._component, "info", event))[:-1] + ", "
            self._lines.write(opened + ("\n" + opened).join(bodies), len(bodies))


def dropped_lines() -> int:
    """Lines of this process that nobody will read."""
    return _Lines.dropped


def open_log(component: str, stream: TextIO | None = None) -> Log:
    """A logger that names its component in every line. JSON escapes what a client may have put into a value."""
    return Log(component, stream or sys.stdout)


def _heading(component: str, level: str, event: str) -> dict[str, object]:
    """What every line has comes first, for people who read along."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"time": now, "level": level, "component": component, "event": event}


def _render(logger: object, level: str, line: structlog.typing.EventDict) -> str:
    """The line as JSON. One processor in place of structlog's five: its cost is part of a session's."""
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, level, line)
    component, event = line.pop("component"), line.pop("event")
    return encode({**_heading(component, LEVELS.get(level, level), event), **line})
