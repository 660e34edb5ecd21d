"""ssl objects whose certificates and keys stand elsewhere: stored as they are, and checked as far as the admin can."""

import json
from typing import Any

import pytest

from admin.rules import prepare, reveal
from sniproxy.errors import ObjectRefused
from sniproxy.keyring import is_encrypted
from tests.admin.gateway import CA, KEYRING, Gateway, client_ssl, key_lines, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

CERT, KEY = pair("play.example.com")
OTHER_CERT, OTHER_KEY = pair("other.example.com")
FILES = {"cert": "$file:///nowhere/tls.crt", "key": "$file:///nowhere/tls.key"}
PAIR = "the key does not belong to the certificate"
CERT_UNREADABLE, KEY_UNREADABLE = (
    f"the {what} is not PEM that can be read" for what in ("certificate", "key")
)
GARBAGE = "-----BEGIN CERTIFICATE-----\n" + "A" * 128
NO_NAME = "a reference $env:// needs a name"


@pytest.mark.parametrize(
    ("members", "sealed"),
    [
        (FILES, 0),
        ({"cert": "$ENV://CERT", "key": "$secret://vault/1/tls/key"}, 0),
        ({"key": "$env://KEY"}, 0),
        ({"cert": "$env://CERT"}, 1),
        ({"certs": [OTHER_CERT, "$env://A"], "keys": ["$env://B", OTHER_KEY]}, 2),
        ({"client": {"ca": "$file:///nowhere/ca.crt"}}, 1),
        ({"client": {"ca": CA}, **FILES}, 0),
    ],
)
async def test_references_are_stored_as_they_are_and_keys_encrypted(
    gateway: Gateway, members: dict[str, Any], sealed: int
) -> None:
    value = ssl_object(**members)
    answered = await gateway.put("/ssls/1", value)
    entry = await gateway.store.get(f"{gateway.prefix}/ssls/1")
    assert entry is not None
    stored = json.loads(entry.value)
    keys = [stored["key"], *stored.get("keys", ())]
    assert sum(map(is_encrypted, keys)) == sealed
    given = [value["key"], *value.get("keys", ())]
    assert all(
        one == other for one, other in zip(given, keys, strict=True) if not is_encrypted(other)
    )
    assert (answered["cert"], answered["key"]) == (value["cert"], stored["key"])
    opened = reveal("ssls", "1", stored, KEYRING)
    assert {member: opened[member] for member in value} == value
    code, shown = await gateway.ask("GET", "/ssls/1")
    assert (code, shown["value"]["cert"]) == (200, value["cert"])
    assert not {"key", "keys"} & shown["value"].keys()
    assert not any(line in gateway.said for line in key_lines("play.example.com"))


async def test_a_patch_from_a_key_to_a_reference_and_back(gateway: Gateway) -> None:
    await gateway.put("/ssls/1", ssl_object())
    for change, clear in (({"key": "$env://KEY"}, True), ({"key": KEY}, False)):
        code, body = await gateway.ask("PATCH", "/ssls/1", change)
        assert code == 200, body
        assert (body["value"]["key"] == "$env://KEY") is clear
        assert is_encrypted(body["value"]["key"]) is not clear
    why = await gateway.refusal("PATCH", "/ssls/1", {"key": OTHER_KEY})
    assert why.endswith(PAIR)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (ssl_object(cert=GARBAGE, key="$env://KEY"), CERT_UNREADABLE),
        (ssl_object(cert="$env://CERT", key=CERT), KEY_UNREADABLE),
        (ssl_object(certs=[GARBAGE], keys=["$env://A"]), CERT_UNREADABLE),
        (ssl_object(certs=["$env://A"], keys=[CERT]), KEY_UNREADABLE),
        (ssl_object(**FILES, certs=[OTHER_CERT], keys=[KEY]), PAIR),
        (ssl_object(**FILES, client={"ca": GARBAGE}), "client.ca is not PEM that can be read"),
        (client_ssl(cert=GARBAGE, key="$env://KEY"), CERT_UNREADABLE),
        (ssl_object(key="$env://"), f'property "key" validation failed: {NO_NAME}'),
        (ssl_object(cert="$env://"), f'property "cert" validation failed: {NO_NAME}'),
        (
            ssl_object(key="$vault://a/b"),
            'property "key" validation failed: string too short, expected at least 64',
        ),
        # what would be shown, if it passed for a reference
        (ssl_object(key="$env://" + KEY), 'property "key" validation failed: a reference $env://'),
        (ssl_object(key="$file:///" + KEY.replace("\n", "")), 'property "key" validation failed: '),
        (ssl_object(certs=[CERT], keys=["$env://A " + KEY]), 'property "keys" validation failed: '),
    ],
)
def test_what_is_refused(value: dict[str, Any], why: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        prepare("ssls", "1", value, KEYRING)
    assert str(caught.value).startswith(f"invalid configuration: {why}")
    assert not any(line in str(caught.value) for line in KEY.splitlines()[1:-1])
