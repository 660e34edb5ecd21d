"""restore: files and stores that are refused with nothing written, and restores that broke off and are run again."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from admin.backup import read_backup, restore
from sniproxy.errors import Conflict, ObjectRefused, StoreUnavailable
from sniproxy.objects import KINDS
from sniproxy.snapshot import Snapshot
from sniproxy.store import Store
from sniproxy.store.sqlite import SqliteStore
from tests.admin.backups import NEW, dumped, on, put_all, restored
from tests.admin.gateway import KEYRING, NODES, SECRET, Doubtful, client_ssl, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

OTHER_KEY = pair("other.example.com")[1]


# -- files that are refused


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no whole backup: the last line is not '# end: N objects'"),
        ("upstreams: [{id: 1, nodes: {}}]", "no whole backup: the last line is not"),
        ("# end: 1 objects\nupstreams: [{id: 1}]", "no whole backup: the last line is not"),
        ("upstreams:\n- id: 1\n  desc: |\n    # end: 1 objects", "no whole backup: the last line is"),
        ("# end: 1 objects ...", "no whole backup: the last line is not"),
        ("# end: -1 objects", "no whole backup: the last line is not"),
        ("upstreams: [{id: 1}]\n# end: 2 objects", "no whole backup: the last line says 2 objects, and "),
        ("upstreams: [{id: 1}]\n# end: 0 objects", "no whole backup: the last line says 0 objects, and "),
        ("# end: 0 objects", "expected lists named "),
        ("routes: []\n# end: 0 objects", "routes: unknown"),
        ("upstreams: [\n# end: 0 objects", "neither YAML nor JSON: "),
    ],
)  # fmt: skip
def test_files_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        read_backup(text)
    assert str(caught.value).startswith(why)


async def test_of_two_objects_for_a_name_the_same_one_wins_as_before(store: Store) -> None:
    """Though they are restored in the order of their ids."""
    text = whole(ssls=[ssl_object(id="a", update_time=2), ssl_object(id="z", update_time=1)])
    await restored(text, on(store))
    snapshot = Snapshot("/apisix", KEYRING)
    snapshot.load(await store.list("/apisix/"))
    found = snapshot.certificates.choose("play.example.com", time.time())
    assert found is not None
    assert found.id == "a"


# -- stores that are refused, and restores that broke off


def whole(**lists: Any) -> str:
    """A file as dump would have written it."""
    count = sum(map(len, lists.values()))
    return json.dumps(lists) + f"\n# end: {count} objects\n"


THREE = whole(
    ssls=[ssl_object(id="a", create_time=1)],
    upstreams=[{"id": "b", "nodes": NODES, "update_time": 2}],
    stream_routes=[{"id": "c", "upstream_id": "b"}],
)


async def test_a_wrong_keyring_is_named_and_nothing_is_written(
    store: Store, empty: SqliteStore
) -> None:
    await on(store).replace(KINDS["ssls"], "1", ssl_object(), None)
    text = await dumped(on(store))
    key_id = KEYRING.encrypt("", "").split(":")[1]
    with pytest.raises(ObjectRefused) as caught:
        await restored(text, on(empty, NEW))
    assert str(caught.value).startswith(
        f"ssls[0] (id 1): ssls/1/key: encrypted under key {key_id}, which the keyring lacks: add that "
        "key to encryption.keyring"
    )
    assert (await empty.list("")).entries == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("upstreams/z", {"id": "z", "nodes": []}),
        ("upstreams/b", {"id": "b", "nodes": NODES}),
        ("upstreams/b", {"id": "b", "nodes": NODES, "update_time": 3}),
        ("upstreams/b", b"{"),
        ("services/b", b"{"),
        ("ssls/a", ssl_object(id="a", create_time=1, key=OTHER_KEY)),
        ("ssls/a", ssl_object(id="a", create_time=1, key="aes256gcm:00000000:AAAA")),
    ],
)
async def test_a_store_that_is_not_empty(store: Store, key: str, value: Any) -> None:
    await put_all(store, {key: value})
    before = await store.list("")
    with pytest.raises(ObjectRefused) as caught:
        await restored(THREE, on(store))
    assert str(caught.value).startswith(
        "the store is not empty: 1 of its objects are not in the file"
    )
    assert f"such as {key};" in str(caught.value)
    assert await store.list("") == before


async def test_what_is_not_ours_does_not_fill_a_store(store: Store) -> None:
    await put_all(store, {"ssls/": b"init_dir", "gen_id": b"1", "routes/1": {"uri": "/"}})
    await store.put("/apisix2/upstreams/1", b"{}")
    assert await restored(THREE, on(store)) == 3


@pytest.mark.parametrize("fails_at", [2, 3, 4])
async def test_a_restore_that_broke_off_is_run_again(store: Store, fails_at: int) -> None:
    broken = on(Doubtful(store, fails_at))
    with pytest.raises(
        StoreUnavailable,
        match=rf"^{fails_at - 2} of 3 restored, then .*: connection refused: run the same command",
    ):
        await restored(THREE, broken)
    done = await store.list("")
    assert len(done.entries) == fails_at - 2
    assert await restored(THREE, on(store, NEW, SECRET)) == 5 - fails_at
    assert set(done.entries) <= set((await store.list("")).entries)
    assert await restored(THREE, on(store, NEW, SECRET)) == 0


async def test_who_writes_meanwhile_is_not_overwritten(store: Store) -> None:
    doubtful = Doubtful(store)

    async def other(key: str) -> None:
        if key.endswith("/b"):
            await store.put(key, b'{"id": "b"}')

    doubtful.before_put = other
    with pytest.raises(Conflict, match=r"^1 of 3 restored, then somebody else wrote upstreams/b, "):
        await restored(THREE, on(doubtful))
    entry = await store.get("/apisix/upstreams/b")
    assert entry is not None
    assert entry.value == b'{"id": "b"}'


async def test_progress_is_told(store: Store) -> None:
    heard: list[tuple[int, int]] = []
    say: Callable[[int, int], None] = lambda done, total: heard.append((done, total))  # noqa: E731
    await restore(read_backup(THREE), on(store), say)
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]


async def test_references_must_be_in_the_file(store: Store) -> None:
    text = whole(upstreams=[{"id": 1, "nodes": [], "tls": {"client_cert_id": 7}}])
    await store.put("/apisix/ssls/7", json.dumps(client_ssl(id=7)).encode())
    with pytest.raises(ObjectRefused, match=r"^upstreams\[0\] \(id 1\): failed to fetch ssl info"):
        await restored(text, on(store))
