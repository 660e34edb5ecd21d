"""The log: one JSON object per line on a stream, for whoever collects it.

A stream that takes no more (its reader is gone or has stopped, the disk is full) costs lines, which are counted, and never
a session. A stream with a file descriptor is written by a thread (`log_queue.py`), so nobody who logs waits for its reader.
One without, such as a StringIO, is written at once.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TextIO

import structlog

from sniproxy.log_queue import END_WAIT, LOSSES, LineQueue

LEVELS = {"warn": "warning", "exception": "error"}  # methods that are named otherwise

# One encoder for all lines: json.dumps makes a new one for each, if it is told what to do with other types.
encode = json.JSONEncoder(default=repr).encode


class _Lines:
    """Writes lines, and counts those that the stream did not take."""

    def __init__(self, stream: TextIO | None, component: str) -> None:
        """stream: None where the process has no stdout. component: who tells of lines that were lost."""
        self._stream = stream
        self.queue: LineQueue | None = None
        try:
            if stream is not None:
                self.queue = LineQueue(stream.fileno(), partial(_about_losses, component))
        except (OSError, ValueError):  # it has none, or was closed
            pass

    def write(self, line: str, count: int = 1) -> None:
        """`count`: how many lines it is."""
        if self.queue is not None:
            self.queue.put(f"{line}\n".encode("utf-8", "backslashreplace"), count)
            return
        if self._stream is None:
            LOSSES.add(count)
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            LOSSES.add(count)

    info = warning = error = critical = write


class Log:
    """A component's logger. Members of a line are named as they will stand in it."""

    def __init__(self, component: str, stream: TextIO | None) -> None:
        self._lines = _Lines(stream, component)
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

    def flush(self, seconds: float = END_WAIT) -> bool:
        """Waits, and the loop with it, until what was logged is written; False: it took longer.

        Before what no exit handler sees: exec, os._exit, the end of a forked child.
        """
        queue = self._lines.queue
        return queue is None or queue.flush(seconds)

    def close(self, seconds: float = END_WAIT) -> bool:
        """`flush`, and the end of its thread: lines from now on are lost. The end of a process does this by itself."""
        queue = self._lines.queue
        return queue is None or queue.close(seconds)


def dropped_lines() -> int:
    """Lines of this process that nobody will read."""
    return LOSSES.count


def open_log(component: str, stream: TextIO | None = None) -> Log:
    """A logger that names its component in every line. JSON escapes what a client may have put into a value."""
    return Log(component, stream or sys.stdout)


def _about_losses(component: str, count: int) -> str:
    return encode({**_heading(component, "warning", "log lines dropped"), "count": count})


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
