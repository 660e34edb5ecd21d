"""The contract of the relays, fourth part: TLS with the player, the handshakes that fail and what breaks later."""

import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from subprocess import PIPE

import pytest
import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay import Flow, Terms
from sniproxy.relay.alerts import NAMES
from sniproxy.tls import ServerTls
from tests.support.certificates import Flaw, pair, player_context, server_tls
from tests.support.hellos import record
from tests.support.peers import Peer, TlsPeer, tcp_pair
from tests.support.relaying import (
    BUFFER,
    DEADLINE,
    LONG,
    VERSIONS,
    Implementation,
    Session,
    Transport,
    begin,
    shake_hands,
)

pytestmark = pytest.mark.anyio

V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
on_both_versions = pytest.mark.parametrize("transport", ["TLSv1.2", "TLSv1.3"])


@pytest.mark.parametrize(
    ("offered", "player", "version"),
    [
        ((), V1_3, "TLSv1.3"),
        ((), V1_2, "TLSv1.2"),
        (("TLSv1.2",), None, "TLSv1.2"),
        (("TLSv1.3",), None, "TLSv1.3"),
        (("TLSv1.3", "TLSv1.2"), None, "TLSv1.3"),
        (("TLSv1.1", "TLSv1.3"), V1_3, "TLSv1.3"),
        (("TLSv1.1", "TLSv1.2", "TLSv1.3"), V1_2, "TLSv1.2"),
    ],
)
async def test_a_handshake_names_its_version_and_cipher(
    implementation: Implementation,
    offered: tuple[str, ...],
    player: ssl.TLSVersion | None,
    version: str,
) -> None:
    sock, client = tcp_pair()
    with trio.fail_after(DEADLINE), sock, client:
        async with implementation.open(BUFFER) as relay:
            peer = TlsPeer(sock, player_context(player))
            terminated = await shake_hands(relay, peer, client, server_tls(offered))
    assert terminated.version == peer.version == version
    assert "AES" in terminated.cipher or "CHACHA" in terminated.cipher


@dataclass(frozen=True)
class Refusal:
    """A handshake that must fail, and the alert that it ends with: "received" is the player's."""

    name: str
    player: ssl.SSLContext
    offered: ServerTls
    alert: str
    asked: str = "play.example.com"


FLAWS: dict[Flaw, str] = {
    "expired": "certificate_expired",
    "early": "certificate_expired",  # or not valid yet (RFC 8446 section 6.2)
    "self-signed": "unknown_ca",
    "damaged": "decrypt_error",
    "a server's": "unsupported_certificate",
    "path too long": "unknown_ca",
    "from no authority": "unknown_ca",
}


def _refusals() -> list[Refusal]:
    mutual = server_tls(client_ca="ours")
    rows = [
        Refusal("other name", player_context(), server_tls(), "received bad_certificate", "x.test"),
        Refusal(
            "1.2 to 1.3", player_context(V1_2), server_tls(("TLSv1.3",)), "sent protocol_version"
        ),
        Refusal(
            "1.3 to 1.2", player_context(V1_3), server_tls(("TLSv1.2",)), "sent protocol_version"
        ),
        Refusal(
            "1.2 to 1.1 and 1.3",
            player_context(V1_2),
            server_tls(("TLSv1.1", "TLSv1.3")),
            "sent handshake_failure",
        ),
        Refusal("none", player_context(V1_3), mutual, "sent certificate_required"),
        Refusal("none, 1.2", player_context(V1_2), mutual, "sent handshake_failure"),
    ]
    for version, which in ((V1_3, ""), (V1_2, ", 1.2")):
        distrustful = player_context(version, trusts="theirs")
        rows.append(Refusal(f"distrust{which}", distrustful, server_tls(), "received unknown_ca"))
        stranger = player_context(version, identity="theirs")
        rows.append(Refusal(f"wrong CA{which}", stranger, mutual, "sent unknown_ca"))
        for flaw, alert in FLAWS.items():
            player = player_context(version, flaw=flaw)
            rows.append(Refusal(f"{flaw}{which}", player, mutual, f"sent {alert}"))
    return rows


