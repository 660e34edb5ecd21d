"""The contract of the relays: TLS with the game server, the handshakes that fail and what breaks later."""

import re
import ssl
from dataclasses import dataclass

import pytest
import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay import Flow, Originated, Terms
from sniproxy.upstream_tls import ClientTls, share
from tests.support.certificates import (
    NAME,
    PLAYER,
    Flaw,
    authority_pem,
    client_tls,
    game_context,
    pair,
)
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
    greet,
)

pytestmark = pytest.mark.anyio

V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
TRUSTING = client_tls(verify=False)
TOWARDS_TLS: tuple[Transport, ...] = ("plain to TLSv1.2", "plain to TLSv1.3", "TLSv1.3 to TLSv1.2")
to_tls = pytest.mark.parametrize("transport", TOWARDS_TLS)


async def meet(
    implementation: Implementation,
    context: ssl.SSLContext,
    offered: ClientTls | None = None,
    peer: str = NAME,
) -> Originated | SessionEnded:
    """What comes of a handshake of the relay with a game server."""
    sock, upstream = tcp_pair()
    with trio.fail_after(DEADLINE), sock, upstream:
        async with implementation.open(BUFFER) as relay:
            server = TlsPeer(sock, context, serves=True)
            try:
                return await greet(relay, server, upstream, offered, peer)
            except SessionEnded as ended:
                return ended


async def met(
    implementation: Implementation,
    context: ssl.SSLContext,
    offered: ClientTls | None = None,
    peer: str = NAME,
) -> Originated:
    """A handshake that must succeed."""
    result = await meet(implementation, context, offered, peer)
    assert not isinstance(result, SessionEnded), result
    return result


async def failed(
    implementation: Implementation,
    context: ssl.SSLContext,
    offered: ClientTls | None = None,
    peer: str = NAME,
) -> tuple[CloseReason, str]:
    """Reason and detail of one that must not."""
    result = await meet(implementation, context, offered, peer)
    assert isinstance(result, SessionEnded)
    return result.reason, result.detail


def asking(context: ssl.SSLContext) -> list[str | None]:
    """Which names it is asked for from now on."""
    asked: list[str | None] = []
    context.sni_callback = lambda _object, name, _context: asked.append(name)
    return asked


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_a_handshake_names_its_version_and_cipher(
    implementation: Implementation, version: str
) -> None:
    """A game server may speak one version only."""
    tls = await met(implementation, game_context(VERSIONS[version]))
    assert tls.version == version
    assert "AES" in tls.cipher or "CHACHA" in tls.cipher


@dataclass(frozen=True)
class Row:
    """Whom a game server is asked for, and what it hears of that; `named`: what its certificate is for."""

    peer: str
    named: str
    asked: str | None


ROWS = [
    Row(NAME, NAME, NAME),
    Row("gs-7.example.com", "*.example.com", "gs-7.example.com"),
    Row("127.0.0.1", "127.0.0.1", None),
    Row("::1", "::1", None),
]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.peer)
async def test_a_name_is_asked_for_and_an_address_is_not(
    implementation: Implementation, row: Row, verify: bool
) -> None:
    """RFC 6066 section 3. Both are verified."""
    context = game_context.__wrapped__(name=row.named)
    asked = asking(context)
    await met(implementation, context, client_tls(verify=verify), row.peer)
    assert asked == [row.asked]


@dataclass(frozen=True)
class Refusal:
    """A game server that must not be taken for the right one; `words`: a pattern, OpenSSL's and rustls's."""

    name: str
    context: ssl.SSLContext
    words: str
    peer: str = NAME
    offered: ClientTls | None = None


FLAWS: dict[Flaw, str] = {
    "expired": "certificate has expired|certificate expired: ",
    "early": "certificate is not yet valid|not valid yet",
    "self-signed": "self-signed certificate|UnknownIssuer",
    "damaged": "certificate signature failure|BadSignature",
}


MISMATCH = "Hostname mismatch|certificate not valid for name"


