"""Hellos that parse, and the names in them; each is fed whole, by bytes and cut in two."""

import pytest

from sniproxy.client_hello import ClientHello
from tests.support.hello_rows import ALERT, HELLO, PLAY, base, check, outcome, rows
from tests.support.hellos import (
    ECH,
    GROUPS,
    VERSIONS,
    X25519,
    X25519MLKEM768,
    alpn,
    extension,
    key_share,
    message,
    named,
    padded,
    post_quantum,
    record,
    records,
    shorts,
)

SOUND: dict[str, tuple[bytes, ClientHello]] = {
    "plain": (HELLO, base()),
    "no_extension_block": (record(message(None)), base(server_name=None)),
    "empty_extension_block": (record(message([])), base(server_name=None)),
    "no_server_name": (record(message([alpn(b"h2")])), base(server_name=None, alpn=(b"h2",))),
    "tls10": (record(message([PLAY], version=0x0301)), base(legacy_version=0x0301)),
    "tls11": (record(message([PLAY], version=0x0302)), base(legacy_version=0x0302)),
    "later_version": (record(message([PLAY], version=0x0304)), base(legacy_version=0x0304)),
    "record_version_ssl30": (record(message([PLAY]), version=0x0300), base()),
    "record_version_tls12": (record(message([PLAY]), version=0x0303), base()),
    "record_version_minor_255": (record(message([PLAY]), version=0x03FF), base()),
    "no_session_id": (record(message([PLAY], session_id=b"")), base()),
    "session_id_of_1": (record(message([PLAY], session_id=b"s")), base()),
    "one_cipher": (record(message([PLAY], ciphers=b"\x13\x01")), base()),
    "many_ciphers": (record(message([PLAY], ciphers=bytes(8000))), base()),
    "two_compressions": (record(message([PLAY], compression=b"\x01\0")), base()),
    "grease_extensions": (
        record(message([extension(0x0A0A), PLAY, extension(0xFAFA, b"\0")])),
        base(),
    ),
    "unknown_extension": (record(message([extension(0x7777, b"what is this"), PLAY])), base()),
    "ticket_early_data_psk": (
        record(message([PLAY, extension(35, bytes(200)), extension(42), extension(41, bytes(90))])),
        base(),
    ),
    "name_last": (record(message([extension(kind) for kind in range(100, 400)] + [PLAY])), base()),
    "alpn": (record(message([PLAY, alpn(b"h2", b"\0\xff")])), base(alpn=(b"h2", b"\0\xff"))),
    "versions": (
        record(message([PLAY, shorts(VERSIONS, 1, 0x0A0A, 0x0304)])),
        base(supported_versions=(0x0A0A, 0x0304)),
    ),
    "ech": (record(message([extension(ECH, bytes(218)), PLAY])), base(ech=True)),
    "group_classic": (record(message([PLAY, shorts(GROUPS, 2, X25519, 23)])), base()),
    "share_classic": (record(message([PLAY, key_share((X25519, 32))])), base()),
    "no_share": (record(message([PLAY, key_share()])), base()),
    "post_quantum": (
        post_quantum(),
        base(
            alpn=(b"h2", b"http/1.1"),
            supported_versions=(0x2A2A, 0x0304, 0x0303),
            ech=True,
            post_quantum=True,
        ),
    ),
    "records_of_1": (records(message([PLAY]), [1]), base(records=len(message([PLAY])))),
    "records_in_header": (records(message([PLAY]), [1, 2, 400]), base(records=3)),
    "records_in_name": (records(message([PLAY]), [len(message([PLAY])) - 7]), base(records=2)),
    "records_of_100": (records(padded(1000), [100]), base(records=11)),
    "size_16380": (records(padded(16_380)), base()),
    "size_16384": (records(padded(16_384)), base(records=2)),
    "size_16384_records_of_1": (records(padded(16_384), [1]), base(records=16_388)),
    "size_65536": (records(padded(65_536)), base(records=5)),
    **{
        f"group_{group:04x}": (
            record(message([PLAY, shorts(GROUPS, 2, X25519, group)])),
            base(post_quantum=True),
        )
        for group in (0x11EC, 0x11EB, 0x11ED, 0x6399)
    },
    "share_post_quantum": (
        record(message([PLAY, key_share((X25519, 32), (X25519MLKEM768, 1216))])),
        base(post_quantum=True),
    ),
}


@rows(SOUND)
def test_sound_hello(data: bytes, expected: ClientHello) -> None:
    check(data, expected)


@pytest.mark.parametrize(
    "after",
    [record(b"", kind=20), record(bytes(99), kind=23), HELLO, ALERT, b"GET / HTTP/1.1\r\n", b"\0"],
    ids=["ccs", "early_data", "hello", "alert", "http", "zero"],
)
@pytest.mark.parametrize("hello", [HELLO, records(message([PLAY]), [30])], ids=["one", "many"])
def test_what_follows_the_hello_is_kept_unread(hello: bytes, after: bytes) -> None:
    answer = outcome([hello])
    assert isinstance(answer, ClientHello)
    check(hello + after, answer)
    assert outcome([hello, after, after]) == answer


NAMES: dict[str, tuple[bytes, str]] = {
    "upper_case": (b"Play.EXAMPLE.com", "play.example.com"),
    "trailing_dot": (b"play.example.com.", "play.example.com"),
    "one_label": (b"lobby", "lobby"),
    "one_octet": (b"a", "a"),
    "one_octet_and_dot": (b"a.", "a"),
    "underscore": (b"_game._tcp.example.com", "_game._tcp.example.com"),
    "hyphens": (b"-a-.b--c.-", "-a-.b--c.-"),
    "punycode": (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
    "label_63": (b"a" * 63 + b".com", "a" * 63 + ".com"),
    "length_253": (b"ab." * 84 + b"c", "ab." * 84 + "c"),
    "length_253_and_dot": (b"ab." * 84 + b"c.", "ab." * 84 + "c"),
    "number_first": (b"127.0.0.1.example.com", "127.0.0.1.example.com"),
    "number_and_letter": (b"1.2.3.4a", "1.2.3.4a"),
    "not_hex": (b"play.0xg", "play.0xg"),
    "hex_without_0x": (b"cafe", "cafe"),
    "number_and_hyphen": (b"10-0-0-1", "10-0-0-1"),
}


@rows(NAMES)
def test_name(data: bytes, expected: str) -> None:
    check(named(data), base(server_name=expected))


# fmt: off
LITERALS = [
    "127.0.0.1", "127.0.0.1.", "10.0.0.1", "255.255.255.255", "999.999.999.999", "127.1",
    "0", "2130706433", "010.0.0.1", "0x7f.1", "0X7F.1",
    "0x7f000001", "0x", "1.0x", "0177.0.0.01", "1.2.3.4.5", "example.123", "example.0xff",
    "00000000000", "::1", "::", "::ffff:127.0.0.1", "2001:DB8::1",
    "fe80::1%eth0", "[::1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]", "::1.",
]
# fmt: on


@pytest.mark.parametrize("literal", LITERALS)
def test_ip_literal_is_no_name(literal: str) -> None:
    check(named(literal.encode()), base(server_name=None, ip_literal=True))
