"""What must be refused, as what, and on which byte."""

import pytest

from sniproxy.proxy_protocol import BrokenHeader, HeaderClass, ProxyHeaderReader
from tests.support.proxy_headers import (
    ALPN,
    AUTHORITY,
    CRC32C,
    IPV4,
    IPV6,
    LOCAL,
    NETNS,
    NLB_HEALTH_CHECK,
    NOOP,
    SIGNATURE,
    SSL,
    TCP6,
    UDP4,
    UDP6,
    UNIQUE_ID,
    UNIX,
    UNIX_DATAGRAM,
    UNSPEC,
    check,
    rows,
    ssl,
    summed,
    tlv,
    v1,
    v2,
)

TAIL = "192.0.2.7 198.51.100.1 56324 443"

NOT_PROXY: dict[str, bytes] = {
    "nul": b"\0",
    "tls": b"\x16\x03\x01\x02\0\x01\0",
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "post": b"POST / HTTP/1.1\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "lower_case": v1(f"TCP4 {TAIL}").replace(b"PROXY", b"proxy"),
    "lower_case_p": b"PROXy TCP4",
    "space_first": b" PROXY TCP4",
    "tab_after": b"PROXY\tTCP4",
    "line_ends_after": b"PROXY\r\n",
    "longer_word": b"PROXYING TCP4",
    "bom": b"\xef\xbb\xbfPROXY",
    "crlf_only": b"\r\n\r\n\r\n",
    "lf": b"\n",
    "crlf_first": b"\r\nPROXY TCP4",
    "signature_cut": SIGNATURE[:4] + SIGNATURE[5:] + b"\x21\x11",
    "signature_last_byte": SIGNATURE[:-1] + b"\r",
    "signature_in_text": rb"\x0D\x0A",
}

# After "PROXY ", before CRLF.
SYNTAX = {
    "empty": "",
    "space": " ",
    "tcp": f"TCP {TAIL}",
    "tcp5": f"TCP5 {TAIL}",
    "tcp46": f"TCP46 {TAIL}",
    "udp4": f"UDP4 {TAIL}",
    "lower_case": f"tcp4 {TAIL}",
    "unknown_lower_case": "unknown",
    "unknown_longer": "UNKNOWNS",
    "unknown_tab": "UNKNOWN\t",
    "unknown_lf": "UNKNOWN a\nb",
    "unknown_cr": "UNKNOWN a\rb",
    "unknown_crcrlf": "UNKNOWN a\r",
    "protocol_only": "TCP4",
    "protocol_and_space": "TCP4 ",
    "two_spaces_first": f" TCP4 {TAIL}",
    "two_spaces_after_protocol": f"TCP4  {TAIL}",
    "two_spaces_between_addresses": "TCP4 192.0.2.7  198.51.100.1 56324 443",
    "two_spaces_before_port": "TCP4 192.0.2.7 198.51.100.1  56324 443",
    "two_spaces_between_ports": "TCP4 192.0.2.7 198.51.100.1 56324  443",
    "two_spaces_and_a_member_less": "TCP4 192.0.2.7 198.51.100.1 56324 ",
    "space_last": f"TCP4 {TAIL} ",
    "three_members": "TCP4 192.0.2.7 198.51.100.1 56324",
    "two_members": "TCP4 192.0.2.7 198.51.100.1",
    "five_members": f"TCP4 {TAIL} 1",
    "lf_inside": "TCP4 192.0.2.7\n198.51.100.1 56324 443",
    "cr_inside": "TCP4 192.0.2.7\r198.51.100.1 56324 443",
    "crcrlf": f"TCP4 {TAIL}\r",
    "lfcrlf": f"TCP4 {TAIL}\n",
}

