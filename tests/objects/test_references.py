"""Texts that stand elsewhere: what is a reference, what is not, and what is refused; and where they may stand."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.objects.references import (
    MAX_LENGTH,
    Reference,
    files,
    is_reference,
    map_texts,
    may_refer,
    parse,
)
from tests.objects.reading import ACCEPTED, not_a_host, verdict, within
from tests.support.certificates import pair

KEY = pair()[1]
PATH = "/" + "p" * (MAX_LENGTH - len("$file:///"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$env://CERT", Reference("env", "CERT")),
        ("$ENV://CERT", Reference("env", "CERT")),
        ("$Env://cert", Reference("env", "cert")),
        ("$env://CERTS/play", Reference("env", "CERTS", "play")),
        ("$env://CERTS/play/key", Reference("env", "CERTS", "play/key")),
        ("$env://CERTS//", Reference("env", "CERTS", "/")),
        ("$file:///etc/tls/tls.crt", Reference("file", "/etc/tls/tls.crt")),
        ("$FILE:///Etc/TLS.crt", Reference("file", "/Etc/TLS.crt")),
        ("$file:///héé/tls.crt", Reference("file", "/héé/tls.crt")),
        ("$file://" + PATH, Reference("file", PATH)),
        ("$secret://vault/1/tls/key", Reference("secret", "vault/1/tls/key")),
        ("$SECRET://aws/1/key", Reference("secret", "aws/1/key")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert is_reference(text)
    assert may_refer(json.dumps({"cert": text}).encode())


@pytest.mark.parametrize(
    "text",
    [
        *("", "$", "env://A", "$env:A", "$env:/A", " $env://A", "x$env://A", "$env ://A"),
        *("$vault://a", "$http://a", "${env}://A", "$$env://A", KEY, KEY + "$env://A"),
    ],
)
def test_any_other_text(text: str) -> None:
    assert parse(text) is None
    assert not is_reference(text)


NAMELESS = "a reference $env:// needs a name"
RELATIVE = "a reference $file:// needs an absolute path, as in $file:///etc/tls.crt"
UNREADABLE = "characters without spaces"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$env://", NAMELESS),
        ("$env:///member", NAMELESS),
        ("$env://NAME/", NAMELESS),
        ("$secret://", "a reference $secret:// needs a name"),
        ("$file://", "a reference $file:// needs a name"),
        ("$file://tls.crt", RELATIVE),
        ("$file://./tls.crt", RELATIVE),
        ("$file://~/tls.crt", RELATIVE),
        ("$file://" + PATH + "p", UNREADABLE),
        ("$env://A B", UNREADABLE),
        ("$env://A\n", UNREADABLE),
        ("$env://A\0", UNREADABLE),
        ("$file:///a\0b", UNREADABLE),
        ("$file:///a\ud800", UNREADABLE),
        ("$file:///a\u202eb", UNREADABLE),  # it would read backwards in a log
        ("$env://" + KEY, UNREADABLE),
        ("$file:///" + KEY.replace("\n", ""), UNREADABLE),
    ],
)
def test_what_begins_like_a_reference_and_is_none_is_told_without_its_text(
    text: str, why: str
) -> None:
    with pytest.raises(ValueError, match="reference") as refused:
        parse(text)
    assert str(refused.value).endswith(why)
    assert not any(line in str(refused.value) for line in KEY.splitlines())
    assert not is_reference(text)  # so it counts as a key where one stands, and is never shown


@given(st.text() | st.from_regex(r"\A\$(env|file|secret)://", fullmatch=False))
def test_every_text_is_one_of_the_three(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        found = None
    assert is_reference(text) is (found is not None)
    if found is not None:
        assert text.isprintable()
        assert may_refer(json.dumps(text).encode())
        assert may_refer(json.dumps(text, ensure_ascii=False).encode())
        assert may_refer(json.dumps(text).replace("$", "\\u0024").encode())


REFERRING: dict[str, Any] = {
    "cert": "$file:///a",
    "key": "$FILE:///b",
    "certs": ["$env://C", "$file:///c"],
    "keys": ["$secret://vault/1/k", "$file:///a"],
    "sni": "$file:///no-place-for-one",
    "desc": "$file:///nor-here",
    "client": {"ca": "$file:///ca", "depth": 1},
}


def test_where_references_stand() -> None:
    before = copy.deepcopy(REFERRING)
    told: list[str] = []

    def change(text: str) -> str:
        told.append(text)
        return text.upper()

    changed = map_texts(REFERRING, change)
    assert told == ["$file:///a", "$FILE:///b", "$env://C", "$file:///c", *REFERRING["keys"], "$file:///ca"]  # fmt: skip
    assert changed["client"] == {"ca": "$FILE:///CA", "depth": 1}
    assert (changed["sni"], changed["desc"]) == (REFERRING["sni"], REFERRING["desc"])
    assert before == REFERRING
    assert files(REFERRING) == {"/a", "/b", "/c", "/ca"}


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"cert": 1}, {"key": None}, {"certs": "$file:///a"}, {"keys": {"a": "$file:///a"}}),
        *({"certs": [1, None]}, {"client": "$file:///a"}, {"client": {"ca": ["$file:///a"]}}),
        *({"cert": "$file://relative"}, {"cert": "$env://A"}, {"cert": KEY}),
    ],
)
def test_no_file_is_named(value: dict[str, Any]) -> None:
    assert files(value) == frozenset()
    assert map_texts(value, lambda text: text) == value


SERVER = {"cert": "c" * 128, "key": "k" * 64, "sni": "gs-1.com"}
PAIRS = {"certs": ["$env://A"], "keys": ["$env://A/key"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SERVER | {"cert": "$env://A"}, ACCEPTED),
        (SERVER | {"key": "$file:///a"}, ACCEPTED),
        (SERVER | {"cert": "$secret://vault/1/cert", "key": "$SECRET://vault/1/key"}, ACCEPTED),
        (SERVER | PAIRS, ACCEPTED),
        (SERVER | {"client": {"ca": "$env://A"}}, ACCEPTED),
        (SERVER | {"cert": "$env://"}, within("cert", text=NAMELESS)),
        (SERVER | {"key": "$file://a"}, within("key", text=RELATIVE)),
        (SERVER | PAIRS | {"keys": ["$file://a"]}, within("keys", 1, text=RELATIVE)),
        (SERVER | {"client": {"ca": "$file://a"}}, within("client", "ca", text=RELATIVE)),
        (SERVER | {"sni": "$env://A"}, within("sni", text=not_a_host("$env://A"))),
    ],
)  # fmt: skip
def test_verdicts(value: dict[str, Any], expected: str) -> None:
    assert verdict("ssls", value) == expected


def test_upstreams_hold_theirs_inside() -> None:
    tls = {"client_cert": "$file:///a", "client_key": "$file:///b"}
    assert "at least 128" in verdict("upstreams", {"nodes": {"a": 1}, "tls": tls})
