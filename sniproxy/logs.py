"""The log: one JSON object per line on a stream, for whoever collects it; or text, for people at a terminal (`log_text.py`).

A stream that takes no more (its reader is gone or has stopped, the disk is full) costs lines, which are counted, and never
a session. A stream with a file descriptor is written by a thread (`log_queue.py`), so nobody who logs waits for its reader.
One without, such as a StringIO, is written at once.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import structlog

from sniproxy.log_queue import END_WAIT, LOSSES, LineQueue
from sniproxy.log_text import text_line

LEVELS = {"warn": "warning", "exception": "error"}  # methods that are named otherwise

# One encoder for all lines: json.dumps makes a new one for each, if it is told what to do with other types.
encode = json.JSONEncoder(default=repr).encode


class _Lines:
    """Writes lines, and counts those that the stream did not take."""

    def __init__(self, stream: TextIO | None, about_losses: Callable[[int], str]) -> None:
        """stream: None where the process has no stdout. about_losses: the line that says how many were lost."""
        self._stream = stream
        self.queue: LineQueue | None = None
        try:
            if stream is not None:
                self.queue = LineQueue(stream.fileno(), about_losses)
        except (OSError, ValueError):  # it has none, or was closed
            pass

    def write(self, line: str) -> None:
        """One, or several with line ends between them."""
        count = line.count("\n") + 1
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
        self._stream = stream
        self._component = component
        self._text = self._colours = False
        self.choose("auto")
        self._lines = _Lines(stream, self._about_losses)
        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            self._lines,
            processors=[self._render],
            wrapper_class=structlog.make_filtering_bound_logger(20),  # info and above
            component=component,
        )
        self.debug = logger.debug
        self.info = logger.info
        self.warning = logger.warning
        self.error = logger.error
        self.exception = logger.exception

    def choose(self, form: str) -> None:
        """How lines are written from now on: `json`, `text`, or `auto`: text where people see it."""
        seen = _is_terminal(self._stream)
        self._text = form == "text" or (form == "auto" and seen)
        self._colours = seen and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def info_many(self, event: str, bodies: Sequence[str]) -> None:
        """A line for each body, which is JSON's members and a closing brace: `"a": 1}`. All are written at once."""
        if not bodies:
            return
        heading = _heading(self._component, "info", event)
        if self._text:
            lines = [self._written({**heading, **json.loads("{" + body)}) for body in bodies]
            self._lines.write("\n".join(lines))
            return
        opened = encode(heading)[:-1] + ", "
        self._lines.write(opened + ("\n" + opened).join(bodies))

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

    def _render(self, logger: object, level: str, line: structlog.typing.EventDict) -> str:
        """One processor in place of structlog's five: its cost is part of a session's."""
        if "exc_info" in line:
            line = structlog.processors.format_exc_info(logger, level, line)
        component, event = line.pop("component"), line.pop("event")
        return self._written({**_heading(component, LEVELS.get(level, level), event), **line})

    def _about_losses(self, count: int) -> str:
        heading = _heading(self._component, "warning", "log lines dropped")
        return self._written({**heading, "count": count})

    def _written(self, members: Mapping[str, Any]) -> str:
        return text_line(members, colours=self._colours) if self._text else encode(members)


def dropped_lines() -> int:
    """Lines of this process that nobody will read."""
    return LOSSES.count


def open_log(component: str, stream: TextIO | None = None) -> Log:
    """A logger that names its component in every line. JSON escapes what a client may have put into a value."""
    return Log(component, stream or sys.stdout)


def stamp(at: float) -> str:
    """A time, in Unix seconds, as lines have it: UTC, to the microsecond."""
    second, part = divmod(at, 1.0)
    return f"{_second(second)}.{int(part * 1e6):06}Z"


@lru_cache(maxsize=64)
def _second(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it was closed
        return False


def _heading(component: str, level: str, event: str) -> dict[str, object]:
    """What every line has comes first, for people who read along."""
    return {"time": stamp(time.time()), "level": level, "component": component, "event": event}
