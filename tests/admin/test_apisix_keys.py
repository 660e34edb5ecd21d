"""Private keys in APISIX's form through the API: what comes in, and what is stored for an APISIX to read."""

import io
import json
from typing import Any

import httpx
import pytest

from admin.app import create_app
from admin.resources import Resources
from admin.rules import prepare, reveal
from sniproxy.errors import ObjectRefused
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.objects import KINDS
from sniproxy.store import Store
from tests.admin.backups import dumped, on, restored
from tests.admin.gateway import (
    ADMIN_KEY,
    SECRET,
    Gateway,
    inline_tls,
    key_lines,
    settings_on,
    ssl_object,
)
from tests.support.certificates import pair
from tests.test_keyring import APISIX_16, APISIX_32, apisix

pytestmark = pytest.mark.anyio

KEY, OTHER_KEY = pair("play.example.com")[1], pair("other.example.com")[1]
THEIRS = apisix(KEY.encode(), APISIX_16)
KEYRINGS = pytest.mark.parametrize(
    "entries", [[SECRET, APISIX_16], [APISIX_16], [APISIX_16, SECRET], [APISIX_32, APISIX_16]]
)
NEITHER = "neither PEM nor an encrypted value"
CLOSED = "no key of the keyring opens it"


@KEYRINGS
def test_a_value_of_an_apisix_is_taken_and_stored_in_the_form_of_the_first_key(
    entries: list[str],
) -> None:
    keyring = Keyring(entries)
    for value in (ssl_object(key=THEIRS), ssl_object()):
        stored = prepare("ssls", "1", value, keyring)
        assert keyring.open(stored["key"], "ssls/1/key").key == keyring.writer
        assert reveal("ssls", "1", stored, Keyring(entries[:1]))["key"] == KEY
        assert reveal("ssls", "1", prepare("ssls", "1", stored, keyring), keyring)["key"] == KEY


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (apisix(KEY.encode(), APISIX_32), CLOSED),
        (apisix(b"not PEM, but long enough for the schema" * 3, APISIX_16), CLOSED),
        (THEIRS[:-24], CLOSED),
        ("c29tZWJvZHkgZWxzZQ==" * 10, NEITHER),
        ("sesame " * 20, NEITHER),
        ("", CLOSED),
    ],
)
def test_a_value_that_is_neither_pem_nor_ours_is_refused(value: str, why: str) -> None:
    keyring = Keyring([SECRET, APISIX_16])
    tls = inline_tls()["tls"] | {"client_key": value}
    for collection, given, place in (
        ("ssls", ssl_object(key=value), "ssls/1/key"),
        ("ssls", ssl_object(keys=[value], certs=[KEY]), "ssls/1/keys/0"),
        ("upstreams", inline_tls() | {"tls": tls}, "upstreams/1/tls/client_key"),
    ):
        with pytest.raises(ObjectRefused) as refused:
            prepare(collection, "1", given, keyring)
        assert str(refused.value) == f"invalid configuration: {place}: {why}"


def test_a_key_of_another_certificate_is_refused_in_any_form() -> None:
    with pytest.raises(ObjectRefused, match="the key does not belong to the certificate"):
        prepare(
            "ssls", "1", ssl_object(key=apisix(OTHER_KEY.encode(), APISIX_16)), Keyring([APISIX_16])
        )


def test_what_openssl_writes_before_a_pem_does_no_harm() -> None:
    for entry in (SECRET, APISIX_16):
        keyring = Keyring([entry])
        stored = prepare("ssls", "1", ssl_object(key=f"Bag Attributes\n{KEY}"), keyring)
        assert reveal("ssls", "1", stored, keyring)["key"].endswith(KEY)


async def test_an_object_goes_from_one_apisix_to_another(store: Store, gateway: Gateway) -> None:
    """As its PUT answers, key and all, through an API whose first key is an APISIX's."""
    lines = io.StringIO()
    settings = settings_on(gateway.settings.store)
    app = create_app(settings, store, Keyring([APISIX_16]), open_log("admin", lines))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://admin/apisix/admin",
        headers={"X-API-KEY": ADMIN_KEY},
    ) as client:
        answer = await client.put("/ssls/1", json=ssl_object())
        written = answer.json()["value"]
        assert (
            written["key"] == THEIRS
        )  # the same in the answer and in the store, as an APISIX has it
        given = {name: written[name] for name in ("cert", "key", "snis")}
        again = await client.put("/ssls/2", json=given)
        assert (again.status_code, again.json()["value"]["key"]) == (201, THEIRS)
        assert (await client.patch("/ssls/2", json={"desc": "x"})).json()["value"]["key"] == THEIRS
        shown = await client.get("/ssls/1")
    assert "key" not in shown.json()["value"]
    assert "a default key of APISIX, which everybody knows" in lines.getvalue()
    said = answer.text + again.text + shown.text + lines.getvalue()
    assert not any(line in said for line in key_lines("play.example.com"))
    assert APISIX_16 not in said
    why = await gateway.refusal("PUT", "/ssls/3", given)  # whose keyring lacks that key
    assert why == f"invalid configuration: ssls/3/key: {CLOSED}"


async def test_a_dump_is_under_the_first_key_whatever_its_form(store: Store, empty: Store) -> None:
    ours, theirs = on(store, SECRET, APISIX_16), on(store, APISIX_16, SECRET)
    await ours.replace(KINDS["ssls"], "1", ssl_object(), None)
    await theirs.replace(KINDS["ssls"], "2", ssl_object(), None)
    clear: dict[str, Any] = ssl_object() | {"id": "3"}
    await store.put("/apisix/ssls/3", json.dumps(clear).encode())
    text = await dumped(theirs)
    assert text.count(THEIRS) == 2
    assert text.count("aes256gcm:") == 1
    assert not any(line in text for line in key_lines("play.example.com"))
    ids = sorted(Keyring([one]).writer.id for one in (SECRET, APISIX_16))
    assert f"encryption.keyring must have {', '.join(ids)}\n" in text
    assert (await dumped(ours)).count("aes256gcm:") == 3
    target: Resources = on(empty, APISIX_32, SECRET, APISIX_16)
    assert await restored(text, target) == 3
    for entry in (await empty.list("/apisix/ssls/")).entries:
        assert json.loads(entry.value)["key"] == apisix(KEY.encode(), APISIX_32)
