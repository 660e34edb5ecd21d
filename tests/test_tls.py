"""Which certificate a name gets."""

from itertools import permutations
from typing import Any
from unittest.mock import Mock

import pytest

from sniproxy.errors import CloseReason, KeyringError, SessionEnded
from sniproxy.objects import Ssl
from sniproxy.tls import Certificate, Certificates, Closed
from tests.support.certificates import authority_pem, pair

NOW = 1_800_000_000.0  # Unix seconds; all certificates of these tests are valid then


def certificate(ssl_id: str, *names: str, revision: int = 1, **members: Any) -> Certificate:
    """An ssl object for these names; which certificate is in it does not matter here."""
    chain, key = pair()
    value = {"cert": chain, "key": key, "snis": list(names)} | members
    return Certificate(ssl_id, revision, lambda: Ssl.model_validate(value))


def index(*certificates: Certificate) -> Certificates:
    """An index of these, added in this order."""
    made = Certificates()
    for one in certificates:
        made.add(one)
    return made


def chosen(certificates: Certificates, name: str | None) -> str | None:
    """The id of what a name gets."""
    found = certificates.choose(name, NOW)
    return None if found is None else found.id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.x.com", "exact"),
        ("b.x.com", "star x"),
        ("x.com", "apex"),
        ("c.b.x.com", "star b.x"),
        ("d.c.b.x.com", "any"),  # one label, not two
        ("b.y.com", "any"),
        ("localhost", "any"),
        ("", "any"),
        (None, "any"),
        ("a.x.com.evil.com", "any"),
        ("x.com.", "any"),
    ],
)
def test_exact_then_one_label_then_any(name: str | None, expected: str) -> None:
    certificates = index(
        certificate("any", "*"),
        certificate("star x", "*.x.com"),
        certificate("exact", "A.x.com"),
        certificate("apex", "x.com."),
        certificate("star b.x", "*.b.x.com"),
    )
    assert chosen(certificates, name) == expected


@pytest.mark.parametrize("name", ["x.com", "a.b.x.com", "xx.com", "a.y.com", "com", "", None])
def test_nothing_fits(name: str | None) -> None:
    assert chosen(index(certificate("1", "*.x.com", "y.com")), name) is None


def test_a_client_without_a_name_is_served_by_the_star_alone() -> None:
    named, star = certificate("named", "x.com"), certificate("star", "*")
    assert chosen(index(named), None) is None
    assert chosen(index(named, star), None) == "star"


@pytest.mark.parametrize("members", [{"status": 0}, {"type": "client"}])
def test_what_is_never_served(members: dict[str, Any]) -> None:
    certificates = Certificates()
    off = certificate("off", "x.com", "*", **members)
    certificates.add(off)
    assert chosen(certificates, "x.com") is None
    assert chosen(certificates, None) is None
    certificates.remove(off)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_of_two_objects_for_one_name_the_last_written_wins(order: tuple[int, ...]) -> None:
    made = [
        certificate("old", "x.com", revision=3),
        certificate("b", "x.com", revision=9),
        certificate("a", "x.com", revision=9),
        certificate("middle", "x.com", revision=5),
    ]
    certificates = index(*(made[position] for position in order))
    winners = []
    for _ in made:
        winner = certificates.choose("x.com", NOW)
        assert winner is not None
        winners.append(winner.id)
        certificates.remove(winner)
    assert winners == ["a", "b", "middle", "old"]
    assert chosen(certificates, "x.com") is None


def test_removal_leaves_no_trace() -> None:
    twice = certificate("1", "x.com", "X.com", "*.x.com")
    other = certificate("2", "x.com")
    certificates = index(twice, other)
    certificates.remove(twice)
    assert chosen(certificates, "a.x.com") is None
    assert chosen(certificates, "x.com") == "2"
    certificates.remove(other)
    assert certificates._by_name == {}


