"""Private keys: what is stored, what is answered, what is logged. Never one line of a key in clear."""

import json
from pathlib import Path
from typing import Any

import pytest

from sniproxy.keyring import is_encrypted
from tests.admin.gateway import (
    CA,
    KEYRING,
    NODES,
    Gateway,
    client_ssl,
    inline_tls,
    key_lines,
    ssl_object,
)
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

PLAY, OTHER, INLINE = "play.example.com", "other.example.com", "inline.example.com"
EVERY_KEY = key_lines(PLAY, OTHER, INLINE, "client.example.com")
CERT, KEY = pair(PLAY)
OTHER_CERT, OTHER_KEY = pair(OTHER)

HOLDERS: list[tuple[str, dict[str, Any], list[tuple[str | int, ...]]]] = [
    ("ssls", ssl_object(), [("key",)]),
    ("ssls", client_ssl(), [("key",)]),
    (
        "ssls",
        ssl_object(certs=[OTHER_CERT, CERT], keys=[OTHER_KEY, KEY]),
        [("key",), ("keys", 0), ("keys", 1)],
    ),
    ("upstreams", inline_tls(), [("tls", "client_key")]),
    ("services", {"upstream": inline_tls()}, [("upstream", "tls", "client_key")]),
    ("stream_routes", {"upstream": inline_tls()}, [("upstream", "tls", "client_key")]),
]


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


async def stored(gateway: Gateway, collection: str, object_id: str = "1") -> dict[str, Any]:
    entry = await gateway.store.get(f"{gateway.prefix}/{collection}/{object_id}")
    assert entry is not None
    value: dict[str, Any] = json.loads(entry.value)
    return value


@pytest.mark.parametrize(("collection", "value", "paths"), HOLDERS)
async def test_writes_store_and_answer_ciphertext_and_reads_nothing(
    gateway: Gateway, collection: str, value: dict[str, Any], paths: list[tuple[str | int, ...]]
) -> None:
    url = f"/{collection}/1"
    posted = (await gateway.ask("POST", f"/{collection}", value))[1]["value"]
    patched = (await gateway.ask("PATCH", f"/{collection}/{posted['id']}", {"desc": "x"}))[1]
    answers = [posted, patched["value"]]
    answers += [await gateway.put(url, value), await gateway.put(url, value)]
    answers += [await stored(gateway, collection)]
    for path in paths:
        texts = [at(answer, path) for answer in answers]
        assert all(map(is_encrypted, texts))
        assert (
            len(set(texts)) == 4
        )  # each write its own ciphertext; the last one as it was answered
    where = [path for path in paths if len(path) < 2 or path[0] != "keys"]
    for shown in (
        (await gateway.ask("GET", url))[1]["value"],
        (await gateway.ask("GET", f"/{collection}"))[1]["list"][0]["value"],
    ):
        for *parents, member in where:
            assert member not in at(shown, tuple(parents))
        assert "keys" not in shown
        assert "aes256gcm" not in json.dumps(shown)


async def test_the_two_keys_of_one_ssl_have_two_ciphertexts(gateway: Gateway) -> None:
    value = ssl_object(certs=[CERT], keys=[KEY])
    written = await gateway.put("/ssls/1", value)
    assert written["key"] != written["keys"][0]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("", {"desc": "x"}),
        ("", {"snis": ["a.example.com", "b.example.com"]}),
        ("", {"labels": {"a": "b"}, "status": 0}),
        ("/snis", ["c.example.com"]),
        ("/client", {"ca": CA}),
    ],
)
async def test_patch_keeps_the_keys(gateway: Gateway, path: str, change: Any) -> None:
    before = await gateway.put("/ssls/1", ssl_object(certs=[OTHER_CERT], keys=[OTHER_KEY]))
    code, body = await gateway.ask("PATCH", f"/ssls/1{path}", change)
    assert code == 200
    after = body["value"]
    assert after["key"] != before["key"]
    assert KEYRING.decrypt(after["key"], "ssls/1/key") == KEY
    assert KEYRING.decrypt(after["keys"][0], "ssls/1/keys/0") == OTHER_KEY


