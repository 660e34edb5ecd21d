"""Sound hellos: what clients send or may send, and what may follow a hello."""

from collections.abc import Iterator
from functools import partial

from bench.corpus.rows import HELLO, NAME, PLAY, TLS13, Group, followed_by
from sniproxy.corpus import Level, Row
from tests.support.hellos import (
    ECH,
    GROUPS,
    VERSIONS,
    X25519,
    X25519MLKEM768,
    alpn,
    extension,
    key_share,
    message,
    record,
    server_name,
    shorts,
    vector,
)

SOUND = Group("sound", "ok")
AFTER = Group("after_hello", "after")

MINIMAL = "RFC 5246 7.4.1.2: a small TLS stack of a game engine sends no more than this"
UNKNOWN = "RFC 8446 4.2: an extension that a server does not know is ignored"
GREASE = "RFC 8701: values that nobody knows are sprinkled in so that servers learn to ignore them"
ORDER = "RFC 8446 4.2: extensions may come in any order, and browsers shuffle them"

POINTS = extension(11, vector(1, b"\0"))
SIGNATURES = extension(13, vector(2, bytes.fromhex("0403 0804 0401 0503 0805 0501 0806 0601")))
STATUS = extension(5, bytes.fromhex("0100000000"))
RENEGOTIATION = extension(0xFF01, b"\0")
EMS, TICKET, SCT = extension(23), extension(35), extension(18)
PSK_MODES = extension(45, vector(1, b"\1"))
CLASSIC = shorts(GROUPS, 2, X25519, 23, 24)
X25519_SHARE = key_share((X25519, 32))
WEB = alpn(b"h2", b"http/1.1")
ECH_OUTER = extension(
    ECH, b"\0\0\1\0\1\x42" + vector(2, bytes(range(32))) + vector(2, bytes(range(176)))
)


def psk(identity: int = 192) -> bytes:
    """A pre_shared_key extension with one identity and its binder: must come last."""
    identities = vector(2, vector(2, bytes(identity)) + bytes(4))
    return extension(41, identities + vector(2, vector(1, bytes(32))))


def pq_hello(*more: bytes, name: str = NAME) -> bytes:
    """What a browser of 2026 sends, about 1.8 KB: GREASE at both ends, ECH, an ML-KEM share; the name after them."""
    return message(
        [
            extension(0x3A3A),
            shorts(GROUPS, 2, 0x1A1A, X25519MLKEM768, X25519, 23, 24),
            ECH_OUTER,
            shorts(VERSIONS, 1, 0x2A2A, 0x0304, 0x0303),
            key_share((0x1A1A, 1), (X25519MLKEM768, 1216), (X25519, 32)),
            *(EMS, RENEGOTIATION, POINTS, TICKET, WEB, STATUS, SIGNATURES, SCT, PSK_MODES),
            extension(27, vector(1, b"\0\2")),
            extension(17613, vector(2, vector(1, b"h2"))),
            server_name(name.encode()),
            extension(0xCACA, b"\0"),
            *more,
        ],
        ciphers=bytes.fromhex("8a8a 1301 1302 1303 c02b c02f c02c c030 cca9 cca8 c013 c014 009c"),
    )


def _versions() -> Iterator[Row]:
    for version, text in ((0x0301, "1.0"), (0x0302, "1.1"), (0x0303, "1.2")):
        why = f"RFC 5246 E.1: a client whose highest version is TLS {text}"
        hello = message([PLAY, POINTS, CLASSIC], version=version)
        yield SOUND.route(f"tls{text.replace('.', '')}", why, hello)
    yield SOUND.route(
        "tls13",
        "RFC 8446 4.1.2: TLS 1.3 shows in an extension; Envoy CVE-2020-8660 did not see a TLS-1.3-only client as TLS",
        message([PLAY, shorts(VERSIONS, 1, 0x0304), CLASSIC, SIGNATURES, X25519_SHARE]),
    )
    yield SOUND.route(
        "tls13_drafts",
        "RFC 8446 4.2.1: versions that are not known are ignored",
        message([PLAY, shorts(VERSIONS, 1, 0x7F1C, 0x7F17, 0x0304)]),
    )
    yield SOUND.route(
        "later_client_version",
        "RFC 5246 E.1: a server answers a higher client version with its own highest",
        message([PLAY], version=0x0304),
    )
    for minor in (0, 2, 3, 4):
        why = "RFC 8446 5.1: the version of a record must be ignored for all purposes"
        cut = partial(record, version=0x0300 | minor)
        yield SOUND.route(f"record_version_030{minor}", why, cut=cut)
    yield SOUND.route(
        "record_version_03ff",
        "RFC 8446 5.1: the version of a record must be ignored; only its major byte tells TLS from something else",
        cut=partial(record, version=0x03FF),
        level=Level.SHOULD,
    )


