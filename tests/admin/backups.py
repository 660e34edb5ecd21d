"""Objects of all kinds, dumps of them, and stores to restore them into, for tests."""

import json
from typing import Any

from admin.backup import Dump, dump_store, read_backup, restore
from admin.resources import Resources
from sniproxy.keyring import Keyring
from sniproxy.store import Store
from tests.admin.gateway import NODES, SECRET, client_ssl, inline_tls, ssl_object
from tests.support.certificates import pair

CERT, KEY = pair("play.example.com")
NEW = "bmV3IGtleSwgdGhpcnR5LXR3byBieXRlcyBsb25nLi4="

EVERYTHING: dict[str, list[dict[str, Any]]] = {
    "stream_routes": [
        {"id": "lobby", "sni": "lobby.example.com", "upstream_id": "lobby", "service_id": 1},
        {"id": 2, "snis": ["*.example.com"], "upstream": inline_tls(), "tls_passthrough": True},
    ],
    "upstreams": [
        {"id": "lobby", "nodes": NODES, "scheme": "tls", "tls": {"client_cert_id": "shown"}},
        {
            "id": "odd",
            "nodes": [],
            "desc": " two\r\nlines\t\n\n",
            "labels": {"yes": "1e5", "~": "="},
        },
        {"id": "2024-01-01", "nodes": {"[::1]:1": 0}, "name": "日本\u2028\x85 #: {", "retries": 0},
    ],
    "services": [{"id": 1, "upstream": inline_tls("other.example.com"), "desc": "null"}],
    "ssls": [
        ssl_object(id="play", certs=[CERT], keys=[KEY], desc="~"),
        client_ssl(id="shown"),
        ssl_object(id="crlf", cert=CERT.replace("\n", "\r\n"), key=KEY.replace("\n", "\r\n")),
    ],
}


def on(store: Store, *keyring: str, prefix: str = "/apisix") -> Resources:
    return Resources(store, prefix, Keyring(keyring or [SECRET]), lambda: 1_795_543_200.5)


async def dumped(resources: Resources) -> str:
    """A dump with which nothing is wrong."""
    dump = await dump_store(resources, "1.2.3")
    assert dump.problems == []
    return dump.text


async def restored(text: str, resources: Resources) -> int:
    return await restore(read_backup(text), resources, lambda done, total: None)


async def put_all(store: Store, values: dict[str, Any]) -> Dump:
    """A dump of a store that somebody else has written."""
    for key, value in values.items():
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        await store.put(f"/apisix/{key}", raw)
    return await dump_store(on(store), "0")