# Each of them as the source, then as the destination.
IPV4_ADDRESSES = {
    "name": "play.example.com",
    "ipv6": "2001:db8::7",
    "mapped": "::ffff:192.0.2.7",
    "number": "3221225991",
    "three_parts": "192.0.7",
    "five_parts": "192.0.2.7.1",
    "part_256": "192.0.2.256",
    "part_999": "999.0.2.7",
    "leading_zero": "192.0.2.07",
    "octal": "0300.0.2.7",
    "hex": "0xc0.0.2.7",
    "plus": "192.0.2.+7",
    "minus": "192.0.2.-7",
    "dot_last": "192.0.2.7.",
    "dots": "...",
    "tab": "192.0.2.7\t",
    "vertical_tab": "192.0.2.7\v",
    "nul": "192.0.2.7\0",
    "mask": "192.0.2.7/8",
    "port": "192.0.2.7:80",
    "brackets": "[192.0.2.7]",
    "not_ascii": "192.0.2.\xb2",
    "star": "*",
    "nginx_letters": "192.0.2.a",
}
IPV6_ADDRESSES = {
    "name": "play.example.com",
    "ipv4": "192.0.2.7",
    "seven_parts": "1:2:3:4:5:6:7",
    "nine_parts": "1:2:3:4:5:6:7:8:9",
    "two_gaps": "1::2::3",
    "three_colons": "1:::2",
    "five_digits": "1::00002",
    "letter_g": "2001:db8::g",
    "zone": "fe80::1%eth0",
    "zone_empty": "fe80::1%",
    "zone_of_mapped": "::ffff:192.0.2.7%1",
    "brackets": "[2001:db8::7]",
    "mask": "2001:db8::/32",
    "colon": ":",
    "mapped_leading_zero": "::ffff:192.0.2.07",
    "not_ascii": "2001:db8::\xb2",
}
PORTS = {
    "65536": "65536",
    "99999": "99999",
    "six_digits": "100000",
    "leading_zero": "0443",
    "zeros": "00",
    "plus": "+443",
    "minus": "-1",
    "minus_zero": "-0",
    "point": "443.0",
    "underscore": "4_3",
    "hex": "0x1bb",
    "letters": "https",
    "tab": "443\t",
    "nul": "443\0",
    "not_ascii": "\xb2",
    "forty_digits": "4" * 40,
}

A, A6 = "192.0.2.7", "2001:db8::7"
VERSION_1: dict[str, tuple[bytes, HeaderClass]] = {
    **{f"syntax_{name}": (v1(text), HeaderClass.V1_SYNTAX) for name, text in SYNTAX.items()},
    **{
        f"ipv4_{place}_{name}": (v1(f"TCP4 {text} 1 2"), HeaderClass.V1_ADDRESS)
        for name, wrong in IPV4_ADDRESSES.items()
        for place, text in {"source": f"{wrong} {A}", "destination": f"{A} {wrong}"}.items()
    },
    **{
        f"ipv6_{place}_{name}": (v1(f"TCP6 {text} 1 2"), HeaderClass.V1_ADDRESS)
        for name, wrong in IPV6_ADDRESSES.items()
        for place, text in {"source": f"{wrong} {A6}", "destination": f"{A6} {wrong}"}.items()
    },
    **{
        f"port_{place}_{name}": (v1(f"TCP4 {A} {A} {text}"), HeaderClass.V1_PORT)
        for name, wrong in PORTS.items()
        for place, text in {"source": f"{wrong} 1", "destination": f"1 {wrong}"}.items()
    },
    "lf_alone": (f"PROXY TCP4 {TAIL}\n".encode(), HeaderClass.V1_SYNTAX),
    "lfcr": (f"PROXY TCP4 {TAIL}\n\r".encode(), HeaderClass.V1_SYNTAX),
    "cr_and_more": (f"PROXY TCP4 {TAIL}\r\0\n".encode(), HeaderClass.V1_SYNTAX),
    "line_of_108": (v1("UNKNOWN " + "x" * 92), HeaderClass.TOO_LARGE),
    "line_of_109": (v1("UNKNOWN " + "x" * 93), HeaderClass.TOO_LARGE),
    "line_of_108_tcp6": (v1("TCP6 " + "f" * 95), HeaderClass.TOO_LARGE),
    "endless_line": (b"PROXY UNKNOWN " + b"x" * 700, HeaderClass.TOO_LARGE),
}

SUM = tlv(CRC32C, bytes(4))


def with_tlvs(*tlvs: bytes) -> bytes:
    return v2(IPV4 + b"".join(tlvs))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


