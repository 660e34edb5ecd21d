"""What an object must satisfy: times, certificates; and how PATCH merges. Tables, no requests."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from admin.body import MAX_DEPTH
from admin.rules import (
    check,
    decode,
    encode,
    is_id,
    merge,
    merge_at,
    prepare,
    refuse_times,
    reveal,
)
from sniproxy.errors import KeyringError, ObjectRefused
from sniproxy.keyring import Keyring, is_encrypted
from sniproxy.objects.secrets import map_secrets
from tests.admin.gateway import CA, KEYRING, NODES, client_ssl, inline_tls, ssl_object
from tests.support.certificates import pair

pytestmark = pytest.mark.anyio

CERT, KEY = pair("play.example.com")
OTHER_CERT, OTHER_KEY = pair("other.example.com")
GARBAGE = (
    "-----BEGIN CERTIFICATE-----\n" + "bm8gY2VydGlmaWNhdGU=\n" * 10 + "-----END CERTIFICATE-----"
)
NO_KEY = GARBAGE.replace("CERTIFICATE", "PRIVATE KEY")
PAIR = "the key does not belong to the certificate"
CERT_UNREADABLE = "the certificate is not PEM that can be read"
KEY_UNREADABLE = "the key is not PEM that can be read"
PASSWORD = "the key is protected by a password; store it without one"
IN_CLEAR = "a private key stands where it would be stored in clear"


def locked_key() -> str:
    key = serialization.load_pem_private_key(KEY.encode(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    return pem.decode()


# -- merging


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": {"e": 2}}}},
         {"a": {"b": {"c": {"d": 1, "e": 2}}}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"b": 1}}, {"a": [1]}, {"a": [1]}),
        ({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": "x"}, {"a": "x"}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": 1}, {"none": None}, {"a": 1}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": []}, {"a": []}),
        ({"a": True}, {"a": False}, {"a": False}),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_merge(under: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    before = json.dumps([under, over])
    assert merge(under, over) == merged
    assert json.dumps([under, over]) == before


@pytest.mark.parametrize(
    ("under", "path", "value", "merged"),
    [
        ({"a": 1}, "a", 2, {"a": 2}),
        ({"a": {"b": 1, "c": 2}}, "a", {"d": 3}, {"a": {"d": 3}}),
        ({"a": {"b": 1, "c": 2}}, "a/b", [1], {"a": {"b": [1], "c": 2}}),
        ({}, "a/b/c", 1, {"a": {"b": {"c": 1}}}),
        ({"a": None}, "a/b", 2, {"a": {"b": 2}}),
        ({"a": {"b": 1, "c": 2}}, "a/b", None, {"a": {"c": 2}}),
        ({"a": 1}, "none", None, {"a": 1}),
        ({"a": 1}, "b/c", None, {"a": 1, "b": {}}),
    ],
)
def test_merge_at(under: dict[str, Any], path: str, value: Any, merged: dict[str, Any]) -> None:
    before = json.dumps(under)
    assert merge_at(under, path.split("/"), value) == merged
    assert json.dumps(under) == before


@pytest.mark.parametrize("parent", [1, 0, "", "x", [], [1], True, False])
@pytest.mark.parametrize("path", ["a/0", "a/b/c"])
def test_merge_at_loses_nothing_of_a_parent_that_is_no_object(parent: Any, path: str) -> None:
    with pytest.raises(ObjectRefused, match="invalid sub-path: a is no object"):
        merge_at({"a": parent}, path.split("/"), 2)


# -- ids and times


@pytest.mark.parametrize(
    ("given", "object_id", "same"),
    [
        ("1", "1", True), (1, "1", True), ("a.b-c_d", "a.b-c_d", True), ("None", "None", True),
        ("1", "2", False), (1, "01", False), (None, "None", False), ("", "1", False),
    ],
)  # fmt: skip
def test_is_id(given: Any, object_id: str, same: bool) -> None:
    assert is_id(given, object_id) is same


@pytest.mark.parametrize("member", ["create_time", "update_time"])
@pytest.mark.parametrize("where", ["", "upstream", "plugins"])
@pytest.mark.parametrize("time", [0, 1_700_000_000, None, "x"])
def test_times_are_ours(member: str, where: str, time: Any) -> None:
    value: dict[str, Any] = {where: {member: time}} if where else {member: time}
    with pytest.raises(ObjectRefused) as caught:
        refuse_times(value | {"desc": "x"})
    assert str(caught.value) == f"the property is forbidden:  {member}"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"upstream": "create_time"},
        {"upstream": ["create_time"]},
        {"labels": {"create_time": 1}},
    ],
)
def test_times_elsewhere_are_not(value: dict[str, Any]) -> None:
    refuse_times(value)


# -- certificates


@pytest.mark.parametrize(
    "value",
    [
        ssl_object(),
        ssl_object(certs=[OTHER_CERT], keys=[OTHER_KEY]),
        ssl_object(client={"ca": CA, "depth": 2}),
        ssl_object(cert=CERT.replace("\n", "\r\n"), key=KEY.replace("\n", "\r\n")),
        client_ssl(),
    ],
)
def test_certificates_that_are_taken(value: dict[str, Any]) -> None:
    check("ssls", value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (ssl_object(key=OTHER_KEY), PAIR),
        (ssl_object(cert=OTHER_CERT), PAIR),
        (ssl_object(cert=CA + CERT), PAIR),  # the leaf comes first
        (client_ssl(key=KEY), PAIR),
        (ssl_object(certs=[OTHER_CERT], keys=[KEY]), PAIR),
        (ssl_object(certs=[OTHER_CERT, CERT], keys=[OTHER_KEY, OTHER_KEY]), PAIR),
        (ssl_object(cert=GARBAGE), CERT_UNREADABLE),
        (ssl_object(cert="x" * 200), CERT_UNREADABLE),
        (ssl_object(cert="é" * 200), CERT_UNREADABLE),
        (ssl_object(cert="\0" * 200), CERT_UNREADABLE),
        (ssl_object(certs=[GARBAGE], keys=[KEY]), CERT_UNREADABLE),
        (ssl_object(key=NO_KEY), KEY_UNREADABLE),
        (ssl_object(key="x" * 200), KEY_UNREADABLE),
        (ssl_object(key=CERT), KEY_UNREADABLE),
        (ssl_object(key=KEY[:120]), KEY_UNREADABLE),
        (ssl_object(certs=[CERT], keys=[NO_KEY]), KEY_UNREADABLE),
        (ssl_object(key=locked_key()), PASSWORD),
        (ssl_object(certs=[CERT], keys=[locked_key()]), PASSWORD),
        (ssl_object(client={"ca": GARBAGE}), "client.ca is not PEM that can be read"),
        (ssl_object(certs=[OTHER_CERT]), "mismatched number of certs and keys"),
        (ssl_object(keys=[OTHER_KEY]), "mismatched number of certs and keys"),
        (ssl_object(snis=None), "a server certificate needs exactly one of sni and snis"),
        (ssl_object(key=None), 'property "key" is required'),
        (ssl_object(cert="short"), 'property "cert" validation failed: '),
        (ssl_object(type="peer"), 'property "type" validation failed: '),
        (ssl_object(client={"ca": "short"}), 'property "client" validation failed: property "ca"'),
        # a private key where nobody looks for one
        (ssl_object(cert=CERT + KEY), IN_CLEAR),
        (ssl_object(cert=KEY, key=CERT), IN_CLEAR),
        (ssl_object(client={"ca": CA + KEY}), IN_CLEAR),
        (ssl_object(desc=KEY), IN_CLEAR),
        (ssl_object(labels={"key": KEY.strip()}), IN_CLEAR),
        (ssl_object(client_key=KEY), IN_CLEAR),
        (ssl_object() | {KEY: 1}, IN_CLEAR),
    ],
)
def test_certificates_that_are_not(value: dict[str, Any], why: str) -> None:
    with pytest.raises(ObjectRefused) as caught:
        check("ssls", value)
    assert str(caught.value).startswith(f"invalid configuration: {why}")
    assert not any(line in str(caught.value) for line in KEY.splitlines()[1:-1])


@pytest.mark.parametrize(
    ("collection", "value"),
    [
        ("upstreams", {"nodes": NODES, "tls": {"clientKey": KEY}}),
        ("upstreams", {"nodes": NODES, "tls": {"client_cert": CERT + KEY, "client_key": KEY}}),
        ("upstreams", {"nodes": NODES, "tls": {"verify": True, "ca_certs": [CERT + KEY]}}),
        ("upstreams", {"nodes": {KEY: 1}}),
        ("upstreams", {"nodes": NODES, "client_key": KEY}),
        ("services", {"upstream": {"nodes": NODES, "discovery_args": {"k": [KEY]}}}),
        ("stream_routes", {"upstream": inline_tls(), "upstream_id": KEY}),
        ("stream_routes", {"protocol": {"name": KEY}}),
        ("stream_routes", {"plugins": {KEY: {}}}),
    ],
)
def test_a_private_key_outside_of_its_place_is_refused(
    collection: str, value: dict[str, Any]
) -> None:
    with pytest.raises(ObjectRefused) as caught:
        prepare(collection, "1", value, KEYRING)
    assert str(caught.value) == f"invalid configuration: {IN_CLEAR}"


# -- encryption


@pytest.mark.parametrize(
    ("collection", "value", "count"),
    [
        ("ssls", ssl_object(), 1),
        ("ssls", ssl_object(certs=[OTHER_CERT], keys=[OTHER_KEY]), 2),
        ("upstreams", inline_tls(), 1),
        ("services", {"upstream": inline_tls()}, 1),
        ("stream_routes", {"upstream": inline_tls(), "sni": "a.example.com"}, 1),
        ("stream_routes", {"sni": "a.example.com"}, 0),
    ],
)
def test_prepare_encrypts_each_key_anew_and_reveal_opens_it(
    collection: str, value: dict[str, Any], count: int
) -> None:
    before = json.dumps(value)
    once, again = (prepare(collection, "1", value, KEYRING) for _ in range(2))
    assert json.dumps(value) == before

    def secrets(stored: dict[str, Any]) -> list[str]:
        found: list[str] = []

        def look(text: str, _: str) -> str:
            found.append(text)
            return text

        map_secrets(collection, "1", stored, look)
        return found

    assert all(map(is_encrypted, secrets(once)))
    assert len({*secrets(once), *secrets(again)}) == 2 * count
    assert (
        reveal(collection, "1", once, KEYRING) == value == reveal(collection, "1", again, KEYRING)
    )
    # what came out goes in again, at its own place only
    assert reveal(collection, "1", prepare(collection, "1", once, KEYRING), KEYRING) == value
    if count:
        with pytest.raises(ObjectRefused, match="damaged or moved here"):
            prepare(collection, "2", once, KEYRING)
        with pytest.raises(KeyringError, match="which the keyring lacks"):
            reveal(collection, "1", once, Keyring(["b3RoZXIga2V5cyBhcmUgdGhpcnR5LXR3byBieXRlcyE="]))


@pytest.mark.parametrize("text", ["aes256gcm:", "aes256gcm:x", "aes256gcm:00000000:AAAA"])
def test_prepare_refuses_a_false_ciphertext(text: str) -> None:
    with pytest.raises(ObjectRefused, match=r"^invalid configuration: ssls/1/key: "):
        prepare("ssls", "1", ssl_object(key=text), KEYRING)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 2, MAX_DEPTH, 400])
def test_prepare_refuses_what_is_nested_too_deeply(depth: int) -> None:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(ObjectRefused, match="nested too deeply"):
        prepare("upstreams", "1", {"nodes": {}, "discovery_args": {"x": nested}}, KEYRING)


# -- what is stored


def test_no_member_is_stored_as_null() -> None:
    """An APISIX that shares the etcd would not take the object."""
    free = {"a": None, "b": [None]}
    nodes = [{"host": "a", "weight": 1, "port": None, "priority": 0, "metadata": free}]
    inner = {"nodes": nodes, "tls": None, "timeout": None, "discovery_args": free}
    value = {
        "id": "1",
        "name": None,
        "plugins": {"ip-restriction": {"blacklist": ["10.0.0.1"], "whitelist": None}},
    }
    stored = prepare("services", "1", value | {"upstream": inner}, KEYRING)
    assert stored == {
        "id": "1",
        "plugins": {"ip-restriction": {"blacklist": ["10.0.0.1"]}},
        "upstream": {
            "nodes": [{"host": "a", "weight": 1, "priority": 0, "metadata": free}],
            "discovery_args": free,
        },
    }


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        ({"client_cert": GARBAGE, "client_key": KEY}, CERT_UNREADABLE),
        ({"client_cert": CERT, "client_key": NO_KEY}, KEY_UNREADABLE),
        ({"ca_certs": [CERT, GARBAGE]}, "tls.ca_certs is not PEM that can be read"),
        ({"verify": True, "ca_certs": ["x" * 200]}, "tls.ca_certs is not PEM that can be read"),
    ],
)
@pytest.mark.parametrize("collection", ["upstreams", "services", "stream_routes"])
def test_certificates_of_an_upstream_and_their_key_can_be_read(
    collection: str, tls: dict[str, Any], why: str
) -> None:
    upstream = {"nodes": NODES, "scheme": "tls", "tls": tls}
    value = upstream if collection == "upstreams" else {"upstream": upstream}
    with pytest.raises(ObjectRefused) as caught:
        prepare(collection, "1", value, KEYRING)
    assert str(caught.value) == f"invalid configuration: {why}"


# -- bytes


@pytest.mark.parametrize(
    "raw",
    [b"init_dir", b"", b"[]", b"1", b"null", b'"x"', b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}',
     b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a":' * 100 + b"1" + b"}" * 100],
    ids=lambda raw: raw[:16],
)  # fmt: skip
def test_a_stored_value_that_is_no_object(raw: bytes) -> None:
    assert decode(raw) is None


def test_bytes_and_back() -> None:
    value = {"id": 1, "desc": "日本\n\0", "labels": {}, "n": 10**400}
    assert decode(encode(value)) == value
    assert encode(value).isascii()
