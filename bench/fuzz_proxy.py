"""Coverage-guided fuzzing of the PROXY header reader and of the encoders, with the headers of the tests as seeds.

    pip install -e '.[test,fuzz]'
    python -m bench.fuzz_proxy [FOLDER] [-max_total_time=60] [any option of libFuzzer]

Whatever the bytes: the reader parses, refuses, or waits for no more than a header may have, and does nothing else; the
answer is the same however the bytes are cut; what it says of a refusal is short and printable; addresses, ports and TLVs
are those of the bytes, and a checksum covers them; the native relay's reader, where it is built, names no other client;
what follows the header is left as it came; and what was read of two ends can be written in both versions and reads back
as it was. What breaks this is written to a file `crash-...`; run again
with that file as the argument. Inputs that reach new code are kept in FOLDER.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import product
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from bench.fuzzing import instrumented, pieces, run

with instrumented(__name__):
    from sniproxy.proxy_protocol import (
        Address,
        HeaderClass,
        ProxyHeader,
        encode_local_v2,
        encode_v1,
        encode_v2,
    )
    from sniproxy.relay.native import BUILT
    from tests import test_proxy_protocol as sound
    from tests import test_proxy_protocol_broken as broken
    from tests.support.proxy_headers import (
        ALPN,
        AUTHORITY,
        CRC32C,
        IPV4,
        LOCAL,
        NETNS,
        PROXY,
        SIGNATURE,
        SSL,
        TCP4,
        TCP6,
        UNIQUE_ID,
        UNIX,
        UNSPEC,
        outcome,
        tlv,
        v1,
        v2,
    )

    if BUILT:
        from sniproxy._relay import read_header

MAX_V1 = 107  # bytes, CRLF with them
FIXED_PART, MAX_V2 = 16, 4096  # bytes; of what follows the fixed part, the default of the reader
MAX_ALPN = 255  # bytes that are written; what is read has no bound of its own
FAMILIES = {"TCP4": AF_INET, "TCP6": AF_INET6}
ONCE = {ALPN, AUTHORITY, CRC32C, UNIQUE_ID, SSL, NETNS}
WIDTHS = {TCP4: 4, TCP6: 16}  # bytes of an address
MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class Said:
    """What a header says. No end: it is for nobody else."""

    version: int
    ends: tuple[Address, ...]
    tlvs: bytes
    rest: bytes


def spelled(packed: bytes) -> str:
    """The one spelling of an address."""
    if packed.startswith(MAPPED) or len(packed) == 4:
        return inet_ntop(AF_INET, packed[-4:])
    return str(IPv6Address(packed))  # inet_ntop has another for ::1.2.3.4


def said_in_v1(data: bytes) -> Said:
    """By the C library's rules for addresses."""
    line, _, rest = data.partition(b"\r\n")
    assert not {*b"\r\n"}.intersection(line), line
    start, protocol, *members = line.decode("latin-1").split(" ")
    assert start == "PROXY"
    if protocol == "UNKNOWN":
        return Said(1, (), b"", rest)
    source, destination, *ports = members
    hosts = [spelled(inet_pton(FAMILIES[protocol], host)) for host in (source, destination)]
    numbers = [int(port) for port in ports]
    assert [str(number) for number in numbers] == ports, ports
    return Said(1, tuple(zip(hosts, numbers, strict=True)), b"", rest)


def said_in_v2(data: bytes) -> Said:
    """Whatever the TLVs are."""
    assert data.startswith(SIGNATURE)
    command, family, length = struct.unpack_from(">BBH", data, FIXED_PART - 4)
    body, rest = data[FIXED_PART : FIXED_PART + length], data[FIXED_PART + length :]
    if command == LOCAL:
        return Said(2, (), b"", rest)
    assert command == PROXY, command
    if family not in WIDTHS:
        assert family in (UNSPEC, UNIX), family
        return Said(2, (), body[216 if family == UNIX else 0 :], rest)
    width = WIDTHS[family]
    hosts = [spelled(body[at : at + width]) for at in (0, width)]
    ports = struct.unpack_from(">HH", body, 2 * width)
    return Said(2, tuple(zip(hosts, ports, strict=True)), body[2 * width + 4 :], rest)


def said(data: bytes) -> Said:
    """What the bytes of a header that was taken say, put another way than the reader puts it."""
    return said_in_v1(data) if data.startswith(b"P") else said_in_v2(data)


def understood(header: ProxyHeader, rest: bytes) -> Said:
    """The reader's answer, put as `said` puts it."""
    ends = tuple(end for end in (header.source, header.destination) if end is not None)
    assert len(ends) == (0 if header.local else 2), header
    assert all(0 <= port <= 65_535 for _, port in ends), header
    known = [kind for kind, _ in header.tlvs if kind in ONCE]
    assert len(known) == len(set(known)), header
    return Said(header.version, ends, b"".join(tlv(*one) for one in header.tlvs), rest)


