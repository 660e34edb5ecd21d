"""What a process has open."""

import gc
import os
from contextlib import suppress


def open_files() -> frozenset[str]:
    """This process's descriptors, each with what it leads to: a number that is used again is another file."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that this listing took
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return frozenset(found)


def settled_files() -> frozenset[str]:
    """The same, once all is closed that other tests have left to the collector."""
    gc.collect()
    return open_files()
