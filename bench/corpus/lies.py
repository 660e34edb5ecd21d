"""Lengths that are not what they hold, at every level; members and records that are wrong; what is not TLS."""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

from bench.corpus.rows import HELLO, NAME, PLAY, Cut, Group, interrupted_by, padded, stamped
from sniproxy.corpus import Level, Row
from tests.support.hellos import (
    ALPN,
    CIPHERS,
    GROUPS,
    KEY_SHARE,
    VERSIONS,
    X25519,
    Lie,
    extension,
    message,
    record,
    records,
    vector,
)

LENGTHS = Group("length", "lie")
MEMBERS = Group("member", "bad")
BODIES = Group("extension_body", "body")
RECORDS = Group("record", "rec")
HANDSHAKE = Group("handshake_type", "type")
NOT_TLS = Group("not_tls", "other")

LIE_NAMES = {"-1": "minus_1", "+1": "plus_1", "0": "zero", "max": "max"}
LEVELS = {
    "record": "RFC 8446 5.1: the record's length",
    "handshake": "RFC 8446 4: the length of the handshake message (HAProxy 8f507ae75)",
    "session_id": "RFC 8446 4.1.2: a lie here moves all that follows",
    "ciphers": "RFC 8446 4.1.2: a lie here moves all that follows",
    "compression": "RFC 8446 4.1.2: a lie here moves all that follows",
    "extensions": "RFC 8446 4.2: the block of extensions ends where the hello ends",
    "name_extension": "RFC 8446 4.2: a lie here moves the extensions that follow",
    "name_list": "RFC 6066 3: nginx and HAProxy do not hold it against what is around it",
    "name": "RFC 6066 3: HAProxy ed267f9bc read past the hello, nginx routes on the prefix of another name",
    "alpn_extension": "RFC 8446 4.2: a lie about a neighbour of the name moves the name",
    "share_extension": "RFC 8446 4.2: a lie about a neighbour of the name moves the name",
    "alpn_list": "RFC 7301 3.1: a list that does not fill its extension",
    "alpn_protocol": "RFC 7301 3.1: a protocol that does not fit its list",
    "versions": "RFC 8446 4.2.1: a list that does not fill its extension",
    "groups": "RFC 8446 4.2.7: a list that does not fill its extension",
    "shares": "RFC 8446 4.2.8: a list that does not fill its extension",
    "share": "RFC 8446 4.2.8: a share that does not fit its list",
}
NOT_ROUTED_BY = {"alpn_list", "alpn_protocol", "versions", "groups", "shares", "share"}


@dataclass(frozen=True)
class Liar:
    """Makes a full hello in which the length at one level is not what it holds."""

    level: str
    lie: Lie
    name_last: bool

    def vector(self, level: str, width: int, body: bytes) -> bytes:
        """A body behind its length, or behind the lie."""
        size = len(body)
        claims = {"-1": size - 1, "+1": size + 1, "0": 0, "max": 256**width - 1}
        return vector(width, body, claims[self.lie] if level == self.level else None)

    def extensions(self) -> list[bytes]:
        """The name first, then the lists of a real client."""
        vec = self.vector
        entry = b"\0" + vec("name", 2, NAME.encode())
        protocols = vec("alpn_protocol", 1, b"h2") + vector(1, b"http/1.1")
        share = struct.pack(">H", X25519) + vec("share", 2, bytes(range(1, 33)))
        return [
            b"\x00\x00" + vec("name_extension", 2, vec("name_list", 2, entry)),
            b"\x00\x10" + vec("alpn_extension", 2, vec("alpn_list", 2, protocols)),
            b"\x00\x2b" + vector(2, vec("versions", 1, b"\x03\x04\x03\x03")),
            b"\x00\x0a" + vector(2, vec("groups", 2, b"\x00\x1d\x00\x17")),
            b"\x00\x33" + vec("share_extension", 2, vec("shares", 2, share)),
        ]

    def message(self) -> bytes:
        """The handshake message."""
        vec, block = self.vector, self.extensions()
        if self.name_last:
            block = [*block[1:], block[0]]
        body = b"\x03\x03" + bytes(32) + vec("session_id", 1, bytes(range(1, 33)))
        body += vec("ciphers", 2, CIPHERS) + vec("compression", 1, b"\0")
        body += vec("extensions", 2, b"".join(block))
        return b"\x01" + vec("handshake", 3, body)

    def wire(self, hello: bytes) -> bytes:
        """In its record."""
        return b"\x16\x03\x01" + self.vector("record", 2, hello)


