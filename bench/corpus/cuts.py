"""Hellos cut into records, into segments, into both; hellos of every size; and hellos that never end."""

import itertools
from collections.abc import Iterator

from bench.corpus.rows import (
    HELLO,
    NAME,
    PLAY,
    TLS13,
    Cut,
    Group,
    every,
    first,
    followed_by,
    into,
    padded,
    split_at,
)
from bench.corpus.sound import pq_hello, psk
from sniproxy.corpus import Level, Row
from tests.support.hellos import alpn, extension, message, record, server_name, vector

RECORDS = Group("record_fragments", "frag")
SEGMENTS = Group("segment_fragments", "part")
SIZES = Group("size", "size")
UNFINISHED = Group("unfinished", "open")

JOIN = "RFC 8446 5.1: a handshake message may be cut over records anywhere"
TRAEFIK = "Traefik CVE-2026-32305: a hello over several records had no name and got the default TLS settings"
HAPROXY = "HAProxy 2.6 took the header of the second record for a part of the name"
SEGMENT = "TCP is a stream: reads end anywhere (mosajjal/sniproxy #181, caddy-l4 #346)"

# Where things are in the handshake message HELLO.
PLACES = {
    "type": 1,
    "length": 2,
    "header_end": 4,
    "client_version": 5,
    "version_end": 6,
    "random": 20,
    "random_end": 38,
    "session_id_length": 39,
    "session_id": 50,
    "ciphers_length": 72,
    "ciphers": 75,
    "compression_length": 80,
    "extensions_length": 82,
    "extension_type": 84,
    "extension_type_end": 85,
    "extension_length": 86,
    "name_list_length": 88,
    "name_type": 89,
    "name_length": 91,
    "name_start": 92,
    "name_first_octet": 93,
    "name_dot": 96,
    "name_middle": 102,
    "name_last_octet": 112,
    "name_end": 113,
    "last_byte": len(HELLO) - 1,
}
assert HELLO[92:113] == NAME.encode()


def _records() -> Iterator[Row]:
    for place, at in PLACES.items():
        why = TRAEFIK if place.startswith("name") else JOIN
        yield RECORDS.route(f"at_{place}", why, cut=into(at, len(HELLO)))
    for size in (1, 2, 3, 4, 5, 6, 7, 16, 32, 64, 100):
        yield RECORDS.route(f"records_of_{size}", JOIN, cut=into(size))
    for sizes in ((1, 2, 400), (3, 1, 50), (1, 1, 1, 1, 500), (93, 1, 1, 1, 500), (4, 88, 21, 9)):
        row = "records_" + "_".join(map(str, sizes))
        yield RECORDS.route(row, JOIN, cut=into(*sizes))
    for at in (93, 97, 102, 110):
        yield RECORDS.route(f"name_split_{at}", HAPROXY, message([PLAY]), cut=into(at, 500))
    yield RECORDS.route("name_by_octets", HAPROXY, cut=into(92, *[1] * 21, 500))
    for size in (1, 100, 512, 1000, 1400):
        yield RECORDS.route(f"pq_records_of_{size}", TRAEFIK, pq_hello(), cut=into(size))
    yield RECORDS.route(
        "record_versions_differ",
        "RFC 8446 5.1: the version of a record must be ignored, so it may change between two",
        cut=lambda hello: record(hello[:60]) + record(hello[60:], version=0x0303),
    )
    yield RECORDS.route(
        "second_record_looks_like_a_hello",
        "a record that starts with the byte of a ClientHello is still a part of the first",
        message(
            [extension(0x7777, record(message([server_name(b"other.conformance.test")]))), PLAY]
        ),
        cut=into(92, 500),
    )
    for name in ("other.conformance.test", "x" * 40 + ".conformance.test"):
        why = "another name in the same cuts: nothing may be learnt from lengths alone"
        yield RECORDS.route(
            f"name_of_{len(name)}",
            why,
            message([TLS13, server_name(name.encode())]),
            name=name,
            cut=into(30, 70, 9),
        )


def _segments() -> Iterator[Row]:
    for size in (1, 2, 3, 5, 7, 64):
        yield SEGMENTS.route(f"segments_of_{size}", SEGMENT, split=every(size))
    for at in (1, 2, 3, 4, 5, 6, 9, 43, 97, 107, 118):
        yield SEGMENTS.route(f"at_{at}", SEGMENT, split=split_at(at))
    for size in (536, 1220, 1380, 1448, 1460):
        why = "HAProxy #3148, Traefik #12871: a post-quantum hello over two TCP segments"
        yield SEGMENTS.route(f"pq_mtu_{size}", why, pq_hello(), split=every(size))
    yield SEGMENTS.route(
        "pq_first_segment_of_1",
        "gobetween #342, mihomo #1711: what one read() returned was taken for the hello",
        pq_hello(),
        split=split_at(1),
    )
    for at in (54, 55, 56, 57, 58, 59, 60):
        yield SEGMENTS.route(
            f"in_second_header_{at}",
            f"{SEGMENT}, here at the header of the second record",
            cut=into(49, 500),
            split=split_at(at),
        )
    for size in (1, 10):
        yield SEGMENTS.route(
            f"records_of_9_segments_of_{size}",
            "records and segments are cut by two layers that know nothing of each other",
            cut=into(9),
            split=every(size),
        )
    yield SEGMENTS.route(
        "name_cut_by_both",
        "the name is cut by a record at one octet and by a segment at another",
        cut=into(97, 500),
        split=split_at(99, 108),
    )
    early = record(bytes(400), kind=23)
    for at in (100, 123, 140, 160):
        yield SEGMENTS.route(
            f"early_data_at_{at}",
            "what follows the hello may come with its last segment or later, and none of it is lost",
            cut=followed_by(early),
            split=split_at(at),
        )


