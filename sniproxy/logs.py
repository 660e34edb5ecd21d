"""The log: one JSON object per line on a stream, for whoever collects it.

A stream that takes no more (its reader is gone, the disk is full) costs lines, which are counted, and never a session.
"""

import json
import sys
from typing import TextIO

import structlog

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
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _heading_first,
            structlog.processors.JSONRenderer(serializer=json.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),  # info and above
        component=component,
    )
    return log


def _heading_first(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """What every line has comes first, for people who read along."""
    heading = {name: line.pop(name) for name in ("time", "level", "component", "event")}
    return heading | dict(line)