def due(data: bytes) -> int:
    """How many bytes the header has that starts so; the most it may have, where that is not said yet."""
    if data.startswith(b"P"):
        line, end, _ = data.partition(b"\r\n")
        return len(line + end) if end else MAX_V1
    length = int.from_bytes(data[14:16], "big") if len(data) >= FIXED_PART else MAX_V2
    return FIXED_PART + length


def check_size(data: bytes, waiting: bool) -> None:
    """AssertionError when a header is waited for or taken that is too large, or not when it is whole."""
    size = due(data)
    assert size <= (MAX_V1 if data.startswith(b"P") else FIXED_PART + MAX_V2), size
    assert (len(data) < size) is waiting, f"{len(data)} bytes of {size}, {waiting=}"


def check_sum(data: bytes) -> None:
    """AssertionError when a header with a checksum is believed with one bit of its source changed."""
    changed = data[:FIXED_PART] + bytes([data[FIXED_PART] ^ 1]) + data[FIXED_PART + 1 :]
    answer, _ = outcome([changed])
    assert answer is HeaderClass.V2_CHECKSUM, f"{answer}: {changed!r}"


def check_writing(header: ProxyHeader, source: Address, destination: Address) -> None:
    """AssertionError when what was read does not come back from either version."""
    line = encode_v1(source, destination)
    assert len(line) <= MAX_V1, line
    assert outcome([line]) == (ProxyHeader(1, False, source, destination, ()), b""), line
    alpn = dict(header.tlvs).get(ALPN)
    told = header.authority, header.unique_id, None if alpn is None else alpn[:MAX_ALPN]
    for crc in (False, True):
        authority, unique_id, protocol = told
        written = encode_v2(
            source, destination, authority=authority, unique_id=unique_id, alpn=protocol, crc=crc
        )
        again, rest = outcome([written])
        assert isinstance(again, ProxyHeader), f"{again}: {written!r}"
        kinds = dict(again.tlvs)
        assert (again.version, again.local, rest) == (2, False, b""), again
        assert (again.source, again.destination) == (source, destination), again
        assert (again.authority, again.unique_id, kinds.get(ALPN)) == told, again
        assert (CRC32C in kinds) is crc, again


def check_native(data: bytes, header: ProxyHeader | HeaderClass | None, rest: bytes) -> None:
    """AssertionError when the native relay's reader names another client, or waits where this one does not."""
    said = read_header(data)
    if said is None:
        assert header is None, f"more is asked for, after {header}"
    elif said[2]:
        assert isinstance(header, ProxyHeader), f"{said}, and Python says {header}"
        assert not header.local, f"{said}, and Python says LOCAL"
        assert (header.source, rest) == (said[:2], data[said[2] :]), f"{said} of {header}"


def check(data: bytes) -> None:
    """AssertionError when the reader or an encoder breaks its word; other exceptions come out as they are."""
    whole = outcome([data])
    cut = outcome(pieces(data))
    assert cut == whole, f"{whole} at once, {cut} in pieces"
    header, rest = whole
    if header is None:
        check_size(data, waiting=True)
    elif isinstance(header, ProxyHeader):
        check_size(data, waiting=False)
        assert understood(header, rest) == said(data), header
        if header.source is not None and header.destination is not None:
            check_writing(header, header.source, header.destination)
            if CRC32C in dict(header.tlvs):
                check_sum(data)
    if BUILT:
        check_native(data, header, rest)


def seeds() -> Iterator[bytes]:
    """What the encoders write, and every header in the tables of the tests."""
    for source, destination in product(
        (sound.CLIENT, sound.CLIENT6), (sound.SERVER, sound.SERVER6)
    ):
        yield encode_v1(source, destination)
        yield encode_v2(source, destination)
        yield encode_v2(
            source,
            destination,
            authority="play.example.com",
            unique_id=bytes(16),
            alpn=b"h2",
            crc=True,
        )
    yield encode_local_v2()
    yield v1("UNKNOWN")
    yield from (v2(IPV4 + tlv(kind, value)) for kind, value in sound.TLVS.values())
    yield from broken.NOT_PROXY.values()
    for answers in (sound.VERSION_1, sound.VERSION_2):
        yield from (data for data, _ in answers.values())
    for refusals in (broken.VERSION_1, broken.VERSION_2):
        yield from (data for data, _ in refusals.values())
    yield from (data for data, _, _ in broken.EARLY.values())


if __name__ == "__main__":
    run(check, seeds())
