"""Tables of hellos that parse, that wait and that break; each is fed whole, by bytes and cut in two."""

import dataclasses
import itertools
import random
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from tests.support.hellos import (
    ALPN,
    ECH,
    GROUPS,
    KEY_SHARE,
    SERVER_NAME,
    VERSIONS,
    X25519,
    X25519MLKEM768,
    Lie,
    Lying,
    alpn,
    extension,
    key_share,
    message,
    name_entry,
    named,
    padded,
    post_quantum,
    record,
    records,
    server_name,
    shorts,
    vector,
)

Outcome = ClientHello | HelloClass | None

PLAY = server_name(b"play.example.com")
HELLO = named(b"play.example.com")
ALERT = record(b"\x02\x28", kind=21)


def outcome(pieces: Iterable[bytes]) -> Outcome:
    """What a reader makes of the pieces; the answer must stand and every byte must be kept."""
    reader, fed = ClientHelloReader(), b""
    answer: Outcome = None
    now: Outcome
    for piece in pieces:
        fed += piece
        try:
            hello = reader.feed(piece)
        except BrokenHello as refusal:
            now, detail = refusal.hello_class, refusal.detail
        else:
            now, detail = hello, "-"
        assert answer in (None, now)
        assert detail.isascii()
        assert detail.isprintable()
        assert 0 < len(detail) <= 160
        answer = now
    assert reader.received == fed
    return answer