def _lengths() -> Iterator[Row]:
    for name_last in (False, True):
        for level, why in LEVELS.items():
            for lie in get_args(Lie):
                liar = Liar(level, lie, name_last)
                row = f"{level}_{LIE_NAMES[lie]}" + ("_name_last" if name_last else "")
                yield LENGTHS.refuse(
                    row,
                    f"{why}; a length must fill what holds it",
                    liar.message(),
                    cut=liar.wire,
                    level=Level.SHOULD if level in NOT_ROUTED_BY else Level.MUST,
                )
    for name_last in (False, True):
        honest = Liar("", "0", name_last)
        row = "none" + ("_name_last" if name_last else "")
        yield LENGTHS.route(row, "the hello of these rows, with no lie in it", honest.message())
    short = b"play.conformance.test.evil.example"
    for size in (4, 21, 22):
        why = "nginx routes on the prefix that a short length cuts off: another server's name"
        entry = b"\0" + vector(2, short, size)
        hello = message([extension(0, vector(2, entry))])
        yield LENGTHS.refuse(f"name_prefix_{size}", why, hello)


def _members() -> Iterator[Row]:
    body = message(None)[4:]
    should: dict[str, tuple[bytes, str]] = {
        "session_id_33": (message([PLAY], session_id=bytes(33)), "at most 32 bytes of session id"),
        "session_id_255": (
            message([PLAY], session_id=bytes(255)),
            "at most 32 bytes of session id",
        ),
        "no_cipher": (message([PLAY], ciphers=b""), "at least one cipher suite"),
        "half_a_cipher": (message([PLAY], ciphers=b"\x13"), "cipher suites have two bytes each"),
        "odd_ciphers": (
            message([PLAY], ciphers=b"\x13\1\x13"),
            "cipher suites have two bytes each",
        ),
        "no_compression": (message([PLAY], compression=b""), "at least one compression method"),
        "ssl30": (message([PLAY], version=0x0300), "RFC 7568 3: SSL 3.0 must not be used"),
        "ssl20_version": (message([PLAY], version=0x0002), "RFC 6176 3: SSL 2.0 must not be used"),
        "version_0": (message([PLAY], version=0), "no such version"),
    }
    must: dict[str, tuple[bytes, str]] = {
        "size_0": (b"\1" + vector(3, b""), "a hello of nothing"),
        "size_1": (b"\1" + vector(3, b"\3"), "ends within the version"),
        "size_33": (b"\1" + vector(3, bytes(33)), "ends within the random"),
        "size_34": (b"\1" + vector(3, body[:34]), "ends before the session id"),
        "size_61": (
            b"\1" + vector(3, body[:61]),
            "HAProxy ed267f9bc: a 65-byte hello read the heap",
        ),
        "ends_after_session_id": (b"\1" + vector(3, body[:67]), "ends before the cipher suites"),
        "ends_in_cipher_length": (b"\1" + vector(3, body[:68]), "ends within a length"),
        "ends_after_ciphers": (b"\1" + vector(3, body[:-2]), "ends before the compression methods"),
        "byte_after_compression": (message(None, tail=b"\0"), "half a length of extensions"),
        "tail_after_extensions": (message([PLAY], tail=b"\0"), "a byte after the extensions"),
        "tail_of_9": (message([PLAY], tail=bytes(9)), "bytes after the extensions"),
        "tail_with_a_name": (message([], tail=PLAY), "a name after the end of the extensions"),
        "extension_past_end": (
            message([PLAY, b"\x77\x77\0\1"]),
            "an extension ends after its block",
        ),
        "extension_header_of_1": (message([PLAY, b"\0"]), "a quarter of an extension header"),
        "extension_header_of_2": (message([PLAY, b"\0\0"]), "half an extension header"),
        "extension_header_of_3": (message([PLAY, b"\0\0\0"]), "most of an extension header"),
    }
    for table, level in ((must, Level.MUST), (should, Level.SHOULD)):
        for row, (hello, why) in table.items():
            text = why if why.startswith(("RFC", "HAProxy")) else f"RFC 8446 4.1.2: {why}"
            yield MEMBERS.refuse(row, text, hello, level=level)


