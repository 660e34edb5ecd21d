"""All private keys of a store under the first key: what is changed, what is left alone, and who comes in between."""

import json
import time
from typing import Any

import pytest

from admin.resources import RACES, Resources
from admin.rotation import CLEAR, Survey, rotate, survey
from admin.rules import reveal
from sniproxy.errors import StoreUnavailable
from sniproxy.keyring import Keyring
from sniproxy.objects import KINDS
from sniproxy.snapshot import Snapshot
from sniproxy.store import Store
from tests.admin.backups import EVERYTHING, NEW, on
from tests.admin.gateway import SECRET, Doubtful, Gateway, inline_tls, key_lines, ssl_object
from tests.support.certificates import authority_pem, pair
from tests.support.stores import Clock
from tests.test_keyring import APISIX_16, APISIX_32, apisix

pytestmark = pytest.mark.anyio

KEY = pair("play.example.com")[1]
KEYS = 6  # in EVERYTHING
OLD_ID, NEW_ID, APISIX_ID = (Keyring([one]).writer.id for one in (SECRET, NEW, APISIX_16))
EVERYWHERE = pytest.mark.parametrize("first", [NEW, APISIX_16, APISIX_32])


async def fill(store: Store, *keyring: str, prefix: str = "/apisix") -> None:
    """All kinds of objects, as the API writes them."""
    resources = on(store, *keyring, prefix=prefix)
    for kind in KINDS.values():  # what is referred to comes first
        for value in EVERYTHING[kind.collection]:
            await resources.replace(kind, None, value, None)


async def raw(resources: Resources) -> dict[str, Any]:
    """What is stored, by key."""
    entries = (await resources.store.list(resources.prefix + "/")).entries
    return {one.key: json.loads(one.value) for one in entries if not one.key.endswith("/")}


def in_clear(objects: dict[str, Any], keyring: Keyring) -> dict[str, Any]:
    found = {}
    for key, value in objects.items():
        collection, object_id = key.split("/")[-2:]
        found[key] = reveal(collection, object_id, value, keyring)
    return found


async def rotated(resources: Resources) -> Survey:
    return await rotate(resources, lambda done, total: None)


@EVERYWHERE
async def test_nothing_but_ciphertext_changes(any_gateway: Gateway, first: str) -> None:
    store, prefix = any_gateway.store, any_gateway.prefix
    await fill(store, SECRET, prefix=prefix)
    resources = on(store, first, SECRET, prefix=prefix)
    before, at = await raw(resources), (await store.list(prefix)).revision
    left = await rotated(resources)
    after = await raw(resources)
    assert (left.under, left.closed, left.due) == ({resources.keyring.writer.id: KEYS}, {}, [])
    only = Keyring([first])
    assert in_clear(after, only) == in_clear(before, resources.keyring)
    changed = {key for key in before if before[key] != after[key]}
    assert len(changed) == (await store.list(prefix)).revision - at == 5
    assert not any(line in json.dumps(after) for line in key_lines("play.example.com"))
    assert (await rotated(resources)).due == []
    assert await raw(resources) == after  # what is under the first key is not written again


async def test_back_from_apisix_s_form(store: Store) -> None:
    await fill(store, APISIX_16)
    before = await raw(on(store))
    left = await rotated(on(store, SECRET, APISIX_16))
    assert left.under == {OLD_ID: KEYS}
    assert in_clear(await raw(on(store)), Keyring([SECRET])) == in_clear(
        before, Keyring([APISIX_16])
    )