def each_byte(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def cuts(data: bytes) -> Iterable[int]:
    """Every offset; of a huge one the ends and a sample, the same in each run."""
    if len(data) <= 600:
        return range(len(data) + 1)
    middle = random.Random(len(data)).sample(range(80, len(data) - 20), 40)
    return [*range(80), *middle, *range(len(data) - 20, len(data) + 1)]


def check(data: bytes, expected: Outcome) -> None:
    assert outcome([data]) == expected
    assert outcome(each_byte(data)) == expected
    for cut in cuts(data):
        assert outcome([data[:cut], data[cut:]]) == expected, f"cut at {cut}"


def base(**changes: Any) -> ClientHello:
    """The hello for play.example.com with nothing else in it, but for these members."""
    plain = ClientHello("play.example.com", False, (), 0x0303, (), 1, False, False)
    return dataclasses.replace(plain, **changes)


def rows(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("data", "expected"), [pytest.param(*row, id=name) for name, row in table.items()]
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


BROKEN_NAMES: dict[str, tuple[bytes, HelloClass]] = {
    "empty": (b"", HelloClass.NAME_LENGTH),
    "dot": (b".", HelloClass.NAME_LENGTH),
    "length_254": (b"ab." * 84 + b"cd", HelloClass.NAME_LENGTH),
    "length_16000": (b"a" * 16_000, HelloClass.NAME_LENGTH),
    "dots": (b"..", HelloClass.NAME_LABEL),
    "two_trailing_dots": (b"play.example.com..", HelloClass.NAME_LABEL),
    "leading_dot": (b".example.com", HelloClass.NAME_LABEL),
    "empty_label": (b"play..com", HelloClass.NAME_LABEL),
    "label_64": (b"a" * 64 + b".com", HelloClass.NAME_LABEL),
    "literal_two_trailing_dots": (b"127.0.0.1..", HelloClass.NAME_LABEL),
    "number_label_64": (b"0" * 64, HelloClass.NAME_LABEL),
    **{
        name: (text, HelloClass.NAME_CHARACTERS)
        for name, text in {
            "nul": b"play.example.com\0",
            "nul_inside": b"play.example.com\0.evil.example",
            "crlf": b"play.example.com\r\nX-Evil: 1",
            "line_feed_last": b"play.example.com\n",
            "space": b"play example.com",
            "space_first": b" play.example.com",
            "utf8": "bücher.example".encode(),
            "kelvin_sign": "\u212aelvin.example".encode(),
            "byte_ff": b"play\xff.example",
            "star": b"*.example.com",
            "slash": b"play.example.com/a",
            "url": b"http://play.example.com/",
            "dot_dot_slash": b"../../etc/passwd",
            "port": b"play.example.com:443",
            "ipv4_port": b"127.0.0.1:443",
            "ipv4_brackets": b"[127.0.0.1]",
            "ipv6_port": b"[::1]:443",
            "ipv6_open_bracket": b"[::1",
            "ipv6_close_bracket": b"::1]",
            "ipv6_twice_short": b"1::2::3",
            "ipv6_too_long": b"1:2:3:4:5:6:7:8:9",
            "ipv6_zone_crlf": b"fe80::1%a\r\nb",
            "ipv6_zone_empty": b"fe80::1%",
            "ipv6_zone_only": b"%eth0",
            "colon": b":",
            "comma": b"a.example,DNS:b.example",
            "at": b"user@example.com",
            "percent": b"play%2eexample.com",
            "quote": b'play".example',
            "backslash": b"play\\.example",
            "delete": b"play\x7f",
            "escape": b"\x1b[2Jplay",
        }.items()
    },
}


@rows(BROKEN_NAMES)
def test_broken_name(data: bytes, expected: HelloClass) -> None:
    check(named(data), expected)


def name_list(body: bytes) -> bytes:
    return record(message([extension(SERVER_NAME, vector(2, body))]))


def with_body(kind: int, body: bytes) -> bytes:
    return record(message([PLAY, extension(kind, body)]))


ENTRY, OTHER = name_entry(b"play.example.com"), name_entry(b"other.example.com")

BROKEN: dict[str, tuple[bytes, HelloClass]] = {
    # records
    "alert": (ALERT, HelloClass.RECORD_TYPE),
    "ccs": (record(b"\1", kind=20), HelloClass.RECORD_TYPE),
    "application_data": (record(bytes(9), kind=23), HelloClass.RECORD_TYPE),
    "heartbeat": (record(bytes(9), kind=24), HelloClass.RECORD_TYPE),
    "alert_between": (record(message([PLAY])[:50]) + ALERT, HelloClass.RECORD_TYPE),
    "ccs_between": (record(b"\1") + record(b"\1", kind=20), HelloClass.RECORD_TYPE),
    "http_between": (record(b"\1") + b"GET / HTTP/1.1\r\n", HelloClass.RECORD_TYPE),
    "record_major_2": (record(message([PLAY]), version=0x0200), HelloClass.RECORD_VERSION),
    "record_major_4": (record(message([PLAY]), version=0x0401), HelloClass.RECORD_VERSION),
    "dtls": (record(message([PLAY]), version=0xFEFD), HelloClass.RECORD_VERSION),
    "record_major_later": (
        record(message([PLAY])[:9]) + record(message([PLAY])[9:], version=0x0103),
        HelloClass.RECORD_VERSION,
    ),
    "record_empty": (record(b"") + HELLO, HelloClass.RECORD_LENGTH),
    "record_empty_later": (record(b"\1") + record(b""), HelloClass.RECORD_LENGTH),
    "record_16385": (record(padded(16_381)), HelloClass.RECORD_LENGTH),
    "record_65535": (b"\x16\x03\x01\xff\xff", HelloClass.RECORD_LENGTH),
    # handshake header
    "server_hello": (record(b"\x02" + message([PLAY])[1:]), HelloClass.HANDSHAKE_TYPE),
    "hello_request": (record(bytes(4)), HelloClass.HANDSHAKE_TYPE),
    "type_only": (record(b"\x03"), HelloClass.HANDSHAKE_TYPE),
    "size_65537": (records(padded(65_537)), HelloClass.TOO_LARGE),
    "size_16_MiB": (record(b"\x01\xff\xff\xff"), HelloClass.TOO_LARGE),
    "size_16_MiB_records_of_1": (records(b"\x01\xff\xff\xff", [1]), HelloClass.TOO_LARGE),
    "wire_131072": (records(padded(30_000), [1]), HelloClass.TOO_LARGE),
    "size_0": (record(b"\x01\0\0\0"), HelloClass.TRUNCATED),
    "size_33": (record(b"\x01" + vector(3, bytes(33))), HelloClass.TRUNCATED),
    "size_34": (record(b"\x01" + vector(3, b"\3\3" + bytes(32))), HelloClass.TRUNCATED),
    "two_hellos_in_record": (record(message([PLAY]) * 2), HelloClass.TRAILING),
    "byte_after_hello_in_record": (record(message([PLAY]) + b"\0"), HelloClass.TRAILING),
    "byte_after_hello_in_last_record": (
        records(message([PLAY])[:50]) + record(message([PLAY])[50:] + b"\0"),
        HelloClass.TRAILING,
    ),
    # fixed members
    "ssl30": (record(message([PLAY], version=0x0300), version=0x0300), HelloClass.CLIENT_VERSION),
    "ssl20_version": (record(message([PLAY], version=0x0002)), HelloClass.CLIENT_VERSION),
    "session_id_33": (record(message([PLAY], session_id=bytes(33))), HelloClass.SESSION_ID),
    "session_id_255": (record(message([PLAY], session_id=bytes(255))), HelloClass.SESSION_ID),
    "no_cipher": (record(message([PLAY], ciphers=b"")), HelloClass.CIPHER_SUITES),
    "half_a_cipher": (record(message([PLAY], ciphers=b"\x13")), HelloClass.CIPHER_SUITES),
    "odd_ciphers": (record(message([PLAY], ciphers=b"\x13\1\x13")), HelloClass.CIPHER_SUITES),
    "no_compression": (record(message([PLAY], compression=b"")), HelloClass.COMPRESSION),
    "ends_after_session_id": (
        record(b"\x01" + vector(3, message(None)[4:71])),
        HelloClass.TRUNCATED,
    ),
    "ends_after_ciphers": (record(b"\x01" + vector(3, message(None)[4:-2])), HelloClass.TRUNCATED),
    # extensions
    "one_byte_after_compression": (record(message(None, tail=b"\0")), HelloClass.TRUNCATED),
    "tail_after_extensions": (record(message([PLAY], tail=b"\0")), HelloClass.TRAILING),
    "tail_without_extensions": (record(message([], tail=bytes(9))), HelloClass.TRAILING),
    **{
        f"extension_header_of_{size}": (
            record(message([PLAY, bytes(size)])),
            HelloClass.TRUNCATED,
        )
        for size in (1, 2, 3)
    },
    "extension_past_end": (record(message([PLAY, b"\x77\x77\0\1"])), HelloClass.TRUNCATED),
    "alpn_twice": (record(message([alpn(b"a"), PLAY, alpn(b"a")])), HelloClass.EXTENSION_TWICE),
    "unknown_twice": (record(message([extension(0x7777)] * 2)), HelloClass.EXTENSION_TWICE),
    "same_grease_twice": (record(message([extension(0x0A0A)] * 2)), HelloClass.EXTENSION_TWICE),
    # the name list
    "same_name_extension_twice": (record(message([PLAY, PLAY])), HelloClass.SERVER_NAME_TWICE),
    "name_extension_twice": (
        record(message([PLAY, alpn(b"h2"), server_name(b"other.example.com")])),
        HelloClass.SERVER_NAME_TWICE,
    ),
    "two_names": (name_list(ENTRY + OTHER), HelloClass.SERVER_NAME_TWICE),
    "same_name_twice": (name_list(ENTRY + ENTRY), HelloClass.SERVER_NAME_TWICE),
    "name_then_other_type": (
        name_list(ENTRY + name_entry(b"x", kind=1)),
        HelloClass.SERVER_NAME_TWICE,
    ),
    "other_type_then_name": (
        name_list(name_entry(b"x", kind=1) + ENTRY),
        HelloClass.SERVER_NAME_TWICE,
    ),
    "name_then_empty_name": (name_list(ENTRY + name_entry(b"")), HelloClass.SERVER_NAME_TWICE),
    "name_then_rest": (name_list(ENTRY + b"\0\0"), HelloClass.TRAILING),
    "name_then_lying_name": (name_list(ENTRY + b"\0\0\x09abc"), HelloClass.TRAILING),
    "other_type": (
        name_list(name_entry(b"play.example.com", kind=1)),
        HelloClass.SERVER_NAME_SYNTAX,
    ),
    "type_255": (
        name_list(name_entry(b"play.example.com", kind=255)),
        HelloClass.SERVER_NAME_SYNTAX,
    ),
    "empty_list": (name_list(b""), HelloClass.SERVER_NAME_SYNTAX),
    "empty_name_extension": (record(message([extension(0)])), HelloClass.TRUNCATED),
    "name_extension_of_1": (record(message([extension(0, b"\0")])), HelloClass.TRUNCATED),
    "name_type_only": (name_list(b"\0"), HelloClass.TRUNCATED),
    "half_a_name_length": (name_list(b"\0\0"), HelloClass.TRUNCATED),
    # lists that are read but do not route
    "alpn_empty_list": (with_body(ALPN, b"\0\0"), HelloClass.ALPN),
    "alpn_empty_protocol": (with_body(ALPN, b"\0\x04\2h2\0"), HelloClass.ALPN),
    "alpn_empty_body": (with_body(ALPN, b""), HelloClass.TRUNCATED),
    "alpn_past_end": (with_body(ALPN, b"\0\x03\3h2"), HelloClass.TRUNCATED),
    "versions_empty": (with_body(VERSIONS, b"\0"), HelloClass.SUPPORTED_VERSIONS),
    "versions_odd": (with_body(VERSIONS, b"\3\3\4\3"), HelloClass.SUPPORTED_VERSIONS),
    "versions_no_list": (with_body(VERSIONS, b""), HelloClass.TRUNCATED),
    "groups_empty": (with_body(GROUPS, b"\0\0"), HelloClass.SUPPORTED_GROUPS),
    "groups_odd": (with_body(GROUPS, b"\0\3\0\x1d\0"), HelloClass.SUPPORTED_GROUPS),
    "share_empty": (with_body(KEY_SHARE, b"\0\4\0\x1d\0\0"), HelloClass.KEY_SHARE),
    "share_half_a_group": (with_body(KEY_SHARE, b"\0\1\0"), HelloClass.TRUNCATED),
    "share_half_a_length": (with_body(KEY_SHARE, b"\0\3\0\x1d\0"), HelloClass.TRUNCATED),
}


@rows(BROKEN)
def test_broken_hello(data: bytes, expected: HelloClass) -> None:
    check(data, expected)


# What each level makes of a length that is one less, one more, zero, or all ones. A lie about a
# member that is followed by another moves what follows, and is found there.
LIES = """
    record           record_type    trailing      record_length      record_length
    handshake        trailing       -             trailing           too_large
    session_id       truncated      session_id    truncated          truncated
    ciphers          cipher_suites  cipher_suites cipher_suites      truncated
    compression      compression    truncated     compression        truncated
    extensions       trailing       truncated     trailing           truncated
    name_extension   truncated      truncated     truncated          truncated
    name_list        trailing       truncated     trailing           truncated
    name             trailing       truncated     trailing           truncated
    alpn_extension   truncated      truncated     truncated          truncated
    alpn_list        trailing       truncated     trailing           truncated
    alpn_protocol    truncated      truncated     truncated          truncated
    versions         trailing       truncated     trailing           truncated
    groups           trailing       truncated     trailing           truncated
    share_extension  truncated      truncated     server_name_twice  truncated
    shares           trailing       truncated     trailing           truncated
    share            truncated      truncated     key_share          truncated
"""
LIE_ROWS = [
    pytest.param(level, lie, word, id=f"{level}{lie}")
    for level, *words in map(str.split, LIES.strip().splitlines())
    for lie, word in zip(get_args(Lie), words, strict=True)
]


@pytest.mark.parametrize(("level", "lie", "word"), LIE_ROWS)
def test_lying_length(level: str, lie: Lie, word: str) -> None:
    check(Lying(level, lie).bytes(), None if word == "-" else HelloClass(word))


def test_the_liar_tells_the_truth_but_for_one_level() -> None:
    honest = outcome([Lying("", "0").bytes()])
    assert honest == base(alpn=(b"h2", b"http/1.1"), supported_versions=(0x0304, 0x0303))


@pytest.mark.parametrize("size", [0, 1, 3, 5, 6, 9, 40, 80])
def test_start_of_a_hello_waits(size: int) -> None:
    check(HELLO[:size], None)
    check(records(HELLO[5:], [7])[:size], None)


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH"]
NOT_TLS: dict[str, tuple[bytes, HelloClass]] = {
    **{
        f"http_{method}": (f"{method} / HTTP/1.1\r\n".encode(), HelloClass.NOT_TLS_HTTP)
        for method in METHODS
    },
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HelloClass.NOT_TLS_HTTP),
    "http_g": (b"G", HelloClass.NOT_TLS_HTTP),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", HelloClass.NOT_TLS_SSH),
    "ssh_s": (b"S", HelloClass.NOT_TLS_SSH),
    "rdp": (bytes.fromhex("0300002f2ae00000"), HelloClass.NOT_TLS_RDP),
    "proxy_v1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HELLO, HelloClass.NOT_TLS_PROXY),
    "proxy_v2": (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), HelloClass.NOT_TLS_PROXY),
    "proxy_v2_start": (b"\r\n\r\n\0", HelloClass.NOT_TLS_PROXY),
    "sslv2": (bytes.fromhex("802e0100020015000000100100800200"), HelloClass.NOT_TLS_SSLV2),
    "sslv2_tls10": (bytes.fromhex("804601030100"), HelloClass.NOT_TLS_SSLV2),
    "sslv2_other_message": (bytes.fromhex("802e0200"), HelloClass.NOT_TLS_OTHER),
    "zeros": (bytes(100), HelloClass.NOT_TLS_OTHER),
    "ones": (b"\xff" * 100, HelloClass.NOT_TLS_OTHER),
    "lower_case_http": (b"get / http/1.1\r\n", HelloClass.NOT_TLS_OTHER),
    "words_like_http": (b"GETTING / \r\n", HelloClass.NOT_TLS_OTHER),
    "tpkt_version_4": (b"\x04\0\0\x2f", HelloClass.NOT_TLS_OTHER),
    "minecraft": (bytes.fromhex("1000f6050931"), HelloClass.NOT_TLS_OTHER),
    "line_break": (b"\r\n\r\n\r\n", HelloClass.NOT_TLS_OTHER),
}


