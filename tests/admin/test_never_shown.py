"""What no answer of any endpoint, and no line of the log, may hold: private keys, values of other objects, stack traces.

The endpoints are those of the API's own description, so that a new one is asked as well.
"""

import json
from typing import Any

import pytest

from admin.openapi import document
from admin.rules import encode
from sniproxy.settings import Settings
from sniproxy.store import Store
from tests.admin.gateway import (
    ADMIN_KEY,
    BASE,
    NODES,
    VIEWER_KEY,
    Doubtful,
    Gateway,
    client_ssl,
    inline_tls,
    key_lines,
    ssl_object,
)
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

CANARY = "only-who-reads-the-store-has-seen-this"
BROKEN = "aes256gcm:00000000:" + "Q0FOQVJZ" * 12  # under a key that is not there
NAMES = ("play.example.com", "client.example.com", "inline.example.com", "second.example.com")
KINDS = ("ssls", "upstreams", "services", "stream_routes")
# Bodies for every write: sound ones, and every way of getting a key wrong.
KEY = pair(NAMES[0])[1]
BODIES: tuple[Any, ...] = (
    ssl_object(),
    ssl_object(key=KEY[:-200]),
    ssl_object(key=pair(NAMES[3])[1]),
    ssl_object(cert=KEY),
    ssl_object(key=[KEY]),
    ssl_object(key={"pem": KEY}),
    ssl_object(keys=[KEY, KEY], certs=[]),
    ssl_object(snis=[KEY]),
    ssl_object(labels={"a": KEY}),
    ssl_object(client={"ca": KEY}),
    {KEY: 1},
    {"desc": KEY, "nodes": NODES},
    inline_tls(),
    inline_tls() | {"tls": {"client_cert": pair(NAMES[2])[0], "client_key": KEY}},
    inline_tls() | {"tls": {"verify": True, "ca_certs": [KEY, pair(NAMES[2])[0] + KEY]}},
    {"upstream": inline_tls()},
    {"ssls": [ssl_object(key=KEY[:-200], id="1"), {"id": "2", "key": KEY}]},
    {"nodes": {KEY: 1}},
    {"id": KEY},
    [KEY],
    KEY,
)


async def fill(gateway: Gateway) -> None:
    """Keys wherever they can be, and values that nobody can read."""
    cert, key = pair(NAMES[3])
    await gateway.put("/ssls/1", ssl_object(certs=[cert], keys=[key]))
    await gateway.put("/ssls/10", client_ssl())
    await gateway.put("/upstreams/1", inline_tls())
    await gateway.put("/services/1", {"upstream": inline_tls()})
    await gateway.put("/stream_routes/1", {"upstream": inline_tls(), "sni": NAMES[0]})
    put = gateway.store.put
    await put("/apisix/ssls/2", encode({"id": "2", "sni": "x", "cert": CANARY, "key": BROKEN}))
    await put("/apisix/ssls/100", encode({"id": "100", "key": CANARY}))
    # an APISIX takes a key behind a certificate, and in any text
    combined = ssl_object(id="11", cert=cert + key, desc=key, labels={key: "x", "a": key[:200]})
    await put("/apisix/ssls/11", encode(combined))
    await put("/apisix/upstreams/11", encode({"nodes": {}, "tls": {"client_key": [key]}}))
    await put("/apisix/upstreams/2", f"not JSON: {CANARY}".encode())
    await put("/apisix/secrets/vault/1", encode({"token": CANARY}))
    await put("/sniproxy/apisix/nodes/x", CANARY.encode())
    gateway.answers.clear()


def paths(settings: Settings) -> list[str]:
    """Every path of the description, with ids that are there, that are not, and that begin others."""
    described = document(settings, "0")["paths"]
    found = set()
    for path in described:
        for object_id in ("1", "10", "11", "2", "none"):
            for kind in KINDS if "{kind}" in path else ("",):
                filled = path.replace("{kind}", kind).replace("{id}", object_id)
                filled = filled.replace("{path}", "tls/client_key").removeprefix(BASE)
                name = "limit-conn" if "plugins" in path else "ssl"
                found.add(filled.replace("{name}", name))
    assert not any("{" in path for path in found), found
    return sorted(found)


def assert_unseen(said: str, *, keys_of: tuple[str, ...] = NAMES) -> None:
    lines = key_lines(*keys_of)
    assert len(lines) >= 3 * len(keys_of)
    assert not [line for line in lines if line in said]
    assert "Traceback" not in said
    assert '  File "' not in said


async def test_reading(gateway: Gateway, settings: Settings) -> None:
    """By an administrator and by a viewer: neither a key nor its ciphertext, nor what is under another id."""
    await fill(gateway)
    asked = paths(settings)
    assert len(asked) > 30
    for path in asked:
        for query in ("", "?detail=true", "?page=1&page_size=10", "?name=.", "?filter=service_id"):
            for method in ("GET", "HEAD"):
                for key in (ADMIN_KEY, VIEWER_KEY):
                    answer = await gateway.send(method, path + query, key=key)
                    assert answer.status_code < 500, (path, answer.text)
    said = gateway.said
    assert_unseen(said)
    assert "PRIVATE KEY-----" not in said
    assert '"aes256gcm:' not in said
    # the one object that holds it in the open shows it, and nothing else does
    shown = [text for text in gateway.answers if CANARY in text]
    assert shown
    assert all('"id":"2"' in text for text in shown)
    assert all(text.count(CANARY) == 1 for text in shown)


async def test_writing(gateway: Gateway, settings: Settings) -> None:
    await fill(gateway)
    for path in paths(settings):
        for method in ("PUT", "POST", "PATCH", "DELETE"):
            for body in BODIES if method != "DELETE" else (None,):
                answer = await gateway.send(method, path, json.dumps(body))
                assert answer.status_code < 500, (method, path, answer.text)
                assert_unseen(answer.text)
    assert_unseen(gateway.said)


async def test_bodies_that_are_no_json(gateway: Gateway) -> None:
    for raw in (
        KEY,
        KEY[:100],
        f'{{"key": "{KEY}',
        f'{{"key": {KEY}}}',
        f"key: |\n  {KEY}",
        KEY * 2000,
    ):
        for path in ("/ssls", "/ssls/1", "/schema/validate/ssls", "/configs/validate"):
            for method in ("PUT", "POST", "PATCH"):
                for kind in ("application/json", "application/yaml"):
                    async with gateway.client() as client:
                        headers = {"Content-Type": kind}
                        answer = await client.request(method, path, content=raw, headers=headers)
                    assert 400 <= answer.status_code < 500
                    assert_unseen(answer.text)
    assert_unseen(gateway.said)


async def test_when_the_store_fails(settings: Settings, store: Store) -> None:
    """At each of its calls."""
    for fails_at in range(1, 8):
        gateway = Gateway(settings, Doubtful(store, fails_at))
        for path in ("/ssls", "/ssls?detail=true", "/ssls/1", "/upstreams/1", "/stream_routes/1"):
            for method in ("GET", "PUT", "PATCH", "DELETE"):
                body = ssl_object(id="1") if path.startswith("/ssls") else inline_tls()
                await gateway.send(method, path, json.dumps(body))
        assert_unseen(gateway.said)
