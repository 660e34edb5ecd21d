"""Traffic statistics of one data plane: what its workers have counted, look by look -> what is to be written. Pure.

The counters are those of the metrics, by route, so both say the same. They only grow: what has come since the last look
belongs to the hour of the look. Whoever looks does so every LOOK_EVERY seconds, and the peaks are those of such a time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from sniproxy.objects.fields import ID_PATTERN
from sniproxy.objects.node_record import Rates
from sniproxy.objects.traffic import Row, Stored, Traffic

LOOK_EVERY = (
    10.0  # seconds; workers say each second what they have counted, so a rate is right to a tenth
)
SHORTEST = 0.4  # of the time between two looks: what came in less tells no rate
MOST_HOURS = 48  # that wait to be written while the store is away; then two become one

# The places of what is counted of a route, as `metrics/rows.py` has them.
SESSIONS, ACTIVE, TO_UPSTREAM, TO_CLIENT = range(4)
NOTHING = [0, 0, 0, 0]
Look = dict[str, list[int]]  # by route


def look_at(rows: Mapping[str, Sequence[Any]]) -> Look:
    """What all workers together have counted."""
    return {route: [int(one) for one in row[:4]] for route, row in rows.items()}


class Growth:
    """What has come from one look to the next."""

    def __init__(
        self, seen: Mapping[str, list[int]] | None, look_every: float = LOOK_EVERY
    ) -> None:
        """seen: the last look of whoever looked before; None: that is not known, so the first look only begins."""
        self._shortest = SHORTEST * look_every
        self._seen: Look | None = (
            None if seen is None else {one: [*row] for one, row in seen.items()}
        )
        self.rates: Rates | None = None

    @property
    def seen(self) -> Look | None:
        """At the last look."""
        return self._seen

    def take(self, look: Look, seconds: float | None) -> Traffic:
        """Since the last look, so many seconds ago; None: there was none by us.

        A counter that has fallen begins anew (its route was taken away and put back), and what it has then is not counted:
        rather too little than twice.
        """
        before, self._seen = self._seen, look
        if before is None:
            before = look
        if seconds is None or seconds < self._shortest:
            seconds = None
        routes, other = {}, Row()
        for route, counts in look.items():
            grown = _grown(before.get(route, NOTHING), counts, seconds)
            if not any(grown):
                continue
            if re.fullmatch(ID_PATTERN, route):
                routes[route] = grown
            else:
                other = other.beside(grown)
        site = other
        for row in routes.values():
            site = site.beside(row)
        if seconds is not None:
            self.rates = Rates(
                sessions=round(site.sessions / seconds, 3),
                bytes_to_upstream=round(site.bytes_to_upstream / seconds),
                bytes_to_client=round(site.bytes_to_client / seconds),
            )
        return Traffic(site, routes, other)


def _grown(before: list[int], now: list[int], seconds: float | None) -> Row:
    sums = [max(0, two - one) for one, two in zip(before, now, strict=True)]
    moved = sums[TO_UPSTREAM] + sums[TO_CLIENT]
    rate = round(moved / seconds) if seconds is not None else 0
    return Row(sums[SESSIONS], sums[TO_UPSTREAM], sums[TO_CLIENT], rate, max(0, now[ACTIVE]))


@dataclass(slots=True)
class OpenPart:
    """What this data plane has counted of an hour, and what of it is known to be in the store."""

    hour: int
    token: str
    traffic: Traffic = field(default_factory=Traffic)
    written: Traffic = field(default_factory=Traffic)
    number: int = 0  # of the last writing that is known to have been made
    revision: int = 0  # of the store, then
    tried: Traffic | None = None  # one more was begun, and it is not known what became of it

    @property
    def wanted(self) -> bool:
        """Whether it is to be written."""
        return self.tried is not None or self.traffic != self.written

    def begin(self, max_routes: int) -> bytes:
        """What is to be written now; then comes `done`, or `found`, or nobody knows."""
        self.tried = self.traffic
        return Stored(self.traffic.limited(max_routes), self.number + 1).encode()

    def done(self, revision: int) -> None:
        """It was written."""
        if self.tried is not None:
            self.written, self.tried = self.tried, None
        self.number += 1
        self.revision = revision

    def found(self, number: int | None, revision: int) -> None:
        """What the store has is the writing of that number; None: none."""
        if number is not None and number > self.number:
            self.done(revision)
        self.tried = None
        self.revision = revision

    def rest(self, token: str) -> "OpenPart":
        """For what is written elsewhere, as nobody may write this any more."""
        return OpenPart(self.hour, token, self.traffic.without(self.written))

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "hour": self.hour,
            "token": self.token,
            "traffic": self.traffic.plain(),
            "written": self.written.plain(),
            "number": self.number,
            "revision": self.revision,
            "tried": None if self.tried is None else self.tried.plain(),
        }

    @classmethod
    def of_plain(cls, members: Mapping[str, Any]) -> Self:
        """LookupError, TypeError or ValueError for what it cannot be."""
        tried = members["tried"]
        return cls(
            members["hour"],
            members["token"],
            Traffic.of_plain(members["traffic"]),
            Traffic.of_plain(members["written"]),
            members["number"],
            members["revision"],
            None if tried is None else Traffic.of_plain(tried),
        )


class Ledger:
    """The hours that are not written for good. A clock may jump: then there is another hour, and no count is lost."""

    def __init__(self, new_token: Callable[[], str]) -> None:
        """new_token: another at each call, that nobody else has."""
        self._new_token = new_token
        self._parts: dict[int, OpenPart] = {}

    def add(self, hour: int, traffic: Traffic) -> None:
        """What was counted in it."""
        if traffic.site == Row() and hour not in self._parts:
            return
        part = self._parts.setdefault(hour, OpenPart(hour, self._new_token()))
        part.traffic = part.traffic.after(traffic)
        if len(self._parts) > MOST_HOURS:
            self._join_oldest(hour)

    def _join_oldest(self, now: int) -> None:
        """What is not written of the oldest hour counts in the next one. What was begun of it counts as written."""
        first, second, *_ = sorted(one for one in self._parts if one != now)
        oldest = self._parts.pop(first)
        oldest.written = oldest.tried or oldest.written
        self._parts[second].traffic = self._parts[second].traffic.after(oldest.rest("").traffic)

    def wanted(self) -> Iterator[OpenPart]:
        """What is to be written, the oldest first."""
        for _, part in sorted(self._parts.items()):
            if part.wanted:
                yield part

    def move(self, part: OpenPart) -> OpenPart:
        """The rest of it is written elsewhere from now on."""
        self._parts[part.hour] = part.rest(self._new_token())
        return self._parts[part.hour]

    def forget(self, now: int) -> None:
        """The hours that are over and written."""
        self._parts = {
            hour: part for hour, part in self._parts.items() if hour == now or part.wanted
        }

    def plain(self) -> list[dict[str, Any]]:
        """As JSON can hold it."""
        return [part.plain() for part in self._parts.values()]

    def take_over(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Of whoever wrote before. LookupError, TypeError or ValueError for what it cannot be."""
        self._parts = {one.hour: one for one in map(OpenPart.of_plain, parts)}
