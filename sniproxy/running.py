"""Runs what a command does, and gives its errors to whoever called the command."""

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio


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