VERSION_2: dict[str, tuple[bytes, HeaderClass]] = {
    **{
        f"version_{version}": (v2(command=version << 4 | 1), HeaderClass.V2_VERSION)
        for version in (0, 1, 3, 15)
    },
    **{f"command_{low}": (v2(command=0x20 | low), HeaderClass.V2_COMMAND) for low in (2, 3, 15)},
    **{
        f"family_{family:02x}": (v2(bytes(216), family=family), HeaderClass.V2_FAMILY)
        for family in (0x01, 0x02, 0x03, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xF1, 0xFF)
    },
    "local_family_41": (v2(b"", command=LOCAL, family=0x41), HeaderClass.V2_FAMILY),
    "local_family_10": (v2(b"", command=LOCAL, family=0x10), HeaderClass.V2_FAMILY),
    "udp4": (v2(family=UDP4), HeaderClass.V2_FAMILY),
    "udp6": (v2(IPV6, family=UDP6), HeaderClass.V2_FAMILY),
    "unix_datagram": (v2(bytes(216), family=UNIX_DATAGRAM), HeaderClass.V2_FAMILY),
    "tcp4_no_addresses": (v2(b""), HeaderClass.V2_LENGTH),
    "tcp4_11_bytes": (v2(IPV4[:-1]), HeaderClass.V2_LENGTH),
    "tcp6_35_bytes": (v2(IPV6[:-1], family=TCP6), HeaderClass.V2_LENGTH),
    "tcp6_of_ipv4": (v2(IPV4, family=TCP6), HeaderClass.V2_LENGTH),
    "unix_215_bytes": (v2(bytes(215), family=UNIX), HeaderClass.V2_LENGTH),
    "unix_as_ipv4": (v2(IPV4, family=UNIX), HeaderClass.V2_LENGTH),
    "length_4097": (v2(IPV4, length=4097), HeaderClass.TOO_LARGE),
    "length_65535": (v2(IPV4, length=65535), HeaderClass.TOO_LARGE),
    "local_length_65535": (v2(b"", command=LOCAL, length=65535), HeaderClass.TOO_LARGE),
    # TLVs
    "tlv_1_byte": (with_tlvs(b"\x04"), HeaderClass.V2_TLV),
    "tlv_2_bytes": (with_tlvs(b"\x04\0"), HeaderClass.V2_TLV),
    "tlv_1_too_long": (with_tlvs(tlv(NOOP, b"abc", 4)), HeaderClass.V2_TLV),
    "tlv_65535": (with_tlvs(tlv(NOOP, b"abc", 65535)), HeaderClass.V2_TLV),
    "tlv_1_too_short": (with_tlvs(tlv(0x99, b"abc", 2)), HeaderClass.V2_TLV),
    "tlv_past_end_after_others": (with_tlvs(tlv(NOOP), tlv(0xE0, b"", 1)), HeaderClass.V2_TLV),
    "unspec_with_addresses": (v2(IPV4, family=UNSPEC), HeaderClass.V2_TLV),
    "local_tlv_1_too_long": (
        v2(IPV4 + tlv(NOOP, b"abc", 4), command=LOCAL),
        HeaderClass.V2_TLV,
    ),
    "local_1_byte": (v2(b"\0", command=LOCAL, family=UNSPEC), HeaderClass.V2_TLV),
    "ipv6_called_ipv4": (v2(IPV6), HeaderClass.V2_TLV),
    **{
        f"twice_{kind:02x}": (with_tlvs(tlv(kind, b"abcde"), tlv(kind)), HeaderClass.V2_TLV_TWICE)
        for kind in (ALPN, AUTHORITY, UNIQUE_ID, SSL, NETNS)
    },
    "twice_same": (with_tlvs(tlv(AUTHORITY, b"a"), tlv(AUTHORITY, b"a")), HeaderClass.V2_TLV_TWICE),
    "twice_apart": (
        with_tlvs(tlv(UNIQUE_ID, b"a"), tlv(NOOP), tlv(UNIQUE_ID, b"b")),
        HeaderClass.V2_TLV_TWICE,
    ),
    "checksum_twice": (summed(with_tlvs(SUM, SUM)), HeaderClass.V2_TLV_TWICE),
    # the checksum
    "checksum_0": (with_tlvs(SUM), HeaderClass.V2_CHECKSUM),
    "checksum_empty": (with_tlvs(tlv(CRC32C)), HeaderClass.V2_CHECKSUM),
    "checksum_3_bytes": (with_tlvs(tlv(CRC32C, bytes(3))), HeaderClass.V2_CHECKSUM),
    "checksum_5_bytes": (with_tlvs(tlv(CRC32C, bytes(5))), HeaderClass.V2_CHECKSUM),
    "checksum_not_of_zeros": (with_tlvs(tlv(CRC32C, b"\1\2\3\4")), HeaderClass.V2_CHECKSUM),
    "checksum_little_endian": (
        NLB_HEALTH_CHECK[:-4] + NLB_HEALTH_CHECK[:-5:-1],
        HeaderClass.V2_CHECKSUM,
    ),
    "local_checksum_0": (v2(SUM, command=LOCAL, family=UNSPEC), HeaderClass.V2_CHECKSUM),
    "local_addresses_and_checksum_0": (v2(IPV4 + SUM, command=LOCAL), HeaderClass.V2_CHECKSUM),
    "nlb_one_bit_of_checksum": (flipped(NLB_HEALTH_CHECK, 22), HeaderClass.V2_CHECKSUM),
    "nlb_other_command": (flipped(NLB_HEALTH_CHECK, 12), HeaderClass.V2_CHECKSUM),
    "one_bit_of_source": (flipped(summed(with_tlvs(SUM)), 16), HeaderClass.V2_CHECKSUM),
    "one_bit_of_port": (flipped(summed(with_tlvs(SUM)), 27), HeaderClass.V2_CHECKSUM),
    "one_bit_of_tlv_after": (
        flipped(summed(with_tlvs(SUM, tlv(NOOP, b"a"))), -1 + 16 + 12 + 7 + 4),
        HeaderClass.V2_CHECKSUM,
    ),
    # what stands in them
    "authority_256": (with_tlvs(tlv(AUTHORITY, b"a" * 256)), HeaderClass.V2_AUTHORITY),
    "authority_latin_1": (with_tlvs(tlv(AUTHORITY, b"b\xfccher")), HeaderClass.V2_AUTHORITY),
    "authority_cut_utf8": (with_tlvs(tlv(AUTHORITY, b"b\xc3")), HeaderClass.V2_AUTHORITY),
    "authority_nul": (with_tlvs(tlv(AUTHORITY, b"a\0b")), HeaderClass.V2_AUTHORITY),
    "authority_crlf": (with_tlvs(tlv(AUTHORITY, b"a\r\nb: c")), HeaderClass.V2_AUTHORITY),
    "authority_escape": (with_tlvs(tlv(AUTHORITY, b"\x1b[2J")), HeaderClass.V2_AUTHORITY),
    "authority_right_to_left": (
        with_tlvs(tlv(AUTHORITY, "a\u202eb".encode())),
        HeaderClass.V2_AUTHORITY,
    ),
    "unique_id_129": (with_tlvs(tlv(UNIQUE_ID, bytes(129))), HeaderClass.V2_UNIQUE_ID),
    "ssl_empty": (with_tlvs(tlv(SSL)), HeaderClass.V2_SSL),
    "ssl_4_bytes": (with_tlvs(tlv(SSL, bytes(4))), HeaderClass.V2_SSL),
    "ssl_1_byte_inside": (with_tlvs(ssl(b"\x21")), HeaderClass.V2_SSL),
    "ssl_2_bytes_inside": (with_tlvs(ssl(b"\x21\0")), HeaderClass.V2_SSL),
    "ssl_1_too_long_inside": (with_tlvs(ssl(tlv(0x21, b"TLS", 4))), HeaderClass.V2_SSL),
    "ssl_reaches_into_the_next": (
        with_tlvs(ssl(tlv(0x21, b"", 3)), tlv(NOOP, b"abc")),
        HeaderClass.V2_SSL,
    ),
}


