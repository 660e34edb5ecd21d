"""What must be refused, and as what: wrong names, records, members and lengths, and what is not TLS."""

from typing import get_args

import pytest

from sniproxy.client_hello import BrokenHello, ClientHelloReader, HelloClass
from tests.support.hello_rows import ALERT, HELLO, PLAY, base, check, outcome, rows
from tests.support.hellos import (
    ALPN,
    GROUPS,
    KEY_SHARE,
    SERVER_NAME,
    VERSIONS,
    Lie,
    Lying,
    alpn,
    extension,
    message,
    name_entry,
    named,
    padded,
    record,
    records,
    server_name,
    vector,
)

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