def _bodies() -> Iterator[Row]:
    for row, (kind, body, why) in {
        "alpn_empty_list": (ALPN, b"\0\0", "RFC 7301 3.1: at least one protocol"),
        "alpn_empty_protocol": (ALPN, b"\0\x04\2h2\0", "RFC 7301 3.1: no empty protocol"),
        "alpn_empty_body": (ALPN, b"", "RFC 7301 3.1: a list is needed"),
        "alpn_past_end": (ALPN, b"\0\x03\3h2", "RFC 7301 3.1: a protocol past its list"),
        "versions_empty": (VERSIONS, b"\0", "RFC 8446 4.2.1: at least one version"),
        "versions_odd": (VERSIONS, b"\3\3\4\3", "RFC 8446 4.2.1: two bytes each"),
        "versions_no_list": (VERSIONS, b"", "RFC 8446 4.2.1: a list is needed"),
        "groups_empty": (GROUPS, b"\0\0", "RFC 8446 4.2.7: at least one group"),
        "groups_odd": (GROUPS, b"\0\3\0\x1d\0", "RFC 8446 4.2.7: two bytes each"),
        "share_empty": (KEY_SHARE, b"\0\4\0\x1d\0\0", "RFC 8446 4.2.8: a key is not empty"),
        "share_half_a_group": (
            KEY_SHARE,
            b"\0\1\0",
            "RFC 8446 4.2.8: a share has four bytes of header",
        ),
        "share_half_a_length": (
            KEY_SHARE,
            b"\0\3\0\x1d\0",
            "RFC 8446 4.2.8: a share has four bytes of header",
        ),
    }.items():
        text = f"{why}; the name beside it is sound, so passing it on can be defended"
        yield BODIES.refuse(row, text, message([PLAY, extension(kind, body)]), level=Level.SHOULD)


def preceded_by(data: bytes) -> Cut:
    """One record, and this before it."""
    return lambda hello: data + record(hello)


def _records() -> Iterator[Row]:
    joined = "RFC 8446 5.1: a handshake message is not interleaved with records of other types"
    for kind, name in ((20, "ccs"), (21, "alert"), (23, "application_data"), (24, "heartbeat")):
        data = record(b"\2\x28", kind=kind)
        why = "RFC 8446 5.1: a client starts with a handshake record"
        yield RECORDS.raw(f"{name}_only", why, [data])
        yield RECORDS.refuse(f"{name}_first", why, cut=preceded_by(data))
        yield RECORDS.refuse(
            f"{name}_between",
            joined,
            cut=interrupted_by(data),
        )
    yield RECORDS.refuse(
        "http_between", joined, cut=lambda hello: record(hello[:95]) + b"GET / HTTP/1.1\r\n\r\n"
    )
    for version in (0x0200, 0x0401, 0xFEFD, 0x0001):
        why = "RFC 8446 5.1: the major version of a TLS record is 3; DTLS has 0xfe"
        cut = partial(record, version=version)
        yield RECORDS.refuse(f"version_{version:04x}", why, cut=cut)
    yield RECORDS.refuse(
        "version_later",
        "RFC 8446 5.1: in the second record too, the major version is 3",
        cut=lambda hello: record(hello[:95]) + record(hello[95:], version=0x0103),
    )
    empty = "RFC 8446 5.1: no zero-length fragments of handshake types: endless ones cost the client nothing"
    yield RECORDS.refuse("empty_first", empty, cut=preceded_by(record(b"")))
    yield RECORDS.refuse(
        "empty_between",
        empty,
        cut=interrupted_by(record(b"")),
    )
    yield RECORDS.raw("empty_64", empty, [record(b"") * 64])
    long = "RFC 8446 5.1: a record in clear holds at most 2^14 bytes"
    yield RECORDS.refuse("length_16385", long, padded(16_381))
    for length in (0x4001, 0x8000, 0xFFFF):
        yield RECORDS.raw(f"length_{length:04x}", long, [b"\x16\3\1" + length.to_bytes(2, "big")])
    tail = "RFC 8446 5.1: a client's next message answers the server, so nothing follows the hello in its record"
    yield RECORDS.refuse("two_hellos", tail, cut=lambda hello: record(hello + HELLO))
    yield RECORDS.refuse("byte_after_hello", tail, cut=lambda hello: record(hello + b"\0"))
    yield RECORDS.refuse(
        "byte_after_hello_in_last",
        tail,
        cut=lambda hello: records(hello[:50]) + record(hello[50:] + b"\0"),
    )


