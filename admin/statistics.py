"""The section of the traffic statistics: sessions, bytes and peaks by the hour or by the day, and what comes now.

GET /statistics?by=day&from=2026-11-01&to=2026-12-01      November
GET /statistics?route=lobby&format=csv                    the last day of one route, hour by hour
GET /statistics/now
"""

import csv
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from admin.asking import Answer, Ask, NotOffered
from admin.kinds import timely
from admin.traffic import TrafficReader, hour_text
from admin.waiting import DataPlanes
from sniproxy.errors import ObjectRefused
from sniproxy.objects.fields import ID_PATTERN
from sniproxy.objects.traffic import DAY, NONE, Row, Traffic, day_name, hour_number, hour_of
from sniproxy.settings import Statistics
from sniproxy.store import Store

# by -> hours of one, how many are told unless `from` says otherwise, and at most
SPANS = {"hour": (1, 24, 31 * DAY), "day": (DAY, 30, 1100)}
MAX_LINES = 100_000  # of CSV: 10 MB
MAX_ID = 64  # characters of a route's id
TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T([0-9]{2})(?::00(?::00)?)?Z?)?")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is no text to a spreadsheet
COLUMNS = ("time", "row", "route", *Row._fields)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: `first` up to but without `end`, in hours or days since 1970."""

    by: str
    first: int
    end: int
    route: str | None
    as_csv: bool

    def text(self, when: int) -> str:
        """That hour or day, as it is told."""
        return hour_text(when) if self.by == "hour" else day_name(when)


def read_query(query: Mapping[str, str], accept: str, now: float) -> Wanted:
    """ObjectRefused."""
    by = query.get("by", "hour")
    if by not in SPANS:
        raise ObjectRefused("invalid argument by: expected hour or day")
    hours, usual, most = SPANS[by]
    end = _time("to", query["to"], hours) if "to" in query else hour_of(now) // hours + 1
    first = _time("from", query["from"], hours) if "from" in query else max(0, end - usual)
    if not first < end <= first + most:
        raise ObjectRefused(f"invalid argument from: expected 1 to {most} {by}s before to")
    route = query.get("route")
    if route is not None and not (re.fullmatch(ID_PATTERN, route) and len(route) <= MAX_ID):
        raise ObjectRefused("invalid argument route: expected an id")
    form = query.get("format")
    if form not in (None, "json", "csv"):
        raise ObjectRefused("invalid argument format: expected json or csv")
    return Wanted(by, first, end, route, form == "csv" or (form is None and "text/csv" in accept))


def _time(member: str, text: str, hours: int) -> int:
    matched = TIME.fullmatch(text)
    number = hour_number(f"{matched[1]}T{matched[2] or '00'}") if matched else None
    if number is None:
        raise ObjectRefused(f"invalid argument {member}: expected such as 2026-11-28 or ...T23")
    return number // hours


class StatisticsSection:
    """Implements `admin.asking.Section`."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        settings: Statistics,
        data_planes: DataPlanes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = TrafficReader(store, prefix, settings.max_routes)
        self._max_routes = settings.max_routes
        self._data_planes = data_planes
        self._clock = clock

    async def __call__(self, ask: Ask) -> Answer:
        if ask.method != "GET" or ask.path or ask.object_id not in (None, "", "now"):
            raise NotOffered
        if ask.object_id == "now":
            return await self._now(ask)
        accept = ask.request.headers.get("accept", "")
        wanted = read_query(ask.query, accept, self._clock())
        read = self._reader.hours if wanted.by == "hour" else self._reader.days
        if not wanted.as_csv:
            tell = partial(as_json, wanted, max_routes=self._max_routes)
            told = await timely(ask, read(wanted.first, wanted.end, tell))
            return Answer(200, told, headers={"Vary": "Accept"})
        text = await timely(ask, read(wanted.first, wanted.end, partial(as_csv, wanted)))
        name = f"sniproxy-{wanted.text(wanted.first)}-by-{wanted.by}.csv".replace(":", "")
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept"}
        return Answer(200, text, media="text/csv", headers=headers)

    async def _now(self, ask: Ask) -> Answer:
        nodes = await timely(ask, self._data_planes.list())
        rates = {"sessions": 0.0, "bytes_to_upstream": 0, "bytes_to_client": 0}
        for one in nodes:
            if one.rates is not None:
                for name, value in one.rates.model_dump().items():
                    rates[name] += value
        rates["sessions"] = round(rates["sessions"], 3)
        listed = [one.model_dump(include={"id", "sessions", "rates"}) for one in nodes]
        sessions = sum(one.sessions for one in nodes)
        return Answer(200, {"sessions": sessions, "rates": rates, "list": listed})


def _only(traffic: Traffic, route: str | None) -> Traffic:
    if route is None:
        return traffic
    row = traffic.routes.get(route, NONE)
    return Traffic(row, {route: row} if any(row) else {})


def as_json(
    wanted: Wanted, found: Iterable[tuple[int, Traffic]], max_routes: int
) -> dict[str, Any]:
    """Each hour or day of the site, or of the route that is asked for, and each route over all of them."""
    whole, sites = Traffic(), dict[int, Row]()
    for when, traffic in found:
        one = _only(traffic, wanted.route)
        whole, sites[when] = whole.after(one), one.site
    whole = whole.limited(max_routes)
    ranked = sorted(whole.routes, key=lambda one: (whole.routes[one].size, one), reverse=True)
    return {
        "by": wanted.by,
        "from": wanted.text(wanted.first),
        "to": wanted.text(wanted.end),
        "total": whole.site._asdict(),
        "list": [
            {"time": wanted.text(when), **sites.get(when, NONE)._asdict()}
            for when in range(wanted.first, wanted.end)
        ],
        "routes": [{"route": one, **whole.routes[one]._asdict()} for one in ranked],
        "other": whole.other._asdict(),
    }


def as_csv(wanted: Wanted, found: Iterable[tuple[int, Traffic]]) -> str:
    """A line for each hour or day in which there was something, of the site, each route and the others. ObjectRefused."""
    text, lines = io.StringIO(), 0
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for when, traffic in found:
        for row, route, counts in _lines(_only(traffic, wanted.route), wanted.route is None):
            writer.writerow((wanted.text(when), row, _cell(route), *counts))
            lines += 1
        if lines > MAX_LINES:
            why = f"more than {MAX_LINES} lines: ask for less at once, or for one route"
            raise ObjectRefused(why)
    return text.getvalue()


def _lines(traffic: Traffic, whole: bool) -> Iterator[tuple[str, str, Row]]:
    """whole: not of one route alone."""
    if whole:
        yield "site", "", traffic.site
    for route, row in sorted(traffic.routes.items()):
        yield "route", route, row
    if whole and any(traffic.other):
        yield "other", "", traffic.other


def _cell(text: str) -> str:
    """Text, to a spreadsheet too: an id may begin with a minus."""
    return f"'{text}" if text.startswith(FORMULA) else text
