"""What a machine says of names and of those who know them: /etc/hosts and /etc/resolv.conf.

Read again when they change; what they hold is read by pure functions.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sniproxy.networks import family_of

HOSTS = Path("/etc/hosts")
RESOLV_CONF = Path("/etc/resolv.conf")
LOOK_EVERY = 1.0  # seconds between two looks at a file
MOST_BYTES = 1024 * 1024  # of a file; what stands beyond is not read
THIS_MACHINE = ("127.0.0.1",)  # who is asked where nobody is named
MOST_NDOTS = 15  # as in the C library

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """Whom to ask, and how names are completed."""

    servers: tuple[str, ...] = THIS_MACHINE
    search: tuple[str, ...] = ()
    ndots: int = 1

    def candidates(self, name: str) -> tuple[str, ...]:
        """The absolute names that a name may stand for, in the order in which they are asked for."""
        if name.endswith("."):
            return (name,)
        completed = tuple(f"{name}.{suffix}." for suffix in self.search)
        if name.count(".") >= self.ndots:
            return (f"{name}.", *completed)
        return (*completed, f"{name}.")


def parse_resolv_conf(text: str) -> ResolvConf:
    """As the C library reads it: the last of `search` and `domain` counts; what is not understood is left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_] if family_of(server) is not None:
                servers.append(server)
            case ["search", *suffixes]:
                search = tuple(bare for suffix in suffixes if (bare := suffix.lower().strip(".")))
            case ["domain", suffix, *_]:
                search = (bare,) if (bare := suffix.lower().strip(".")) else ()
            case ["options", *options]:
                for option in options:
                    word, _, value = option.partition(":")
                    if word == "ndots" and value.isascii() and value.isdecimal():
                        ndots = min(int(value), MOST_NDOTS)
    return ResolvConf(tuple(servers) or THIS_MACHINE, search, ndots)


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Addresses by name in lower case, in the order of the file; lines that are none are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if family_of(address) is not None:
            for name in dict.fromkeys(one.lower() for one in names):
                found[name] = (*found.get(name, ()), address)
    return found


class Followed(Generic[T]):
    """A file, as it was at the last look. One that is not there is an empty one."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, ...] | None = ()
        self._looked = float("-inf")
        self._value: T = parse("")

    def value(self, now: float) -> T:
        """`now` in seconds: it is looked at once in LOOK_EVERY at most. It is small and of this machine: nobody waits."""
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            try:
                self._look()
            except OSError:  # it is there and cannot be read now: what it said last is in force
                self._seen = ()
        return self._value

    def _look(self) -> None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._seen, self._value = None, self._parse("")
            return
        seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        if seen != self._seen:
            with self._path.open(encoding="utf-8", errors="replace") as text:
                self._value = self._parse(text.read(MOST_BYTES))
            self._seen = seen