def _handshake() -> Iterator[Row]:
    why = "RFC 8446 4: the first message of a client is a ClientHello"
    for kind in (0, 2, 3, 4, 11, 14, 16, 20, 24, 254, 255):
        yield HANDSHAKE.refuse(str(kind), why, bytes([kind]) + HELLO[1:])
    yield HANDSHAKE.raw("one_byte", why, [record(b"\3")])


SSLV2 = bytes.fromhex("802e0100020015000000100100800200800600400400800700c0") + bytes(range(22))
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH")
OTHERS: dict[str, bytes] = {
    **{
        f"http_{method.lower()}": f"{method} / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
        for method in METHODS
    },
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http_lower_case": b"get / http/1.1\r\n\r\n",
    "http_like": b"GETTING / \r\n",
    "websocket": f"GET /ws HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\n\r\n".encode(),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "rdp": bytes.fromhex("0300002f2ae00000000000") + b"Cookie: mstshash=a\r\n",
    "proxy_v1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + record(stamped("proxy_v1", HELLO)),
    "proxy_v1_unknown": b"PROXY UNKNOWN\r\n" + record(stamped("proxy_v1_unknown", HELLO)),
    "proxy_v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + bytes(12)
    + record(stamped("proxy_v2", HELLO)),
    "proxy_v2_local": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" + record(stamped("proxy_v2_local", HELLO)),
    "sslv2": SSLV2,
    "sslv2_tls10": bytes.fromhex("804601030100") + bytes(64),
    "sslv2_three_byte_header": bytes.fromhex("002e00010002") + bytes(42),
    "smtp": b"EHLO play.conformance.test\r\n",
    "smtp_starttls": b"STARTTLS\r\n" + record(stamped("starttls", HELLO)),
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "postgres_ssl": bytes.fromhex("0000000804d2162f"),
    "mysql": bytes.fromhex("4a0000000a382e302e3336"),
    "socks4": bytes.fromhex("040101bb7f00000100"),
    "socks5": bytes.fromhex("050100"),
    "minecraft": bytes.fromhex("1000f6050931"),
    "dns_over_tcp": bytes.fromhex("001d123401000001000000000000") + b"\4play\4test\0\0\1\0\1",
    "ldap": bytes.fromhex("300c020101600702010304008000"),
    "line_break": b"\r\n\r\n\r\n",
    "space": b" " * 20,
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "newline_then_hello": b"\n" + record(stamped("newline", HELLO)),
    "handshake_without_record": stamped("bare", HELLO),
}


def _not_tls() -> Iterator[Row]:
    why = "not TLS: refused, and never sent to a default server that would answer it"
    for row, data in OTHERS.items():
        yield NOT_TLS.raw(row, why, [data])
    noise = random.Random("sniproxy corpus")
    for number in range(8):
        first = noise.choice([byte for byte in range(256) if byte != 22])
        yield NOT_TLS.raw(f"random_{number}", why, [bytes([first]) + noise.randbytes(199)])


def rows() -> Iterator[Row]:
    """All of them."""
    for part in (_lengths, _members, _bodies, _records, _handshake, _not_tls):
        yield from part()
