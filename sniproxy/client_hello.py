"""Reads a TLS ClientHello out of the first bytes of a stream. No socket, no clock, no task.

`feed` answers one of three things, never mixed: need more (`None`), parsed (`ClientHello`), broken
(`BrokenHello`, which says why in one word). A broken hello is never taken for one without a name:
that is how a stream ends up on a default route with weaker settings than its own.

*Records* (RFC 8446 5.1). A hello is handshake bytes cut into records of type 22, major version 3,
1 to 2^14 bytes each; the client may cut anywhere, TCP cuts again, and the two cuts have nothing to
do with each other. So records are joined first and the hello is parsed once, when whole. An empty
record, an alert or any other type before that is broken. The hello ends where its record ends: the
next handshake message of a client is an answer to the server, so more handshake bytes in the same
record are broken too. Records after it (early data) are kept in `received`, unread.

*Any split gives the same answer.* Every check has a fixed place in the stream and runs when the
byte at that place is there, in stream order, however the bytes came. The one exception is the class
of what is not TLS at all: it is refused on the first byte, and the class is the best guess that the
bytes of that `feed` allow (one `P` is `not_tls_http`, `PROXY ` is `not_tls_proxy`).

*Cost is linear.* A byte is joined once and not looked at again before the parse, however small the
records and the segments are. `received` copies: read it once.

*Bounds.* `max_hello` is for the length in the handshake header, refused when that header is there.
`max_raw` is for the bytes on the wire up to the end of the hello: the two differ because a record
header is five bytes and may carry one. The bytes after the hello are bounded by who feeds them.

*The hello* (RFC 8446 4.1.2, RFC 5246 7.4.1.2). Every length must fill its parent: `truncated` is a
length that claims more than its parent holds, `trailing` is what is left over in a parent. Guessing
past a lie gives the prefix of some other name. No extension block at all is sound: old clients end
after the compression methods. A type of extension appears once (RFC 8446 4.2); the types that
neither route nor describe the client are stepped over unread.

*The name* (RFC 6066 3). One entry of type host_name. It comes out in lower case without the one
trailing dot, as labels of letters, digits, `-` and `_`: it goes on into look-ups and log lines. An
IP literal is no name: `server_name` is None and `ip_literal` is set. A literal is what resolvers
take for one: WHATWG URL "ends in a number" (`127.1`, `0x7f.1`, `2130706433`) and all of IPv6.
"""

import ipaddress
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

_HANDSHAKE, _CLIENT_HELLO, _HOST_NAME = 22, 1, 0  # types of record, of message, of name
_RECORD_HEADER, _HELLO_HEADER = 5, 4
_MAX_RECORD = 1 << 14
_FIXED_PART = _HELLO_HEADER + 2 + 32  # header, version, random
_MAX_SESSION_ID = 32
_MAX_NAME = 253
_MAX_DETAIL = 160

_SERVER_NAME, _GROUPS, _ALPN, _VERSIONS, _KEY_SHARE, _ECH = 0, 10, 16, 43, 51, 0xFE0D
_POST_QUANTUM = frozenset({0x11EC, 0x11EB, 0x11ED, 0x6399})  # three ML-KEM hybrids, one Kyber draft

