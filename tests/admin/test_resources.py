"""The requests on objects: envelopes, status codes, ids, times, time to live, PATCH. One transcript on every store."""

import json
from typing import Any

import anyio
import pytest

from admin.resources import RACES, Resources
from sniproxy.objects import KINDS
from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import (
    KEYRING,
    NODES,
    NOT_FOUND,
    Doubtful,
    Gateway,
    client_ssl,
    inline_tls,
    ssl_object,
)
from tests.support.stores import PATIENCE, Clock

pytestmark = pytest.mark.anyio

UPSTREAM = {"nodes": NODES}
MINIMAL: dict[str, dict[str, Any]] = {
    "upstreams": UPSTREAM,
    "services": {},
    "ssls": ssl_object(),
    "stream_routes": {},
}
TITLES = {kind.collection: kind.title for kind in KINDS.values()}


def without_times(value: dict[str, Any]) -> dict[str, Any]:
    return {m: content for m, content in value.items() if m not in ("create_time", "update_time")}


async def test_the_life_of_an_object(any_gateway: Gateway) -> None:
    """Every request of the table, on each kind of store."""
    api, root = any_gateway, any_gateway.prefix
    assert await api.ask("GET", "/upstreams") == (200, {"list": [], "total": 0})
    assert await api.ask("GET", "/upstreams/1") == NOT_FOUND
    assert await api.ask("PATCH", "/upstreams/1", {"desc": "x"}) == NOT_FOUND
    assert await api.ask("DELETE", "/upstreams/1") == NOT_FOUND

    code, created = await api.ask("PUT", "/upstreams/1", UPSTREAM)
    assert (code, list(created)) == (201, ["key", "value"])
    assert created["key"] == f"{root}/upstreams/1"
    assert without_times(created["value"]) == {"id": "1", "nodes": NODES}

    code, body = await api.ask("PUT", "/upstreams", {"id": 10, "nodes": [], "name": "ten"})
    assert (code, body["key"], body["value"]["id"]) == (201, f"{root}/upstreams/10", 10)
    code, replaced = await api.ask("PUT", "/upstreams/1", UPSTREAM | {"desc": "again"})
    assert (code, list(replaced)) == (200, ["key", "value"])

    code, got = await api.ask("GET", "/upstreams/1")
    assert (code, got["key"], got["value"]) == (200, f"{root}/upstreams/1", replaced["value"])
    assert list(got) == ["key", "value", "createdIndex", "modifiedIndex"]
    assert 0 < got["createdIndex"] < got["modifiedIndex"]

    code, body = await api.ask("PATCH", "/upstreams/1", {"desc": None, "labels": {"a": "b"}})
    assert (code, list(body)) == (200, ["key", "value"])
    assert without_times(body["value"]) == {"id": "1", "nodes": NODES, "labels": {"a": "b"}}
    code, body = await api.ask("PATCH", "/upstreams/1/labels/c", "d")
    assert (code, body["value"]["labels"]) == (200, {"a": "b", "c": "d"})

    made = [(await api.ask("POST", "/upstreams", UPSTREAM)) for _ in range(3)]
    assert [code for code, _ in made] == [201] * 3
    ids = [body["value"]["id"] for _, body in made]
    assert [body["key"] for _, body in made] == [f"{root}/upstreams/{one}" for one in ids]
    assert all(len(one) == 20 and one.isdecimal() for one in ids)
    assert ids == sorted(set(ids))

    code, listed = await api.ask("GET", "/upstreams/")
    names = [one["key"].removeprefix(f"{root}/upstreams/") for one in listed["list"]]
    assert (code, names, listed["total"]) == (200, [*ids, "1", "10"], 5)
    assert {tuple(one) for one in listed["list"]} == {
        ("key", "value", "createdIndex", "modifiedIndex")
    }

    code, body = await api.ask("DELETE", "/upstreams/1")
    assert (code, body) == (200, {"deleted": "1", "key": f"{root}/upstreams/1"})
    assert await api.ask("GET", "/upstreams/1") == NOT_FOUND  # and nothing of "10"
    assert await api.ask("DELETE", "/upstreams/1") == NOT_FOUND
    assert (await api.ask("GET", "/upstreams/10"))[0] == 200
    assert (await api.ask("PUT", "/upstreams/1", UPSTREAM))[0] == 201