async def test_patch_replaces_a_pair_and_not_half_of_one(gateway: Gateway) -> None:
    before = await gateway.put("/ssls/1", ssl_object())
    mismatch = "invalid configuration: the key does not belong to the certificate"
    assert await gateway.refusal("PATCH", "/ssls/1", {"key": OTHER_KEY}) == mismatch
    assert await gateway.refusal("PATCH", "/ssls/1/cert", OTHER_CERT) == mismatch
    assert await stored(gateway, "ssls") == before
    renewed = {"cert": OTHER_CERT, "key": OTHER_KEY}
    code, body = await gateway.ask("PATCH", "/ssls/1", renewed)
    assert code == 200
    assert KEYRING.decrypt(body["value"]["key"], "ssls/1/key") == OTHER_KEY


async def test_a_ciphertext_goes_in_again_at_its_own_place_only(gateway: Gateway) -> None:
    written = await gateway.put("/ssls/1", ssl_object())
    again = ssl_object(key=written["key"])
    assert (await gateway.ask("PUT", "/ssls/1", again))[0] == 200
    assert (await gateway.ask("PATCH", "/ssls/1", {"key": written["key"]}))[0] == 200
    for method, path in (("PUT", "/ssls/2"), ("POST", "/ssls")):
        why = await gateway.refusal(method, path, again)
        assert why.endswith("/key: the encrypted value was damaged or moved here")


async def test_a_key_that_the_keyring_does_not_open(gateway: Gateway) -> None:
    """Of an ssl that somebody else wrote: it can be seen, replaced and deleted, but not patched."""
    await gateway.store.put(
        "/apisix/ssls/1", json.dumps(ssl_object(key="c29tZWJvZHkgZWxzZQ==") | {"id": "1"}).encode()
    )
    code, body = await gateway.ask("PATCH", "/ssls/1", {"desc": "x"})
    assert (code, body) == (503, {"error_msg": "ssls/1/key: no key of the keyring opens it"})
    assert (await gateway.ask("GET", "/ssls/1"))[0] == 200
    assert (await gateway.ask("PUT", "/ssls/1", ssl_object()))[0] == 200


async def test_a_key_that_stands_in_clear_is_encrypted_by_the_next_write(gateway: Gateway) -> None:
    await gateway.store.put("/apisix/ssls/1", json.dumps(ssl_object() | {"id": "1"}).encode())
    assert "key" not in (await gateway.ask("GET", "/ssls/1"))[1]["value"]
    assert (await gateway.ask("PATCH", "/ssls/1", {"desc": "x"}))[0] == 200
    assert is_encrypted((await stored(gateway, "ssls"))["key"])


