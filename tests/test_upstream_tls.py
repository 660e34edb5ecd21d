"""How TLS is spoken to the game servers of an upstream: names, trust, client certificates. Pure."""

import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.errors import CloseReason, KeyringError, SessionEnded
from sniproxy.networks import family_of
from sniproxy.objects import InlineUpstream, Ssl
from sniproxy.tls import Certificate
from sniproxy.upstream_tls import ClientTls, UpstreamTls, _shared, share
from tests.support.certificates import NAME, PLAYER, authority_pem, pair

CHAIN, KEY = pair(PLAYER)
OTHER_CHAIN, OTHER_KEY = pair("other.example.com")
INLINE = {"client_cert": CHAIN, "client_key": KEY}


def tls(open_key: Any = lambda key: key, **members: Any) -> UpstreamTls:
    """That of an upstream."""
    upstream = {"nodes": [], "scheme": "tls", **members}
    return UpstreamTls(InlineUpstream.model_validate(upstream), open_key)


def shown(key: str = KEY, chain: str = CHAIN, **members: Any) -> Certificate:
    """An ssl object of type client."""
    value = {"cert": chain, "key": key, "type": "client", **members}
    return Certificate("7", 1, lambda: Ssl.model_validate(value))


@pytest.mark.parametrize(
    ("members", "asked", "host", "peer"),
    [
        ({}, NAME, "gs.example", NAME),
        ({"pass_host": "pass"}, NAME, "10.0.0.1", NAME),
        ({}, None, "gs.example", "gs.example"),
        ({}, None, "GS.Example.", "gs.example"),
        ({}, None, "10.0.0.1", "10.0.0.1"),
        ({}, None, "[fd00::1]", "fd00::1"),
        ({}, None, "fe80::1%eth0", "fe80::1"),
        ({"pass_host": "node"}, NAME, "gs.example", "gs.example"),
        ({"pass_host": "node", "upstream_host": "a.example"}, NAME, "10.0.0.1", "10.0.0.1"),
        ({"pass_host": "rewrite", "upstream_host": "a.example"}, NAME, "gs.example", "a.example"),
        ({"pass_host": "rewrite", "upstream_host": "A.example."}, NAME, "gs", "a.example"),
        ({"pass_host": "rewrite", "upstream_host": "a.example:443"}, NAME, "gs", "a.example"),
        ({"pass_host": "rewrite", "upstream_host": "[::1]:443"}, NAME, "gs", "::1"),
        ({"pass_host": "rewrite", "upstream_host": "[FD00::1]"}, NAME, "gs", "fd00::1"),
        ({"pass_host": "rewrite", "upstream_host": "::1"}, NAME, "gs", "::1"),
        ({"pass_host": "rewrite", "upstream_host": "*"}, NAME, "gs", "gs"),
        ({"pass_host": "rewrite", "upstream_host": "*.example"}, NAME, "gs", "gs"),
        ({"pass_host": "rewrite"}, NAME, "gs", "gs"),
        ({"upstream_host": "a.example"}, NAME, "gs", NAME),
    ],
)
def test_whom_the_game_server_must_be(
    members: dict[str, Any], asked: str | None, host: str, peer: str
) -> None:
    assert tls(**members).peer(asked, host) == peer