async def test_a_survey_counts_keys_of_every_kind(store: Store) -> None:
    values: dict[str, Any] = {
        "ssls/ours": {"key": Keyring([SECRET]).encrypt(KEY, "ssls/ours/key")},
        "ssls/theirs": {"key": apisix(KEY.encode(), APISIX_16), "keys": [KEY, KEY]},
        "ssls/moved": {"key": Keyring([SECRET]).encrypt(KEY, "ssls/other/key"), "keys": [KEY]},
        "ssls/foreign": {"key": Keyring([NEW]).encrypt(KEY, "ssls/foreign/key")},
        "upstreams/1": {"nodes": {}, "tls": {"client_key": "$secret://vault/1/key"}},
        "upstreams/2": {"nodes": {}},
        "routes/1": {"key": KEY},
        "ssls/": "init_dir",
        "ssls/text": "text",
        "ssls/odd": {"key": 7, "keys": KEY},
    }
    for key, value in values.items():
        await store.put(f"/apisix/{key}", json.dumps(value).encode())
    await store.put("/apisix/ssls/", b"init_dir")
    found = await survey(on(store, SECRET, APISIX_16))
    assert found.under == {OLD_ID: 1, APISIX_ID: 1, CLEAR: 3}
    assert found.closed == {
        "ssls/foreign": [
            f"ssls/foreign/key: encrypted under key {NEW_ID}, which the keyring lacks: add that key to "
            "encryption.keyring (of a store in SQLite it may lie in the file keyring in state_dir)"
        ],
        "ssls/moved": ["ssls/moved/key: the encrypted value was damaged or moved here"],
        "upstreams/1": ["upstreams/1/tls/client_key: neither PEM nor an encrypted value"],
    }
    assert [one[:2] for one in found.due] == [("ssls", "theirs")]
    assert (found.due_keys, found.closed_keys) == (3, 3)


async def test_objects_with_a_key_that_does_not_open_are_left_alone(store: Store) -> None:
    await fill(store, SECRET)
    await store.put(
        "/apisix/ssls/half", json.dumps(ssl_object(keys=["c29tZWJvZHkgZWxzZQ=="])).encode()
    )
    before = await raw(on(store))
    left = await rotated(on(store, NEW, SECRET))
    after = await raw(on(store))
    assert list(left.closed) == ["ssls/half"]
    assert after["/apisix/ssls/half"] == before["/apisix/ssls/half"]
    assert left.under == {NEW_ID: KEYS, CLEAR: 1}
    assert left.due == []


@pytest.mark.parametrize("odd", ["NaN", "1e999", "[" * 70 + "]" * 70, '"\\ud800"'])
async def test_a_key_that_only_a_data_plane_can_use_is_not_forgotten(
    store: Store, odd: str
) -> None:
    """Else its key is taken out of the keyring, and with the next start its name is gone."""
    key = Keyring([SECRET]).encrypt(KEY, "ssls/odd/key")
    text = json.dumps(mutual() | {"key": key}).replace('"client": {', f'"client": {{"x": {odd}, ')
    await store.put("/apisix/ssls/odd", text.encode())
    resources = on(store, NEW, SECRET)
    assert await winner(resources) == "odd"
    await store.put("/apisix/ssls/text", b"NaN")
    left = await rotated(resources)
    why = "ssls/odd/key: in JSON that cannot be written back: NaN, too deep, or half a character"
    assert (left.closed, left.closed_keys, left.due) == ({"ssls/odd": [why]}, 1, [])


async def test_a_time_to_live_goes_on(store: Store, clock: Clock) -> None:
    await on(store).replace(KINDS["ssls"], "short", ssl_object(), 60)
    await on(store).replace(KINDS["ssls"], "long", ssl_object(), None)
    clock.now += 30
    assert (await rotated(on(store, NEW, SECRET))).under == {NEW_ID: 2}
    clock.now += 31
    assert list(await raw(on(store))) == ["/apisix/ssls/long"]


async def test_who_writes_in_between_loses_nothing(store: Store) -> None:
    doubtful = Doubtful(store)
    await fill(store, SECRET)
    writes: list[str] = []

    async def write(key: str) -> None:
        """Once for each object, another value: a change, or its end."""
        if key in writes:
            return
        writes.append(key)
        collection, object_id = key.split("/")[-2:]
        if object_id == "shown":
            await store.delete(key)
        else:
            await on(store).patch(KINDS[collection], object_id, "", {"desc": "new"}, None)

    doubtful.before_put = write
    left = await rotated(on(doubtful, NEW, SECRET))
    assert left.under == {NEW_ID: KEYS - 1}
    after = await raw(on(store))
    assert len(writes) == 5
    assert [after[key]["desc"] for key in writes if key in after] == ["new"] * 4
    assert "/apisix/ssls/shown" not in after


