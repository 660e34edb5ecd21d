"""apply: files that are read or refused with their place, nothing written by halves, and a dump put in again."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from admin.backup import dump_api
from admin.bulk import ApiDestination, Destination, StoreDestination, apply, read_items
from admin.reading import Item
from admin.resources import Resources
from admin.rules import reveal
from sniproxy.errors import ObjectRefused, StoreUnavailable
from sniproxy.settings import Settings
from sniproxy.store import Store
from sniproxy.store.sqlite import SqliteStore
from tests.admin.backups import EVERYTHING, dumped, on
from tests.admin.gateway import (
    ADMIN_KEY,
    BASE,
    KEYRING,
    NODES,
    Doubtful,
    Gateway,
    client_ssl,
    key_lines,
    settings_on,
    ssl_object,
)
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

CERT, KEY = pair("play.example.com")
_, OTHER_KEY = pair("other.example.com")


def to_store(store: Store) -> StoreDestination:
    return StoreDestination(Resources(store, "/apisix", KEYRING))


async def said(items: list[Item], destination: Destination) -> list[str]:
    lines: list[str] = []
    await apply(items, destination, lines.append)
    return lines


def as_file(value: Any) -> list[Item]:
    return read_items(json.dumps(value))


# -- reading a file


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{}", []),
        ("upstreams: []", []),
        ("upstreams:\nssls: null", []),
        ("upstreams: [{id: a}, {id: 2}]", ["upstreams/a", "upstreams/2"]),
        ('{"upstreams": [{"id": "a"}]}', ["upstreams/a"]),
        ("\ufeffupstreams: [{id: a}]", ["upstreams/a"]),
        ("upstreams: [{id: 1}]\nservices: [{id: 1}]", ["upstreams/1", "services/1"]),
        ("stream_routes: [{id: 1}]\nservices: [{id: 2}]\nssls: [{id: 3}]\nupstreams: [{id: 4}]",
         ["ssls/3", "upstreams/4", "services/2", "stream_routes/1"]),
    ],
)  # fmt: skip
def test_files_that_are_read(text: str, names: list[str]) -> None:
    items = read_items(text)
    assert [f"{item.kind.collection}/{item.object_id}" for item in items] == names


def test_an_item_knows_its_place_and_is_json() -> None:
    item = read_items("upstreams: [{id: 1}, {id: 2, nodes: {7777: 1}}]")[1]
    assert (item.place, item.object_id) == ("upstreams[1]", "2")
    assert item.value == {"id": 2, "nodes": {"7777": 1}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected lists named ssls, upstreams, services"),
        ("[]", "expected lists named "),
        ("x", "expected lists named "),
        ("routes: []", "routes: unknown; expected ssls, upstreams, services"),
        ("1: []", "1: unknown; expected "),
        ("upstreams: {id: 1}", "upstreams: expected a list"),
        ("upstreams: [[]]", "upstreams[0]: expected an object"),
        ("upstreams: [{id: 1}, x]", "upstreams[1]: expected an object"),
        ("stream_routes: [{sni: a}]", "stream_routes[0]: missing stream route id"),
        ("ssls: [{id: 1}, {id: null}]", "ssls[1]: missing ssl id"),
        ("upstreams: [{id: 1}, {id: 2}, {id: '1'}]",
         "upstreams[2]: the id 1 stands there twice"),
        ("upstreams: [", "neither YAML nor JSON: "),
        ("upstreams: [}", "neither YAML nor JSON: "),
        ("a: b: c", "neither YAML nor JSON: "),
        ("\t", "neither YAML nor JSON: "),
        ("a: \x00", "neither YAML nor JSON: "),
        ("a: \udcff", "neither YAML nor JSON: "),
        ("a: !!python/object/apply:os.system [id]", "neither YAML nor JSON: "),
        ("upstreams: !!int x", "neither YAML nor JSON: "),
        ("a: 9999-99-99", "neither YAML nor JSON: "),
        ("[1]: 2\n{}: 3", "neither YAML nor JSON: "),
        ("[" * 100_000, "neither YAML nor JSON: "),
        ("upstreams: [{id: 1, desc: 2024-01-01}]", "upstreams[0]: cannot be written as JSON: "),
        ("upstreams: [{id: 1}, {id: 2, x: .nan}]", "upstreams[1]: cannot be written as JSON: "),
        ("upstreams: [{id: 1, x: -.inf}]", "upstreams[0]: cannot be written as JSON: "),
        ("upstreams: [{id: 1, x: !!set {a}}]", "upstreams[0]: cannot be written as JSON: "),
        ("upstreams: [{id: 1, x: !!binary aGk=}]", "upstreams[0]: cannot be written as JSON: "),
        ('upstreams: [{id: 1, x: "\\ud800"}]', "upstreams[0]: cannot be written as JSON: "),
        ("upstreams: [&a {id: 1, x: *a}]", "upstreams[0]: cannot be written as JSON: "),
        ("upstreams: [{id: 1, x: " + "[" * 70 + "]" * 70 + "}]", "upstreams[0]: cannot be written"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_files_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        read_items(text)
    assert str(caught.value).startswith(why)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "form", ["ssls: [{{id: 1, key: '{0}}}]", "key: {0}", "a: [{0}", "{0}", "a: {1}: b"]
)
def test_a_refused_file_is_not_quoted(form: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        read_items(form.format(KEY, KEY.splitlines()[1]))
    for line in key_lines("play.example.com"):
        pieces = (line[start : start + 20] for start in range(len(line) - 19))
        assert not any(piece in str(caught.value) for piece in pieces)


# -- all or nothing


GOOD = {"upstreams": [{"id": "1", "nodes": NODES}, {"id": 2, "nodes": NODES}]}


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ({"stream_routes": [{"id": 1, "sni": "a b"}]},
         'stream_routes[0] (id 1): invalid configuration: property "sni" validation failed: '),
        ({"stream_routes": [{"id": 1}, {"id": "a/b"}]},
         'stream_routes[1] (id a/b): invalid configuration: property "id" validation failed: '),
        ({"stream_routes": [{"id": 1, "upstream_id": 3}]},
         "stream_routes[0] (id 1): failed to fetch upstream info by upstream id [3]"),
        ({"stream_routes": [{"id": 1, "service_id": "1"}]},
         "stream_routes[0] (id 1): failed to fetch service info by service id [1]"),
        ({"ssls": [ssl_object(id=1, key=OTHER_KEY)]},
         "ssls[0] (id 1): invalid configuration: the key does not belong to the certificate"),
        ({"ssls": [ssl_object(id=1, desc=KEY)]},
         "ssls[0] (id 1): invalid configuration: a private key stands where it"),
        ({"services": [{"id": 1, "upstream": {"nodes": NODES, "tls": {"client_cert_id": 1}}}],
          "ssls": [ssl_object(id=1)]},
         "services[0] (id 1): failed to fetch ssl info by ssl id [1], wrong ssl type"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["store", "api"])
async def test_a_wrong_object_at_the_end_and_nothing_is_written(
    settings: Settings, store: Store, way: str, last: dict[str, Any], why: str
) -> None:
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)
    async with gateway.client() as client:
        destination = to_store(doubtful) if way == "store" else ApiDestination(client)
        with pytest.raises(ObjectRefused) as caught:
            await said(as_file(GOOD | last), destination)
    assert str(caught.value).startswith(why)
    assert "put" not in doubtful.calls


@pytest.mark.parametrize("way", ["store", "api"])
async def test_references_hold_inside_the_file_and_outside(gateway: Gateway, way: str) -> None:
    await gateway.put("/services/there", {})
    await gateway.put("/upstreams/kept", {"nodes": NODES})
    file = {
        "stream_routes": [{"id": 1, "service_id": "there", "upstream_id": "new"}],
        "upstreams": [{"id": "new", "nodes": [], "tls": {"client_cert_id": 7}}],
        "ssls": [client_ssl(id=7)],
    }
    async with gateway.client() as client:
        destination = to_store(gateway.store) if way == "store" else ApiDestination(client)
        assert await said(as_file(file), destination) == [
            "created ssls/7",
            "created upstreams/new",
            "created stream_routes/1",
        ]
        again = await said(as_file(file), destination)
        assert {line.split()[0] for line in again} == {"replaced"}
    assert len(await gateway.keys()) == 5


@pytest.mark.parametrize("way", ["store", "api"])
async def test_a_store_that_goes_away_in_between(
    settings: Settings, store: Store, way: str
) -> None:
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)

    async def second(_: str) -> None:
        if doubtful.calls.count("put") == 2:
            raise StoreUnavailable("no more")

    doubtful.before_put = second
    async with gateway.client() as client:
        destination = to_store(doubtful) if way == "store" else ApiDestination(client)
        with pytest.raises(
            StoreUnavailable, match=r"^1 of 2 written, then upstreams\[1\]: .*no more$"
        ):
            await said(as_file(GOOD), destination)
    assert await gateway.keys() == ["/apisix/upstreams/1"]


async def test_races_that_are_lost_while_applying(store: Store) -> None:
    doubtful = Doubtful(store)
    doubtful.before_put = lambda key: store.put(key, b"{}")
    with pytest.raises(StoreUnavailable, match=r"^0 of 2 written, then upstreams\[0\]: value "):
        await said(as_file(GOOD), to_store(doubtful))


# -- there and back


def by_place(lists: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Every object of a file, its keys in clear, without the times of its writing."""
    clear = {
        f"{name}/{value['id']}": reveal(name, str(value["id"]), value, KEYRING)
        for name, values in lists.items()
        for value in values
    }
    for value in clear.values():
        value.pop("create_time", None)
        value.pop("update_time", None)
    return clear