def test_what_a_handshake_is_told() -> None:
    (chain, key), (second, second_key) = pair(), pair("other.example.com")
    asked = certificate(
        "1",
        "x.com",
        certs=[second],
        keys=[second_key],
        ssl_protocols=["TLSv1.3"],
        client={"ca": authority_pem(), "depth": 2},
    ).server_tls
    assert asked.pairs == ((chain, key), (second, second_key))
    assert (asked.protocols, asked.client_ca, asked.client_depth) == (
        ("TLSv1.3",),
        authority_pem(),
        2,
    )
    assert repr(asked) == "ServerTls(2 pairs)"
    plain = certificate("1", "x.com").server_tls
    assert (plain.protocols, plain.client_ca, plain.client_depth) == ((), None, 1)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"key": pair("y.com")[1]}, "the key does not belong to the certificate"),
        ({"cert": "c" * 128}, "the certificate is not PEM that can be read"),
        ({"key": "k" * 64}, "the key is not PEM that can be read"),
        (
            {"certs": [pair("y.com")[0]], "keys": [pair()[1]]},
            "the key does not belong to the certificate",
        ),
        ({"client": {"ca": "c" * 128}}, "client.ca is not PEM that can be read"),
        ({"status": 0, "key": "k" * 64}, "the key is not PEM that can be read"),
    ],
    ids=["other key", "no certificate", "no key", "second pair", "no CA", "switched off"],
)
def test_what_cannot_be_served_is_refused_at_once(members: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        certificate("1", "x.com", **members)


@pytest.mark.parametrize(
    "error", [ValueError("a key in clear"), RecursionError(), KeyringError("a key in clear")]
)
def test_what_does_not_open_any_more_is_no_certificate(error: Exception) -> None:
    chain, key = pair()
    ssl = Ssl.model_validate({"cert": chain, "key": key, "sni": "x.com"})
    read = Mock(side_effect=[ssl, error, ssl])
    made = Certificate("1", 1, read)
    with pytest.raises(SessionEnded) as ended:
        _ = made.server_tls
    assert ended.value.reason is CloseReason.NO_CERTIFICATE
    assert ended.value.detail == "ssl 1 does not open any more"
    assert made.server_tls.pairs == ((chain, key),)  # asked anew
    assert made.server_tls is made.server_tls
    assert read.call_count == 3


MUTUAL: dict[str, Any] = {"client": {"ca": authority_pem()}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.secure.x.com", "secure"),
        ("b.a.secure.x.com", None),  # a route `*.secure.x.com` takes it, and `*` asks for less
        ("c.b.a.secure.x.com", None),
        ("d.b.a.secure.x.com", "exact"),
        ("e.open.a.secure.x.com", "open"),
        ("a.lax.x.com", "lax"),
        ("b.a.lax.x.com", "any"),
        ("secure.x.com", "any"),
        ("unlike-secure.x.com", "any"),
        ("com", "any"),
        (None, "any"),
    ],
)
def test_a_wildcard_that_wants_client_certificates_is_not_got_round(
    name: str | None, expected: str | None
) -> None:
    made = index(
        certificate("secure", "*.secure.x.com", **MUTUAL),
        certificate("exact", "d.b.a.secure.x.com"),
        certificate("open", "*.open.a.secure.x.com"),
        certificate("lax", "*.lax.x.com"),
        certificate("any", "*"),
    )
    assert chosen(made, name) == expected


def test_the_names_of_a_closed_object_are_served_by_nobody() -> None:
    made = index(certificate("wide", "*.x.com", "*"))
    closed = Closed("broken", 2, ("a.x.com", "*.y.com"))
    made.add(closed)
    names = ("a.x.com", "b.x.com", "a.y.com", "b.a.y.com", "z.com")
    assert [chosen(made, name) for name in names] == [None, "wide", None, None, "wide"]
    made.remove(closed)
    assert [chosen(made, name) for name in names] == ["wide"] * 5


def test_a_sound_object_that_is_newer_opens_a_closed_name() -> None:
    made = index(certificate("sound", "a.x.com", revision=3))
    made.add(Closed("broken", 2, ("a.x.com",)))
    assert chosen(made, "a.x.com") == "sound"