WRONG: list[tuple[str, str, Any]] = [
    ("PUT", "/ssls/2", ssl_object(key=OTHER_KEY)),
    ("PUT", "/ssls/2", ssl_object(cert=KEY)),
    ("PUT", "/ssls/2", ssl_object(cert=CERT + KEY)),
    ("PUT", "/ssls/2", ssl_object(cert=None)),
    ("PUT", "/ssls/2", ssl_object(snis=None)),
    ("PUT", "/ssls/2", ssl_object(sni=KEY, snis=None)),
    ("PUT", "/ssls/2", ssl_object(key=[KEY])),
    ("PUT", "/ssls/2", ssl_object(key={"pem": KEY})),
    ("PUT", "/ssls/2", ssl_object(key=KEY[:-30])),
    ("PUT", "/ssls/2", ssl_object(key="x" + KEY.replace("-", ""))),
    ("PUT", "/ssls/2", ssl_object(key=KEY * 500)),
    ("PUT", "/ssls/2", ssl_object(keys=KEY, certs=CERT)),
    ("PUT", "/ssls/2", ssl_object(keys=[KEY, [KEY]], certs=[CERT, CERT])),
    ("PUT", "/ssls/2", ssl_object(keys=[KEY])),
    ("PUT", "/ssls/2", ssl_object(id=KEY)),
    ("PUT", "/ssls/2", ssl_object(type=KEY)),
    ("PUT", "/ssls/2", ssl_object(key_pem=KEY)),
    ("PUT", "/ssls/2", ssl_object() | {KEY: KEY}),
    ("PUT", "/ssls/2", ssl_object(create_time=1)),
    ("PUT", "/ssls", ssl_object()),
    ("POST", "/ssls/2", ssl_object()),
    ("POST", "/ssls", ssl_object(status=KEY)),
    ("POST", "/ssls", [ssl_object()]),
    ("PATCH", "/ssls/2", ssl_object()),
    ("PATCH", "/ssls/1", {"desc": KEY}),
    ("PATCH", "/ssls/1", {"labels": {KEY: "x", "x": KEY}}),
    ("PATCH", "/ssls/1/cert", KEY),
    ("PATCH", "/ssls/1/key", OTHER_KEY),
    ("PATCH", "/ssls/1", KEY),
    ("PUT", "/upstreams/2", inline_tls() | {"upstream_id": KEY}),
    ("PUT", "/upstreams/2", {"nodes": {KEY: 1}}),
    ("PUT", "/upstreams/2", {"nodes": [{"host": KEY, "weight": 1}]}),
    ("PUT", "/upstreams/2", {"nodes": NODES, "tls": {"client_key": KEY}}),
    ("PUT", "/upstreams/2", {"nodes": NODES, "tls": {"client_cert_id": KEY}}),
    ("PUT", "/upstreams/2", {"nodes": NODES, "tls": {"anything": KEY}}),
    ("PUT", "/services/2", {"upstream": inline_tls(), "upstream_id": "none"}),
    ("PUT", "/services/2", {"upstream": {"tls": {"client_key": [KEY]}, "nodes": NODES}}),
    ("PUT", "/stream_routes/2", {"upstream": inline_tls(), "plugins": {KEY: {"k": KEY}}}),
    ("PUT", "/stream_routes/2", {"upstream": inline_tls(), "protocol": {"name": KEY}}),
    ("PUT", "/stream_routes/2", {"upstream_id": KEY, "service_id": KEY}),
    ("PUT", "/unknown/2", ssl_object()),
]
RAW = [
    f'{{"cert": "{CERT}", "key": "{KEY}"',
    f'{{"cert": "{CERT}", "key": {KEY}}}',
    f"key={KEY}",
    KEY,
    f'["{KEY}"',
    f'"{KEY}',
    f'{{"key": "\\{KEY}"}}',
]


async def test_no_line_of_a_key_in_any_answer_log_or_file(
    any_gateway: Gateway, database: Path
) -> None:
    """A long transcript, the wrong requests more than the right ones; then everything that was said is searched."""
    api = any_gateway
    for collection, value, _ in HOLDERS:
        await api.put(f"/{collection}/1", value)
        await api.ask("POST", f"/{collection}", value)
        await api.ask("PATCH", f"/{collection}/1", {"desc": "x"})
    for method, path, value in WRONG:
        code, body = await api.ask(method, path, value)
        assert 400 <= code < 500, body
    for raw in RAW:
        for method, path in (("PUT", "/ssls/1"), ("POST", "/ssls"), ("PATCH", "/ssls/1/key")):
            assert (await api.send(method, path, raw)).status_code == 400
    for collection in ("ssls", "upstreams", "services", "stream_routes"):
        await api.ask("GET", f"/{collection}")
        await api.ask("GET", f"/{collection}/1")
        await api.ask("DELETE", f"/{collection}/1")

    assert len(api.answers) > 80
    assert api.log.getvalue().count("object written") == 18
    assert [line for line in EVERY_KEY if line in api.said] == []
    raw_values = b"".join(entry.value for entry in (await api.store.list("/")).entries)
    files = [path.read_bytes() for path in database.parent.glob("*")]
    for text in (raw_values, *files):
        assert [line for line in EVERY_KEY if line.encode() in text] == []
        assert b"PRIVATE KEY" not in text
    if "sqlite" in api.settings.store:  # the search looked into the right files
        assert any(b"aes256gcm:" in text for text in files)
    assert len(EVERY_KEY) >= 8
