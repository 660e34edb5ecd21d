"""The PROXY protocol, versions 1 and 2, in and out. No socket, no clock, no task.

A load balancer puts one header before the first byte of a connection: whom it speaks for. Section
numbers are those of haproxy's doc/proxy-protocol.txt. Who may send one is not decided here: a
client that is believed can call itself anyone (section 5), so only known peers are listened to.

`feed` answers one of three things: need more (`None`), read (`ProxyHeader`), broken
(`BrokenHeader`, which says why in one word). There is no guessing whether a header is there
(section 5): where one is due, anything else is broken. What follows it is in `rest`, unread: a
second header is the business of who reads next.

*Any split gives the same answer.* Every check has a fixed place in the stream and runs as soon as
the bytes up to there are in: the first wrong byte of a signature, the end of a v1 line or its 107th
byte, the fixed part of v2. What stands behind that is looked at once, when the header is whole.
After a refusal nothing more is kept.

*Version 1* (2.1) is a line of text, at most 107 bytes with its CRLF. One space between members, the
address as its family writes it (no zone, no leading zero in IPv4), the port in plain decimal. The
text after `UNKNOWN` is not read, whatever it is, but a CR or LF alone ends no line: broken.

*Version 2* (2.2) is 16 fixed bytes, addresses, then TLVs that fill the rest exactly. PROXY over TCP
gives two addresses. Over UNSPEC or a UNIX stream there is nobody to name, so the connection's own
addresses stand, but the TLVs count. Datagrams are refused: we serve TCP. LOCAL is the balancer on
its own errand, a health check: its block is checked and then dropped, its family says only how many
bytes of addresses to step over. A LOCAL that is too short for those has none, as 2.2 asks of it.

*TLVs* (2.2.1 to 2.2.8). A registered type stands there once, padding aside: of two, the sender and
we might believe different ones. Other types are kept unread. CRC32C (2.2.3) is verified wherever it
stands: a health check of AWS's NLB is 16 bytes and that.

*Addresses* come out in one spelling. IPv4 mapped into IPv6 comes out as IPv4, so `::ffff:1.2.3.4`
gets round no rule for `1.2.3.4`. Going out, a pair of both families is sent as IPv6 with its IPv4
mapped: no version can say it otherwise, and it reads back as it was.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NoReturn

_V1_START = b"PROXY "
_V1_PROTOCOLS = (b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r")
_MAX_V1 = 107  # bytes, CRLF with them
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_MAX_PORT = 65_535

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_PART = len(_SIGNATURE) + 4
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
_TCP4, _TCP6 = 0x11, 0x21  # address family and transport
_DATAGRAM = 0x2
# What of addresses a family and transport has: UNSPEC; TCP and UDP, both IPs; UNIX.
_ADDRESS_BYTES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_ADDRESSES = {_TCP4: struct.Struct(">4s4sHH"), _TCP6: struct.Struct(">16s16sHH")}
_MAPPED = bytes(10) + b"\xff\xff"  # what makes 16 bytes of an IPv4 address

_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _SSL, _NETNS = 1, 2, 3, 4, 5, 0x20, 0x30
_ONCE = frozenset({_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL, _NETNS})
_TLV_HEADER, _CRC_BYTES, _SSL_FIXED_PART = 3, 4, 5
_MAX_ALPN, _MAX_AUTHORITY, _MAX_UNIQUE_ID = 255, 255, 128
_MAX_DETAIL = 160

Address = tuple[str, int]
_IP = IPv4Address | IPv6Address


class HeaderClass(StrEnum):
    """Why a header was refused: the same word stands in the log and the metric."""

    NOT_PROXY = "not_proxy"
    TOO_LARGE = "too_large"
    # version 1
    V1_SYNTAX = "v1_syntax"
    V1_ADDRESS = "v1_address"
    V1_PORT = "v1_port"
    # version 2: the fixed part, then the TLVs
    V2_VERSION = "v2_version"
    V2_COMMAND = "v2_command"
    V2_FAMILY = "v2_family"
    V2_LENGTH = "v2_length"  # too short for the addresses of its family
    V2_TLV = "v2_tlv"  # does not fit into its parent
    V2_TLV_TWICE = "v2_tlv_twice"
    V2_CHECKSUM = "v2_checksum"
    V2_AUTHORITY = "v2_authority"
    V2_UNIQUE_ID = "v2_unique_id"
    V2_SSL = "v2_ssl"  # what is in it does not fit


class BrokenHeader(Exception):
    """The stream does not start with a sound PROXY header.

    `detail` is bounded and printable ASCII: bytes of the peer stand in it as their `repr`.
    """

    def __init__(self, header_class: HeaderClass, detail: str) -> None:
        self.header_class = header_class
        self.detail = detail[:_MAX_DETAIL]
        super().__init__(f"{header_class}: {self.detail}")


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Whom a connection is for. `local`: for nobody else, its own addresses stand."""

    version: int
    local: bool
    source: Address | None
    destination: Address | None
    tlvs: tuple[tuple[int, bytes], ...]

    @property
    def authority(self) -> str | None:
        """The name that the client asked the sender for. Printable text, not a checked host name."""
        value = self._value(_AUTHORITY)
        return value.decode() if value else None

    @property
    def unique_id(self) -> bytes | None:
        """What the sender calls this connection."""
        return self._value(_UNIQUE_ID)

    def _value(self, wanted: int) -> bytes | None:
        return next((value for kind, value in self.tlvs if kind == wanted), None)


