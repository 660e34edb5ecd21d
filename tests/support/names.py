"""A DNS that is data: no test asks a real one."""

import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from sniproxy.dns_client import EMPTY, UNKNOWN
from sniproxy.logs import Log, open_log
from sniproxy.metrics import Metrics
from sniproxy.name_cache import Found, Gone, Key, Outcome
from sniproxy.names import Names
from sniproxy.settings import Dns

NOWHERE = Path("/nowhere/hosts")  # no file of the machine has a say


@dataclass
class Resolver:
    """Addresses by name. A name that maps to None is never answered, to an outcome: so; one that is not there is unknown."""

    names: dict[str, Sequence[str] | Outcome | None]
    ttl: float = 30  # seconds
    asked: list[str] = field(default_factory=list)

    async def ask(self, key: Key) -> Outcome:
        """In place of `DnsClient.ask`."""
        self.asked.append(key.name)
        await trio.lowlevel.checkpoint()
        if key.name not in self.names:
            return Gone(UNKNOWN)
        known = self.names[key.name]
        if known is None:
            await trio.sleep_forever()
        if isinstance(known, Outcome):
            return known
        return Found(tuple(known), self.ttl) if known else Gone(EMPTY)


@asynccontextmanager
async def open_names(
    resolver: Resolver,
    *,
    log: Log | None = None,
    metrics: Metrics | None = None,
    hosts: Path = NOWHERE,
    **settings: Any,
) -> AsyncIterator[Names]:
    """A worker's names, as long as the block lasts."""
    names = Names(
        Dns(**settings),
        log or open_log("proxy", io.StringIO()),
        metrics or Metrics(),
        ask=resolver.ask,
        hosts=hosts,
    )
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(names.run)
        try:
            yield names
        except Exception as error:  # as it is, and not as one of a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


_current: list[Resolver] = []


def current() -> Resolver:
    """Whom gateways ask that are opened now."""
    return _current[-1] if _current else Resolver({})


@contextmanager
def resolving(names: Mapping[str, Sequence[str] | Outcome | None]) -> Iterator[Resolver]:
    """These are the names of the world for gateways that are opened within."""
    _current.append(Resolver(dict(names)))
    try:
        yield _current[-1]
    finally:
        _current.pop()
