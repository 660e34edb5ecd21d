"""Traffic statistics as the API tells them: out of parts, hours and days, as JSON and as CSV."""

import csv
import io
from typing import Any

import anyio
import pytest

from admin.statistics import Wanted, as_csv, as_json, read_query
from sniproxy.errors import ObjectRefused
from sniproxy.folding import fold
from sniproxy.objects.node_record import NodeRecord, Rates, records_prefix
from sniproxy.objects.traffic import NONE, Places, Row, Stored, Traffic, hour_number
from sniproxy.settings import Statistics
from sniproxy.store import Store
from tests.admin.gateway import VIEWER_KEY, Gateway
from tests.admin.test_openapi import DOCUMENT, validator

pytestmark = pytest.mark.anyio

NOON = hour_number("2026-11-28T12") or 0
DAY = NOON // 24
SOME = Row(3, 100, 200, 50, 2)
MORE = Row(1, 10, 20, 70, 1)


def site(**routes: Row) -> Traffic:
    total = NONE
    for row in routes.values():
        total = total.beside(row)
    return Traffic(total, routes)


async def tell(gateway: Gateway, hour: int, node: str, traffic: Traffic) -> None:
    """A data plane writes its part."""
    key = Places(gateway.prefix).part(hour, node, f"{node}-{hour}")
    await gateway.store.put(key, Stored(traffic, number=1).encode())


def checked(path: str, body: dict[str, Any]) -> None:
    """As the document says."""
    answer = DOCUMENT["paths"][path]["get"]["responses"]["200"]
    validator(answer["content"]["application/json"]["schema"]).validate(body)


async def asked(gateway: Gateway, query: str) -> dict[str, Any]:
    code, body = await gateway.ask("GET", f"/statistics?{query}")
    assert code == 200, body
    told: dict[str, Any] = body
    return told


async def test_statistics_on_each_store(any_gateway: Gateway) -> None:
    gateway, places = any_gateway, Places(any_gateway.prefix)
    await tell(gateway, NOON, "n1", site(a=SOME))
    await tell(gateway, NOON, "n2", site(a=MORE, b=SOME))
    await tell(gateway, NOON + 1, "n1", site(b=MORE))
    by_hour = "from=2026-11-28T12&to=2026-11-28T14"
    by_day = "by=day&from=2026-11-27&to=2026-11-29"
    before = await asked(gateway, by_hour), await asked(gateway, by_day)
    async with anyio.create_task_group() as tasks:  # whatever becomes of the parts
        for _ in range(2):
            tasks.start_soon(fold, gateway.store, places, Statistics(), NOON * 3600 + 5000.0)
    await fold(gateway.store, places, Statistics(), NOON * 3600 + 5000.0)
    assert len((await gateway.store.list(places.parts)).entries) == 1
    assert (await asked(gateway, by_hour), await asked(gateway, by_day)) == before
    hours, days = before
    assert hours["total"] == SOME.beside(MORE).beside(SOME).after(MORE)._asdict()
    assert [one["sessions"] for one in hours["list"]] == [7, 1]
    assert [one["time"] for one in hours["list"]] == [
        "2026-11-28T12:00:00Z",
        "2026-11-28T13:00:00Z",
    ]
    assert hours["routes"] == [
        {"route": "b", **SOME.after(MORE)._asdict()},
        {"route": "a", **SOME.beside(MORE)._asdict()},
    ]
    assert days["list"] == [
        {"time": "2026-11-27", **NONE._asdict()},
        {"time": "2026-11-28", **hours["total"]},
    ]
    assert days["routes"] == hours["routes"]


async def test_one_route(gateway: Gateway) -> None:
    await tell(gateway, NOON, "n1", site(a=SOME, b=MORE))
    told = await asked(gateway, "from=2026-11-28T12&to=2026-11-28T13&route=b")
    assert told["total"] == MORE._asdict()
    assert told["list"] == [{"time": "2026-11-28T12:00:00Z", **MORE._asdict()}]
    assert told["routes"] == [{"route": "b", **MORE._asdict()}]
    told = await asked(gateway, "from=2026-11-28T12&to=2026-11-28T13&route=none")
    assert (told["total"], told["routes"]) == (NONE._asdict(), [])


