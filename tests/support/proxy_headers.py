"""Hand-made PROXY headers, and what a reader makes of them, fed whole, by bytes and cut in two."""

import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

import pytest

from sniproxy.proxy_protocol import BrokenHeader, HeaderClass, ProxyHeader, ProxyHeaderReader

Outcome = ProxyHeader | HeaderClass | None

SIGNATURE = bytes.fromhex("0d0a0d0a 000d0a51 5549540a")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS, AWS = 1, 2, 3, 4, 5, 0x20, 0x30, 0xEA

# The health check of an AWS NLB: LOCAL, with a checksum and nothing else.
NLB_HEALTH_CHECK = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0007 03 0004 a9b87e8f")


def v1(text: str) -> bytes:
    return f"PROXY {text}\r\n".encode("latin-1")


def addresses(source: str, destination: str, *ports: int) -> bytes:
    """The address block of version 2 for two IPs of one family."""
    both = ip_address(source).packed + ip_address(destination).packed
    return both + struct.pack(">HH", *ports)


IPV4 = addresses("192.0.2.7", "198.51.100.1", 56324, 443)
IPV6 = addresses("2001:db8::7", "2001:db8::1", 56324, 443)


def v2(
    body: bytes = IPV4, *, command: int = PROXY, family: int = TCP4, length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack(">BBH", command, family, size) + body


def tlv(kind: int, value: bytes = b"", claim: int | None = None) -> bytes:
    """A TLV behind its length, or behind the length it claims."""
    return struct.pack(">BH", kind, len(value) if claim is None else claim) + value


def ssl(*inner: bytes) -> bytes:
    """The SSL TLV: a client without a certificate, and these TLVs in it."""
    return tlv(SSL, b"\x01\0\0\0\x01" + b"".join(inner))


def slow_crc32c(data: bytes) -> int:
    """As a division of polynomials, the textbook way: nothing shared with the code under test."""
    bits = [byte >> bit & 1 for byte in data for bit in range(8)] + [0] * 32
    for at in range(32):
        bits[at] ^= 1
    for at in range(len(bits) - 32):
        if bits[at]:
            for step in range(33):
                bits[at + step] ^= 0x11EDC6F41 >> (32 - step) & 1
    return sum((bit ^ 1) << place for place, bit in enumerate(bits[-32:]))


def summed(header: bytes) -> bytes:
    """A header in which the (first) empty checksum TLV holds the right sum."""
    at = header.index(tlv(CRC32C, bytes(4)), 16) + 3
    return header[:at] + struct.pack(">I", slow_crc32c(header)) + header[at + 4 :]


def outcome(pieces: Iterable[bytes]) -> tuple[Outcome, bytes]:
    """What a reader makes of the pieces, and what is left; the answer must stand."""
    reader, fed = ProxyHeaderReader(), b""
    answer: Outcome = None
    now: Outcome
    for piece in pieces:
        fed += piece
        try:
            header = reader.feed(piece)
        except BrokenHeader as refusal:
            now, detail = refusal.header_class, refusal.detail
        else:
            now, detail = header, "-"
        assert answer in (None, now), f"{answer} became {now}"
        assert detail.isascii(), detail
        assert detail.isprintable(), detail
        assert 0 < len(detail) <= 160, detail
        answer = now
    assert fed.endswith(reader.rest)
    assert isinstance(answer, ProxyHeader) or reader.rest == b""
    return answer, reader.rest


def check(data: bytes, expected: Outcome, rest: bytes = b"") -> None:
    """The same answer however the bytes come; a failure says how they came and what was answered."""
    wanted = expected, rest
    whole = outcome([data])
    assert whole == wanted, f"whole: {whole}, not {wanted}"
    by_bytes = outcome(data[at : at + 1] for at in range(len(data)))
    assert by_bytes == wanted, f"by bytes: {by_bytes}, not {wanted}"
    for cut in range(len(data) + 1):
        in_two = outcome([data[:cut], data[cut:]])
        assert in_two == wanted, f"cut at {cut}: {in_two}, not {wanted}"


def rows(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("data", "expected"), [pytest.param(*row, id=name) for name, row in table.items()]
    )