def _sizes() -> Iterator[Row]:
    for size in (255, 256, 257, 508, 512, 1024, 1460, 2048, 4091, 4096, 4097, 8192, 8193, 16_380):
        why = "sniproxy 0.6 lost every hello over 4 KiB, Envoy #40544 timed out over 8 KiB"
        yield SIZES.route(str(size), why, padded(size), cut=into(1 << 14))
    yield SIZES.route(
        "name_first_8192",
        "the name stands before the padding: all the same the whole hello is read",
        padded(8192, name_first=True),
    )
    for size in (16_381, 16_384):
        yield SIZES.route(
            str(size),
            "RFC 8446 5.1: past 2^14 bytes a hello needs a second record",
            padded(size),
            cut=into(1 << 14),
        )
    yield SIZES.route(
        "4096_records_of_16",
        "small records triple the bytes on the wire",
        padded(4096),
        cut=into(16),
    )
    yield SIZES.route(
        "16384_segments_of_1460",
        "a large hello comes in a dozen segments",
        padded(16_384),
        cut=into(1 << 14),
        split=every(1460),
    )
    for row, more in {
        "tickets_8k": [psk(8000)],
        "alpn_10k": [alpn(*(b"p" * 255,) * 40)],
        "ticket_4k": [extension(35, bytes(4096))],
    }.items():
        why = "a client with large tickets or long lists, not padding"
        yield SIZES.route(row, why, message([PLAY, TLS13, *more]))
    yield SIZES.route(
        "65536",
        "sniproxy's own bound: 64 KiB in the handshake header",
        padded(65_536),
        cut=into(1 << 14),
        level=Level.SHOULD,
    )
    yield SIZES.refuse(
        "65537",
        "a bound on what a stranger can make the proxy keep, sniproxy's at 64 KiB",
        padded(65_537),
        cut=into(1 << 14),
        level=Level.SHOULD,
    )
    for row, header in (("claim_16_mib", b"\1\xff\xff\xff"), ("claim_128_kib", b"\1\2\0\0")):
        why = "a claimed length is refused when it is read, not when it is filled"
        yield SIZES.refuse(row, why, header + bytes(100))
        yield SIZES.refuse(f"{row}_records_of_1", why, header + bytes(9), cut=into(1))
    yield SIZES.refuse(
        "wire_131072",
        "one-byte records make 22 KB of hello 132 KB on the wire: a bound on these too",
        padded(22_000),
        cut=into(1),
        level=Level.SHOULD,
    )


def first_record(size: int) -> Cut:
    """A record with the first bytes, and no other."""
    return lambda hello: record(hello[:size])


def _unfinished() -> Iterator[Row]:
    why = "a hello that stops is never routed, neither by half a name nor by none: wait, then close"
    yield UNFINISHED.raw("nothing", "a connection that says nothing is never routed", [])
    for size in (1, 2, 4, 5, 6, 9, 11, 43, 44, 97, 100, 117, len(HELLO) + 4):
        row = "all_but_one" if size == len(HELLO) + 4 else f"first_{size}"
        yield UNFINISHED.refuse(row, why, split=first(size))
    yield UNFINISHED.refuse(
        "name_cut_at_a_label",
        "half a name that is a name by itself must not be routed by",
        message([server_name(b"play.conformance.test.evil.example")]),
        split=lambda data: [data[: data.index(b".evil")]],
    )
    for size in (4, 40, 92, 102):
        row, text = (
            f"one_record_of_{size}",
            "the first record is whole, the hello is not: no other record comes",
        )
        yield UNFINISHED.refuse(row, text, cut=first_record(size))
    yield UNFINISHED.refuse(
        "second_header_only",
        "the header of the second record is there, its bytes are not",
        cut=lambda hello: record(hello[:90]) + record(hello[90:])[:5],
    )
    yield UNFINISHED.refuse(
        "pq_first_segment",
        "the first 1 460 bytes of a post-quantum hello, and no more",
        pq_hello(),
        split=first(1460),
    )
    body = HELLO[4:]
    for claim in (1, 2, 4, 200):
        yield UNFINISHED.refuse(
            f"handshake_claims_{claim}_more",
            "HAProxy 8f507ae75 read up to four bytes past the end of the hello",
            b"\1" + vector(3, body, len(body) + claim),
        )


def rows() -> Iterator[Row]:
    """All of them."""
    return itertools.chain(_records(), _segments(), _sizes(), _unfinished())