@pytest.mark.parametrize("refusal", _refusals(), ids=lambda refusal: refusal.name)
async def test_a_handshake_that_fails_says_why(
    implementation: Implementation, refusal: Refusal
) -> None:
    """The detail names the alert, and the player has it in hand if it was ours."""
    sock, client = tcp_pair()
    with trio.fail_after(DEADLINE), sock, client:
        async with implementation.open(BUFFER) as relay:
            peer = TlsPeer(sock, refusal.player, refusal.asked)
            with pytest.raises(SessionEnded) as caught:
                await shake_hands(relay, peer, client, refusal.offered)
            told = await peer.told()
    assert caught.value.reason is CloseReason.HANDSHAKE_FAILED
    who, _, alert = refusal.alert.partition(" ")
    if implementation.name == "trio" and refusal.name.startswith("early"):  # OpenSSL's choice
        alert = "bad_certificate"
    named, _, cause = caught.value.detail.partition(": ")
    assert named == f"{who} alert {alert}"
    assert (told, cause != "") == ((alert, True) if who == "sent" else (None, False))


@pytest.mark.parametrize(("code", "name"), NAMES.items(), ids=NAMES.values())
async def test_every_alert_of_a_player_is_named(
    implementation: Implementation, code: int, name: str
) -> None:
    """In clear, as TLS 1.2 has it in answer to our first flight. All are fatal but close_notify (RFC 5246 section 7.2)."""
    sock, client = tcp_pair()
    level = 1 if name == "close_notify" else 2
    with trio.fail_after(DEADLINE), sock, client:
        async with implementation.open(BUFFER) as relay:
            peer = TlsPeer(sock, player_context(V1_2))
            hello = peer.hello()
            await peer.wire.send(record(bytes((level, code)), kind=21, version=0x0303))
            with pytest.raises(SessionEnded) as caught:
                await relay.accept_tls(client, server_tls(), hello)
    assert caught.value.reason is CloseReason.HANDSHAKE_FAILED
    assert caught.value.detail == f"received alert {name}"


async def test_the_alert_goes_out_before_the_handshake_has_failed(
    implementation: Implementation,
) -> None:
    """Fatal protocol_version, and only that."""
    sock, client = tcp_pair()
    with trio.fail_after(DEADLINE), sock:
        async with implementation.open(BUFFER) as relay:
            peer = TlsPeer(sock, player_context(V1_2))
            with client, pytest.raises(SessionEnded):
                await relay.accept_tls(client, server_tls(("TLSv1.3",)), peer.hello())
            assert (await peer.wire.read_all())[5:] == bytes((2, 70))


@pytest.mark.parametrize("reset", [False, True])
@on_both_versions
async def test_a_player_that_leaves_during_the_handshake(
    implementation: Implementation, transport: str, reset: bool
) -> None:
    sock, client = tcp_pair()
    peer = TlsPeer(sock, player_context(VERSIONS[transport]))

    async def leave() -> None:
        assert await peer.wire.receive()  # the server's flight
        if reset:
            peer.reset()
        else:
            await peer.wire.end()

    with trio.fail_after(DEADLINE), client:
        async with implementation.open(BUFFER) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            with pytest.raises(SessionEnded) as caught:
                await relay.accept_tls(client, server_tls(), peer.hello())
        peer.close()
    assert caught.value.reason is CloseReason.HANDSHAKE_FAILED
    assert caught.value.detail == ("Connection reset by peer" if reset else "closed by the client")


@pytest.mark.parametrize("version", [V1_2, V1_3])
async def test_a_certificate_of_the_right_authority_is_let_in(
    implementation: Implementation, version: ssl.TLSVersion
) -> None:
    sock, client = tcp_pair()
    with trio.fail_after(DEADLINE), sock, client:
        async with implementation.open(BUFFER) as relay:
            peer = TlsPeer(sock, player_context(version, identity="ours"))
            terminated = await shake_hands(relay, peer, client, server_tls(client_ca="ours"))
    assert terminated.version == peer.version


