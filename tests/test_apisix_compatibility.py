"""One etcd for an APISIX and for us: what it wrote is read, what we write it reads, and what it does not know is listed."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from admin.backup import dump_store, read_backup, restore
from admin.bulk import StoreDestination, apply, read_items
from admin.markers import COLLECTIONS
from admin.resources import Resources
from sniproxy.keyring import Keyring
from sniproxy.networks import parse_address
from sniproxy.objects import KINDS
from sniproxy.objects.secrets import without_secrets
from sniproxy.router import Arrival
from sniproxy.snapshot import Snapshot
from sniproxy.store.sqlite import SqliteStore
from tests.admin.backups import EVERYTHING
from tests.admin.gateway import SECRET
from tests.support.apisix import DIRECTORIES, LISTED, MEMBERS, left_behind
from tests.support.players import pem_pair
from tests.test_keyring import apisix

pytestmark = pytest.mark.anyio

# Both that it publishes, and one of each length.
SECRETS = (
    "qeddd145sfvddff3",
    "edd1c9f0985e76a2",
    "a key of sixteen",
    "a key of thirty-two characters..",
)
each_secret = pytest.mark.parametrize("secret", SECRETS)
LOCAL = parse_address("127.0.0.1")
COUNT = {"ssls": 2, "upstreams": 2, "services": 1, "stream_routes": 2}

# What an APISIX of 3.18 does not know, and passes the object over for. Both members of routes are in the release after it.
NOT_THEIRS = {
    "ssls": set[str](),
    "stream_routes": {"snis", "tls_passthrough"},
    "services": set[str](),
    "upstreams": {"proxy_protocol"},
}

MORE: dict[str, list[dict[str, Any]]] = {
    "upstreams": [
        {"id": "list", "nodes": [{"host": "10.0.0.5", "port": 7777, "weight": 1}]},
        {"id": "header", "nodes": {"10.0.0.5:7777": 1}, "proxy_protocol": "v2"},
    ]
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "config.db")
    yield store
    await store.aclose()


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "empty.db")
    yield store
    await store.aclose()


def on(store: SqliteStore, *keyring: str) -> Resources:
    return Resources(store, "/apisix", Keyring(keyring))


async def fill(store: SqliteStore, secret: str) -> None:
    """As an APISIX leaves it."""
    authority = trustme.CA()
    old, new, more = (pem_pair(authority, f"{name}.example.com") for name in ("old", "new", "new"))
    for key, value in left_behind((old, new, more), 7777, secret).items():
        await store.put(f"/apisix/{key}", value)


# -- what it wrote, we read


@each_secret
async def test_everything_is_in_force(store: SqliteStore, secret: str) -> None:
    await fill(store, secret)
    snapshot = Snapshot("/apisix", Keyring([SECRET, "0123456789abcdef", secret]))
    assert snapshot.load(await store.list("/apisix/")) == []
    assert len(snapshot.revisions()) == sum(COUNT.values())
    for name, wanted in (("old", "1"), ("new", LISTED)):
        host = f"{name}.example.com"
        certificate = snapshot.certificates.choose(host, time.time())
        assert certificate is not None
        assert certificate.id == wanted
        assert all("PRIVATE KEY" in key for _, key in certificate.server_tls.pairs)
        match = snapshot.router.match(Arrival(host, LOCAL, LOCAL, 9443))
        assert match is not None
        assert match.route.id == wanted
        assert "prometheus" not in snapshot.plugins(match.route)
        target = snapshot.target(match.route)
        assert target is not None
        assert [node.port for node in target.balancer.nodes] == [7777]


@each_secret
async def test_the_api_lists_gets_and_changes_it(store: SqliteStore, secret: str) -> None:
    await fill(store, secret)
    resources = on(store, secret)
    for collection, count in COUNT.items():
        kind = KINDS[collection]
        listed = await resources.list(kind)
        assert listed["total"] == count
        for one in listed["list"]:
            object_id = one["key"].rpartition("/")[2]
            assert await resources.get(kind, object_id) == one
            before = one["value"]
            written = await resources.patch(kind, object_id, "", {"desc": "seen"}, None)
            assert written.value["id"] == before["id"]  # a number stays one
            after = without_secrets(collection, written.value)
            for member in before.keys() - {"update_time", "validity_start", "validity_end"}:
                assert after[member] == before[member]


@each_secret
async def test_a_dump_holds_it_without_marks_and_goes_back(
    store: SqliteStore, empty: SqliteStore, secret: str
) -> None:
    await fill(store, secret)
    dump = await dump_store(on(store, secret), "1")
    assert (dump.count, dump.problems) == (sum(COUNT.values()), [])
    assert "init_dir" not in dump.text
    for name in COLLECTIONS:  # an etcd at which an APISIX has looked counts as empty
        await empty.put(f"/apisix/{name}/", b"init_dir")
    target = on(empty, SECRET, secret)
    assert await restore(read_backup(dump.text), target, lambda done, total: None) == dump.count
    again = await dump_store(target, "1")
    assert (again.count, again.problems) == (dump.count, [])
    await apply(read_items(dump.text), StoreDestination(target), lambda line: None)


async def test_what_it_asks_of_a_stream_and_we_do_not_do_is_refused(store: SqliteStore) -> None:
    snapshot = Snapshot("/apisix", Keyring([SECRET]))
    for number, name in enumerate(("syslog", "mqtt-proxy", "traffic-split")):
        value = {"id": str(number), "plugins": {name: {}}}
        await store.put(f"/apisix/stream_routes/{number}", json.dumps(value).encode())
    broken = snapshot.load(await store.list("/apisix/"))
    assert [one.why.rpartition(": ")[2] for one in broken] == [
        "unknown plugin [syslog]",
        "unknown plugin [mqtt-proxy]",
        "unknown plugin [traffic-split]",
    ]


# -- what we write, it reads


def test_the_marks_are_those_that_it_makes() -> None:
    assert COLLECTIONS == DIRECTORIES


@each_secret
async def test_what_is_stored_is_what_was_sent(store: SqliteStore, secret: str) -> None:
    """Ids, times and encrypted keys apart: no default is added, and nodes keep their form."""
    resources = on(store, secret)
    for kind in KINDS.values():
        for sent in (*EVERYTHING[kind.collection], *MORE.get(kind.collection, ())):
            written = await resources.replace(kind, None, sent, None)
            entry = await store.get(written.key)
            assert entry is not None
            stored = json.loads(entry.value)
            assert stored.pop("create_time") == stored.pop("update_time")
            assert stored == sealed(sent, secret)
            assert sent.keys() <= MEMBERS[kind.collection] | NOT_THEIRS[kind.collection]


def sealed(value: Any, secret: str) -> Any:
    """The same with every private key as an APISIX stores it. It was written beside the keyring, not with it."""
    if isinstance(value, dict):
        return {member: sealed(content, secret) for member, content in value.items()}
    if isinstance(value, list):
        return [sealed(one, secret) for one in value]
    is_key = isinstance(value, str) and "PRIVATE KEY" in value
    return apisix(value.encode(), secret) if is_key else value


async def test_an_id_of_ours_is_a_revision_as_its_ids_are(store: SqliteStore) -> None:
    resources = on(store, SECRET)
    written = await resources.create(KINDS["upstreams"], {"nodes": {"10.0.0.5:7777": 1}}, None)
    counter = await store.get("/apisix/gen_id")
    assert counter is not None
    object_id = f"{counter.mod_revision:020d}"
    assert written.key == f"/apisix/upstreams/{object_id}"
    assert written.value["id"] == object_id
    assert written.value["nodes"] == {"10.0.0.5:7777": 1}
    assert set(written.value) == {"id", "nodes", "create_time", "update_time"}


@pytest.mark.parametrize("collection", KINDS)
def test_members_that_it_does_not_know(collection: str) -> None:
    ours = set(KINDS[collection].model.model_fields)
    assert ours - MEMBERS[collection] == NOT_THEIRS[collection]
    assert MEMBERS[collection] - ours == set()


def test_the_documentation_names_them() -> None:
    page = (Path(__file__).parents[1] / "docs" / "keyring.md").read_text()
    for member in set[str]().union(*NOT_THEIRS.values()):
        assert f"`{member}`" in page