@pytest.mark.parametrize("data", NOT_PROXY.values(), ids=NOT_PROXY)
def test_not_proxy(data: bytes) -> None:
    check(data, HeaderClass.NOT_PROXY)


@rows(VERSION_1)
def test_broken_version_1(data: bytes, expected: HeaderClass) -> None:
    check(data, expected)
    check(data + b"\x16\x03\x01", expected)


@rows(VERSION_2)
def test_broken_version_2(data: bytes, expected: HeaderClass) -> None:
    check(data, expected)
    check(data + b"\x16\x03\x01", expected)


def test_every_class_has_a_row() -> None:
    seen = {expected for table in (VERSION_1, VERSION_2) for _, expected in table.values()}
    assert seen | {HeaderClass.NOT_PROXY} == set(HeaderClass)


EARLY: dict[str, tuple[bytes, int, HeaderClass]] = {
    "first_byte": (b"\x16\x03\x01", 1, HeaderClass.NOT_PROXY),
    "second_byte": (b"PUT / HTTP/1.1", 2, HeaderClass.NOT_PROXY),
    "sixth_byte": (b"PROXY-TCP4", 6, HeaderClass.NOT_PROXY),
    "protocol": (b"PROXY UDP4 ", 8, HeaderClass.V1_SYNTAX),
    "protocol_end": (b"PROXY TCP4\r\n", 11, HeaderClass.V1_SYNTAX),
    "unknown_end": (b"PROXY UNKNOWN\n", 14, HeaderClass.V1_SYNTAX),
    "lf": (b"PROXY TCP4 1.2.3.4\n5", 19, HeaderClass.V1_SYNTAX),
    "after_cr": (b"PROXY TCP4 1.2.3.4\r5", 20, HeaderClass.V1_SYNTAX),
    "line": (b"PROXY TCP4 " + b"1" * 9000, 107, HeaderClass.TOO_LARGE),
    "cr_as_last": (b"PROXY UNKNOWN " + b"1" * 92 + b"\r\n", 107, HeaderClass.TOO_LARGE),
    "signature": (SIGNATURE[:11] + b"\r!", 12, HeaderClass.NOT_PROXY),
    "version": (v2(command=0x11), 13, HeaderClass.V2_VERSION),
    "command": (v2(command=0x2F), 13, HeaderClass.V2_COMMAND),
    "family": (v2(family=0x55), 14, HeaderClass.V2_FAMILY),
    "datagram": (v2(family=UDP4), 14, HeaderClass.V2_FAMILY),
    "length_large": (v2(length=65535), 16, HeaderClass.TOO_LARGE),
    "length_small": (v2(length=11), 16, HeaderClass.V2_LENGTH),
}


