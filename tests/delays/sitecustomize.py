"""Random delays where only the scheduler's luck decides, in every Python process of a run of the tests: `make shake`.

What leans on that luck, be it a test or the product, fails here sooner than once in a hundred runs. Python imports this
file by its name when it starts, as it is on PYTHONPATH then.
"""

import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import trio

DELAY = float(os.environ.get("DELAY", "0"))  # seconds at most, around work in a thread
BUSY = DELAY / 4  # the same, that a loop is busy when a socket is ready
START = DELAY * 15  # the same, before a process of ours begins
SHARE = 0.25  # of calls in threads that are delayed, each before and after it
SHARE_BUSY = 0.1
SHARE_START = 0.5

_random = random.Random()  # tests seed the one that all share


def nap(longest: float, share: float) -> None:
    """Perhaps, for up to so many seconds."""
    if _random.random() < share:
        time.sleep(_random.random() * longest)


def late(run_sync: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same, in whose thread work begins late, and is told late."""

    async def run(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def delayed(*given: Any) -> Any:
            nap(DELAY, SHARE)
            try:
                return work(*given)
            finally:
                nap(DELAY, SHARE)

        return await run_sync(delayed, *args, **options)

    return run


def busy(wait: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """The same, after which something else holds the loop."""

    async def run(sock: Any) -> None:
        await wait(sock)
        nap(BUSY, SHARE_BUSY)

    return run


def wrap(name: str, how: Callable[[Any], Any], *modules: Any) -> None:
    """A function of that name, in each of them."""
    for module in modules:
        setattr(module, name, how(getattr(module, name)))


def install() -> None:
    """In this process."""
    wrap("run_sync", late, trio.to_thread, anyio.to_thread)
    for name in ("wait_readable", "wait_writable"):
        wrap(name, busy, trio.lowlevel, trio._core)  # trio's own sockets ask the second
    if any("sniproxy" in argument for argument in sys.orig_argv[1:4]):
        nap(START, SHARE_START)


if DELAY:
    install()