@pytest.mark.parametrize("way", ["store", "api"])
async def test_dump_and_apply_are_there_and_back(
    gateway: Gateway, empty: SqliteStore, tmp_path: Path, way: str
) -> None:
    await said(as_file(EVERYTHING), to_store(gateway.store))
    text = await dumped(on(gateway.store))
    assert by_place(yaml.safe_load(text)) == by_place(EVERYTHING)
    elsewhere = Gateway(settings_on(f"sqlite://{tmp_path}/empty/config.db"), empty)
    async with elsewhere.client() as client:
        destination = to_store(empty) if way == "store" else ApiDestination(client)
        assert len(await said(read_items(text), destination)) == 9
    assert by_place(yaml.safe_load(await dumped(on(empty)))) == by_place(EVERYTHING)
    assert await elsewhere.keys() == await gateway.keys()


@pytest.mark.parametrize("way", ["store", "api"])
async def test_times_are_the_destinations_to_say(gateway: Gateway, way: str) -> None:
    """A file may have them, as a dump does."""
    old = {"create_time": 1, "update_time": 2}
    upstream = {"id": 1, "nodes": NODES} | old
    file = {"upstreams": [upstream], "services": [{"id": 2, "upstream": upstream} | old]}
    async with gateway.client() as client:
        destination = to_store(gateway.store) if way == "store" else ApiDestination(client)
        await said(as_file(file), destination)
    for path in ("/upstreams/1", "/services/2"):
        value = (await gateway.ask("GET", path))[1]["value"]
        assert min(value["create_time"], value["update_time"]) > 1_000_000_000
    assert value["upstream"] == {"id": 1, "nodes": NODES}


