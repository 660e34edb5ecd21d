"""Ports for processes that cannot be told to take any free one.

They come from below the range that the kernel gives to outgoing connections (from 32768 on), where a port that is free now
may be some client's a moment later; and each is given out once per process.
"""

import random
import socket

LOWEST, HIGHEST = 10_000, 32_000

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """That many ports, all different."""
    return [free_run(1) for _ in range(count)]


def free_run(length: int) -> int:
    """The first of that many neighbouring ports."""
    while True:
        first = random.randrange(LOWEST, HIGHEST - length)
        run = range(first, first + length)
        if _given.isdisjoint(run) and all(map(_is_free, run)):
            _given.update(run)
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