def _members() -> Iterator[Row]:
    yield SOUND.route("plain", MINIMAL, message([PLAY]))
    for size in (0, 1, 16, 31):
        why = "RFC 5246 7.4.1.2: a session id has 0 to 32 bytes"
        yield SOUND.route(f"session_id_{size}", why, message([PLAY], session_id=bytes(size)))
    for count in (1, 2, 64, 4000):
        why = "RFC 5246 7.4.1.2: any number of cipher suites from one on"
        hello = message([PLAY], ciphers=b"\x13\x01" * count)
        yield SOUND.route(f"ciphers_{count}", why, hello)
    yield SOUND.route(
        "signalling_ciphers",
        "RFC 5746 3.3, RFC 7507: cipher suites that are signals, as old clients send them",
        message([PLAY], ciphers=bytes.fromhex("c02f 009c 00ff 5600")),
    )
    for size in (2, 3, 255):
        why = "RFC 5246 7.4.1.2: several compression methods may be offered"
        hello = message([PLAY], compression=bytes(range(size))[::-1])
        yield SOUND.route(f"compressions_{size}", why, hello)
    yield SOUND.no_name(
        "no_extension_block",
        "RFC 5246 7.4.1.2: a hello may end after the compression methods",
        message(None),
    )
    yield SOUND.no_name(
        "empty_extension_block", "RFC 5246 7.4.1.4: an empty list of extensions", message([])
    )
    yield SOUND.no_name(
        "no_server_name",
        "RFC 6066 3: the server_name extension is optional",
        message([CLASSIC, WEB, TLS13]),
    )
    yield SOUND.no_name(
        "name_in_other_extension",
        "RFC 8446 4.2: a name inside an extension of another type is no server name",
        message([extension(0x7777, PLAY), extension(16, vector(2, vector(1, NAME.encode())))]),
    )


def _extensions() -> Iterator[Row]:
    known = {
        "status_request": (STATUS, "RFC 6066 8"),
        "ec_point_formats": (POINTS, "RFC 8422 5.1.2"),
        "signature_algorithms": (SIGNATURES, "RFC 8446 4.2.3"),
        "heartbeat": (extension(15, b"\1"), "RFC 6520 2"),
        "sct": (SCT, "RFC 6962 3.3.1"),
        "encrypt_then_mac": (extension(22), "RFC 7366 2"),
        "extended_master_secret": (EMS, "RFC 7627 5.1"),
        "compress_certificate": (extension(27, b"\2\0\2"), "RFC 8879 3"),
        "record_size_limit": (extension(28, b"\x40\1"), "RFC 8449 4"),
        "delegated_credential": (extension(34, vector(2, b"\4\3")), "RFC 9345 4.1.1"),
        "ticket_empty": (TICKET, "RFC 5077 3.2"),
        "ticket_1000": (extension(35, bytes(1000)), "RFC 5077 3.2"),
        "cookie": (extension(44, vector(2, bytes(100))), "RFC 8446 4.2.2"),
        "post_handshake_auth": (extension(49), "RFC 8446 4.2.6"),
        "npn": (extension(13172), "draft-agl-tls-nextprotoneg: clients of 2012"),
        "renegotiation_info": (RENEGOTIATION, "RFC 5746 3.2"),
        "padding": (extension(21, bytes(300)), "RFC 7685 3"),
        "alpn": (WEB, "RFC 7301 3.1"),
        "alpn_any_bytes": (alpn(b"\0\xff", b"\r\n", b"x" * 255), "RFC 7301 3.1: any octets"),
        "groups_classic": (CLASSIC, "RFC 8446 4.2.7"),
        "key_share_classic": (X25519_SHARE, "RFC 8446 4.2.8"),
        "key_share_none": (key_share(), "RFC 8446 4.2.8: asks for a HelloRetryRequest"),
    }
    for name, (body, source) in known.items():
        why = f"{source}: an extension of real clients beside the name"
        yield SOUND.route(f"with_{name}", why, message([body, PLAY, TLS13]))
    yield SOUND.route("unknown_extension", UNKNOWN, message([extension(0x7777, b"what?"), PLAY]))
    yield SOUND.route(
        "unknown_extension_64k_type", UNKNOWN, message([extension(0xFFFE, bytes(9)), PLAY])
    )
    grease = [extension(0x0A0A), PLAY, shorts(VERSIONS, 1, 0x0A0A, 0x0304), extension(0xFAFA, b"0")]
    yield SOUND.route("grease", GREASE, message(grease))
    all_grease = [extension(0x0A0A + 0x1010 * n, bytes(n)) for n in range(16)]
    yield SOUND.route("grease_all_16", GREASE, message([*all_grease, PLAY]))
    many = [extension(kind) for kind in range(100, 400)]
    yield SOUND.route("name_first_of_301", ORDER, message([PLAY, *many]))
    yield SOUND.route("name_last_of_301", ORDER, message([*many, PLAY]))
    yield SOUND.route("name_amid_301", ORDER, message([*many[:150], PLAY, *many[150:]]))


