"""PROXY headers that are sound, in and out; each is fed whole, by bytes and cut in two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.proxy_protocol import (
    Address,
    ProxyHeader,
    ProxyHeaderReader,
    crc32c,
    encode_local_v2,
    encode_v1,
    encode_v2,
)
from tests.support.proxy_headers import (
    ALPN,
    AUTHORITY,
    AWS,
    CRC32C,
    IPV4,
    IPV6,
    LOCAL,
    NETNS,
    NLB_HEALTH_CHECK,
    NOOP,
    SIGNATURE,
    SSL,
    TCP4,
    TCP6,
    UDP4,
    UNIQUE_ID,
    UNIX,
    UNIX_DATAGRAM,
    UNSPEC,
    addresses,
    check,
    outcome,
    rows,
    slow_crc32c,
    ssl,
    summed,
    tlv,
    v1,
    v2,
)

CLIENT, SERVER = ("192.0.2.7", 56324), ("198.51.100.1", 443)
CLIENT6, SERVER6 = ("2001:db8::7", 56324), ("2001:db8::1", 443)


def proxied(
    version: int,
    source: Address = CLIENT,
    destination: Address = SERVER,
    *tlvs: tuple[int, bytes],
) -> ProxyHeader:
    return ProxyHeader(version, False, source, destination, tlvs)


def local(version: int, *tlvs: tuple[int, bytes]) -> ProxyHeader:
    return ProxyHeader(version, True, None, None, tlvs)


LONG = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
LONG6 = (LONG, 65535)

VERSION_1: dict[str, tuple[bytes, ProxyHeader]] = {
    "tcp4": (v1("TCP4 192.0.2.7 198.51.100.1 56324 443"), proxied(1)),
    "tcp4_shortest": (
        v1("TCP4 1.2.3.4 0.0.0.0 0 0"),
        proxied(1, ("1.2.3.4", 0), ("0.0.0.0", 0)),
    ),
    "tcp4_longest": (
        v1("TCP4 255.255.255.255 255.255.255.255 65535 65535"),
        proxied(1, ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    ),
    "tcp6": (v1("TCP6 2001:db8::7 2001:db8::1 56324 443"), proxied(1, CLIENT6, SERVER6)),
    "tcp6_upper_case_and_zeros": (
        v1("TCP6 2001:0DB8:0000:0000:0000:0000:0000:0007 2001:DB8:0:0::1 56324 443"),
        proxied(1, CLIENT6, SERVER6),
    ),
    "tcp6_longest": (v1(f"TCP6 {LONG} {LONG} 65535 65535"), proxied(1, LONG6, LONG6)),
    "tcp6_any": (v1("TCP6 :: ::1 1 2"), proxied(1, ("::", 1), ("::1", 2))),
    "tcp6_mapped": (
        v1("TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 56324 443"),
        proxied(1),
    ),
    "unknown": (v1("UNKNOWN"), local(1)),
    "unknown_space": (v1("UNKNOWN "), local(1)),
    "unknown_worst_case": (v1(f"UNKNOWN {LONG} {LONG} 65535 65535"), local(1)),
    "unknown_any_text": (v1("UNKNOWN \0 \xff  what\tis this"), local(1)),
    "unknown_longest": (v1("UNKNOWN " + "x" * 91), local(1)),
}
assert len(VERSION_1["unknown_worst_case"][0]) == len(VERSION_1["unknown_longest"][0]) == 107

VERSION_2: dict[str, tuple[bytes, ProxyHeader]] = {
    "tcp4": (v2(), proxied(2)),
    "tcp6": (v2(IPV6, family=TCP6), proxied(2, CLIENT6, SERVER6)),
    "tcp6_mapped": (
        v2(addresses("::ffff:192.0.2.7", "::ffff:198.51.100.1", 56324, 443), family=TCP6),
        proxied(2),
    ),
    "tcp6_mapped_and_not": (
        v2(addresses("::ffff:192.0.2.7", "2001:db8::1", 56324, 443), family=TCP6),
        proxied(2, CLIENT, SERVER6),
    ),
    "port_0": (
        v2(addresses("1.2.3.4", "5.6.7.8", 0, 65535)),
        proxied(2, ("1.2.3.4", 0), ("5.6.7.8", 65535)),
    ),
    "proxy_unspec": (v2(b"", family=UNSPEC), local(2)),
    "proxy_unspec_with_tlv": (v2(tlv(NOOP), family=UNSPEC), local(2, (NOOP, b""))),
    "proxy_unix": (v2(b"/run/game".ljust(216, b"\0"), family=UNIX), local(2)),
    "proxy_unix_with_tlv": (
        v2(bytes(216) + tlv(UNIQUE_ID, b"7"), family=UNIX),
        local(2, (UNIQUE_ID, b"7")),
    ),
    "local": (v2(b"", command=LOCAL, family=UNSPEC), local(2)),
    "local_tlvs_are_dropped": (
        v2(tlv(AUTHORITY, b"a.example") + tlv(0xF0, b"x"), command=LOCAL, family=UNSPEC),
        local(2),
    ),
    "local_with_addresses": (v2(IPV4, command=LOCAL), local(2)),
    "local_with_addresses_and_tlv": (v2(IPV6 + tlv(NOOP), command=LOCAL, family=TCP6), local(2)),
    "local_with_any_addresses": (v2(b"\xff" * 216, command=LOCAL, family=UNIX), local(2)),
    "local_tcp4_without_addresses": (v2(b"", command=LOCAL), local(2)),
    "local_tcp4_with_only_a_tlv": (v2(tlv(NOOP, b"abc"), command=LOCAL), local(2)),
    "local_udp4": (v2(IPV4, command=LOCAL, family=UDP4), local(2)),
    "local_unix_datagram": (v2(b"", command=LOCAL, family=UNIX_DATAGRAM), local(2)),
    "local_crc": (
        summed(v2(IPV4 + tlv(CRC32C, bytes(4)) + tlv(NOOP), command=LOCAL)),
        local(2),
    ),
    "nlb_health_check": (NLB_HEALTH_CHECK, local(2)),
}

TLVS: dict[str, tuple[int, bytes]] = {
    "noop_empty": (NOOP, b""),
    "noop": (NOOP, bytes(99)),
    "alpn": (ALPN, b"h2"),
    "authority": (AUTHORITY, b"play.example.com"),
    "authority_utf8": (AUTHORITY, "bücher.example".encode()),
    "authority_255": (AUTHORITY, b"a" * 255),
    "unique_id_empty": (UNIQUE_ID, b""),
    "unique_id_128": (UNIQUE_ID, bytes(128)),
    "ssl_bare": (SSL, bytes(5)),
    "ssl": (SSL, ssl(tlv(0x21, b"TLSv1.3"), tlv(0x22), tlv(0x21, b"again"))[3:]),
    "netns": (NETNS, b"blue"),
    "aws_vpc_endpoint": (AWS, b"\x01vpce-08d2bf15fac5001c9"),
    "unknown": (0x99, b"\0\xff"),
    "type_0": (0, b""),
    "type_255": (255, b"x"),
}


@rows(VERSION_1)
def test_version_1(data: bytes, expected: ProxyHeader) -> None:
    check(data, expected)


@rows(VERSION_2)
def test_version_2(data: bytes, expected: ProxyHeader) -> None:
    check(data, expected)


@pytest.mark.parametrize(("kind", "value"), TLVS.values(), ids=TLVS)
def test_tlv(kind: int, value: bytes) -> None:
    check(v2(IPV4 + tlv(kind, value)), proxied(2, CLIENT, SERVER, (kind, value)))


def test_padding_and_other_peoples_types_may_come_again() -> None:
    twice = [(NOOP, b""), (AWS, b"\x01a"), (NOOP, b"\0"), (AWS, b"\x01a"), (0x99, b""), (0x99, b"")]
    check(v2(IPV4 + b"".join(tlv(*one) for one in twice)), proxied(2, CLIENT, SERVER, *twice))


@pytest.mark.parametrize("after", [b"\0", b"\r\n", b"PROXY TCP4", SIGNATURE, b"\x16\x03\x01" * 40])
@pytest.mark.parametrize("header", [v1("UNKNOWN"), v2(), NLB_HEALTH_CHECK], ids=["1", "2", "nlb"])
def test_what_follows_is_left_as_it_came(header: bytes, after: bytes) -> None:
    expected, rest = outcome([header])
    assert isinstance(expected, ProxyHeader)
    assert rest == b""
    check(header + after, expected, after)


def test_the_helpers() -> None:
    full = v2(IPV4 + tlv(NOOP) + tlv(AUTHORITY, "bücher.example".encode()) + tlv(UNIQUE_ID, b"\0"))
    header = ProxyHeaderReader().feed(full)
    assert header is not None
    assert (header.authority, header.unique_id) == ("bücher.example", b"\0")
    bare = ProxyHeaderReader().feed(v2(IPV4 + tlv(AUTHORITY)))
    assert bare is not None
    assert (bare.authority, bare.unique_id) == (None, None)


# The checksum.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"a", 0xC1D04330),
        # RFC 3720 B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(max_size=200))
def test_crc32c_is_the_division_of_the_textbook(data: bytes) -> None:
    assert crc32c(data) == slow_crc32c(data)


@pytest.mark.parametrize(
    "tlvs",
    [
        [tlv(CRC32C, bytes(4))],
        [tlv(CRC32C, bytes(4)), tlv(NOOP, b"after")],
        [tlv(AWS, b"\x01vpce-1"), tlv(CRC32C, bytes(4)), tlv(UNIQUE_ID, bytes(9))],
    ],
)
@pytest.mark.parametrize(("body", "family"), [(IPV4, TCP4), (IPV6, TCP6), (b"", UNSPEC)])
def test_checksum_is_found_wherever_it_stands(tlvs: list[bytes], body: bytes, family: int) -> None:
    data = summed(v2(body + b"".join(tlvs), family=family))
    answer, _ = outcome([data])
    assert isinstance(answer, ProxyHeader)
    check(data, answer)


# Out, and in again.


def read(data: bytes) -> ProxyHeader:
    header, rest = outcome([data + b"rest"])
    assert isinstance(header, ProxyHeader)
    assert rest == b"rest"
    return header


def test_encoded_bytes() -> None:
    assert encode_v1(CLIENT, SERVER) == v1("TCP4 192.0.2.7 198.51.100.1 56324 443")
    assert encode_v1(CLIENT6, SERVER6) == v1("TCP6 2001:db8::7 2001:db8::1 56324 443")
    assert encode_v1(CLIENT, SERVER6) == v1("TCP6 ::ffff:192.0.2.7 2001:db8::1 56324 443")
    assert encode_v2(CLIENT, SERVER) == v2()
    assert encode_v2(CLIENT6, SERVER6) == v2(IPV6, family=TCP6)
    mixed = addresses("2001:db8::7", "::ffff:198.51.100.1", 56324, 443)
    assert encode_v2(CLIENT6, SERVER) == v2(mixed, family=TCP6)
    assert encode_local_v2() == v2(b"", command=LOCAL, family=UNSPEC)
    full = IPV4 + tlv(ALPN, b"h2") + tlv(AUTHORITY, b"a.b") + tlv(UNIQUE_ID, b"7")
    assert encode_v2(
        CLIENT, SERVER, authority="a.b", unique_id=b"7", alpn=b"h2", crc=True
    ) == summed(v2(full + tlv(CRC32C, bytes(4))))


def test_a_zone_stays_here_and_a_mapped_address_is_ipv4() -> None:
    near, mapped = ("fe80::1%eth0", 1), ("::ffff:192.0.2.7", 56324)
    assert encode_v1(near, SERVER6) == encode_v1(("fe80::1", 1), SERVER6)
    assert encode_v2(near, SERVER6) == encode_v2(("fe80::1", 1), SERVER6)
    assert encode_v1(mapped, SERVER) == encode_v1(CLIENT, SERVER)
    assert encode_v2(mapped, SERVER) == encode_v2(CLIENT, SERVER)


@pytest.mark.parametrize(
    "wrong", [("", 1), ("play.example.com", 1), ("1.2.3", 1), ("1.2.3.4", -1), ("1.2.3.4", 65536)]
)
def test_what_is_no_address_is_not_encoded(wrong: Address) -> None:
    for ends in [(wrong, SERVER), (CLIENT, wrong)]:
        with pytest.raises(ValueError, match=r"address|port"):
            encode_v1(*ends)
        with pytest.raises(ValueError, match=r"address|port"):
            encode_v2(*ends)


def test_what_would_not_be_read_back_is_not_encoded() -> None:
    for name in ["a" * 256, "a\r\nb", "\udcff", "\0"]:
        with pytest.raises(ValueError, match=r"authority|TLV 0x02"):
            encode_v2(CLIENT, SERVER, authority=name)
    with pytest.raises(ValueError, match="TLV 0x05 of 129 bytes, at most 128"):
        encode_v2(CLIENT, SERVER, unique_id=bytes(129))
    with pytest.raises(ValueError, match="TLV 0x01 of 256 bytes, at most 255"):
        encode_v2(CLIENT, SERVER, alpn=bytes(256))


IPS = st.ip_addresses().map(lambda ip: getattr(ip, "ipv4_mapped", None) or ip).map(str)
ENDS = st.tuples(IPS, st.integers(0, 65535))
NAMES = st.text(max_size=80).filter(lambda name: name.isprintable() and len(name.encode()) <= 255)


@given(ENDS, ENDS)
def test_version_1_reads_back(source: Address, destination: Address) -> None:
    line = encode_v1(source, destination)
    assert len(line) <= 107
    assert read(line) == proxied(1, source, destination)


@given(
    ENDS,
    ENDS,
    st.none() | NAMES,
    st.none() | st.binary(max_size=128),
    st.none() | st.binary(max_size=255),
    st.booleans(),
)
def test_version_2_reads_back(
    source: Address,
    destination: Address,
    authority: str | None,
    unique_id: bytes | None,
    alpn: bytes | None,
    crc: bool,
) -> None:
    header = read(
        encode_v2(source, destination, authority=authority, unique_id=unique_id, alpn=alpn, crc=crc)
    )
    assert (header.version, header.local) == (2, False)
    assert (header.source, header.destination) == (source, destination)
    assert header.authority == (authority or None)
    assert header.unique_id == unique_id
    tlvs = dict(header.tlvs)
    assert tlvs.get(ALPN) == alpn
    assert (CRC32C in tlvs) is crc


CUSTOM = st.tuples(st.integers(0xE0, 0xFF), st.binary(max_size=60))


@given(st.lists(CUSTOM, max_size=12), st.booleans())
def test_any_tlvs_read_back(tlvs: list[tuple[int, bytes]], crc: bool) -> None:
    body = IPV4 + b"".join(tlv(*one) for one in tlvs)
    header = read(summed(v2(body + tlv(CRC32C, bytes(4)))) if crc else v2(body))
    assert header.tlvs[: len(tlvs)] == tuple(tlvs)
    assert len(header.tlvs) == len(tlvs) + crc
