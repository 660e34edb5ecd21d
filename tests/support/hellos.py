"""Hand-made ClientHellos: sound by default, wrong where the caller says so."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

SERVER_NAME, GROUPS, ALPN, VERSIONS, KEY_SHARE, ECH = 0, 10, 16, 43, 51, 0xFE0D
X25519, X25519MLKEM768 = 0x001D, 0x11EC
CIPHERS = bytes.fromhex("1301 1302 c02f")

Lie = Literal["-1", "+1", "0", "max"]


def vector(width: int, body: bytes, claim: int | None = None) -> bytes:
    """A body behind its length, or behind the length it claims."""
    return (len(body) if claim is None else claim).to_bytes(width, "big") + body


def extension(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">H", kind) + vector(2, body)


def name_entry(name: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + vector(2, name)


def server_name(*names: bytes) -> bytes:
    """The extension with each of the names in its list."""
    return extension(SERVER_NAME, vector(2, b"".join(map(name_entry, names))))


def alpn(*protocols: bytes) -> bytes:
    return extension(ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols)))


def shorts(kind: int, width: int, *values: int) -> bytes:
    """An extension that is one list of 16-bit numbers: supported versions, supported groups."""
    return extension(kind, vector(width, struct.pack(f">{len(values)}H", *values)))


def key_share(*shares: tuple[int, int]) -> bytes:
    """Key shares given as group and size."""
    entries = (struct.pack(">H", group) + vector(2, bytes(size)) for group, size in shares)
    return extension(KEY_SHARE, vector(2, b"".join(entries)))


def message(
    extensions: Iterable[bytes] | None = (),
    *,
    version: int = 0x0303,
    session_id: bytes = bytes(32),
    ciphers: bytes = CIPHERS,
    compression: bytes = b"\0",
    tail: bytes = b"",
) -> bytes:
    """The handshake message, its header with it; None is no extension block at all."""
    block = b"" if extensions is None else vector(2, b"".join(extensions))
    body = struct.pack(">H", version) + bytes(32) + vector(1, session_id)
    body += vector(2, ciphers) + vector(1, compression) + block + tail
    return b"\x01" + vector(3, body)


def record(payload: bytes, *, kind: int = 22, version: int = 0x0301) -> bytes:
    return struct.pack(">BH", kind, version) + vector(2, payload)


def records(payload: bytes, sizes: Sequence[int] = (1 << 14,)) -> bytes:
    """The payload cut into records of these sizes, the last size again and again."""
    made, at, turn = [], 0, 0
    while at < len(payload):
        size = sizes[min(turn, len(sizes) - 1)]
        made.append(record(payload[at : at + size]))
        at, turn = at + size, turn + 1
    return b"".join(made)


def named(name: bytes, *more: bytes) -> bytes:
    """One record with a hello for this name."""
    return record(message([server_name(name), *more]))


def padded(size: int, name: bytes = b"play.example.com") -> bytes:
    """A hello message whose length field says exactly `size`, the name behind the padding."""
    short = message([extension(21), server_name(name)])
    filler = bytes(size - (len(short) - 4))
    return message([extension(21, filler), server_name(name)])


def post_quantum(name: bytes = b"play.example.com") -> bytes:
    """What a browser of 2026 sends: GREASE at both ends, ECH, a 1 216-byte ML-KEM share."""
    return record(
        message(
            [
                extension(0x3A3A),
                shorts(GROUPS, 2, 0x1A1A, X25519MLKEM768, X25519, 23, 24),
                extension(ECH, bytes(218)),
                shorts(VERSIONS, 1, 0x2A2A, 0x0304, 0x0303),
                extension(35, bytes(16)),
                alpn(b"h2", b"http/1.1"),
                key_share((0x1A1A, 1), (X25519MLKEM768, 1216), (X25519, 32)),
                extension(13, bytes(18)),
                server_name(name),
                extension(0xCACA, b"\0"),
                extension(41, bytes(80)),
            ]
        )
    )


@dataclass(frozen=True)
class Lying:
    """A full hello in which the length at one level is not what it holds."""

    level: str
    lie: Lie

    def _vector(self, level: str, width: int, body: bytes) -> bytes:
        if level != self.level:
            return vector(width, body)
        size = len(body)
        claims = {"-1": size - 1, "+1": size + 1, "0": 0, "max": 256**width - 1}
        return vector(width, body, claims[self.lie])

    def bytes(self) -> bytes:
        vec = self._vector
        entry = b"\0" + vec("name", 2, b"play.example.com")
        protocols = vec("alpn_protocol", 1, b"h2") + vector(1, b"http/1.1")
        share = struct.pack(">H", X25519) + vec("share", 2, bytes(32))
        block = b"".join(
            [
                b"\x00\x00" + vec("name_extension", 2, vec("name_list", 2, entry)),
                b"\x00\x10" + vec("alpn_extension", 2, vec("alpn_list", 2, protocols)),
                b"\x00\x2b" + vector(2, vec("versions", 1, b"\x03\x04\x03\x03")),
                b"\x00\x0a" + vector(2, vec("groups", 2, b"\x00\x1d\x00\x17")),
                b"\x00\x33" + vec("share_extension", 2, vec("shares", 2, share)),
            ]
        )
        body = b"\x03\x03" + bytes(32) + vec("session_id", 1, bytes(range(1, 33)))
        body += vec("ciphers", 2, CIPHERS) + vec("compression", 1, b"\0")
        body += vec("extensions", 2, block)
        return b"\x16\x03\x01" + vec("record", 2, b"\x01" + vec("handshake", 3, body))


def handshake_messages(stream: bytes) -> list[int]:
    """Types of the handshake messages that a stream of records starts."""
    joined, found = b"", []
    while len(stream) >= 5:
        end = 5 + int.from_bytes(stream[3:5], "big")
        joined += stream[5:end] if stream[0] == 22 else b""
        stream = stream[end:]
    while joined:
        found.append(joined[0])
        joined = joined[4 + int.from_bytes(joined[1:4], "big") :]
    return found