async def test_each_kind_is_stored_where_it_belongs(any_gateway: Gateway) -> None:
    for collection, value in MINIMAL.items():
        code, body = await any_gateway.ask("PUT", f"/{collection}/a", value)
        assert (code, body["key"]) == (201, f"{any_gateway.prefix}/{collection}/a")
    for collection in MINIMAL:
        assert (await any_gateway.ask("GET", f"/{collection}"))[1]["total"] == 1


async def test_secrets_and_references_on_each_store(any_gateway: Gateway) -> None:
    await any_gateway.put("/ssls/shown", client_ssl())
    await any_gateway.put(
        "/upstreams/1", {"nodes": NODES, "scheme": "tls", "tls": {"client_cert_id": "shown"}}
    )
    await any_gateway.put("/services/1", {"upstream": inline_tls()})
    await any_gateway.put("/stream_routes/1", {"upstream_id": 1, "service_id": 1})
    stored = (await any_gateway.store.list(any_gateway.prefix + "/")).entries
    assert not any(b"PRIVATE KEY" in entry.value for entry in stored)
    assert await any_gateway.refusal("DELETE", "/ssls/shown") == (
        "can not delete this ssl, upstream [1] is still using it now"
    )
    assert (await any_gateway.ask("DELETE", "/ssls/shown?force=true"))[0] == 200


# -- ids


@pytest.mark.parametrize("collection", KINDS)
async def test_id_rules(gateway: Gateway, collection: str) -> None:
    title, value = TITLES[collection], MINIMAL[collection]
    path, missing, wrong = f"/{collection}", f"missing {title} id", f"wrong {title} id"
    assert await gateway.refusal("PUT", path, value) == missing
    assert await gateway.refusal("PUT", path, value | {"id": None}) == missing
    assert await gateway.refusal("PATCH", path, value) == missing
    assert await gateway.refusal("PUT", path + "/1", value | {"id": "2"}) == wrong
    assert await gateway.refusal("PUT", path + "/1", value | {"id": 2}) == wrong
    assert await gateway.refusal("PUT", path + "/1", value | {"id": ""}) == wrong
    assert await gateway.refusal("PUT", path + "/01", value | {"id": 1}) == wrong
    for id_ in ("1", 1, None):
        assert (
            await gateway.refusal("POST", path, value | {"id": id_}) == f"{wrong}, do not need it"
        )
    assert await gateway.refusal("POST", path + "/1", value) == f"{wrong}, do not need it"
    assert await gateway.refusal("DELETE", path) == missing
    assert await gateway.keys() == []


@pytest.mark.parametrize(
    "object_id",
    ["", "a b", "a/b", "ключ", "a" * 65, 0, -1, 1.5, True, False, [], {}, ["1"], {"a": 1}, "a\n"],
)
async def test_ids_that_are_refused(gateway: Gateway, object_id: Any) -> None:
    why = await gateway.refusal("PUT", "/upstreams", UPSTREAM | {"id": object_id})
    assert why.startswith('invalid configuration: property "id" validation failed: ')
    assert await gateway.keys() == []


@pytest.mark.parametrize("object_id", ["a", "A.b-c_9", ".", "..", "a" * 64, "None", "null", "0"])
async def test_ids_that_are_taken(gateway: Gateway, object_id: str) -> None:
    assert (await gateway.put("/upstreams", UPSTREAM | {"id": object_id}))["id"] == object_id
    assert await gateway.keys() == [f"/apisix/upstreams/{object_id}"]