@pytest.mark.parametrize("asks", ["query", "header"])
async def test_csv(gateway: Gateway, asks: str) -> None:
    traffic = site(**{"a": SOME, "-1": MORE})
    await tell(gateway, NOON, "n1", Traffic(traffic.site, traffic.routes, MORE))
    path = "/statistics?from=2026-11-28&to=2026-11-29"
    async with gateway.client() as client:
        if asks == "query":
            answer = await client.get(path + "&format=csv")
        else:
            answer = await client.get(path, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert (
        'filename="sniproxy-2026-11-28T000000Z-by-hour.csv"'
        in (answer.headers["content-disposition"])
    )
    head, *lines = csv.reader(io.StringIO(answer.text))
    assert head[:4] == ["time", "row", "route", "sessions"]
    time = "2026-11-28T12:00:00Z"
    assert lines == [
        [time, "site", "", *map(str, traffic.site)],
        [time, "route", "'-1", *map(str, MORE)],  # no formula of a spreadsheet
        [time, "route", "a", *map(str, SOME)],
        [time, "other", "", *map(str, MORE)],
    ]


async def test_a_viewer_may_read_and_nobody_may_write(gateway: Gateway) -> None:
    assert (await gateway.send("GET", "/statistics", key=VIEWER_KEY)).status_code == 200
    assert (await gateway.send("GET", "/statistics/now", key=VIEWER_KEY)).status_code == 200
    assert (await gateway.send("GET", "/statistics", key=None)).status_code == 401
    for method, path in (("PUT", ""), ("DELETE", "/now"), ("GET", "/then"), ("GET", "/now/1")):
        assert (await gateway.ask(method, f"/statistics{path}"))[0] == 404


async def test_what_comes_now_is_that_of_all_data_planes(gateway: Gateway, store: Store) -> None:
    rates = Rates(sessions=0.5, bytes_to_upstream=10, bytes_to_client=20)
    for node, its in (("n1", rates), ("n2", rates), ("n3", None)):
        record = NodeRecord(
            id=node, version="0", revision=1, age=0, stale=False, sessions=4, started=1, rates=its
        )
        await store.put(records_prefix(gateway.prefix) + node, record.encode())
    code, body = await gateway.ask("GET", "/statistics/now")
    assert (code, body["sessions"]) == (200, 12)
    assert body["rates"] == {"sessions": 1.0, "bytes_to_upstream": 20, "bytes_to_client": 40}
    assert body["list"][0] == {"id": "n1", "sessions": 4, "rates": rates.model_dump()}
    assert body["list"][2]["rates"] is None
    checked("/statistics/now", body)


async def test_garbage_in_the_store_is_no_hindrance(gateway: Gateway, store: Store) -> None:
    places = Places(gateway.prefix)
    await tell(gateway, NOON, "n1", site(a=SOME))
    for key in (
        places.part(NOON, "n", "t"),
        places.hour(NOON),
        places.day(DAY),
        places.parts + "x",
    ):
        await store.put(key, b"garbage")
    for by in ("hour", "day"):
        told = await asked(gateway, f"by={by}&from=2026-11-28&to=2026-11-29")
        assert told["total"] == SOME._asdict()
        checked("/statistics", told)


async def test_the_last_day_is_told_unless_another_is_named(gateway: Gateway) -> None:
    assert len((await asked(gateway, ""))["list"]) == 24
    assert len((await asked(gateway, "by=day"))["list"]) == 30
    async with gateway.client() as client:
        assert (await client.get("http://admin/admin/statistics/")).status_code == 200


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("by=week", "invalid argument by"),
        ("by=", "invalid argument by"),
        ("from=yesterday", "invalid argument from"),
        ("from=2026-02-30", "invalid argument from"),
        ("from=2026-11-28T24", "invalid argument from"),
        ("from=2026-11-28T12:30", "invalid argument from"),
        ("from=1969-12-31&to=1970-01-02", "invalid argument from"),
        ("to=0", "invalid argument to"),
        ("from=2026-11-28&to=2026-11-28", "invalid argument from"),
        ("from=2026-11-28&to=2026-11-27", "invalid argument from"),
        ("from=2026-10-28&to=2026-11-29", "invalid argument from"),  # 32 days of hours
        ("by=day&from=2020-01-01&to=2026-01-01", "invalid argument from"),
        ("route=", "invalid argument route"),
        ("route=a%20b", "invalid argument route"),
        ("route=" + "a" * 65, "invalid argument route"),
        ("format=xml", "invalid argument format"),
    ],
)
async def test_what_cannot_be_asked_is_refused(gateway: Gateway, query: str, why: str) -> None:
    assert (await gateway.refusal("GET", f"/statistics?{query}")).startswith(why)


@pytest.mark.parametrize(
    ("query", "first", "end"),
    [
        ({}, NOON - 23, NOON + 1),
        ({"by": "day"}, DAY - 29, DAY + 1),
        ({"to": "2026-11-28T12:00:00Z"}, NOON - 24, NOON),
        ({"from": "2026-11-28T10", "to": "2026-11-28T12:00"}, NOON - 2, NOON),
        ({"by": "day", "from": "2026-11-27T23", "to": "2026-11-28T12"}, DAY - 1, DAY),
        ({"from": "2026-10-28T13"}, NOON - 31 * 24 + 1, NOON + 1),
        ({"to": "1970-01-01T01"}, 0, 1),
        ({"by": "day", "from": "9999-12-30", "to": "9999-12-31"}, 2932895, 2932896),
    ],
)
def test_which_hours_and_days_are_told(query: dict[str, str], first: int, end: int) -> None:
    wanted = read_query(query, "*/*", NOON * 3600 + 1800.0)
    assert (wanted.first, wanted.end, wanted.as_csv) == (first, end, False)


def test_an_answer_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.statistics.MAX_LINES", 5000)
    many = site(**{f"r{number}": MORE for number in range(1000)})
    wanted = Wanted("hour", 0, 200, None, as_csv=True)
    found = [(hour, many) for hour in range(200)]
    with pytest.raises(ObjectRefused, match="more than 5000 lines"):
        as_csv(wanted, found)
    told = as_json(wanted, [(0, many), (1, site(x=SOME))], 10)
    assert len(told["routes"]) == 10
    assert told["routes"][0]["route"] == "x"
    assert told["other"]["sessions"] == 991
    assert told["total"]["sessions"] == 1003


def test_the_document_tells_of_both_forms() -> None:
    get = DOCUMENT["paths"]["/statistics"]["get"]
    assert get["responses"]["200"]["content"].keys() == {"application/json", "text/csv"}
