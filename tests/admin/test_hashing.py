"""Upstreams that hash: refused without a key where an APISIX refuses them, and taken as they are where they are there."""

import json
from typing import Any

import pytest

from admin.backup import dump_store
from admin.resources import Resources
from sniproxy.snapshot import Snapshot
from tests.admin.gateway import KEYRING, NODES, Gateway

pytestmark = pytest.mark.anyio

HASHED: dict[str, Any] = {"type": "chash", "nodes": NODES}


@pytest.mark.parametrize(
    ("path", "value", "taken"),
    [
        ("/upstreams/1", HASHED, False),
        ("/upstreams/1", HASHED | {"key": None}, False),
        ("/upstreams/1", HASHED | {"hash_on": "header"}, False),
        ("/services/1", {"upstream": HASHED}, False),
        ("/upstreams/1", HASHED | {"key": "remote_addr"}, True),
        ("/upstreams/1", HASHED | {"hash_on": "consumer"}, True),
        ("/upstreams/1", {"nodes": NODES, "hash_on": "vars"}, True),
        ("/stream_routes/1", {"upstream": HASHED}, True),
    ],
)
async def test_who_hashes_needs_a_key_where_an_apisix_wants_one(
    gateway: Gateway, path: str, value: dict[str, Any], taken: bool
) -> None:
    if taken:
        await gateway.put(path, value)
    else:
        assert await gateway.refusal("PUT", path, value) == "missing key"
        assert await gateway.refusal("POST", path.removesuffix("/1"), value) == "missing key"


async def test_one_that_was_stored_without_a_key_is_in_force_and_in_backups(
    gateway: Gateway,
) -> None:
    stored = json.dumps(HASHED | {"id": "1"}).encode()
    await gateway.store.put(f"{gateway.prefix}/upstreams/1", stored)
    resources = Resources(gateway.store, gateway.prefix, KEYRING)
    assert (await dump_store(resources, "1")).problems == []
    snapshot = Snapshot(gateway.prefix, KEYRING)
    assert snapshot.load(await gateway.store.list(gateway.prefix + "/")) == []
    assert await gateway.refusal("PATCH", "/upstreams/1", {"desc": "x"}) == "missing key"
    assert (await gateway.ask("PATCH", "/upstreams/1", {"key": "remote_addr"}))[0] == 200
