"""Traffic of an hour or a day as it lies in the store: what there is of a route, how it adds up, and where it lies. Pure.

    .../statistics/parts/2026-11-28T23/NODE/TOKEN   what one data plane has counted in an hour; only it writes there
    .../statistics/hours/2026-11-28T23              all data planes together, once the hour is over
    .../statistics/days/2026-11-28                  the same of a day

An hour and a day name the parts that they hold, so a part that is still there counts once, whoever adds up. A part is sealed
before it is added: whoever wrote it writes the rest elsewhere.
"""

import json
import zlib
from calendar import timegm
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from time import gmtime, strftime, strptime
from typing import Any, NamedTuple, Self

HOUR = 3600  # seconds
DAY = 24  # hours
LAST_HOUR = 253402300800 // HOUR - 1  # of the year 9999: names sort as times do
MAX_DECODED = 8 * 2**20  # bytes of a value once it is unpacked
MAX_PARTS = 20_000  # that an hour or a day names; the first are long gone from where they lay


class Row(NamedTuple):
    """Traffic of one route, or of many. A peak over several data planes is at most that: theirs may not have met."""

    sessions: int = 0  # that have begun
    bytes_to_upstream: int = 0
    bytes_to_client: int = 0
    peak_rate: int = 0  # bytes per second, both ways
    peak_sessions: int = 0  # at once

    def beside(self, other: "Row") -> "Row":
        """Both at the same time."""
        return Row(
            self[0] + other[0],
            self[1] + other[1],
            self[2] + other[2],
            self[3] + other[3],
            self[4] + other[4],
        )

    def after(self, other: "Row") -> "Row":
        """One after the other."""
        return Row(
            self[0] + other[0],
            self[1] + other[1],
            self[2] + other[2],
            max(self[3], other[3]),
            max(self[4], other[4]),
        )

    def without(self, other: "Row") -> "Row":
        """What has come since; the peaks are those of all of it."""
        return Row(
            max(0, self[0] - other[0]),
            max(0, self[1] - other[1]),
            max(0, self[2] - other[2]),
            self[3],
            self[4],
        )

    @property
    def size(self) -> tuple[int, int]:
        """By which routes are ranked: bytes, then sessions."""
        return self.bytes_to_upstream + self.bytes_to_client, self.sessions


NONE = Row()
Join = Callable[[Row, Row], Row]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of the whole site, of routes by their ids, and of all routes together that are not told apart."""

    site: Row = NONE
    routes: Mapping[str, Row] = field(default_factory=dict)
    other: Row = NONE

    def _joined(self, other: "Traffic", join: Join) -> "Traffic":
        routes = dict(self.routes)
        for route, row in other.routes.items():
            routes[route] = join(routes.get(route, NONE), row)
        return Traffic(join(self.site, other.site), routes, join(self.other, other.other))

    def beside(self, other: "Traffic") -> "Traffic":
        """Of several data planes in the same time."""
        return self._joined(other, Row.beside)

    def after(self, other: "Traffic") -> "Traffic":
        """Of several times."""
        return self._joined(other, Row.after)

    def without(self, known: "Traffic") -> "Traffic":
        """What has come since it was that."""
        rest = self._joined(known, Row.without)
        return replace(rest, routes={one: row for one, row in rest.routes.items() if any(row)})

    def peaks_of(self, traffic: "Traffic") -> "Traffic":
        """With the peaks of another, where they are higher, for those that it tells apart."""
        told = {one: row for one, row in traffic.routes.items() if one in self.routes}
        peaks = Traffic(traffic.site, told, traffic.other)
        return self._joined(peaks, lambda mine, its: mine.after(Row(0, 0, 0, its[3], its[4])))

    def limited(self, routes: int) -> "Traffic":
        """So many routes are told apart at most, those with most bytes."""
        if len(self.routes) <= routes:
            return self
        ranked = sorted(self.routes, key=lambda one: (self.routes[one].size, one), reverse=True)
        other = self.other
        for route in ranked[routes:]:
            other = other.beside(self.routes[route])
        return replace(self, routes={one: self.routes[one] for one in ranked[:routes]}, other=other)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        routes = {route: list(row) for route, row in self.routes.items()}
        return {"site": list(self.site), "routes": routes, "other": list(self.other)}

    @classmethod
    def of_plain(cls, members: Mapping[str, Any]) -> Self:
        """ValueError for what it cannot be."""
        routes = {str(route): _row(row) for route, row in members["routes"].items()}
        return cls(_row(members["site"]), routes, _row(members["other"]))


def _row(values: Any) -> Row:
    row = Row._make(values)
    if set(map(type, row)) != {int} or min(row) < 0 or max(row) >= 2**63:
        raise ValueError("no counts")
    return row


@dataclass(frozen=True, slots=True)
class Stored:
    """A value in the store: a part, an hour or a day."""

    traffic: Traffic = field(default_factory=Traffic)
    number: int = 0  # of a part: how often it was written
    sealed: bool = False  # of a part: it is not written any more
    parts: Mapping[str, int] = field(default_factory=dict)  # by token, the number that it had

    def encode(self) -> bytes:
        """As it is stored."""
        members = {"number": self.number, "sealed": self.sealed, "parts": dict(self.parts)}
        text = json.dumps(self.traffic.plain() | members, separators=(",", ":"))
        return zlib.compress(text.encode())

    @classmethod
    def decode(cls, raw: bytes) -> Self | None:
        """From the store; None for what is no such value."""
        try:
            unpacked = zlib.decompressobj().decompress(raw, MAX_DECODED)
            members = json.loads(unpacked)
            parts = {str(token): int(number) for token, number in members["parts"].items()}
            number, sealed = int(members["number"]), bool(members["sealed"])
            return cls(Traffic.of_plain(members), number, sealed, parts)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, zlib.error):
            return None


@dataclass(frozen=True, slots=True)
class Part:
    """One data plane's part of an hour, as it was found in the store."""

    key: str
    hour: int  # since 1970
    node: str
    token: str
    stored: Stored
    revision: int