@rows(NOT_TLS)
def test_not_tls(data: bytes, expected: HelloClass) -> None:
    """Refused on the first byte; how well it is told depends on what came with that byte."""
    assert outcome([data]) == expected
    for cut in range(1, len(data)):
        start = outcome([data[:cut]])
        assert isinstance(start, HelloClass)
        assert start.startswith("not_tls_")
        assert outcome([data[:cut], data[cut:]]) == start


def test_every_class_has_a_row() -> None:
    tables = [BROKEN_NAMES, BROKEN, NOT_TLS]
    assert {expected for table in tables for _, expected in table.values()} == set(HelloClass)


def test_detail_shows_client_bytes_escaped_and_bounded() -> None:
    with pytest.raises(BrokenHello) as caught:
        ClientHelloReader().feed(named(b"\r\n\x1b\xff" * 60))
    assert caught.value.detail.startswith(r"name b'\r\n\x1b\xff\r\n")
    assert len(caught.value.detail) == 160
    assert str(caught.value) == f"name_characters: {caught.value.detail}"


def test_memoryview_is_copied() -> None:
    reader = ClientHelloReader()
    buffer = bytearray(HELLO)
    assert reader.feed(memoryview(buffer)[:60]) is None
    assert reader.feed(memoryview(buffer)[60:]) == base()
    buffer[:] = bytes(len(buffer))
    assert reader.received == HELLO


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_bounds_fall_on_the_same_byte_however_fed(step: int) -> None:
    wire = records(message([PLAY]), [10])

    def answer(**bounds: int) -> Outcome:
        reader, hello = ClientHelloReader(**bounds), None
        try:
            for at in range(0, len(wire), step):
                hello = reader.feed(wire[at : at + step])
        except BrokenHello as broken:
            return broken.hello_class
        return hello

    size = len(message([PLAY])) - 4
    assert isinstance(answer(max_hello=size, max_raw=len(wire)), ClientHello)
    assert answer(max_hello=size - 1) is HelloClass.TOO_LARGE
    for max_raw in range(1, len(wire)):
        assert answer(max_raw=max_raw) is HelloClass.TOO_LARGE


