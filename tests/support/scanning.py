"""What a server agrees to, asked with hellos that no client of today sends."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.certificates import NAME
from tests.support.hellos import (
    GROUPS,
    KEY_SHARE,
    VERSIONS,
    extension,
    message,
    record,
    server_name,
    shorts,
    vector,
)
from tests.support.peers import Peer

SSL3, TLS1_0, TLS1_1, TLS1_2, TLS1_3 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
SIGNATURES, HEARTBEAT, EXTENDED_SECRET, RENEGOTIATION = 13, 15, 23, 0xFF01
# All that IANA has ever given a number to, and so those without encryption, without a certificate and of export strength.
SUITES = (*range(0x0001, 0x00C8), *range(0x1301, 0x1308), *range(0xC001, 0xC100))
SUITES += (*range(0xCCA8, 0xCCAF), *range(0xD001, 0xD006))
CURVES = (*range(1, 31), *range(256, 261), 0xFF01, 0xFF02)  # and finite fields
SCHEMES = (
    0x0403,
    0x0503,
    0x0804,
    0x0805,
    0x0401,
    0x0501,
)  # of ECDSA and RSA, with SHA-256 and SHA-384
POINT = b"\x09" + bytes(31)  # a public key of X25519


@dataclass(frozen=True)
class Answer:
    """A ServerHello, or the alert in its place; neither: silence."""

    alert: int | None = None
    version: int | None = None
    random: bytes = b""
    suite: int = 0
    compression: int = 0
    extensions: dict[int, bytes] = field(default_factory=dict)


def hello(
    version: int,
    suites: Sequence[int] = SUITES,
    *,
    curves: Sequence[int] = (29, 23, 24),
    schemes: Sequence[int] = SCHEMES,
    compression: bytes = b"\0",
    more: Sequence[bytes] = (),
) -> bytes:
    """A hello of somebody who speaks that version alone, or up to it where that cannot be said."""
    extensions = [server_name(NAME.encode()), shorts(GROUPS, 2, *curves)]
    extensions += [extension(11, b"\1\0"), shorts(SIGNATURES, 2, *schemes), *more]
    if version == TLS1_3:
        extensions += [shorts(VERSIONS, 1, version)]
        extensions += [extension(KEY_SHARE, vector(2, struct.pack(">H", 29) + vector(2, POINT)))]
    ciphers = struct.pack(f">{len(suites)}H", *suites)
    return record(
        message(extensions, version=min(version, TLS1_2), ciphers=ciphers, compression=compression)
    )


async def ask(peer: Peer, said: bytes) -> Answer:
    """What the server says to it first."""
    got = b""
    try:
        await peer.send(said)
        while (answer := _read(got)) is None and (more := await peer.receive()):
            got += more
    except OSError:
        return Answer()
    finally:
        peer.close()
    return answer or Answer()


def _read(stream: bytes) -> Answer | None:
    if len(stream) < 5 or len(stream) < 5 + int.from_bytes(stream[3:5], "big"):
        return None
    kind, body = stream[0], stream[5 : 5 + int.from_bytes(stream[3:5], "big")]
    if kind == 21:
        return Answer(alert=body[1])
    assert (kind, body[0]) == (22, 2)
    body = body[: 4 + int.from_bytes(body[1:4], "big")]
    version, random, rest = int.from_bytes(body[4:6], "big"), body[6:38], body[38:]
    rest = rest[1 + rest[0] :]
    suite, compression, rest = int.from_bytes(rest[:2], "big"), rest[2], rest[5:]
    extensions = {}
    while rest:
        number, size = struct.unpack(">HH", rest[:4])
        extensions[number], rest = rest[4 : 4 + size], rest[4 + size :]
    if VERSIONS in extensions:
        version = int.from_bytes(extensions[VERSIONS], "big")
    return Answer(None, version, random, suite, compression, extensions)
