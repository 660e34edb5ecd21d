"""Lists through the API: pages and filters, as APISIX has them."""

import threading
import time
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from admin import listing
from tests.admin.gateway import NODES, Gateway, ssl_object

pytestmark = pytest.mark.anyio

UPSTREAM: dict[str, Any] = {"nodes": NODES}
NAMES = [f"{number:02d}" for number in range(25)]


async def listed(gateway: Gateway, path: str) -> tuple[list[str], int]:
    code, body = await gateway.ask("GET", path)
    assert code == 200, body
    assert set(body) == {"list", "total"}
    return [one["value"]["id"] for one in body["list"]], body["total"]


async def filled(gateway: Gateway) -> None:
    """25 upstreams; the one that comes last in key order was written first."""
    for name in reversed(NAMES):
        await gateway.put(f"/upstreams/{name}", UPSTREAM)


@pytest.mark.parametrize("path", ["/upstreams", "/upstreams/"])
async def test_without_pages_in_key_order(gateway: Gateway, path: str) -> None:
    assert await gateway.ask("GET", path) == (200, {"list": [], "total": 0})
    await filled(gateway)
    assert await listed(gateway, path) == (NAMES, 25)
    for query in ("?page=2", "?page_size=10", "?page=&x=1", "?page_size=1", "?page_size=x"):
        assert await listed(gateway, path + query) == (NAMES, 25)


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ("page=1&page_size=10", 0, 10),
        ("page=2&page_size=10", 10, 20),
        ("page=3&page_size=10", 20, 25),
        ("page=4&page_size=10", 25, 25),
        ("page=0&page_size=10", 0, 10),
        ("page=-7&page_size=10", 0, 10),
        ("page=x&page_size=10", 0, 10),
        ("page=&page_size=10", 0, 10),
        ("page=1&page_size=500", 0, 25),
        ("page=999999999&page_size=10", 25, 25),
        ("page=99999999999999999999999&page_size=10", 25, 25),
        ("page=00000000000002&page_size=10", 10, 20),
    ],
)
async def test_pages_show_the_oldest_first(
    gateway: Gateway, query: str, first: int, last: int
) -> None:
    await filled(gateway)
    by_age = list(reversed(NAMES))
    assert await listed(gateway, f"/upstreams?{query}") == (by_age[first:last], 25)


@pytest.mark.parametrize("size", ["9", "501", "0", "-10", "x", "", "10.0", "1e2", "9" * 400, "١٠"])
async def test_page_sizes_that_are_refused(gateway: Gateway, size: str) -> None:
    """In plain text."""
    answer = await gateway.send("GET", f"/upstreams?page=1&page_size={quote(size)}")
    assert answer.status_code == 400
    assert answer.text == "page_size must be between 10 and 500"
    assert answer.headers["content-type"].startswith("text/plain")


LABELLED: dict[str, dict[str, Any]] = {
    "a": {"name": "game-eu-1", "labels": {"env": "prod", "region": "eu"}},
    "b": {"name": "game-us-1", "labels": {"env": "test"}},
    "c": {"name": "Lobby"},
    "d": {},
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=game", "ab"),
        ("name=GAME", ""),
        ("name=^game-.*-1$", "ab"),
        ("name=u.-1", "b"),
        ("name=lobby|us", "b"),
        ("name=(?i)lobby", "c"),
        ("name=", "abc"),
        ("name=nil", ""),  # what APISIX takes for the name of who has none
        ("name=.", "abc"),
        ("label=env", "ab"),
        ("label=region", "a"),
        ("label=prod", ""),
        ("label=env:prod", ""),
        ("label=", ""),
        ("label=env&name=us", "b"),
        ("label=env&name=Lobby", ""),
        ("uri=/", ""),
        ("filter=service_id%3D1", "abcd"),  # for routes only
        ("unknown=1", "abcd"),
    ],
)
async def test_filters(gateway: Gateway, query: str, expected: str) -> None:
    for name, members in LABELLED.items():
        await gateway.put(f"/upstreams/{name}", UPSTREAM | members)
    path = "/upstreams?" + quote(query, safe="=&%")
    assert await listed(gateway, path) == (list(expected), len(expected))
    assert await listed(gateway, path + "&page=1&page_size=10") == (list(expected), len(expected))
    assert await listed(gateway, path + "&page=2&page_size=10") == ([], len(expected))


