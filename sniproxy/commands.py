"""What commands share: options, and how their work is run."""

import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds

config_option = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file (YAML). SNIPROXY_... environment variables override it.",
)


class Duration(click.ParamType[int]):
    """Seconds of 90s, 15m, 1h or 1d; `least`: how many there must be."""

    name = "duration"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        found = re.fullmatch("([0-9]{1,5})([smhd])", str(value))
        seconds = int(found[1]) * UNITS[found[2]] if found else -1
        if seconds < self._least:
            self.fail(f"{value!r}: expected such as 90s, 15m, 1h or 1d", param, context)
        return seconds


def run(work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """trio.run, with an error that is alone in its group given as that error, and Ctrl-C as a plain end."""
    try:
        return trio.run(partial(work, *args))
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
    except KeyboardInterrupt:
        sys.exit(130)
