"""Where private keys stand: every place is found, told by its own name, and nothing else is touched."""

import copy
from typing import Any

import pytest

from sniproxy.objects.secrets import map_secrets, without_clear_keys, without_secrets

TLS = {"client_cert": "c", "client_key": "k", "verify": True}
BARE = {"client_cert": "c", "verify": True}


@pytest.mark.parametrize(
    ("collection", "value", "places", "shown"),
    [
        ("ssls", {"sni": "x", "cert": "c", "key": "k"}, ["key"], {"sni": "x", "cert": "c"}),
        ("ssls", {"keys": ["k", "l"], "certs": []}, ["keys/0", "keys/1"], {"certs": []}),
        ("ssls", {"key": 5, "keys": "k"}, [], {}),
        ("ssls", {"keys": ["k", 5, None]}, ["keys/0"], {}),
        ("ssls", {"tls": TLS}, [], {"tls": TLS}),
        ("ssls", {"key": "$env://K", "keys": ["$file:///k", "k"]}, ["keys/1"], {}),
        ("ssls", {"key": "$env://k k"}, ["key"], {}),  # no reference: what it is, nobody knows
        ("upstreams", {"tls": {"client_key": "$env://k"}}, ["tls/client_key"], {"tls": {}}),
        ("upstreams", {"tls": TLS}, ["tls/client_key"], {"tls": BARE}),
        ("upstreams", {"tls": {"client_key": 5}}, [], {"tls": {"client_key": 5}}),
        ("upstreams", {"tls": "k"}, [], {"tls": "k"}),
        ("upstreams", {"key": "remote_addr"}, [], {"key": "remote_addr"}),
        ("services", {"upstream": {"tls": TLS}}, ["upstream/tls/client_key"], {"upstream": {"tls": BARE}}),
        ("stream_routes", {"upstream": {"tls": TLS}}, ["upstream/tls/client_key"], {"upstream": {"tls": BARE}}),
        ("stream_routes", {"upstream": []}, [], {"upstream": []}),
        ("stream_routes", {}, [], {}),
    ],
)  # fmt: skip
def test_places(
    collection: str, value: dict[str, Any], places: list[str], shown: dict[str, Any]
) -> None:
    before = copy.deepcopy(value)
    told: list[str] = []

    def change(text: str, place: str) -> str:
        told.append(place)
        return text.upper()

    changed = map_secrets(collection, "7", value, change)
    assert told == [f"{collection}/7/{place}" for place in places]
    assert (changed != value) is bool(places)
    assert map_secrets(collection, "7", changed, lambda text, _: text.lower()) == value
    assert without_secrets(collection, value) == shown
    assert value == before


BLOCK = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        ("", ""),
        ("a certificate\n", "a certificate\n"),
        (f"a certificate\n{BLOCK}another\n{BLOCK}", "a certificate\nanother\n"),
        (f"a certificate\n{BLOCK[:40]}", "a certificate\n"),
        (BLOCK[20:], ""),
        (f"{BLOCK}{BLOCK[40:]}", ""),
        ([1, {"a": [BLOCK, None], BLOCK: 1}, True], [1, {"a": ["", None]}, True]),
    ],
)
def test_no_key_in_clear_is_left_anywhere(value: Any, rest: Any) -> None:
    before = copy.deepcopy(value)
    assert without_clear_keys(value) == rest
    assert value == before