def joined_hour(hour: Stored, parts: Iterable[Part], max_routes: int) -> Stored:
    """With the parts that it does not hold yet. Those of one node ran one after the other, nodes beside each other."""
    nodes: dict[str, Traffic] = {}
    new = {}
    for part in parts:
        if part.token not in hour.parts:
            new[part.token] = part.stored.number
            nodes[part.node] = nodes.get(part.node, Traffic()).after(part.stored.traffic)
    traffic = hour.traffic
    for one in nodes.values():
        traffic = traffic.beside(one)
    return Stored(traffic.limited(max_routes), parts=_latest(hour.parts, new))


def joined_day(day: Stored, hour: Stored, parts: Iterable[Part], max_routes: int) -> Stored:
    """The same. hour: which all of these parts are of, with them: a day's peak is that of its highest hour."""
    new = {one.token: one for one in parts if one.token not in day.parts}
    traffic = day.traffic
    for part in new.values():
        traffic = traffic.after(part.stored.traffic)
    numbers = {token: part.stored.number for token, part in new.items()}
    traffic = traffic.limited(max_routes).peaks_of(hour.traffic)
    return Stored(traffic, parts=_latest(day.parts, numbers))


def _latest(parts: Mapping[str, int], new: Mapping[str, int]) -> Mapping[str, int]:
    named = {**parts, **new}
    return dict(islice(named.items(), max(0, len(named) - MAX_PARTS), None))


# -- where they lie


@dataclass(frozen=True, slots=True)
class Places:
    """Of the site whose objects lie under `prefix`, in a space of our own."""

    prefix: str

    @property
    def parts(self) -> str:
        """Before all parts."""
        return f"/sniproxy{self.prefix}/statistics/parts/"

    @property
    def hours(self) -> str:
        """Before all hours."""
        return f"/sniproxy{self.prefix}/statistics/hours/"

    @property
    def days(self) -> str:
        """Before all days."""
        return f"/sniproxy{self.prefix}/statistics/days/"

    def hour(self, hour: int) -> str:
        """The key of an hour."""
        return self.hours + hour_name(hour)

    def day(self, day: int) -> str:
        """The key of a day, by its number since 1970."""
        return self.days + day_name(day)

    def part(self, hour: int, node: str, token: str) -> str:
        """The key of a part."""
        return f"{self.parts}{hour_name(hour)}/{node}/{token}"

    def read_part(self, key: str, value: bytes, revision: int) -> Part | None:
        """None for what is no part."""
        name, _, whose = key.removeprefix(self.parts).partition("/")
        node, _, token = whose.rpartition("/")
        hour, stored = hour_number(name), Stored.decode(value)
        if hour is None or stored is None or not token:
            return None
        return Part(key, hour, node, token, stored, revision)


def hour_of(now: float) -> int:
    """Unix seconds -> hours since 1970. A clock that is out of all bounds is at the nearest."""
    return min(max(int(now // HOUR), 0), LAST_HOUR)


def hour_name(hour: int) -> str:
    """Such as 2026-11-28T23, in UTC."""
    return strftime("%Y-%m-%dT%H", gmtime(hour * HOUR))


def day_name(day: int) -> str:
    """Days since 1970 -> such as 2026-11-28."""
    return hour_name(day * DAY)[:10]


def hour_number(name: str) -> int | None:
    """None for what is no hour's name."""
    try:
        hour = timegm(strptime(name, "%Y-%m-%dT%H")) // HOUR
    except (ValueError, OverflowError):
        return None
    return hour if hour >= 0 and hour_name(hour) == name else None


def prefixes_before(name: str) -> Iterator[str]:
    """Which together begin all names of the same form that sort before this one, and no others."""
    for place, character in enumerate(name):
        if character.isdigit():
            yield from (name[:place] + str(digit) for digit in range(int(character)))
