"""ssls: names, pairs, and what may be asked of a client."""

from typing import Any

import pytest

from sniproxy.objects import Ssl
from tests.objects.reading import (
    ACCEPTED,
    EMPTY,
    NO_ENUM,
    at_least,
    longer,
    nameless,
    not_a_host,
    shorter,
    verdict,
    within,
)

PAIR = {"cert": "c" * 128, "key": "k" * 64}
SERVER = PAIR | {"sni": "gs-1.com"}
NAMES = "a server certificate needs exactly one of sni and snis"
COUNT = "mismatched number of certs and keys"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SERVER, ACCEPTED),
        (PAIR, NAMES),
        (SERVER | {"snis": ["gs-2.com"]}, NAMES),
        (PAIR | {"snis": ["gs-1.com", "*.gs.com", "*"]}, ACCEPTED),
        (PAIR | {"sni": "*.gs.com"}, ACCEPTED),
        (PAIR | {"sni": "gs_1 .com"}, within("sni", text=not_a_host("gs_1 .com"))),
        (PAIR | {"sni": "*."}, within("sni", text=nameless("*."))),
        (PAIR | {"snis": ["gs-1.com.", "."]}, within("snis", 2, text=nameless("."))),
        (PAIR | {"sni": ""}, within("sni", text=longer(1))),
        (PAIR | {"snis": ["a b"]}, within("snis", 1, text=not_a_host("a b"))),
        (PAIR | {"snis": []}, within("snis", text=EMPTY)),
        (PAIR | {"type": "client"}, ACCEPTED),
        (SERVER | {"type": "client"}, ACCEPTED),
        (SERVER | {"type": "both"}, within("type", text=NO_ENUM)),
        ({"sni": "a", "key": "k" * 64}, 'property "cert" is required'),
        ({"sni": "a", "cert": "c" * 128}, 'property "key" is required'),
        (SERVER | {"cert": "c" * 127}, within("cert", text=longer(128, 127))),
        (SERVER | {"cert": "c" * 65536}, ACCEPTED),
        (SERVER | {"cert": "c" * 65537}, within("cert", text=shorter(65536, 65537))),
        (SERVER | {"key": "k" * 63}, within("key", text=longer(64, 63))),
        (SERVER | {"key": "k" * 65536}, ACCEPTED),
        (SERVER | {"key": "k" * 65537}, within("key", text=shorter(65536, 65537))),
        (SERVER | {"certs": ["c" * 128], "keys": ["k" * 64]}, ACCEPTED),
        (SERVER | {"certs": [], "keys": []}, ACCEPTED),
        (SERVER | {"certs": ["c" * 128]}, COUNT),
        (SERVER | {"keys": ["k" * 64]}, COUNT),
        (SERVER | {"certs": ["c" * 128] * 2, "keys": ["k" * 64]}, COUNT),
        (
            SERVER | {"certs": ["c" * 128, "c"], "keys": ["k" * 64] * 2},
            within("certs", 2, text=longer(128, 1)),
        ),
        (SERVER | {"status": 0}, ACCEPTED),
        (SERVER | {"status": 2}, within("status", text=NO_ENUM)),
        (SERVER | {"ssl_protocols": ["TLSv1.2", "TLSv1.3"]}, ACCEPTED),
        (SERVER | {"ssl_protocols": ["TLSv1.1", "TLSv1.2", "TLSv1.3"]}, ACCEPTED),
        (SERVER | {"ssl_protocols": []}, within("ssl_protocols", text=EMPTY)),
        (
            SERVER | {"ssl_protocols": ["TLSv1.2", "TLSv1.2"]},
            within("ssl_protocols", text="expected unique items but items 1 and 2 are equal"),
        ),
        (
            SERVER | {"ssl_protocols": ["TLSv1.1", "TLSv1.2", "TLSv1.2", "TLSv1.3"]},
            within("ssl_protocols", text="expect array to have at most 3 items"),
        ),
        (
            SERVER | {"ssl_protocols": ["TLSv1.3", "SSLv3"]},
            within("ssl_protocols", 2, text=NO_ENUM),
        ),
        (SERVER | {"client": {"ca": "c" * 128}}, ACCEPTED),
        (SERVER | {"client": {"ca": "c" * 128, "depth": 0, "later": True}}, ACCEPTED),
        (
            SERVER | {"client": {"ca": "c" * 128, "depth": -1}},
            within("client", "depth", text=at_least(0, -1)),
        ),
        (SERVER | {"client": {}}, within("client", text='property "ca" is required')),
        (SERVER | {"client": {"ca": "c"}}, within("client", "ca", text=longer(128, 1))),
        (SERVER | {"client": {"ca": "c" * 128, "skip_mtls_uri_regex": ["/x"]}}, ACCEPTED),
    ],
)
def test_verdicts(value: dict[str, Any], expected: str) -> None:
    assert verdict("ssls", value) == expected


def test_a_message_never_holds_the_key() -> None:
    for key in ("sesame" * 10, "sesame" * 20_000, ["sesame"]):
        assert "sesame" not in verdict("ssls", SERVER | {"key": key})
        assert "sesame" not in verdict("ssls", SERVER | {"certs": ["c" * 128], "keys": [key]})


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ({"sni": "GS-1.Com"}, ("gs-1.com",)),
        ({"sni": "gs-1.com."}, ("gs-1.com",)),
        ({"snis": ["B.com", "*.A.com"]}, ("b.com", "*.a.com")),
        ({"type": "client"}, ()),
    ],
)
def test_names(members: dict[str, Any], names: tuple[str, ...]) -> None:
    assert Ssl.model_validate(PAIR | members).names == names


def test_pairs_begin_with_the_main_one() -> None:
    more = {"certs": ["d" * 128, "e" * 128], "keys": ["l" * 64, "m" * 64]}
    assert Ssl.model_validate(SERVER | more).pairs == (
        ("c" * 128, "k" * 64),
        ("d" * 128, "l" * 64),
        ("e" * 128, "m" * 64),
    )