class ProxyHeaderReader:
    """Takes the bytes of one stream as they come, until its PROXY header is whole or broken."""

    def __init__(self, *, max_v2: int = 4096) -> None:
        self._max_v2 = max_v2  # bytes after the fixed part
        self._raw = bytearray()
        self._size = 0  # of the header, once it can be known
        self._header: ProxyHeader | None = None
        self._refusal: tuple[HeaderClass, str] | None = None

    @property
    def rest(self) -> bytes:
        """Every byte fed so far that came after the header, in order."""
        return b"" if self._header is None else bytes(memoryview(self._raw)[self._size :])

    def feed(self, data: bytes | memoryview) -> ProxyHeader | None:
        """Take more bytes. None: need more. Raises `BrokenHeader`, and again on each later call.

        Once the header is whole the same header is returned, and the bytes go to `rest`.
        """
        if self._refusal is not None:
            raise BrokenHeader(*self._refusal)
        self._raw += data
        if self._header is None:
            try:
                self._header = self._advance()
            except BrokenHeader as broken:
                self._refusal = broken.header_class, broken.detail
                self._raw.clear()
                raise
        return self._header

    def _advance(self) -> ProxyHeader | None:
        version_1 = self._raw.startswith(_V1_START[:1])
        if not self._size:
            head = bytes(self._raw[:_MAX_V1])
            self._size = _v1_size(head) if version_1 else _v2_size(head, self._max_v2)
        if not self._size or len(self._raw) < self._size:
            return None
        header = bytes(self._raw[: self._size])
        return _parse_v1(header) if version_1 else _parse_v2(header)


def encode_v1(source: Address, destination: Address) -> bytes:
    """The line for a connection between these two. ValueError for what is no address or port."""
    ipv4, addresses, ports = _pair(source, destination)
    protocol, mapped = ("TCP4", "") if ipv4 else ("TCP6", "::ffff:")
    written = [f"{mapped if one.version == 4 else ''}{one}" for one in addresses]
    return f"PROXY {protocol} {written[0]} {written[1]} {ports[0]} {ports[1]}\r\n".encode("ascii")


def encode_v2(
    source: Address,
    destination: Address,
    *,
    authority: str | None = None,
    unique_id: bytes | None = None,
    alpn: bytes | None = None,
    crc: bool = False,
) -> bytes:
    """The header for a connection between these two. ValueError for what would not be read back."""
    ipv4, addresses, ports = _pair(source, destination)
    family, mapped = (_TCP4, b"") if ipv4 else (_TCP6, _MAPPED)
    packed = [(mapped if one.version == 4 else b"") + one.packed for one in addresses]
    body = _ADDRESSES[family].pack(*packed, *ports)
    if alpn is not None:
        body += _tlv(_ALPN, alpn, _MAX_ALPN)
    if authority is not None:
        if not authority.isprintable():
            raise ValueError(f"authority {authority[:64]!a} is not printable")
        body += _tlv(_AUTHORITY, authority.encode(), _MAX_AUTHORITY)
    if unique_id is not None:
        body += _tlv(_UNIQUE_ID, unique_id, _MAX_UNIQUE_ID)
    if crc:
        body += _tlv(_CRC32C, bytes(_CRC_BYTES), _CRC_BYTES)
    header = _SIGNATURE + bytes([_PROXY, family]) + len(body).to_bytes(2, "big") + body
    return header[:-_CRC_BYTES] + crc32c(header).to_bytes(_CRC_BYTES, "big") if crc else header