def _modern() -> Iterator[Row]:
    outer = "RFC 9849 6.1: with Encrypted Client Hello the outer name is the one to route by"
    yield SOUND.route("ech_outer", outer, message([ECH_OUTER, PLAY, TLS13]))
    yield SOUND.route("ech_after_name", outer, message([PLAY, TLS13, ECH_OUTER]))
    for group in (0x11EC, 0x11EB, 0x11ED, 0x6399):
        why = "draft-ietf-tls-ecdhe-mlkem: a post-quantum group is offered, its share is not sent"
        hello = message([shorts(GROUPS, 2, group, X25519), TLS13, PLAY])
        yield SOUND.route(f"pq_group_{group:04x}", why, hello)
    large = "a post-quantum hello does not fit one TCP segment (Traefik #12871, HAProxy #3148, ingress-nginx #11498)"
    yield SOUND.route("pq_1_8_kb", large, pq_hello())
    yield SOUND.route("pq_with_psk", large, pq_hello(psk()))
    resumed = "RFC 8446 4.2.11: a client that comes back offers a ticket, its binder last"
    yield SOUND.route("psk", resumed, message([PLAY, TLS13, X25519_SHARE, PSK_MODES, psk()]))
    yield SOUND.route(
        "psk_and_early_data",
        "RFC 8446 4.2.10: a client that comes back announces early data",
        message([PLAY, TLS13, X25519_SHARE, PSK_MODES, extension(42), psk()]),
    )
    yield SOUND.route(
        "after_hello_retry",
        "RFC 8446 4.1.2: the second hello of a client repeats its cookie with a new share",
        message([PLAY, TLS13, extension(44, vector(2, bytes(64))), key_share((23, 65))]),
    )


def _after() -> Iterator[Row]:
    follows = {
        "ccs": (record(b"\1", kind=20), "RFC 8446 D.4: a dummy change_cipher_spec"),
        "early_data": (record(bytes(range(200)), kind=23), "RFC 8446 4.2.10: early data"),
        "ccs_and_early_data": (
            record(b"\1", kind=20) + record(bytes(900), kind=23) * 4,
            "RFC 8446 D.4: both, as middlebox-friendly clients send them",
        ),
        "second_hello": (
            record(HELLO),
            "a second hello in a record of its own is not ours to read",
        ),
        "other_name": (
            record(message([server_name(b"other.conformance.test")])),
            "a second hello with another name must not change the route",
        ),
        "alert": (record(b"\1\0", kind=21), "RFC 8446 6.1: a client that closes at once"),
        "half_a_record": (b"\x17\3\3\x40", "what follows may be cut anywhere"),
        "http": (b"GET / HTTP/1.1\r\n\r\n", "what follows is for the server to judge"),
        "zero": (b"\0", "what follows is for the server to judge"),
    }
    for name, (data, why) in follows.items():
        text = f"{why}; every byte after the hello reaches the server too"
        yield AFTER.route(name, text, cut=followed_by(data))
        yield AFTER.route(
            f"{name}_of_fragments",
            text,
            cut=followed_by(data, 50),
        )


def rows() -> Iterator[Row]:
    """All of them."""
    for part in (_versions, _members, _extensions, _modern, _after):
        yield from part()
