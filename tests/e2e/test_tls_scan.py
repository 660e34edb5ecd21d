"""What scanners look for, on each relay: what is there and should not be, and what should be and is not.

`make scan` has a scanner of others say the same, where it can be installed.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.settings import Listener
from tests.support.certificates import NAME, authority_pem, player_context
from tests.support.gateway import Gateway, certificate, open_gateway, route
from tests.support.hellos import extension
from tests.support.peers import GameServer, TlsPeer, game_server
from tests.support.scanning import (
    CURVES,
    EXTENDED_SECRET,
    HEARTBEAT,
    RENEGOTIATION,
    SSL3,
    SUITES,
    TLS1_0,
    TLS1_1,
    TLS1_2,
    TLS1_3,
    Answer,
    ask,
    hello,
)
from tests.support.tls_clients import ROOT, by_openssl

pytestmark = pytest.mark.anyio

DEADLINE = 30  # seconds for one test, for when something hangs
ALL_VERSIONS = (SSL3, TLS1_0, TLS1_1, TLS1_2, TLS1_3)
# ECDHE-ECDSA with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305, and the same of TLS 1.3, where they are all that there is.
STRONG = {TLS1_2: {0xC02B, 0xC02C, 0xCCA9}, TLS1_3: {0x1301, 0x1302, 0x1303}}
GOODBYE_TO_1_2 = b"DOWNGRD\x01"  # in the random of who speaks 1.3, too (RFC 8446 section 4.1.3)
FALLBACK = 0x5600  # RFC 7507
INAPPROPRIATE_FALLBACK = 86
HOUR = 3600
SESSION = "SSL SESSION PARAMETERS"  # in PEM


@dataclass(frozen=True)
class Stage:
    """A data plane that terminates, and the game server behind it."""

    gateway: Gateway
    game: GameServer

    async def ask(self, said: bytes) -> Answer:
        """What a connection is answered."""
        return await ask(self.gateway.dial(), said)

    async def accepted(self, version: int) -> set[int]:
        """The suites that are agreed to in that version, found by offering all but those found already."""
        left = list(SUITES)
        while (answer := await self.ask(hello(version, left))).version == version:
            left.remove(answer.suite)
        assert answer.version is None, "another version than the one that was asked for"
        return {*SUITES} - {*left}


@asynccontextmanager
async def scanned(moved_by: str, **members: Any) -> AsyncIterator[Stage]:
    """`members`: of the ssl object.

    Somebody has been there before, so the native relay knows what becomes of the name: it speaks TLS before Python is asked.
    """
    async with game_server() as game:
        objects = {"ssls/1": certificate(**members), "stream_routes/1": route(game.port)}
        listener = Listener(address="127.0.0.1:0", tls=True)
        with trio.fail_after(DEADLINE):
            async with open_gateway(listener, objects, moved_by=moved_by) as gateway:
                await greet(gateway)
                yield Stage(gateway, game)


async def greet(gateway: Gateway) -> ssl.SSLSession | None:
    """A player who is heard and leaves; his session."""
    peer = TlsPeer(gateway.dial().sock, player_context())
    await peer.handshake(then=b"hi")
    assert await peer.read(2) == b"hi"
    await peer.end()
    assert await peer.read_all() == b""
    peer.close()
    assert (await gateway.lines.next())["reason"] == "client_closed"
    return peer.session


@pytest.mark.parametrize(
    ("protocols", "spoken"),
    [
        (None, {TLS1_2, TLS1_3}),
        (["TLSv1.2"], {TLS1_2}),
        (["TLSv1.3"], {TLS1_3}),
        (["TLSv1.1", "TLSv1.2"], {TLS1_1, TLS1_2}),
    ],
)
async def test_versions_are_those_of_the_object(
    moved_by: str, protocols: list[str] | None, spoken: set[int]
) -> None:
    members = {} if protocols is None else {"ssl_protocols": protocols}
    async with scanned(moved_by, **members) as stage:
        answers = {version: await stage.ask(hello(version)) for version in ALL_VERSIONS}
        assert {version for version, answer in answers.items() if answer.version} == spoken
        assert all(answer.version in (None, version) for version, answer in answers.items())


@pytest.mark.parametrize("version", STRONG)
async def test_suites_are_strong(moved_by: str, version: int) -> None:
    async with scanned(moved_by) as stage:
        assert await stage.accepted(version) == STRONG[version]


async def test_curves_are_strong(moved_by: str) -> None:
    """X25519, P-256 and P-384; in OpenSSL P-521 and X448, too, and in TLS 1.2 that of the certificate only."""
    async with scanned(moved_by) as stage:
        found = {
            curve for curve in CURVES if (await stage.ask(hello(TLS1_2, curves=[curve]))).version
        }
    assert found == ({29, 23, 24} if moved_by == "native" else {23})


async def test_extensions_and_compression(moved_by: str) -> None:
    more = [
        extension(HEARTBEAT, b"\1"),
        extension(EXTENDED_SECRET),
        extension(RENEGOTIATION, b"\0"),
    ]
    async with scanned(moved_by) as stage:
        answer = await stage.ask(hello(TLS1_2, compression=b"\1\0", more=more))
        assert answer.compression == 0
        assert {EXTENDED_SECRET, RENEGOTIATION} <= answer.extensions.keys()
        assert HEARTBEAT not in answer.extensions
        assert answer.random.endswith(GOODBYE_TO_1_2)
        compressed = await stage.ask(hello(TLS1_2, compression=b"\1"))
        assert (compressed.version, compressed.alert is None) == (None, False)


async def test_what_is_signed_with_sha_1_is_refused(moved_by: str) -> None:
    async with scanned(moved_by) as stage:
        assert (await stage.ask(hello(TLS1_2, schemes=[0x0203, 0x0201]))).version is None


async def test_who_falls_back_is_told(moved_by: str) -> None:
    """rustls does not know of it; there is no version below 1.2 to fall back to, and the random says that 1.3 is spoken."""
    async with scanned(moved_by) as stage:
        answer = await stage.ask(hello(TLS1_2, (*SUITES, FALLBACK)))
    if moved_by == "trio":
        assert answer.alert == INAPPROPRIATE_FALLBACK
    else:
        assert answer.random.endswith(GOODBYE_TO_1_2)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tickets_do_not_live_long(moved_by: str, version: ssl.TLSVersion) -> None:
    async with scanned(moved_by) as stage:
        peer = TlsPeer(stage.gateway.dial().sock, player_context(version))
        await peer.handshake(then=b"hi")
        assert await peer.read(2) == b"hi"
        assert peer.session is not None
        assert 0 < peer.session.ticket_lifetime_hint <= 2 * HOUR
        peer.close()


# -- early data (RFC 8446 section 8): what is said in it can be said once more by whoever heard it


def willing(session: str) -> str:
    """A session that OpenSSL has saved, as if the server had allowed early data: member 15 is how much of it."""
    der = ssl.PEM_cert_to_DER_cert(session.replace(SESSION, "CERTIFICATE"))
    assert der[:2] == b"\x30\x82"
    rest, before = der[4:], b""
    while rest and rest[0] <= 0xA0 + 15:
        digits = max(0, rest[1] - 0x80)  # of the length, where it takes more than a byte
        size = 2 + digits + (int.from_bytes(rest[2 : 2 + digits], "big") if digits else rest[1])
        before, rest = before + rest[:size], rest[size:]
    body = before + bytes.fromhex("af0402024000") + rest
    made = ssl.DER_cert_to_PEM_cert(b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    return made.replace("CERTIFICATE", SESSION)


async def test_early_data_is_refused(moved_by: str, tmp_path: Path) -> None:
    authority, saved, early = (tmp_path / name for name in ("ca.pem", "session.pem", "early"))
    authority.write_text(authority_pem())
    early.write_text("said too early\n")
    async with scanned(moved_by) as stage:
        port = stage.gateway.address[1]
        printed = await by_openssl(port, authority, "-tls1_3", "-sess_out", str(saved))
        assert "Max Early Data: 0" in printed
        saved.write_text(willing(saved.read_text()))
        again = ("-tls1_3", "-sess_in", str(saved), "-early_data", str(early))
        printed = await by_openssl(port, authority, *again)
        assert "Reused, TLSv1.3" in printed
        assert "Early data was rejected" in printed
        assert [bytes(one) for one in stage.game.heard] == [b"hi", *[b"over TLS\n"] * 2]


# -- sslyze. It wants another `cryptography` than we do, and so has a place of its own.

SSLYZE = ROOT / ".cache" / "sslyze" / "bin" / "sslyze"
# The throw-away certificate's faults are not the server's; which curves OpenSSL has, Python cannot say before 3.15.
KNOWN = {
    "native": {"certificate_path_validation", "maximum_certificate_lifespan"},
    "trio": {"certificate_path_validation", "maximum_certificate_lifespan", "tls_curves"},
}


@pytest.mark.skipif(not SSLYZE.exists(), reason="make scan brings sslyze and runs this")
async def test_sslyze_finds_nothing(moved_by: str) -> None:
    """Held against Mozilla's "intermediate", and for what has a name of its own."""
    async with scanned(moved_by) as stage:
        server = f"{NAME}:{stage.gateway.address[1]}{{127.0.0.1}}"
        command = [str(SSLYZE), "--mozilla_config=intermediate", server]
        done = await trio.run_process(command, capture_stdout=True, check=False)
    report, _, verdict = done.stdout.decode().partition("COMPLIANCE AGAINST")
    found = {line.split(":")[0].strip(" *") for line in verdict.splitlines() if " * " in line}
    assert found == KNOWN[moved_by], verdict
    assert "VULNERABLE - " not in report.replace("Not vulnerable", "")
    for good in (
        "Compression disabled",
        "Not vulnerable to OpenSSL CCS injection",
        "Not vulnerable to Heartbleed",
        "Not vulnerable, RSA cipher suites not supported",
        "Client Renegotiation DoS Attack:   OK",
        "Secure Renegotiation:              OK",
        "TLS_FALLBACK_SCSV:                 OK",
        "Forward Secrecy                    OK",
    ):
        assert good in report