async def test_an_id_keeps_its_type(gateway: Gateway) -> None:
    assert (await gateway.put("/upstreams/7", UPSTREAM | {"id": 7}))["id"] == 7
    assert (await gateway.put("/upstreams", UPSTREAM | {"id": 8}))["id"] == 8
    assert (await gateway.put("/upstreams/9", UPSTREAM))["id"] == "9"
    assert (await gateway.put("/upstreams/9", UPSTREAM | {"id": None}))["id"] == "9"
    assert (await gateway.ask("PATCH", "/upstreams/7", {"desc": "x"}))[1]["value"]["id"] == 7
    assert (await gateway.ask("GET", "/upstreams/8"))[1]["value"]["id"] == 8


@pytest.mark.parametrize(
    ("path", "change"),
    [("", {"id": "2"}), ("", {"id": None}), ("/id", "2"), ("/id", None)],
)
@pytest.mark.parametrize("object_id", ["1", "None"])
async def test_patch_does_not_change_an_id(
    gateway: Gateway, object_id: str, path: str, change: Any
) -> None:
    before = await gateway.put(f"/upstreams/{object_id}", UPSTREAM)
    why = await gateway.refusal("PATCH", f"/upstreams/{object_id}{path}", change)
    assert why == "wrong upstream id"
    assert (await gateway.ask("GET", f"/upstreams/{object_id}"))[1]["value"] == before


async def test_an_empty_patch_changes_the_update_time_at_most(gateway: Gateway) -> None:
    before = await gateway.put("/upstreams/1", UPSTREAM)
    code, answer = await gateway.ask("PATCH", "/upstreams/1", {})
    assert code == 200
    assert answer["value"] | {"update_time": before["update_time"]} == before


async def test_post_leaves_nothing_of_an_object_that_is_refused(gateway: Gateway) -> None:
    await gateway.refusal("POST", "/upstreams", {})
    await gateway.refusal("POST", "/upstreams", UPSTREAM | {"upstream_id": 1})
    await gateway.refusal("POST", "/services", {"upstream_id": "none"})
    assert await gateway.keys() == []


# -- what is stored and listed


async def test_defaults_are_neither_stored_nor_answered(gateway: Gateway) -> None:
    for collection, value in MINIMAL.items():
        written = await gateway.put(f"/{collection}/1", value)
        expected = {*value, "id", "create_time", "update_time"}
        assert set(written) == expected
        entry = await gateway.store.get(f"/apisix/{collection}/1")
        assert entry is not None
        assert set(json.loads(entry.value)) == expected
        shown = (await gateway.ask("GET", f"/{collection}/1"))[1]["value"]
        assert set(shown) == expected - {"key", "keys"}


async def test_a_list_is_in_key_order_and_skips_what_is_no_object(gateway: Gateway) -> None:
    for name in ("b", "a", "B", "10", "9", "a.b", "a-b"):
        await gateway.put(f"/upstreams/{name}", UPSTREAM)
    for name, raw in (("", b"init_dir"), ("m", b"init_dir"), ("n", b"[]"), ("o", b'{"x": NaN}')):
        await gateway.store.put(f"/apisix/upstreams/{name}", raw)
    await gateway.store.put("/apisix/upstreams0", b"{}")
    code, body = await gateway.ask("GET", "/upstreams")
    assert (code, body["total"]) == (200, 7)
    assert [one["value"]["id"] for one in body["list"]] == ["10", "9", "B", "a", "a-b", "a.b", "b"]
    for name in ("m", "n", "o"):
        assert await gateway.ask("GET", f"/upstreams/{name}") == NOT_FOUND
        assert await gateway.ask("PATCH", f"/upstreams/{name}", {"desc": "x"}) == NOT_FOUND
    assert (await gateway.ask("PUT", "/upstreams/m", UPSTREAM))[0] == 200
    assert (await gateway.ask("GET", "/upstreams"))[1]["total"] == 8


