"""`?wait=all`: an answer that waits until every live data plane has the write in force, and `GET /nodes`.

Data planes say in the store which revision they have (`sniproxy.objects.node_record`); one that is gone is not waited for
once its record's time is over.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import anyio

from sniproxy.errors import Compacted, ObjectRefused, StoreUnavailable
from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.store import Entry, Event, Store

DEFAULT = 5.0  # seconds
RETRY = 0.1  # seconds before a store that was lost is asked again
DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m)?")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


@dataclass(frozen=True, slots=True)
class Reached:
    """Which data planes have a revision in force, and which do not, or not yet. `all`: none was left out of sight."""

    all: bool
    applied: list[NodeRecord]
    stragglers: list[NodeRecord]


def read_wait(wait: str | None, timeout: str | None, longest: float) -> float | None:
    """The seconds that a request wants to wait, None for not at all. ObjectRefused."""
    if wait is None:
        return None
    if wait != "all":
        raise ObjectRefused("invalid argument wait: expected all")
    if timeout is None:
        return min(DEFAULT, longest)
    matched = DURATION.fullmatch(timeout)
    seconds = float(matched[1]) * SECONDS[matched[2]] if matched else 0
    if not 0 < seconds <= longest:
        raise ObjectRefused(
            f"invalid argument timeout: expected such as 5s or 500ms, {longest:g}s at most"
        )
    return seconds


async def list_nodes(store: Store, prefix: str) -> list[NodeRecord]:
    """Every live data plane. StoreUnavailable."""
    listing = await store.list(records_prefix(prefix))
    return [record for entry in listing.entries if (record := NodeRecord.decode(entry.value))]


async def find_node(store: Store, prefix: str, node: str) -> NodeRecord | None:
    """One live data plane. StoreUnavailable."""
    entry = await store.get(records_prefix(prefix) + node)
    return NodeRecord.decode(entry.value) if entry is not None else None


async def wait_for_all(store: Store, prefix: str, revision: int, seconds: float) -> Reached:
    """Until every live data plane has that revision in force, or the time is over."""
    seen = _Seen(revision)
    with anyio.move_on_after(seconds):
        while not seen.complete:
            try:
                await _follow(store, records_prefix(prefix), seen)
            except (Compacted, StoreUnavailable):  # lost: the time that is left is for asking again
                await anyio.sleep(RETRY)
    return seen.reached()


async def _follow(store: Store, prefix: str, seen: "_Seen") -> None:
    listing = await store.list(prefix)
    if seen.begin(listing.entries):
        return
    async with store.watch(prefix, after=listing.revision) as batches:
        async for batch in batches:
            if seen.note(batch.events):
                return


class _Seen:
    """The records as they change. `complete`: all are known, and all have the revision in force."""

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._records: dict[str, NodeRecord] = {}
        self.complete = False

    def begin(self, entries: Iterable[Entry]) -> bool:
        """What is there; whether that is all that is waited for."""
        self._records.clear()
        return self.note(entries)

    def note(self, events: Iterable[Event]) -> bool:
        """What has changed; whether that is all that is waited for."""
        for event in events:
            self._records.pop(event.key, None)
            if isinstance(event, Entry) and (record := NodeRecord.decode(event.value)) is not None:
                self._records[event.key] = record
        self.complete = all(one.revision >= self._revision for one in self._records.values())
        return self.complete

    def reached(self) -> Reached:
        records = self._records.values()
        return Reached(
            all=self.complete,
            applied=[one for one in records if one.revision >= self._revision],
            stragglers=[one for one in records if one.revision < self._revision],
        )