_LEGAL_NAME = re.compile(rb"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LEGAL_OCTETS = re.compile(rb"[a-z0-9_.-]*")
_NUMBER = re.compile(rb"[0-9]+|0x[0-9a-f]*")
_IPV6 = re.compile(rb"(\[)?([0-9a-f:.]+(?:%[a-z0-9_.~-]+)?)(?(1)\])")
_TWO_SHORTS = struct.Struct(">HH")


class HelloClass(StrEnum):
    """Why a hello was refused: the same word stands in the log and the metric."""

    # the first bytes are of another protocol
    NOT_TLS_HTTP = "not_tls_http"
    NOT_TLS_SSH = "not_tls_ssh"
    NOT_TLS_RDP = "not_tls_rdp"
    NOT_TLS_PROXY = "not_tls_proxy"
    NOT_TLS_SSLV2 = "not_tls_sslv2"
    NOT_TLS_OTHER = "not_tls_other"
    # records
    RECORD_TYPE = "record_type"
    RECORD_VERSION = "record_version"
    RECORD_LENGTH = "record_length"
    # the handshake header, and the bounds
    HANDSHAKE_TYPE = "handshake_type"
    TOO_LARGE = "too_large"
    # lengths, at any level
    TRUNCATED = "truncated"
    TRAILING = "trailing"
    # members of the hello
    CLIENT_VERSION = "client_version"
    SESSION_ID = "session_id"
    CIPHER_SUITES = "cipher_suites"
    COMPRESSION = "compression"
    EXTENSION_TWICE = "extension_twice"
    ALPN = "alpn"
    SUPPORTED_VERSIONS = "supported_versions"
    SUPPORTED_GROUPS = "supported_groups"
    KEY_SHARE = "key_share"
    # the name
    SERVER_NAME_TWICE = "server_name_twice"
    SERVER_NAME_SYNTAX = "server_name_syntax"
    NAME_LENGTH = "name_length"
    NAME_CHARACTERS = "name_characters"
    NAME_LABEL = "name_label"


class BrokenHello(Exception):
    """The stream does not start with a sound ClientHello.

    `detail` is bounded and printable ASCII: bytes of the client stand in it as their `repr`.
    """

    def __init__(self, hello_class: HelloClass, detail: str) -> None:
        self.hello_class = hello_class
        self.detail = detail[:_MAX_DETAIL]
        super().__init__(f"{hello_class}: {self.detail}")


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client said. Lists are as offered, in order, GREASE values and all."""

    server_name: str | None
    ip_literal: bool
    alpn: tuple[bytes, ...]
    legacy_version: int
    supported_versions: tuple[int, ...]
    records: int
    ech: bool
    post_quantum: bool


class ClientHelloReader:
    """Takes the bytes of one stream as they come, until its ClientHello is whole or broken."""

    def __init__(self, *, max_hello: int = 65_536, max_raw: int = 131_072) -> None:
        self._max_hello = max_hello
        self._max_raw = max_raw
        self._raw = bytearray()
        self._joined = bytearray()  # handshake bytes, record headers taken out
        self._at = 0  # where in _raw the next byte to join, or the next record header, is
        self._left = 0  # how much of the current record is not joined yet
        self._records = 0
        self._size: int | None = None  # of the hello and its header, once the header is there
        self._hello: ClientHello | None = None
        self._refusal: tuple[HelloClass, str] | None = None

    @property
    def received(self) -> bytes:
        """Every byte fed so far, in order, those after the hello too: what the upstream gets."""
        return bytes(self._raw)

    def feed(self, data: bytes | memoryview) -> ClientHello | None:
        """Take more bytes. None: need more. Raises `BrokenHello`, and again on each later call.

        Once the hello is whole the same hello is returned, and the bytes are just kept.
        """
        self._raw += data
        if self._refusal is not None:
            raise BrokenHello(*self._refusal)
        if self._hello is None:
            try:
                self._hello = self._advance()
            except BrokenHello as broken:
                self._refusal = broken.hello_class, broken.detail
                raise
        return self._hello

    def _advance(self) -> ClientHello | None:
        # Nothing past max_raw is looked at, so the bound falls on the same byte for any split.
        end = min(len(self._raw), self._max_raw)
        while self._at < end:
            if not self._left and not self._open_record(end):
                break
            stop = min(self._at + self._left, end)
            self._joined += self._raw[self._at : stop]
            self._left -= stop - self._at
            self._at = stop
            size = self._size or self._open_hello()
            if size is not None:
                excess = len(self._joined) + self._left - size
                if excess > 0:
                    _broken(HelloClass.TRAILING, f"{excess} bytes after the hello in its record")
                if len(self._joined) == size:
                    return _parse(bytes(self._joined), self._records)
        if end == self._max_raw:
            _broken(HelloClass.TOO_LARGE, f"not whole after {end} bytes on the wire")
        return None

    def _open_record(self, end: int) -> bool:
        """Step over the next record header; False while it is not all there."""
        raw, at = self._raw, self._at
        there = end - at
        if raw[at] != _HANDSHAKE:
            _refuse_type(bytes(raw[at : at + 16]), first=at == 0)
        if there > 1 and raw[at + 1] != 3:
            _broken(HelloClass.RECORD_VERSION, f"record version {raw[at + 1]}.x")
        if there < _RECORD_HEADER:
            return False
        length = raw[at + 3] << 8 | raw[at + 4]
        if not 1 <= length <= _MAX_RECORD:
            _broken(HelloClass.RECORD_LENGTH, f"record of {length} bytes")
        self._at = at + _RECORD_HEADER
        self._left = length
        self._records += 1
        return True

    def _open_hello(self) -> int | None:
        """Check as much of the handshake header as is there; the size of the hello if it all is."""
        joined = self._joined
        if joined and joined[0] != _CLIENT_HELLO:
            _broken(HelloClass.HANDSHAKE_TYPE, f"handshake message of type {joined[0]}")
        if len(joined) < _HELLO_HEADER:
            return None
        length = int.from_bytes(joined[1:_HELLO_HEADER], "big")
        if length > self._max_hello:
            _broken(HelloClass.TOO_LARGE, f"hello of {length} bytes, at most {self._max_hello}")
        self._size = _HELLO_HEADER + length
        return self._size


def _broken(hello_class: HelloClass, detail: str) -> NoReturn:
    raise BrokenHello(hello_class, detail)


# What else speaks first. A shorter head matches what it is the start of, the first in this order.
_OTHERS = (
    *(
        (method + b" ", HelloClass.NOT_TLS_HTTP)
        for method in b"GET HEAD POST PUT DELETE OPTIONS CONNECT TRACE PATCH PRI".split()
    ),
    (b"SSH-", HelloClass.NOT_TLS_SSH),
    (b"\x03\x00", HelloClass.NOT_TLS_RDP),
    (b"PROXY ", HelloClass.NOT_TLS_PROXY),
    (b"\r\n\r\n\0\r\nQUIT\n", HelloClass.NOT_TLS_PROXY),
)


def _refuse_type(head: bytes, *, first: bool) -> NoReturn:
    # The other content types of TLS are told by one byte: a split must not change that class.
    if not first or 20 <= head[0] <= 24:
        _broken(HelloClass.RECORD_TYPE, f"record of type {head[0]}")
    detail = f"starts with {head!r}"
    for start, hello_class in _OTHERS:
        if head.startswith(start) or start.startswith(head):
            _broken(hello_class, detail)
    sslv2 = head[0] & 0x80 and head[2:3] in (b"", b"\x01")
    _broken(HelloClass.NOT_TLS_SSLV2 if sslv2 else HelloClass.NOT_TLS_OTHER, detail)


def _span(data: bytes, at: int, width: int, what: str) -> tuple[int, int]:
    """Where the vector with a length of `width` bytes at `at` starts and ends."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "big")
    # The first slice is short when the length itself is cut off; then start is past the end too.
    if end > len(data):
        _broken(HelloClass.TRUNCATED, f"{what} ends at {end} of {len(data)}")
    return start, end


def _whole(data: bytes, at: int, width: int, what: str) -> int:
    """Where the vector at `at` starts, which must go to the end of its parent."""
    start, end = _span(data, at, width, what)
    if end != len(data):
        _broken(HelloClass.TRAILING, f"{len(data) - end} bytes after the {what}")
    return start


def _parse(hello: bytes, records: int) -> ClientHello:
    if len(hello) < _FIXED_PART:
        _broken(HelloClass.TRUNCATED, f"hello of {len(hello)} bytes with its header")
    legacy_version = hello[4] << 8 | hello[5]
    if legacy_version < 0x0301:  # TLS 1.0
        _broken(HelloClass.CLIENT_VERSION, f"client version {legacy_version:#06x}")
    found = _extensions(hello, _skip_to_extensions(hello))
    server_name, ip_literal = _server_name(found.get(_SERVER_NAME))
    return ClientHello(
        server_name=server_name,
        ip_literal=ip_literal,
        alpn=_alpn(found.get(_ALPN)),
        legacy_version=legacy_version,
        supported_versions=_shorts(found.get(_VERSIONS), 1, HelloClass.SUPPORTED_VERSIONS),
        records=records,
        ech=_ECH in found,
        post_quantum=_post_quantum(found.get(_GROUPS), found.get(_KEY_SHARE)),
    )


def _skip_to_extensions(hello: bytes) -> int:
    start, at = _span(hello, _FIXED_PART, 1, "session id")
    if at - start > _MAX_SESSION_ID:
        _broken(HelloClass.SESSION_ID, f"session id of {at - start} bytes")
    start, at = _span(hello, at, 2, "cipher suites")
    if at == start or (at - start) % 2:
        _broken(HelloClass.CIPHER_SUITES, f"cipher suites of {at - start} bytes")
    start, at = _span(hello, at, 1, "compression methods")
    if at == start:
        _broken(HelloClass.COMPRESSION, "no compression method")
    return at


def _extensions(hello: bytes, at: int) -> dict[int, bytes]:
    """Every extension by its type, its body unread."""
    found: dict[int, bytes] = {}
    size = len(hello)
    if at == size:
        return found
    at = _whole(hello, at, 2, "extensions")
    while at < size:
        if size - at < _TWO_SHORTS.size:
            _broken(HelloClass.TRUNCATED, f"extension header at {at} of {size}")
        kind, length = _TWO_SHORTS.unpack_from(hello, at)
        start = at + _TWO_SHORTS.size
        at = start + length
        if at > size:
            _broken(HelloClass.TRUNCATED, f"extension {kind} ends at {at} of {size}")
        if kind in found:
            twice = HelloClass.EXTENSION_TWICE if kind else HelloClass.SERVER_NAME_TWICE
            _broken(twice, f"extension {kind} twice")
        found[kind] = hello[start:at]
    return found


def _server_name(body: bytes | None) -> tuple[str | None, bool]:
    """The name to route on, and whether there was an IP literal in its place."""
    if body is None:
        return None, False
    at = _whole(body, 0, 2, "server name list")
    if at == len(body):
        _broken(HelloClass.SERVER_NAME_SYNTAX, "empty server name list")
    start, end = _span(body, at + 1, 2, "server name")
    if end != len(body):
        _refuse_rest(body[end:])
    if body[at] != _HOST_NAME:
        _broken(HelloClass.SERVER_NAME_SYNTAX, f"name of type {body[at]}")
    return host_name(body[start:])


def _refuse_rest(rest: bytes) -> NoReturn:
    """Tell a list of two names from a name whose length is short."""
    if len(rest) >= 3 and 3 + (rest[1] << 8 | rest[2]) <= len(rest):
        _broken(HelloClass.SERVER_NAME_TWICE, "two names in one list")
    _broken(HelloClass.TRAILING, f"{len(rest)} bytes after the server name")


def host_name(given: bytes) -> tuple[str | None, bool]:
    """The name to route on, and whether an IP literal stands in its place; `BrokenHello` for what is neither."""
    name = given.lower().removesuffix(b".")
    if not 1 <= len(name) <= _MAX_NAME:
        _broken(HelloClass.NAME_LENGTH, f"name of {len(given)} bytes: {given[:64]!r}")
    if _LEGAL_NAME.fullmatch(name):
        if _NUMBER.fullmatch(name[name.rfind(b".") + 1 :]):
            return None, True
        return name.decode("ascii"), False
    if _is_ipv6(name):
        return None, True
    sound = _LEGAL_OCTETS.fullmatch(name)
    _broken(HelloClass.NAME_LABEL if sound else HelloClass.NAME_CHARACTERS, f"name {given[:64]!r}")


def _is_ipv6(name: bytes) -> bool:
    # The pattern first: ipaddress takes any text at all for a zone, line breaks too.
    text = _IPV6.fullmatch(name)
    try:
        ipaddress.IPv6Address(text[2].decode("ascii") if text else "")
    except ValueError:
        return False
    return True


def _alpn(body: bytes | None) -> tuple[bytes, ...]:
    """RFC 7301 3.1: at least one protocol, none of them empty."""
    if body is None:
        return ()
    at = _whole(body, 0, 2, "ALPN list")
    protocols = []
    while at < len(body):
        start, at = _span(body, at, 1, "ALPN protocol")
        protocols.append(body[start:at])
    if not all(protocols) or not protocols:
        _broken(HelloClass.ALPN, f"{len(protocols)} ALPN protocols, or an empty one")
    return tuple(protocols)


def _shorts(body: bytes | None, width: int, hello_class: HelloClass) -> tuple[int, ...]:
    """A list of 16-bit numbers, at least one."""
    if body is None:
        return ()
    start = _whole(body, 0, width, f"{hello_class} list")
    size = len(body) - start
    if size == 0 or size % 2:
        _broken(hello_class, f"{hello_class} list of {size} bytes")
    return struct.unpack_from(f">{size // 2}H", body, start)


def _post_quantum(groups: bytes | None, shares: bytes | None) -> bool:
    """Whether a post-quantum group is offered, with a key share or without."""
    offered = set(_shorts(groups, 2, HelloClass.SUPPORTED_GROUPS))
    if shares is not None:
        at = _whole(shares, 0, 2, "key share list")
        while at < len(shares):
            offered.add(int.from_bytes(shares[at : at + 2], "big"))
            start, at = _span(shares, at + 2, 2, "key share")
            if at == start:
                _broken(HelloClass.KEY_SHARE, "empty key share")
    return not offered.isdisjoint(_POST_QUANTUM)