def _refusals() -> list[Refusal]:
    rows: list[Refusal] = []
    for version, which in ((V1_2, " 1.2"), (V1_3, " 1.3")):
        rows += [
            Refusal("other CA" + which, game_context(version, which="theirs"), "unknown_ca: "),
            Refusal(
                "other name" + which,
                game_context(version, name="other.example.com"),
                MISMATCH,
            ),
        ]
        for flaw, words in FLAWS.items():
            flawed = game_context(version, flaw=flaw)
            rows.append(Refusal(flaw + which, flawed, words, PLAYER))
    address = "IP address mismatch|certificate not valid for name"
    other_address = game_context(name="127.0.0.2")
    return [
        *rows,
        Refusal("other address", other_address, address, "127.0.0.1"),
        Refusal("a name's for an address", game_context(), address, "127.0.0.1"),
        Refusal("an address's for a name", other_address, MISMATCH),
        Refusal(
            "not one of the system's authorities",
            game_context(),
            "unable to get local issuer certificate|UnknownIssuer",
            offered=share(verify=True, authorities=(), pair=None),
        ),
    ]


@pytest.mark.parametrize("row", _refusals(), ids=lambda row: row.name)
async def test_a_game_server_with_the_wrong_certificate(
    implementation: Implementation, row: Refusal
) -> None:
    reason, detail = await failed(implementation, row.context, row.offered, row.peer)
    assert reason is CloseReason.UPSTREAM_CERTIFICATE
    assert detail.startswith("sent alert ")
    assert re.search(row.words, detail)
    await met(implementation, row.context, TRUSTING, row.peer)  # speaks with anybody


async def test_several_authorities_are_trusted(implementation: Implementation) -> None:
    """With whatever stands around them."""
    several = "# Büro\n" + authority_pem("theirs"), authority_pem() + authority_pem("others")
    trusting = share(verify=True, authorities=several, pair=None)
    for which in ("ours", "theirs", "others"):
        await met(implementation, game_context(which=which), trusting)
    reason, _ = await failed(implementation, game_context(which="nobody's"), trusting)
    assert reason is CloseReason.UPSTREAM_CERTIFICATE


@pytest.mark.parametrize("version", [V1_2, V1_3])
async def test_a_client_certificate_is_shown_to_who_asks_for_one(
    implementation: Implementation, version: ssl.TLSVersion
) -> None:
    context = game_context(version, wants="theirs")
    shown = client_tls(identity="theirs")
    await met(implementation, context, shown)
    await met(implementation, game_context(version), shown)  # who does not ask is not shown any


@pytest.mark.parametrize("identity", [None, "ours"])
async def test_without_the_right_client_certificate_the_handshake_fails(
    implementation: Implementation, identity: str | None
) -> None:
    context = game_context(V1_2, wants="theirs")
    alert = "handshake_failure" if identity is None else "unknown_ca"
    told = CloseReason.UPSTREAM_TLS, f"received alert {alert}"
    assert await failed(implementation, context, client_tls(identity=identity)) == told


@pytest.mark.parametrize("identity", [None, "ours"])
async def test_with_tls_1_3_it_is_told_once_the_session_has_begun(
    implementation: Implementation, identity: str | None
) -> None:
    """The client is through with the handshake before the server has looked at its certificate (RFC 8446 section 2)."""
    context = game_context(V1_3, wants="theirs")
    (player, client), (sock, upstream) = tcp_pair(), tcp_pair()
    server = TlsPeer(sock, context, serves=True)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            tls = await greet(relay, server, upstream, client_tls(identity=identity))
            terms = Terms(LONG, LONG)
            flow = Flow(client, upstream, b"", terms, upstream_tls=tls)
            session = Session(Peer(player), server, flow)
            session.start(relay)
            outcome = await session.outcome()
        session.close()
    alert = "certificate.required" if identity is None else "unknown.ca"
    assert outcome.reason is CloseReason.UPSTREAM_TLS
    assert re.search(alert, outcome.detail)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"220 welcome\r\n", "wrong version number|InvalidContentType"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number|InvalidContentType"),
        (record(bytes((2, 40)), kind=21, version=0x0303), "received alert handshake_failure"),
        (record(bytes((2, 112)), kind=21, version=0x0303), "received alert unrecognized_name"),
        (None, "closed by the game server"),
    ],
)
async def test_a_game_server_that_speaks_no_tls_or_will_not(
    implementation: Implementation, says: bytes | None, words: str
) -> None:
    sock, upstream = tcp_pair()
    server = Peer(sock)
    if says is None:
        await server.end()
    else:
        await server.send(says)
    with trio.fail_after(DEADLINE), sock, upstream:
        async with implementation.open(BUFFER) as relay:
            with pytest.raises(SessionEnded) as caught:
                await relay.connect_tls(upstream, TRUSTING, NAME)
    assert caught.value.reason is CloseReason.UPSTREAM_TLS
    assert re.search(words, caught.value.detail)