async def test_a_marker_alone_is_an_empty_list(gateway: Gateway) -> None:
    await gateway.store.put("/apisix/ssls/", b"init_dir")
    assert await gateway.ask("GET", "/ssls") == (200, {"list": [], "total": 0})


# -- times


@pytest.fixture
def timed(settings: Settings, store: Store) -> tuple[Resources, Clock]:
    clock = Clock()
    return Resources(store, settings.where.prefix, KEYRING, clock), clock


async def test_put_keeps_the_creation_and_renews_the_update(timed: tuple[Resources, Clock]) -> None:
    resources, clock = timed
    kind = KINDS["upstreams"]

    def times(value: dict[str, Any]) -> tuple[float, float]:
        return value["create_time"] - 1_700_000_000, value["update_time"] - 1_700_000_000

    assert times((await resources.replace(kind, "1", UPSTREAM, None)).value) == (0, 0)
    clock.now += 10.9
    assert times((await resources.replace(kind, "1", UPSTREAM, None)).value) == (0, 10)
    clock.now += 10
    assert times((await resources.patch(kind, "1", "", {"desc": "x"}, None)).value) == (0, 20)
    clock.now += 10
    assert times((await resources.patch(kind, "1", "desc", "y", None)).value) == (0, 30)
    # PATCH may set both
    base = 1_700_000_000
    patched = await resources.patch(kind, "1", "", {"update_time": base + 1}, None)
    assert times(patched.value) == (0, 1)
    patched = await resources.patch(kind, "1", "update_time", base + 2, None)
    assert times(patched.value) == (0, 2)
    patched = await resources.patch(kind, "1", "", {"create_time": base + 3}, None)
    assert times(patched.value) == (3, 30)
    await resources.delete(kind, "1", force=False)
    assert times((await resources.replace(kind, "1", UPSTREAM, None)).value) == (30, 30)
    assert times((await resources.create(kind, UPSTREAM, None)).value) == (30, 30)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/services/1"), ("POST", "/services")])
@pytest.mark.parametrize("member", ["create_time", "update_time"])
async def test_times_in_a_body_are_refused(
    gateway: Gateway, method: str, path: str, member: str
) -> None:
    for value in ({member: 1}, {"upstream": UPSTREAM | {member: 1}}, {"plugins": {member: 1}}):
        why = await gateway.refusal(method, path, value)
        assert why == f"the property is forbidden:  {member}"
    assert await gateway.keys() == []


# -- time to live


@pytest.mark.parametrize(
    "ttl",
    ["", "0", "-1", "+1", "1.5", "1e3", "x", " 1", "1 ", "0x10", "\u0661", "1000000001", "9" * 30,
     "0" * 11 + "1" + "9" * 5000, "1&ttl=x", "1_0", "null"],
)  # fmt: skip
async def test_a_bad_time_to_live(gateway: Gateway, ttl: str) -> None:
    await gateway.put("/upstreams/1", UPSTREAM)
    before = (await gateway.store.list("")).entries
    for method, path in (
        ("PUT", "/upstreams/1"),
        ("POST", "/upstreams"),
        ("PATCH", "/upstreams/1"),
        ("PATCH", "/upstreams/1/desc"),
    ):
        why = await gateway.refusal(method, f"{path}?ttl={ttl}", UPSTREAM)
        assert why == "invalid argument ttl: should be a number"
    assert (await gateway.store.list("")).entries == before


async def test_an_object_ends_with_its_time(gateway: Gateway, clock: Clock) -> None:
    for path in ("/upstreams/put", "/upstreams/patched", "/upstreams/kept"):
        await gateway.put(path, UPSTREAM)
    await gateway.put("/upstreams/put?ttl=60", UPSTREAM)
    await gateway.put("/upstreams/kept?ttl=60", UPSTREAM)
    await gateway.put("/upstreams/kept", UPSTREAM)
    code, posted = await gateway.ask("POST", "/upstreams?ttl=60", UPSTREAM)
    assert (code, set(posted["value"])) == (201, {"id", "nodes", "create_time", "update_time"})
    assert (await gateway.ask("PATCH", "/upstreams/patched?ttl=60", {"desc": "x"}))[0] == 200
    clock.now += 59
    assert (await gateway.ask("GET", "/upstreams"))[1]["total"] == 4
    clock.now += 1
    listed = (await gateway.ask("GET", "/upstreams"))[1]["list"]
    assert [one["value"]["id"] for one in listed] == ["kept"]
    assert await gateway.ask("GET", "/upstreams/put") == NOT_FOUND
    assert (await gateway.put("/upstreams/put?ttl=1000000000", UPSTREAM))["id"] == "put"