@pytest.mark.parametrize("pattern", ["(", "[", "a{2,1}", "*", "(?<x", "a" * 1025, "\\"])
@pytest.mark.parametrize("member", ["name", "uri"])
async def test_patterns_that_are_refused(gateway: Gateway, member: str, pattern: str) -> None:
    why = await gateway.refusal("GET", f"/upstreams?{member}={quote(pattern)}")
    assert why.startswith(f"invalid argument {member}: ")


async def test_a_pattern_takes_no_longer_than_its_text(gateway: Gateway) -> None:
    """Any that backtracks would not end in our time."""
    await gateway.put("/upstreams/1", UPSTREAM | {"name": "a" * 250 + "!"})
    assert await listed(gateway, "/upstreams?name=" + quote("(a*)*(a|aa)+$")) == ([], 0)


@pytest.mark.parametrize("pattern", ["(?s)(.{0,1000})" * 60 + "x", r"\pL{1000}", ".{1000}" * 80])
@pytest.mark.parametrize("member", ["name", "uri"])
async def test_a_pattern_that_grows_when_compiled(
    gateway: Gateway, member: str, pattern: str
) -> None:
    """A short text that would be compiled for a quarter of a minute, while nobody else is answered."""
    await gateway.put("/upstreams/1", UPSTREAM | {"name": "game"})
    began = time.process_time()
    why = await gateway.refusal("GET", f"/upstreams?{member}={quote(pattern)}")
    assert why == f"invalid argument {member}: it repeats too much"
    assert time.process_time() - began < 5


async def test_a_pattern_that_is_slow_to_match_holds_up_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM | {"name": "game"})
    answered = threading.Event()
    monkeypatch.setattr(listing, "_pattern", lambda member, text: lambda name: answered.wait(5))

    async def meanwhile() -> None:
        assert (await gateway.ask("GET", "/upstreams/1"))[0] == 200
        answered.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meanwhile)
        assert await listed(gateway, "/upstreams?name=x") == (["1"], 1)


async def test_a_pattern_that_never_ends_is_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.put("/upstreams/1", UPSTREAM | {"name": "game"})
    monkeypatch.setattr(listing, "MAX_SEARCH", -1.0)
    why = await gateway.refusal("GET", "/upstreams?name=game")
    assert why == "invalid argument name: it takes too long to match"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("service_id=1", "ac"),
        ("service_id=2", ""),
        ("upstream_id=7", "bc"),
        ("service_id=1&upstream_id=7", "c"),
        ("upstream_id=07", ""),
        ("service_id=", ""),
        ("something=1", "abcd"),
        ("", "abcd"),
        ("&&=", "abcd"),
    ],
)
async def test_routes_by_what_they_refer_to(gateway: Gateway, query: str, expected: str) -> None:
    await gateway.put("/services/1", {"upstream": UPSTREAM})
    await gateway.put("/upstreams/7", UPSTREAM)
    for name, value in {
        "a": {"service_id": 1},
        "b": {"upstream_id": "7"},
        "c": {"service_id": "1", "upstream_id": 7},
        "d": {"upstream": UPSTREAM},
    }.items():
        await gateway.put(f"/stream_routes/{name}", value)
    found = await listed(gateway, "/stream_routes?filter=" + quote(query, safe=""))
    assert found == (list(expected), len(expected))


async def test_a_list_holds_no_key(gateway: Gateway) -> None:
    await gateway.put("/ssls/1", ssl_object())
    for path in ("/ssls", "/ssls?page=1&page_size=10", "/ssls?label=x"):
        _, body = await gateway.ask("GET", path)
        for one in body["list"]:
            assert set(one) == {"key", "value", "createdIndex", "modifiedIndex"}
            assert "key" not in one["value"]
    assert "aes256gcm" not in "".join(gateway.answers[1:])


async def test_on_each_store(any_gateway: Gateway) -> None:
    """What another admin has written, and what is gone, shows at once."""
    other = Gateway(any_gateway.settings, any_gateway.store)
    for name in NAMES[:12]:
        await other.put(f"/upstreams/{name}", UPSTREAM)
        assert (await listed(any_gateway, "/upstreams?page=1&page_size=10"))[1] == int(name) + 1
    await other.ask("DELETE", "/upstreams/00")
    assert await listed(any_gateway, "/upstreams?page=1&page_size=10") == (NAMES[1:11], 11)
    await any_gateway.ask("DELETE", "/upstreams/01")
    assert await listed(any_gateway, "/upstreams?page=1&page_size=10") == (NAMES[2:12], 10)