@pytest.mark.parametrize(("data", "at", "expected"), EARLY.values(), ids=EARLY)
def test_refused_as_soon_as_it_can_be_known(data: bytes, at: int, expected: HeaderClass) -> None:
    check(data[: at - 1], None)
    check(data[:at], expected)


@pytest.mark.parametrize("max_v2", [0, 3, 300, 4096, 65534])
def test_the_bound_is_for_what_follows_the_fixed_part(max_v2: int) -> None:
    filler = tlv(NOOP, bytes(max_v2 - 3)) if max_v2 else b""
    fits = v2(filler, command=LOCAL, family=UNSPEC)
    assert ProxyHeaderReader(max_v2=max_v2).feed(fits) is not None
    with pytest.raises(BrokenHeader) as caught:
        ProxyHeaderReader(max_v2=max_v2).feed(v2(b"", command=LOCAL, length=max_v2 + 1))
    assert caught.value.header_class is HeaderClass.TOO_LARGE


def test_detail_shows_bytes_of_the_peer_escaped_and_bounded() -> None:
    with pytest.raises(BrokenHeader) as caught:
        ProxyHeaderReader().feed(with_tlvs(tlv(AUTHORITY, b"\r\n\x1b\xff" * 60)))
    assert caught.value.detail.startswith(r"authority of 240 bytes: b'\r\n\x1b\xff\r\n")
    assert len(caught.value.detail) == 160
    assert str(caught.value) == f"v2_authority: {caught.value.detail}"
