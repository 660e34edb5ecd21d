"""The log: one JSON object per line on a stream, for whoever collects it."""

import json
import sys
from typing import TextIO

import structlog

Log = structlog.typing.FilteringBoundLogger


def open_log(component: str, stream: TextIO | None = None) -> Log:
    """A logger that names its component in every line. JSON escapes what a client may have put into a value."""
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stdout),
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