@given(st.from_regex(r"\A\*?[0-9a-zA-Z\-._\[\]:]+\Z"), st.sampled_from(["pass", "node", "rewrite"]))
def test_there_is_a_peer_whatever_the_upstream_names(host: str, pass_host: str) -> None:
    peer = tls(pass_host=pass_host, upstream_host=host).peer(None, "gs.example")
    assert peer
    assert peer == "gs.example" or peer.strip("[]") in host.lower()
    assert "*" not in peer
    assert family_of(peer) or "]:" not in peer


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, (False, (), None)),
        ({"verify": True}, (True, (), None)),
        (
            {"verify": True, "ca_certs": [authority_pem(), authority_pem("theirs")]},
            (True, (authority_pem(), authority_pem("theirs")), None),
        ),
        ({"ca_certs": [authority_pem()]}, (False, (), None)),
        (INLINE, (False, (), (CHAIN, KEY))),
        ({"verify": True, **INLINE}, (True, (), (CHAIN, KEY))),
    ],
)
def test_what_a_relay_is_told(members: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Authorities count where somebody verifies."""
    told = tls(tls=members).client_tls(None)
    assert (told.verify, told.authorities, told.pair) == expected
    assert KEY not in repr(told)


def test_an_upstream_without_tls_member_verifies_nobody() -> None:
    assert tls().client_tls(None) is share(verify=False, authorities=(), pair=None)


def test_equal_ones_are_one_and_are_forgotten_with_the_last() -> None:
    members = {"verify": True, "ca_certs": [authority_pem("forgotten")], **INLINE}
    gc.collect()
    before = len(_shared)
    several = [tls(tls=members) for _ in range(3)]
    assert len({id(one.client_tls(None)) for one in several}) == 1
    assert tls(tls=members | {"verify": False}).client_tls(None) is not several[0].client_tls(None)
    gc.collect()
    assert len(_shared) == before + 1
    del several
    gc.collect()
    assert len(_shared) == before


def test_the_object_of_a_client_certificate_is_opened_once_until_it_is_another() -> None:
    upstream = tls(tls={"client_cert_id": 7})
    first, second = shown(), shown(OTHER_KEY, OTHER_CHAIN)
    assert upstream.client_cert_id == "7"
    told = upstream.client_tls(first)
    assert told.pair == (CHAIN, KEY)
    assert upstream.client_tls(first) is told
    assert upstream.client_tls(second).pair == (OTHER_CHAIN, OTHER_KEY)
    assert upstream.client_tls(first).pair == (CHAIN, KEY)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (None, "is not there"),
        (shown(status=0), "is no client's, or is switched off"),
        (shown(type="server", sni="x.example"), "is no client's, or is switched off"),
    ],
)
def test_a_client_certificate_that_cannot_be_shown(
    certificate: Certificate | None, words: str
) -> None:
    upstream = tls(tls={"client_cert_id": "7"})
    for _ in range(2):
        with pytest.raises(SessionEnded) as caught:
            upstream.client_tls(certificate)
        assert caught.value.reason is CloseReason.NO_UPSTREAM
        assert caught.value.detail == f"ssl 7, its client certificate, {words}"
    assert isinstance(upstream.client_tls(shown()), ClientTls)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            {"client_cert": CHAIN, "client_key": OTHER_KEY},
            "the key does not belong to the certificate",
        ),
        (
            {"client_cert": "c" * 128, "client_key": KEY},
            "the certificate is not PEM that can be read",
        ),
        ({"client_cert": CHAIN, "client_key": "k" * 64}, "the key is not PEM that can be read"),
        ({"ca_certs": ["c" * 128]}, "tls.ca_certs is not PEM that can be read"),
        ({"ca_certs": [authority_pem(), KEY]}, "tls.ca_certs is not PEM that can be read"),
    ],
)
def test_what_cannot_be_spoken_is_known_when_it_comes(members: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        tls(tls=members)


def test_a_key_is_kept_as_it_is_stored() -> None:
    """And opened when it comes, to check it, and when a session needs it."""
    opened: list[str] = []

    def open_key(text: str) -> str:
        opened.append(text)
        return KEY

    upstream = tls(open_key, tls={"client_cert": CHAIN, "client_key": "sealed" * 20})
    for _ in range(2):
        assert upstream.client_tls(None).pair == (CHAIN, KEY)
    assert opened == ["sealed" * 20] * 2


@pytest.mark.parametrize("error", [KeyringError("gone"), ValueError("gone")])
def test_a_key_that_does_not_open_any_more(error: Exception) -> None:
    keys = [KEY]

    def open_key(_text: str) -> str:
        if not keys:
            raise error
        return keys.pop()

    upstream = tls(open_key, tls={"client_cert": CHAIN, "client_key": "sealed" * 20})
    with pytest.raises(SessionEnded, match="no_upstream: the key of its client certificate does"):
        upstream.client_tls(None)


def test_an_ssl_object_that_does_not_open_any_more() -> None:
    readings = [Ssl.model_validate({"cert": CHAIN, "key": KEY, "type": "client"})]

    def read() -> Ssl:
        if not readings:
            raise KeyringError("gone")
        return readings.pop()

    certificate = Certificate("7", 1, read)
    with pytest.raises(SessionEnded, match="no_upstream: ssl 7 does not open any more"):
        tls(tls={"client_cert_id": "7"}).client_tls(certificate)