async def test_who_keeps_writing_under_the_old_key_is_left_for_the_next_time(store: Store) -> None:
    doubtful = Doubtful(store)
    await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)

    async def write(_: str) -> None:
        await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)

    doubtful.before_put = write
    left = await rotated(on(doubtful, NEW, SECRET))
    assert (left.under, left.due_keys) == ({OLD_ID: 1}, 1)
    assert doubtful.calls.count("put") == RACES


async def test_it_can_break_off_anywhere_and_be_run_again(store: Store) -> None:
    await fill(store, SECRET)
    resources = on(store, NEW, SECRET)
    before = in_clear(await raw(resources), resources.keyring)
    for done, total in ((0, 5), (1, 5), (2, 4), (0, 2)):
        doubtful = Doubtful(store, fails_at=2 + done)  # the first call is the list
        with pytest.raises(StoreUnavailable) as broke_off:
            await rotated(on(doubtful, NEW, SECRET))
        assert str(broke_off.value).startswith(f"{done} of {total} objects done, then ")
        assert str(broke_off.value).endswith(": run again: sniproxy keyring rotate")
        assert in_clear(await raw(resources), resources.keyring) == before
    assert (await rotated(resources)).under == {NEW_ID: KEYS}
    assert in_clear(await raw(resources), Keyring([NEW])) == before


@pytest.mark.parametrize("seconds", [0, 1], ids=["same second", "later"])
async def test_the_winner_of_a_name_stays(store: Store, seconds: int) -> None:
    """The one written last has the lower id, so it is listed first; a dump has only times to go by."""
    before = on(store)
    after = Resources(store, "/apisix", before.keyring, lambda: before.now() + seconds)
    await before.replace(KINDS["ssls"], "z-lax", ssl_object(), None)
    await after.replace(KINDS["ssls"], "a-strict", mutual(), None)
    resources = on(store, NEW, SECRET)
    assert await winner(resources) == "a-strict"
    assert (await rotated(resources)).under == {NEW_ID: 2}
    assert await winner(resources) == "a-strict"


async def test_the_winner_of_a_name_stays_though_its_key_was_new_already(store: Store) -> None:
    before = on(store)
    await before.replace(KINDS["ssls"], "z-lax", ssl_object(), None)
    resources = Resources(store, "/apisix", Keyring([NEW, SECRET]), lambda: before.now() + 1)
    await resources.replace(KINDS["ssls"], "a-strict", mutual(), None)
    assert (await rotated(resources)).under == {NEW_ID: 2}
    assert await winner(resources) == "a-strict"


def mutual() -> dict[str, Any]:
    return ssl_object(client={"ca": authority_pem()})


async def winner(resources: Resources) -> str | None:
    """The id of what a data plane that starts now serves for the name of both."""
    snapshot = Snapshot(resources.prefix, resources.keyring)
    assert snapshot.load(await resources.store.list(f"{resources.prefix}/")) == []
    found = snapshot.certificates.choose("play.example.com", time.time())
    return None if found is None else found.id


async def test_progress_is_told_from_none_to_all(store: Store) -> None:
    await fill(store, SECRET)
    told: list[tuple[int, int]] = []
    await rotate(on(store, NEW, SECRET), lambda done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(6)]
    told.clear()
    await rotate(on(store, NEW), lambda done, total: told.append((done, total)))
    assert told == [(0, 0)]


async def test_a_store_without_a_key(store: Store) -> None:
    await on(store).replace(KINDS["upstreams"], "1", {"nodes": {}}, None)
    await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)
    await on(store).replace(KINDS["services"], "1", {"upstream": inline_tls()}, None)
    await store.delete("/apisix/ssls/1")
    await store.delete("/apisix/services/1")
    assert await rotated(on(store, NEW)) == Survey()
