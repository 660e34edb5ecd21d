"""dump and restore: all of a store in one file and back again, and a dump that says what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from admin.backup import dump_api, dump_store, read_backup
from admin.bulk import ApiDestination
from admin.resources import Resources
from admin.rules import reveal
from sniproxy.errors import ObjectRefused
from sniproxy.keyring import MARK, Keyring, is_encrypted
from sniproxy.objects import KINDS
from sniproxy.store import Store
from sniproxy.store.sqlite import SqliteStore
from tests.admin.backups import EVERYTHING, NEW, dumped, on, put_all, restored
from tests.admin.gateway import (
    KEYRING,
    NODES,
    SECRET,
    VIEWER_KEY,
    Doubtful,
    Gateway,
    inline_tls,
    key_lines,
    settings_on,
    ssl_object,
)
from tests.support.certificates import pair
from tests.test_keyring import APISIX_16, apisix

pytestmark = pytest.mark.anyio

CERT, KEY = pair("play.example.com")
OTHER_CERT, OTHER_KEY = pair("other.example.com")
NAMES = ("play.example.com", "other.example.com", "inline.example.com", "client.example.com")


async def shown(gateway: Gateway) -> dict[str, Any]:
    """What GET answers, but for the store's revisions."""
    answers: dict[str, Any] = {}
    for collection in KINDS:
        for one in (await gateway.ask("GET", f"/{collection}"))[1]["list"]:
            answers[one["key"].removeprefix(gateway.prefix)] = one["value"]
    return answers


async def clear(resources: Resources) -> dict[str, Any]:
    """Every object with its keys in clear."""
    found = {}
    for entry in (await resources.store.list(resources.prefix + "/")).entries:
        collection, object_id = entry.key.removeprefix(resources.prefix + "/").split("/")
        if not object_id:  # an APISIX's mark of a directory
            continue
        found[f"{collection}/{object_id}"] = reveal(
            collection, object_id, json.loads(entry.value), resources.keyring
        )
    return found


# -- there and back


async def fill(gateway: Gateway) -> None:
    """All four kinds by the API, and what an APISIX may have left."""
    for kind in KINDS:
        for value in EVERYTHING[kind]:
            await gateway.put(f"/{kind}/{value['id']}", value)
    many = {f"10.{n // 250}.0.{n % 250}:7777": n for n in range(2000)}
    await gateway.put("/upstreams/many", {"nodes": many})
    await gateway.put("/upstreams/mtls", inline_tls() | {"desc": "two ends\n\n\n"})
    pairs: dict[str, Any] = {"certs": [OTHER_CERT, CERT], "keys": [OTHER_KEY, KEY]}
    await gateway.put("/ssls/three", ssl_object(**pairs, labels={"schön": "日本"}))
    theirs = ssl_object(id="theirs", key=apisix(KEY.encode(), APISIX_16), create_time=7)
    await gateway.store.put(f"{gateway.prefix}/ssls/theirs", json.dumps(theirs).encode())
    inline = {"id": 9, "upstream": {"nodes": [], "create_time": 3, "update_time": 4}}
    await gateway.store.put(f"{gateway.prefix}/services/9", json.dumps(inline).encode())


async def test_from_sqlite_to_any_store_and_back(
    any_gateway: Gateway, empty: SqliteStore, tmp_path: Path
) -> None:
    source = Gateway(
        settings_on(f"sqlite://{tmp_path}/first.db"), SqliteStore(tmp_path / "first.db")
    )
    await fill(source)
    first = on(source.store, SECRET, APISIX_16)
    text = await dumped(first)
    assert not any(line in text for line in key_lines(*NAMES))
    second = on(any_gateway.store, NEW, SECRET, prefix=any_gateway.prefix)
    assert await restored(text, second) == 14
    last = on(empty, NEW)
    assert await restored(await dumped(second), last) == 14
    target = Gateway(settings_on(f"sqlite://{tmp_path}/empty/config.db"), empty)
    assert await shown(source) == await shown(any_gateway) == await shown(target)
    assert await clear(first) == await clear(second) == await clear(last)
    assert (await clear(last))["ssls/three"]["keys"] == [OTHER_KEY, KEY]
    assert (await clear(last))["ssls/theirs"]["key"] == KEY
    assert (await clear(last))["services/9"]["upstream"]["create_time"] == 3
    await source.store.aclose()