async def test_an_object_ends_with_its_time_on_each_store(any_gateway: Gateway) -> None:
    await any_gateway.put("/upstreams/1?ttl=1", UPSTREAM)
    with anyio.fail_after(PATIENCE):
        code = 200
        while code == 200:
            await anyio.sleep(0.02)
            code, _ = await any_gateway.ask("GET", "/upstreams/1")
    assert code == 404


# -- races


async def test_two_patches_at_once_both_land(settings: Settings, store: Store) -> None:
    await Gateway(settings, store).put("/upstreams/1", UPSTREAM)
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)
    both_have_read, waiting = anyio.Event(), 0

    async def meet(_: str) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            both_have_read.set()
        await both_have_read.wait()

    doubtful.before_put = meet
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.ask, "PATCH", "/upstreams/1", {"desc": "one"})
        tasks.start_soon(gateway.ask, "PATCH", "/upstreams/1", {"labels": {"two": "2"}})
    value = (await gateway.ask("GET", "/upstreams/1"))[1]["value"]
    assert (value["desc"], value["labels"]) == ("one", {"two": "2"})
    assert doubtful.calls.count("put") == 3  # one of them lost and tried again


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_race_that_is_lost_again_and_again(
    settings: Settings, store: Store, method: str
) -> None:
    await Gateway(settings, store).put("/upstreams/1", UPSTREAM)
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)
    doubtful.before_put = lambda key: store.put(key, b'{"id": "1", "nodes": [], "desc": "other"}')
    code, body = await gateway.ask(method, "/upstreams/1", UPSTREAM | {"name": "ours"})
    assert (code, body) == (503, {"error_msg": "value changed before overwritten"})
    assert doubtful.calls.count("put") == RACES
    doubtful.before_put = None
    value = (await gateway.ask("GET", "/upstreams/1"))[1]["value"]
    assert value == {"id": "1", "nodes": [], "desc": "other"}


async def test_of_two_who_create_at_once_one_replaces(settings: Settings, store: Store) -> None:
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)

    async def overtake(key: str) -> None:
        doubtful.before_put = None
        await store.put(key, b'{"id": "1", "nodes": [], "create_time": 5, "update_time": 5}')

    doubtful.before_put = overtake
    code, body = await gateway.ask("PUT", "/upstreams/1", UPSTREAM)
    assert (code, body["value"]["create_time"]) == (200, 5)


async def test_what_is_deleted_meanwhile_is_not_made_anew_by_patch(
    settings: Settings, store: Store
) -> None:
    await Gateway(settings, store).put("/upstreams/1", UPSTREAM)
    doubtful = Doubtful(store)
    gateway = Gateway(settings, doubtful)
    doubtful.before_put = store.delete
    assert await gateway.ask("PATCH", "/upstreams/1", {"desc": "x"}) == NOT_FOUND
    assert await gateway.keys() == []


async def test_of_two_who_delete_at_once_one_finds_nothing(
    settings: Settings, store: Store
) -> None:
    class Late(Doubtful):
        async def delete(self, key: str, *, expect: int | None = None) -> int | None:
            await self.real.delete(key)
            return await self.real.delete(key)

    gateway = Gateway(settings, Late(store))
    await gateway.put("/upstreams/1", UPSTREAM)
    assert await gateway.ask("DELETE", "/upstreams/1") == NOT_FOUND