def encode_local_v2() -> bytes:
    """The header for a connection of our own, a health check."""
    return _SIGNATURE + bytes([_LOCAL, 0, 0, 0])


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The CRC of Castagnoli (RFC 4960, appendix B), bit by bit from the low end."""
    table, value = _CRC32C_TABLE, 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _broken(header_class: HeaderClass, detail: str) -> NoReturn:
    raise BrokenHeader(header_class, detail)


def _agree(given: bytes, wanted: bytes) -> bool:
    """Whether one is the start of the other: nothing wrong so far."""
    return given.startswith(wanted) or wanted.startswith(given)


def _v1_size(head: bytes) -> int:
    """The size of the line whose first bytes these are; 0 while it cannot be known."""
    if not _agree(head, _V1_START):
        _broken(HeaderClass.NOT_PROXY, f"starts with {head[:16]!r}")
    protocol = head[len(_V1_START) :]
    if not any(_agree(protocol, known) for known in _V1_PROTOCOLS):
        _broken(HeaderClass.V1_SYNTAX, f"protocol {protocol[:16]!r}")
    before, cr, after = head.partition(b"\r")
    if b"\n" in before or not _agree(after, b"\n"):
        _broken(HeaderClass.V1_SYNTAX, f"CR or LF alone: {head[:64]!r}")
    if cr and after:
        return len(before) + 2
    if len(head) == _MAX_V1:
        _broken(HeaderClass.TOO_LARGE, f"line not whole after {_MAX_V1} bytes")
    return 0


def _parse_v1(line: bytes) -> ProxyHeader:
    protocol, _, text = line[len(_V1_START) : -2].partition(b" ")
    if protocol == b"UNKNOWN":
        return ProxyHeader(1, True, None, None, ())
    members = text.split(b" ")
    if len(members) != 4 or not all(members):
        _broken(HeaderClass.V1_SYNTAX, f"not four members: {line[:80]!r}")
    family = IPv4Address if protocol == b"TCP4" else IPv6Address
    source, destination = (_v1_address(member, family) for member in members[:2])
    source_port, destination_port = (_v1_port(member) for member in members[2:])
    return ProxyHeader(1, False, (source, source_port), (destination, destination_port), ())


def _v1_address(member: bytes, family: type[_IP]) -> str:
    try:
        address = None if b"%" in member else family(member.decode("ascii"))
    except ValueError:
        address = None
    if address is None:
        _broken(HeaderClass.V1_ADDRESS, f"not {family.__name__}: {member[:64]!r}")
    return str(_unmapped(address))


def _v1_port(member: bytes) -> int:
    if not _PORT.fullmatch(member) or int(member) > _MAX_PORT:
        _broken(HeaderClass.V1_PORT, f"port {member[:64]!r}")
    return int(member)


def _v2_size(head: bytes, max_v2: int) -> int:
    """The size of the header whose first bytes these are; 0 while it cannot be known."""
    if not _agree(head, _SIGNATURE):
        _broken(HeaderClass.NOT_PROXY, f"starts with {head[:16]!r}")
    fixed = head[len(_SIGNATURE) : _FIXED_PART]
    if fixed and fixed[0] >> 4 != 2:
        _broken(HeaderClass.V2_VERSION, f"version {fixed[0] >> 4}")
    if fixed and fixed[0] not in (_LOCAL, _PROXY):
        _broken(HeaderClass.V2_COMMAND, f"command {fixed[0] & 0xF:#x}")
    proxied = fixed[:1] == bytes([_PROXY])
    if len(fixed) > 1:
        datagram = proxied and fixed[1] & 0xF == _DATAGRAM
        if datagram or fixed[1] not in _ADDRESS_BYTES:
            _broken(HeaderClass.V2_FAMILY, f"family and transport {fixed[1]:#04x}")
    if len(head) < _FIXED_PART:
        return 0
    length = fixed[2] << 8 | fixed[3]
    if length > max_v2:
        _broken(HeaderClass.TOO_LARGE, f"{length} bytes after the fixed part, at most {max_v2}")
    if proxied and length < _ADDRESS_BYTES[fixed[1]]:
        _broken(HeaderClass.V2_LENGTH, f"{length} bytes for family and transport {fixed[1]:#04x}")
    return _FIXED_PART + length


def _parse_v2(header: bytes) -> ProxyHeader:
    command, family = header[len(_SIGNATURE)], header[len(_SIGNATURE) + 1]
    start = _FIXED_PART + _ADDRESS_BYTES[family]
    if command == _LOCAL:
        _read_tlvs(header, start if start <= len(header) else _FIXED_PART)
        return ProxyHeader(2, True, None, None, ())
    tlvs = _read_tlvs(header, start)
    if family not in (_TCP4, _TCP6):
        return ProxyHeader(2, True, None, None, tlvs)
    source, destination, *ports = _ADDRESSES[family].unpack_from(header, _FIXED_PART)
    hosts = [str(_unmapped(ip_address(packed))) for packed in (source, destination)]
    return ProxyHeader(2, False, (hosts[0], ports[0]), (hosts[1], ports[1]), tlvs)


def _read_tlvs(header: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    """Every TLV from `at` to the end of the header, checked as its type asks."""
    found, seen = [], set()
    for kind, start, end in _spans(header, at, HeaderClass.V2_TLV):
        if kind in seen:
            _broken(HeaderClass.V2_TLV_TWICE, f"TLV {kind:#04x} twice")
        if kind in _ONCE:
            seen.add(kind)
        value = header[start:end]
        if kind == _CRC32C:
            _verify(header, start, value)
        else:
            _check(kind, value)
        found.append((kind, value))
    return tuple(found)


def _spans(data: bytes, at: int, header_class: HeaderClass) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each value; the last must end where its parent does."""
    size = len(data)
    while at < size:
        start = at + _TLV_HEADER
        end = start + int.from_bytes(data[at + 1 : start], "big")
        # The slice is short when the length itself is cut off; then start is past the end too.
        if end > size:
            _broken(header_class, f"TLV {data[at]:#04x} ends at {end} of {size}")
        yield data[at], start, end
        at = end