class CountingBuffer(bytearray):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.copied += len(found) if isinstance(key, slice) else 1
        return found

    def __bytes__(self) -> bytes:
        self.copied += len(self)
        return bytes(memoryview(self))


def work(size: int, step: int) -> tuple[int, int]:
    """Calls made and bytes copied to read a hello in one-byte records, `step` bytes at a time."""
    wire = records(padded(size), [1])
    reader = ClientHelloReader()
    raw, joined = CountingBuffer(), CountingBuffer()
    reader._raw, reader._joined = raw, joined
    calls, hello = 0, None

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for at in range(0, len(wire), step):
            hello = reader.feed(wire[at : at + step])
    finally:
        sys.setprofile(before)
    assert hello == base(records=size + 4)
    return calls, raw.copied + joined.copied


@pytest.mark.parametrize("step", [1, 6, 1_000_000])
def test_cost_is_linear(step: int) -> None:
    calls, copied = work(16_384, step)
    small_calls, small_copied = work(2_048, step)
    assert calls <= 8.5 * small_calls
    assert copied <= 8.5 * small_copied
    assert copied <= 10 * 6 * 16_388


# Real clients.


def real_hello(name: str | None, version: ssl.TLSVersion, protocols: list[str]) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"], ["p" * 255] * 40])
@pytest.mark.parametrize("name", [None, "play.example.com", "a" * 63 + ".example"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_hello_of_python(version: ssl.TLSVersion, name: str | None, protocols: list[str]) -> None:
    data = real_hello(name, version, protocols)
    expected = base(
        server_name=name,
        alpn=tuple(protocol.encode() for protocol in protocols),
        supported_versions=(0x0304,) if version is ssl.TLSVersion.TLSv1_3 else (),
    )
    answer = outcome([data])
    assert isinstance(answer, ClientHello)
    # A newer OpenSSL offers post-quantum groups by itself.
    assert answer == dataclasses.replace(expected, post_quantum=answer.post_quantum)
    check(data, answer)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("-tls1_3 -servername Play.Example.COM", {"supported_versions": (0x0304,)}),
        ("-tls1_2 -servername play.example.com", {}),
        ("-tls1_1 -cipher ALL:@SECLEVEL=0 -servername play.example.com", {"legacy_version": 770}),
        ("-tls1_2 -noservername", {"server_name": None}),
        ("-tls1_2 -servername play.example.com -alpn game", {"alpn": (b"game",)}),
        ("-tls1_2 -servername play.example.com -split_send_frag 512", {}),
    ],
)
def test_hello_of_openssl(options: str, changes: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", address, *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(20)
                reader, answer = ClientHelloReader(), None
                while answer is None:
                    data = connection.recv(65_536)
                    assert data, "openssl closed without a hello"
                    answer = reader.feed(data)
    assert answer == base(**changes, post_quantum=answer.post_quantum)
    check(reader.received, answer)


# Any split, any mutation.

CORPUS = [
    HELLO,
    post_quantum(),
    Lying("", "0").bytes(),
    records(message([PLAY, alpn(b"h2")]), [3, 1, 50]),
    real_hello("play.example.com", ssl.TLSVersion.TLSv1_2, ["h2"]),
    real_hello("play.example.com", ssl.TLSVersion.TLSv1_3, []),
    named(b"127.0.0.1"),
    named(b"a..b"),
    *(Lying(level, "+1").bytes() for level in ("name", "extensions", "handshake")),
]
LEGAL_OCTETS = set("abcdefghijklmnopqrstuvwxyz0123456789-_")


def legal(name: str | None) -> bool:
    """The rule of names, put another way than by a pattern."""
    if name is None:
        return True
    labels = name.split(".")
    fits = len(name) <= 253 and all(1 <= len(label) <= 63 for label in labels)
    return fits and all(set(label) <= LEGAL_OCTETS for label in labels)


def chunks(data: bytes, at: Iterable[int]) -> Iterator[bytes]:
    ends = [0, *sorted({cut % (len(data) + 1) for cut in at}), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(ends))


@settings(deadline=None)
@given(st.sampled_from(CORPUS), st.binary(max_size=40), st.lists(st.integers(0, 4000)))
def test_any_split_gives_the_same_answer(hello: bytes, noise: bytes, at: list[int]) -> None:
    data = hello + noise
    assert outcome(chunks(data, at)) == outcome([data])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A hello of the corpus with a few runs of bytes put over, put in or taken out."""
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(1, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(deadline=None, max_examples=500)
@given(mutated(), st.lists(st.integers(0, 4000), max_size=5))
def test_any_mutation_is_parsed_waits_or_is_broken(data: bytes, at: list[int]) -> None:
    answer = outcome([data])
    assert outcome(chunks(data, at)) == answer
    if isinstance(answer, ClientHello):
        assert legal(answer.server_name)
        assert not (answer.ip_literal and answer.server_name)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_name(name: bytes) -> None:
    answer = outcome([named(name)])
    assert isinstance(answer, HelloClass) or (answer is not None and legal(answer.server_name))


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_as_a_body(body: bytes, at: list[int]) -> None:
    data = records(b"\x01" + vector(3, body), [60])
    answer = outcome([data])
    assert answer is not None
    assert outcome(chunks(data, at)) == answer