async def test_of_several_pairs_the_player_gets_one_that_it_can_use(
    implementation: Implementation,
) -> None:
    """An ssl object may hold one certificate per kind of key; here both are of one kind and the last one counts."""
    both = ServerTls(pairs=(pair("other.example.com"), pair()), protocols=())
    sock, client = tcp_pair()
    with trio.fail_after(DEADLINE), sock, client:
        async with implementation.open(BUFFER) as relay:
            await shake_hands(relay, TlsPeer(sock, player_context()), client, both)


GARBAGE = {
    "not a record": b"GET / HTTP/1.1\r\n\r\n",
    "does not decrypt": struct.pack(">BHH", 23, 0x0303, 64) + bytes(64),
    "record too long": struct.pack(">BHH", 23, 0x0303, 0xFFFF) + bytes(100),
}


@on_both_versions
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
async def test_what_does_not_decrypt_ends_the_session(
    implementation: Implementation, transport: Transport, garbage: bytes
) -> None:
    """What was sound before it has gone to the server; the player is told with a fatal alert."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            await session.player.send(b"sound")
            await session.player.wire.send(garbage)
            assert await session.server.read_all() == b"sound"
            outcome = await session.outcome()
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await session.player.read_all()
        session.close()
    assert outcome.reason is CloseReason.TLS_ERROR
    assert outcome.detail
    assert outcome.to_upstream == 5


@dataclass
class Process:
    """A player that is `openssl s_client`: lines with one capital letter are commands to it."""

    process: trio.Process
    server: Peer
    session: Session

    async def type(self, line: bytes) -> None:
        """A line on its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line + b"\n")

    async def prints(self, words: bytes) -> None:
        """Waits for them on its standard output."""
        assert self.process.stdout is not None
        await _read_until(self.process.stdout, words)

    async def complains(self, words: bytes) -> None:
        """Waits for them on its standard error."""
        assert self.process.stderr is not None
        await _read_until(self.process.stderr, words)


@asynccontextmanager
async def openssl(implementation: Implementation, version: str) -> AsyncIterator[Process]:
    """A session of such a player, which is over when the block is left."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    server_sock, upstream = tcp_pair()
    server = Peer(server_sock)
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as listening:
        command = ["openssl", "s_client", version, "-connect"]
        command.append(f"127.0.0.1:{listening.getsockname()[1]}")
        run = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False)
        async with implementation.open(BUFFER) as relay, trio.open_nursery() as nursery:
            process = await nursery.start(run)
            await trio.lowlevel.wait_readable(listening)
            client, _ = listening.accept()
            client.setblocking(False)
            tls = await relay.accept_tls(client, server_tls(), b"")
            session = Session(server, server, Flow(client, upstream, b"", Terms(LONG, LONG), tls))
            session.start(relay)
            yield Process(process, server, session)
            await session.outcome()
        session.close()


async def test_a_player_may_change_its_keys(implementation: Implementation) -> None:
    """KeyUpdate (RFC 8446 section 4.6.3), which asks us to change ours too."""
    async with openssl(implementation, "-tls1_3") as player:
        for _ in range(3):
            await player.type(b"K")
            await player.complains(b"KEYUPDATE")
            await player.type(b"under new keys")
            assert await player.server.read(15) == b"under new keys\n"
            await player.server.send(b"<and back>")
            await player.prints(b"<and back>")
        await player.type(b"Q")
        assert await player.server.read_all() == b""
        await player.server.end()
        outcome = await player.session.outcome()
    assert outcome.reason is CloseReason.CLIENT_CLOSED


async def test_a_player_may_not_renegotiate(implementation: Implementation) -> None:
    """It is told so, at once (RFC 5246 section 7.2.2), and what it said before has arrived."""
    async with openssl(implementation, "-tls1_2") as player:
        await player.type(b"before")
        assert await player.server.read(7) == b"before\n"
        await player.type(b"R")
        await player.complains(b"no renegotiation")
        outcome = await player.session.outcome()
    assert outcome.reason is CloseReason.TLS_ERROR  # OpenSSL does not put up with it
    assert outcome.to_upstream == 7


async def _read_until(stream: trio.abc.ReceiveStream, words: bytes) -> None:
    seen = b""
    while words not in seen:
        more = await stream.receive_some()
        assert more, seen
        seen += more