def _verify(header: bytes, start: int, value: bytes) -> None:
    """The sum is over the whole header, the sum's own bytes taken for zeros."""
    if len(value) != _CRC_BYTES:
        _broken(HeaderClass.V2_CHECKSUM, f"checksum of {len(value)} bytes")
    made = crc32c(header[:start] + bytes(_CRC_BYTES) + header[start + _CRC_BYTES :])
    if made.to_bytes(_CRC_BYTES, "big") != value:
        _broken(HeaderClass.V2_CHECKSUM, f"checksum {value.hex()}, should be {made:08x}")


def _check(kind: int, value: bytes) -> None:
    if kind == _AUTHORITY and not _is_text(value):
        _broken(HeaderClass.V2_AUTHORITY, f"authority of {len(value)} bytes: {value[:64]!r}")
    if kind == _UNIQUE_ID and len(value) > _MAX_UNIQUE_ID:
        _broken(HeaderClass.V2_UNIQUE_ID, f"unique id of {len(value)} bytes")
    if kind == _SSL:
        if len(value) < _SSL_FIXED_PART:
            _broken(HeaderClass.V2_SSL, f"SSL TLV of {len(value)} bytes")
        for _ in _spans(value, _SSL_FIXED_PART, HeaderClass.V2_SSL):
            pass


def _is_text(value: bytes) -> bool:
    try:
        return len(value) <= _MAX_AUTHORITY and value.decode().isprintable()
    except ValueError:
        return False


def _unmapped(address: _IP) -> _IP:
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _pair(*ends: Address) -> tuple[bool, list[_IP], list[int]]:
    """Whether both are IPv4; the addresses without a zone, which no header can carry; the ports."""
    for _, port in ends:
        if not 0 <= port <= _MAX_PORT:
            raise ValueError(f"port {port} is not one of TCP")
    addresses = [_unmapped(ip_address(host.partition("%")[0])) for host, _ in ends]
    return all(one.version == 4 for one in addresses), addresses, [port for _, port in ends]


def _tlv(kind: int, value: bytes, longest: int) -> bytes:
    if len(value) > longest:
        raise ValueError(f"TLV {kind:#04x} of {len(value)} bytes, at most {longest}")
    return bytes([kind]) + len(value).to_bytes(2, "big") + value