async def test_private_keys_go_under_the_first_key_of_the_new_store(
    store: Store, empty: SqliteStore
) -> None:
    await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)
    text = await dumped(on(store))
    assert await restored(text, on(empty, NEW, SECRET)) == 1
    entry = await empty.get("/apisix/ssls/1")
    assert entry is not None
    sealed = json.loads(entry.value)["key"]
    assert is_encrypted(sealed)
    assert Keyring([NEW]).decrypt(sealed, "ssls/1/key") == KEY


async def test_a_dump_says_what_it_is(store: Store) -> None:
    assert (await dumped(on(store))).splitlines() == [
        "# sniproxy 1.2.3 at 2026-11-24T18:00:00Z, store revision 0",
        "ssls: []",
        "upstreams: []",
        "services: []",
        "stream_routes: []",
        "# end: 0 objects",
    ]
    await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)
    await on(store, NEW).replace(KINDS["ssls"], "2", ssl_object(), None)
    head = (await dumped(on(store, SECRET, NEW))).splitlines()[:3]
    ids = sorted(Keyring([key]).encrypt("", "").split(":")[1] for key in (SECRET, NEW))
    assert head == [
        "# sniproxy 1.2.3 at 2026-11-24T18:00:00Z, store revision 2",
        f"# private keys are encrypted; encryption.keyring must have {', '.join(ids)}",
        "ssls:",
    ]


async def test_a_dump_under_concurrent_writes_is_of_one_revision(any_gateway: Gateway) -> None:
    """The writer counts up what is listed last before what is listed first; lists one by one would see them swapped."""
    store, prefix = any_gateway.store, any_gateway.prefix

    async def write() -> None:
        count = 0
        while True:
            for collection in ("stream_routes", "ssls"):
                value = json.dumps({"id": 1, "labels": {"count": str(count)}}).encode()
                await store.put(f"{prefix}/{collection}/1", value)
            count += 1

    seen, dumps = set[int](), 0
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        while dumps < 40 or len(seen) <= 5:  # a slow disk keeps the writer waiting, and no reader
            dumps += 1
            await anyio.sleep(0.003)
            lists = yaml.safe_load((await dump_store(on(store, prefix=prefix), "0")).text)
            late, early = ([int(one["labels"]["count"]) for one in lists[name]]
                           for name in ("stream_routes", "ssls"))  # fmt: skip
            if late and early:
                assert late[0] - early[0] in (0, 1)
                seen.add(late[0])
        group.cancel_scope.cancel()


async def test_a_dump_asks_the_store_once(store: Store) -> None:
    doubtful = Doubtful(store)
    await dumped(on(doubtful))
    assert doubtful.calls == ["list"]


async def test_a_dump_through_the_api_has_no_keys(gateway: Gateway) -> None:
    await fill(gateway)
    async with gateway.client(VIEWER_KEY) as client:
        dump = await dump_api(ApiDestination(client), "1.2.3", 0)
    first = "# sniproxy 1.2.3 at 1970-01-01T00:00:00Z, from an admin API: no private keys"
    assert dump.text.startswith(first + "\n")
    assert (dump.count, dump.problems) == (14, [])
    assert "aes256gcm" not in dump.text
    assert "PRIVATE KEY" not in dump.text
    lists = yaml.safe_load(dump.text)
    assert {(name, str(value["id"])) for name, values in lists.items() for value in values} == {
        tuple(key.split("/")[1:]) for key in await shown(gateway)
    }


# -- what is broken in the store


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b"[" * 9999])
async def test_what_is_no_object_is_told_and_the_rest_is_there(store: Store, raw: bytes) -> None:
    good = {"id": "2", "nodes": NODES}
    dump = await put_all(store, {"upstreams/1": raw, "upstreams/2": good})
    assert dump.problems == ["/apisix/upstreams/1 is no JSON object, so it is not in the file"]
    assert yaml.safe_load(dump.text)["upstreams"] == [good]
    assert len(read_backup(dump.text)) == dump.count == 1


async def test_what_is_not_ours_is_left_out(store: Store) -> None:
    """The counter of POST, APISIX's marks of directories and its other collections."""
    others = {"ssls/": b"init_dir", "gen_id": b"1", "routes/1": {"uri": "/"}, "upstreamsx/1": {}}
    dump = await put_all(store, others)
    assert (dump.count, dump.problems) == (0, [])


