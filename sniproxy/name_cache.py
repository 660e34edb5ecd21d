"""What is known of names, and when each is asked for again. Pure: the answers and `now` are handed in.

A name that is in use is asked for again before its time to live is over, so nobody waits for DNS but whoever comes first.
While DNS does not answer, what it said last is served on. What DNS says of a name that is gone is believed when it has said
so twice, as long as the name was good just before: a server that has only begun may not know its names yet.

Times are seconds of one clock, whichever.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from math import inf
from typing import NamedTuple

from sniproxy.settings import Dns

REFRESH = 0.8  # of a time to live is over when a name in use is asked for again
RETRY = 2.0  # seconds until it is asked for again that was not answered, or said to be gone for the first time
LEAST_TIDIED = 64  # names; among fewer nothing is tidied
HOLDS = 4.0  # seconds for which the last good answer is served after that without asking


class Kind(StrEnum):
    """What is asked of a name."""

    ADDRESSES = auto()  # A and AAAA together
    SERVICES = auto()  # SRV


class Key(NamedTuple):
    """A question. The name is in lower case, and absolute if it ends in a dot."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """An SRV record (RFC 2782): of those with the lowest priority one is chosen by weight."""

    priority: int
    weight: int
    port: int
    host: str


Records = tuple[str, ...] | tuple[Service, ...]  # IP addresses as text, or SRV records


@dataclass(frozen=True, slots=True)
class Found:
    """An answer. At least one record; `ttl` in seconds."""

    records: Records
    ttl: float


@dataclass(frozen=True, slots=True)
class Gone:
    """DNS says that there is nothing, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody knows: no answer, or none that tells anything."""

    why: str


Outcome = Found | Gone | Failed


class News(Enum):
    """What an answer has changed, if anybody is to hear of it."""

    LOST = auto()  # it was good, or unknown, and is not answered now
    BACK = auto()


@dataclass(slots=True)
class Entry:
    """A name. Without records it is one that cannot be resolved, and `why` says why not."""

    records: Records = ()
    expires: float = -inf  # end of the time to live of the records
    holds: float = -inf  # until then it is served without asking
    ask_at: float = inf  # when it is asked for again if it is in use
    why: str | None = None  # of the last answer, if that was no good one
    doubted: bool = False  # it was said to be gone, once
    in_use: bool = False  # somebody has come since the last answer
    turn: int = -1  # of the next who comes, among the records


def both(one: Outcome, other: Outcome, retry: float) -> Outcome:
    """What two questions for the addresses of one name have brought together.

    If one of them failed, its addresses may be missing: the answer is good for `retry` seconds at most.
    """
    found = [outcome for outcome in (one, other) if isinstance(outcome, Found)]
    if found:
        ttl = min(outcome.ttl for outcome in found)
        if isinstance(one, Failed) or isinstance(other, Failed):
            ttl = min(ttl, retry)
        texts = (str(record) for outcome in found for record in outcome.records)
        return Found(tuple(texts), ttl)
    return one if isinstance(one, Failed) else other


class NameCache:
    """Entries by question; at most `settings.names`, of which the one that nobody asked for the longest goes first."""

    def __init__(self, settings: Dns) -> None:
        self.settings = settings
        self._entries: dict[Key, Entry] = {}
        self._due: list[
            tuple[float, Key]
        ] = []  # a heap; what is not its entry's `ask_at` counts no more

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Entry | None:
        """What can be served without asking. Somebody has come for it, so it is in use."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = entry  # as the last one
        entry.in_use = True
        return entry if now < entry.holds else None

    def peek(self, key: Key) -> Entry | None:
        """What is known, however old."""
        return self._entries.get(key)

    def may_go_on(self, key: Key, now: float) -> bool:
        """Whether there is something that may be served while DNS does not answer."""
        entry = self._entries.get(key)
        return entry is not None and bool(entry.records) and now < entry.expires + self._stale

    def put(self, key: Key, outcome: Outcome, now: float) -> News | None:
        """Takes an answer in."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry()
            self._make_room()
        before, entry.in_use = entry.why, False
        match outcome:
            case Found():
                self._good(entry, outcome, now)
            case Gone() if entry.records and now < entry.holds and not entry.doubted:
                entry.doubted = True
                entry.holds, entry.ask_at = now + HOLDS, now + RETRY
            case Failed() if entry.records and now < entry.expires + self._stale:
                entry.why = outcome.why
                entry.holds = min(max(entry.expires, now + HOLDS), entry.expires + self._stale)
                entry.ask_at = now + RETRY
            case Gone() | Failed():
                held = self.settings.negative_ttl if isinstance(outcome, Gone) else RETRY
                entry.records, entry.doubted, entry.why = (), False, outcome.why
                entry.holds, entry.ask_at = now + held, inf
        if entry.ask_at < inf:
            heapq.heappush(self._due, (entry.ask_at, key))
            self._tidy()
        if (before is None) == (entry.why is None):
            return None
        return News.BACK if entry.why is None else News.LOST

    @property
    def next_due(self) -> float:
        """When `due` may give something; infinity: not before something was put."""
        return self._due[0][0] if self._due else inf

    def due(self, now: float) -> Iterator[Key]:
        """Whom to ask for again. Who is not in use is left to whoever comes next."""
        while self._due and self._due[0][0] <= now:
            at, key = heapq.heappop(self._due)
            entry = self._entries.get(key)
            if entry is not None and entry.ask_at == at:
                entry.ask_at = inf
                if entry.in_use:
                    yield key

    def _good(self, entry: Entry, found: Found, now: float) -> None:
        ttl = min(max(found.ttl, self.settings.min_ttl), self.settings.max_ttl)
        entry.records = tuple(sorted(set(found.records)))  # type: ignore[type-var,assignment]
        entry.expires = entry.holds = now + ttl
        entry.ask_at = now + REFRESH * ttl
        entry.why, entry.doubted = None, False

    @property
    def _stale(self) -> float:
        return inf if self.settings.stale is None else self.settings.stale

    def _tidy(self) -> None:
        """Names that were dropped leave their time in the heap: more of these than of others are not kept."""
        if len(self._due) > 2 * max(len(self._entries), LEAST_TIDIED):
            asked = self._entries.items()
            self._due = [(entry.ask_at, key) for key, entry in asked if entry.ask_at < inf]
            heapq.heapify(self._due)

    def _make_room(self) -> None:
        while len(self._entries) > self.settings.names:
            del self._entries[next(iter(self._entries))]
