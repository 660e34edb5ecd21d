"""Every path and method, by whoever asks, with the key in each place: who has none learns nothing, and nothing is looked at.

A new section of the API is one line of SECTIONS.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import product

import httpx
import pytest

from admin.foreign import COLLECTIONS
from sniproxy.objects import KINDS
from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import ADMIN_KEY, VIEWER_KEY, Doubtful, Gateway, ssl_object
from tests.admin.node_records import tell

pytestmark = pytest.mark.anyio

SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("", "/"),
    **dict.fromkeys(KINDS, ("", "/", "/held", "/held/", "/none", "/held/labels", "?detail=true")),
    **dict.fromkeys(COLLECTIONS, ("", "/1", "/1/name")),
    "nodes": ("", "/held", "/none"),
    "statistics": ("", "/now", "?by=day", "/held"),
    "schema": ("/ssl", "/plugins/limit-conn", "/validate/ssls", "/none"),
    "configs": ("", "/validate"),
    "plugins": ("", "/list", "/limit-conn", "/reload", "?all=true"),
    "openapi.json": ("",),
    "docs": ("",),
    "unknown": ("", "/1", "/1/2"),
    "%2E%2E": ("/upstreams/held",),
}
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
READING = ("GET", "HEAD")
PLACES = ("header", "query", "cookie")
WRONG_KEY = ADMIN_KEY + "x"
REFUSALS = {
    None: "missing apikey",
    WRONG_KEY: "wrong apikey",
    VIEWER_KEY: "invalid method for role viewer",
}
HELD = (
    "held"  # in every object of the store and in its id, and in no answer to whom it is kept from
)


@dataclass
class Asked:
    """A body that says whether anybody began to read it."""

    read: bool = field(default=False)

    async def chunks(self) -> AsyncIterator[bytes]:
        self.read = True
        yield json.dumps({"desc": "overwritten"}).encode()


@pytest.fixture
async def doubtful(settings: Settings, store: Store) -> AsyncIterator[tuple[Gateway, Doubtful]]:
    """The API over a store that holds an object of each kind, and counts its calls."""
    behind = Doubtful(store)
    gateway = Gateway(settings, behind)
    async with gateway.running():
        nodes = {"nodes": {f"{HELD}.example.com:7777": 1}}
        await gateway.put(f"/ssls/{HELD}", ssl_object(f"{HELD}.example.com"))
        for kind in ("upstreams", "services", "stream_routes"):
            value = nodes if kind == "upstreams" else {"upstream": nodes}
            await gateway.put(f"/{kind}/{HELD}", value | {"name": HELD, "labels": {HELD: HELD}})
        await tell(store, HELD, 10**6)
        behind.calls.clear()
        yield gateway, behind


def allowed(method: str, path: str, key: str | None) -> bool:
    """Whether it is answered; what needs no key says nothing of the store."""
    if method == "OPTIONS" or (method == "HEAD" and path in ("", "/")):
        return True
    return key == ADMIN_KEY or (key == VIEWER_KEY and method in READING)


def with_key(key: str | None, place: str) -> dict[str, dict[str, str]]:
    """How a client sends it."""
    if key is None:
        return {}
    match place:
        case "query":
            return {"params": {"api_key": key}}
        case "cookie":
            return {"headers": {"Cookie": f"x_api_key={key}"}}
    return {"headers": {"X-API-KEY": key}}


async def ask(
    client: httpx.AsyncClient, method: str, path: str, key: str | None, place: str, body: Asked
) -> httpx.Response:
    """One request; a `?query` of the path is kept."""
    path, _, query = path.partition("?")
    sent = with_key(key, place)
    params = dict(httpx.QueryParams(query)) | sent.get("params", {})
    return await client.request(
        method, path, params=params, headers=sent.get("headers"), content=body.chunks()
    )


def paths(section: str) -> list[str]:
    """All of a section, under /apisix/admin."""
    base = f"/{section}" if section else ""
    return [base + rest for rest in SECTIONS[section]]


def requests(section: str) -> Iterator[tuple[str, str, str | None, str]]:
    """(method, path, key, place) of every request to a section by whom not everything is allowed."""
    return product(METHODS, paths(section), REFUSALS, PLACES)


@pytest.mark.parametrize("section", SECTIONS)
async def test_who_may_not_is_told_nothing_before_anything_is_looked_at(
    doubtful: tuple[Gateway, Doubtful], section: str
) -> None:
    gateway, store = doubtful
    async with gateway.client(None) as client:
        for method, path, key, place in requests(section):
            if allowed(method, path, key):
                continue
            body = Asked()
            answer = await ask(client, method, path, key, place, body)
            about = f"{method} {path} with {key} in the {place}: {answer.text}"
            refusal = {"error_msg": "failed to check token", "description": REFUSALS[key]}
            assert answer.status_code == 401, about
            assert answer.text == "" if method == "HEAD" else answer.json() == refusal, about
            assert "x-revision" not in answer.headers, about
            assert HELD not in answer.text + str(answer.headers), about
            assert not body.read, about
    assert store.calls == []


@pytest.mark.parametrize("section", SECTIONS)
async def test_what_needs_no_key_says_nothing_of_the_store(
    doubtful: tuple[Gateway, Doubtful], section: str
) -> None:
    gateway, store = doubtful
    async with gateway.client(None) as client:
        for method, path, key, place in requests(section):
            if key == VIEWER_KEY or not allowed(method, path, key):
                continue
            body = Asked()
            answer = await ask(client, method, path, key, place, body)
            assert answer.status_code == 200
            assert answer.text in ("", "{}")
            assert HELD not in str(answer.headers)
            assert not body.read
    assert store.calls == []


@pytest.mark.parametrize("section", SECTIONS)
async def test_a_viewer_sees_what_an_administrator_sees_and_changes_nothing(
    doubtful: tuple[Gateway, Doubtful], section: str
) -> None:
    gateway, store = doubtful
    before = (await store.real.list("")).entries
    async with gateway.client(None) as client:
        for path in paths(section):
            for method in READING:
                answers = [
                    await ask(client, method, path, key, place, Asked())
                    for key in (ADMIN_KEY, VIEWER_KEY)
                    for place in PLACES
                ]
                seen = {(one.status_code, one.text) for one in answers}
                assert len(seen) == 1, f"{method} {path}: {seen}"
                assert answers[0].status_code != 401
    assert (await store.real.list("")).entries == before


@pytest.mark.parametrize("section", SECTIONS)
async def test_an_administrators_key_counts_wherever_it_stands(
    doubtful: tuple[Gateway, Doubtful], section: str
) -> None:
    gateway, _ = doubtful
    async with gateway.client(None) as client:
        for method, path, place in product(METHODS, paths(section), PLACES):
            answer = await ask(client, method, path, ADMIN_KEY, place, Asked())
            assert answer.status_code != 401, f"{method} {path}: {answer.text}"
            assert answer.status_code < 500, f"{method} {path}: {answer.text}"


async def test_what_the_other_tests_look_for_is_there(
    doubtful: tuple[Gateway, Doubtful],
) -> None:
    gateway, store = doubtful
    for path in (*(f"/{kind}" for kind in KINDS), "/nodes", f"/nodes/{HELD}"):
        assert HELD in (await gateway.send("GET", path)).text
    assert store.calls
    async with gateway.client() as client:
        body = Asked()
        await ask(client, "PATCH", f"/upstreams/{HELD}", None, "header", body)
        assert body.read