# -- an API that is no API


async def tried(transport: httpx.AsyncBaseTransport, base: str = "http://admin" + BASE) -> str:
    headers = {"X-API-KEY": ADMIN_KEY}
    whys = []
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
        for work in (
            dump_api(ApiDestination(client), "0", 0),
            said(as_file(GOOD), ApiDestination(client)),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await work
            whys.append(str(caught.value).removeprefix("0 of 2 written, then upstreams[0]: "))
    assert whys[0] == whys[1]
    return whys[0]


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("http://127.0.0.1:1/apisix/admin", "http://127.0.0.1:1/apisix/admin/: "),
        ("http://no.such.host.invalid/apisix/admin", "http://no.such.host.invalid/apisix/admin/: "),
        ("gopher://127.0.0.1/apisix/admin", "gopher://127.0.0.1/apisix/admin/: Request URL has an"),
        ("127.0.0.1:1/apisix/admin", "127.0.0.1:1/apisix/admin/: Request URL "),
    ],
)
async def test_an_api_that_cannot_be_reached_is_named(base: str, why: str) -> None:
    assert (await tried(httpx.AsyncHTTPTransport(), base)).startswith(why)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (httpx.Response(200, text="<html>welcome"), "HTTP 200: no answer of an admin API"),
        (httpx.Response(200, json={}), "HTTP 200: no answer of an admin API"),
        (httpx.Response(404, text="nginx"), "HTTP 404: no answer of an admin API"),
        (httpx.Response(302, headers={"location": "/"}), "HTTP 302: no answer of an admin API"),
        (httpx.Response(502, text="bad gateway"), "HTTP 502: no answer of an admin API"),
        (httpx.Response(401, json={"error_msg": "x", "description": "wrong apikey"},
                        headers={"X-API-VERSION": "v3"}), "HTTP 401: wrong apikey"),
        (httpx.Response(503, json={"error_msg": "no etcd"}, headers={"X-API-VERSION": "v3"}),
         "HTTP 503: no etcd"),
        (httpx.Response(503, text="<html>", headers={"X-API-VERSION": "v3"}),
         "HTTP 503: no reason given"),
        (httpx.Response(503, json=[], headers={"X-API-VERSION": "v3"}),
         "HTTP 503: no reason given"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none(answer: httpx.Response, why: str) -> None:
    assert await tried(httpx.MockTransport(lambda _: answer)) == why


async def test_a_wrong_key(gateway: Gateway) -> None:
    async with gateway.client("wrong") as client:
        with pytest.raises(StoreUnavailable, match="HTTP 401: wrong apikey"):
            await dump_api(ApiDestination(client), "0", 0)
