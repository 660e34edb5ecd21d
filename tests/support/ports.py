"""Ports for processes that cannot be told to take any free one.

They come from below the range that the kernel gives to outgoing connections (from 32768 on), where a port that is free now
may be some client's a moment later; and each is given out once per process. Processes of pytest-xdist that run beside each
other each have a part of the range: one might otherwise find free what another has just given out.
"""

import os
import random
import socket

LOWEST, HIGHEST = 10_000, 32_000
WORKER, WORKERS = "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"  # such as gw2, and 4

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """That many ports, all different."""
    return [free_run(1) for _ in range(count)]


def free_run(length: int) -> int:
    """The first of that many neighbouring ports."""
    lowest, highest = _ours()
    while True:
        first = random.randrange(lowest, highest - length)
        run = range(first, first + length)
        if _given.isdisjoint(run) and all(map(_is_free, run)):
            _given.update(run)
            return first


def _ours() -> tuple[int, int]:
    """The range of this process."""
    number = int(os.environ.get(WORKER, "gw0").removeprefix("gw"))
    size = (HIGHEST - LOWEST) // int(os.environ.get(WORKERS, "1"))
    return LOWEST + number * size, LOWEST + (number + 1) * size


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