async def test_the_key_in_the_store_decides_on_the_id(store: Store, empty: SqliteStore) -> None:
    ids: dict[str, dict[str, Any]] = {
        "upstreams/1": {"id": 1},
        "upstreams/2": {},
        "upstreams/3": {"id": "x"},
    }
    dump = await put_all(store, {key: value | {"nodes": []} for key, value in ids.items()})
    assert [one["id"] for one in yaml.safe_load(dump.text)["upstreams"]] == [1, "2", "3"]
    await restored(dump.text, on(empty))
    assert [key[-1] for key in await clear(on(empty))] == ["1", "2", "3"]


async def test_a_private_key_where_none_is_looked_for_is_left_out(
    store: Store, empty: SqliteStore
) -> None:
    """An APISIX takes one behind a certificate. Without it the object is sound."""
    odd = ssl_object(id="odd", cert=CERT + KEY)
    marked = ssl_object(id="marked", key=f"{MARK}\n{KEY}")
    dump = await put_all(store, {"ssls/marked": marked, "ssls/odd": odd})
    assert dump.problems == [
        "/apisix/ssls/odd has a private key where it stands in clear: it was left out"
    ]
    assert not any(line in dump.text for line in KEY.splitlines())
    assert await restored(dump.text, on(empty)) == 2
    assert (await on(empty).get(KINDS["ssls"], "odd"))["value"]["cert"] == CERT


async def test_a_private_key_in_clear_is_sealed_on_its_way_out(store: Store) -> None:
    dump = await put_all(store, {"ssls/1": ssl_object(id=1)})
    assert dump.problems == []
    sealed = yaml.safe_load(dump.text)["ssls"][0]["key"]
    assert KEYRING.decrypt(sealed, "ssls/1/key") == KEY


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("upstreams/x", {}, "upstreams[0] (id x): invalid configuration: value should match only one"),
        ("upstreams/a:b", {"nodes": []}, 'upstreams[0] (id a:b): invalid configuration: property "id"'),
        ("services/1", {"upstream_id": 7}, "services[0] (id 1): failed to fetch upstream info"),
        ("ssls/1", ssl_object(key=OTHER_KEY), "ssls[0] (id 1): invalid configuration: the key does"),
        ("ssls/1", ssl_object(key=apisix(KEY.encode(), APISIX_16)),
         "ssls[0] (id 1): ssls/1/key: no key of the keyring opens it"),
        ("ssls/1", ssl_object(key=KEYRING.encrypt(KEY, "ssls/2/key")),
         "ssls[0] (id 1): ssls/1/key: the encrypted value was damaged or moved here"),
        ("ssls/1", ssl_object(key="aes256gcm:a\nb:AAAA" + "A" * 64),
         "ssls[0] (id 1): ssls/1/key: encrypted under key a\nb, which the keyring lacks"),
    ],
)  # fmt: skip
async def test_what_restore_would_refuse_is_told_by_the_dump(
    store: Store, empty: SqliteStore, key: str, value: dict[str, Any], why: str
) -> None:
    dump = await put_all(store, {key: value})
    (problem,) = dump.problems
    assert problem.startswith(f"restore would refuse {why}")
    with pytest.raises(ObjectRefused) as caught:
        await restored(dump.text, on(empty))
    assert problem == f"restore would refuse {caught.value}"
    assert (await empty.list("")).entries == ()
    there = yaml.safe_load(dump.text)[key.split("/")[0]][0]
    assert there.keys() == value.keys() | {"id"}


# -- and what became of the file


async def test_a_dump_that_is_cut_off_anywhere_is_refused(gateway: Gateway) -> None:
    await fill(gateway)
    text = await dumped(on(gateway.store, SECRET, APISIX_16))
    assert len(read_backup(text)) == 14
    assert len(read_backup(text.rstrip("\n"))) == 14
    lines = text.splitlines(keepends=True)
    for kept in range(0, len(lines), 97):
        with pytest.raises(ObjectRefused, match=r"^no whole backup: "):
            read_backup("".join(lines[:kept]))
    for lost in range(2, len(lines[-1]) + 2):
        with pytest.raises(ObjectRefused, match=r"^no whole backup: "):
            read_backup(text[:-lost])