async def test_a_game_server_that_resets_in_the_handshake(implementation: Implementation) -> None:
    sock, upstream = tcp_pair()
    Peer(sock).reset()
    with trio.fail_after(DEADLINE), upstream:
        async with implementation.open(BUFFER) as relay:
            with pytest.raises(SessionEnded, match="upstream_tls: "):
                await relay.connect_tls(upstream, TRUSTING, NAME)


@pytest.mark.parametrize("peer", ["a..example", "x" * 64, "." + NAME, "x." * 130 + "example"])
async def test_a_name_that_cannot_be_asked_for(implementation: Implementation, peer: str) -> None:
    reason, detail = await failed(implementation, game_context(), peer=peer)
    assert reason is CloseReason.UPSTREAM_TLS
    assert detail.startswith(f"{peer[:64]!r} cannot be asked for: ")


async def test_certificates_that_openssl_does_not_take(implementation: Implementation) -> None:
    """Such as a pair that does not fit: whoever made it should have looked."""
    unfit = share(verify=False, authorities=(), pair=(pair()[0], pair("other.example.com")[1]))
    reason, detail = await failed(implementation, game_context(), unfit)
    assert reason is CloseReason.UPSTREAM_TLS
    assert detail.startswith("OpenSSL refuses the upstream's certificates: ")


async def test_bytes_that_come_with_the_end_of_the_handshake_are_not_lost(
    implementation: Implementation,
) -> None:
    """A game server may speak first."""
    (player, client), (sock, upstream) = tcp_pair(), tcp_pair()
    server = TlsPeer(sock, game_context(), serves=True)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            tls = await greet(relay, server, upstream, then=b"welcome")
            flow = Flow(client, upstream, b"", Terms(LONG, LONG), upstream_tls=tls)
            session = Session(Peer(player), server, flow)
            session.start(relay)
            assert await session.player.read(7) == b"welcome"
        session.close()


@to_tls
async def test_what_was_read_before_goes_first(
    implementation: Implementation, transport: Transport
) -> None:
    first = b"hello" if transport.startswith("plain") else b""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport, first=first)
            await session.player.send(b" and this")
            await session.player.end()
            assert await session.server.read_all() == first + b" and this"
            await session.server.end()
            outcome = await session.outcome()
        session.close()
    assert outcome.to_upstream == len(first) + 9  # of the stream, not of the cipher


@to_tls
@pytest.mark.parametrize("goodbye", [True, False], ids=["close_notify only", "FIN only"])
async def test_a_game_server_that_ends_hears_the_rest_and_a_goodbye(
    implementation: Implementation, transport: Transport, goodbye: bool
) -> None:
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            server = session.server
            assert isinstance(server, TlsPeer)
            await server.send(b"last words")
            if goodbye:
                await server.end(shutdown=False)
            else:
                await server.wire.end()
            assert await session.player.read_all() == b"last words"
            await session.player.send(b"answer")
            await session.player.end()
            assert await server.read_all() == b"answer"
            assert server.goodbye
            outcome = await session.outcome()
        session.close()
    assert outcome.reason is (
        CloseReason.UPSTREAM_CLOSED if goodbye else CloseReason.UPSTREAM_TRUNCATED
    )


@to_tls
async def test_what_does_not_decrypt_ends_the_session(
    implementation: Implementation, transport: Transport
) -> None:
    """What was sound before it has gone to the player; the game server is told with a fatal alert."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            session = await begin(relay, transport)
            await session.server.send(b"sound")
            await session.server.wire.send(record(bytes(64), kind=23, version=0x0303))
            assert await session.player.read_all() == b"sound"
            outcome = await session.outcome()
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await session.server.read_all()
        session.close()
    assert outcome.reason is CloseReason.UPSTREAM_TLS
    assert outcome.detail
    assert outcome.to_client == 5
