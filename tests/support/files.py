"""What a process has open."""

import os
from contextlib import suppress


def open_files() -> frozenset[str]:
    """This process's descriptors, each with what it leads to: a number that is used again is another file.

    `open_files() <= before` says that nothing was left open; it also holds when the collector has closed meanwhile what
    another test had left to it.
    """
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that this listing took
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return frozenset(found)
