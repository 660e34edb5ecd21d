"""The contract of the relays, fifth part: client certificates, how deep they may be, and that no session goes round them."""

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass

import pytest
import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay import Flow, Relay, Terms
from sniproxy.tls import ServerTls
from tests.support.certificates import flawed, pair, player_context, server_tls
from tests.support.peers import Peer, TlsPeer, tcp_pair
from tests.support.relaying import (
    BUFFER,
    DEADLINE,
    LONG,
    VERSIONS,
    Implementation,
    Session,
    shake_hands,
)

pytestmark = pytest.mark.anyio

V1_2, V1_3 = VERSIONS["TLSv1.2"], VERSIONS["TLSv1.3"]
on_both_versions = pytest.mark.parametrize(
    "version", [V1_2, V1_3], ids=lambda version: version.name
)
OPEN = server_tls()
MUTUAL = server_tls(client_ca="ours")
THEIRS = server_tls(client_ca="theirs")
SECRET = b"said by the player as soon as TLS lets him"


@dataclass(frozen=True)
class Knock:
    """What became of a player: `refused` is the detail, None when he was let in."""

    refused: str | None
    resumed: bool | None
    session: ssl.SSLSession | None  # that he has now
    subject: str | None = None  # whose certificate the relay has seen


async def knock(
    relay: Relay,
    player: ssl.SSLContext,
    offered: ServerTls,
    session: ssl.SSLSession | None = None,
) -> Knock:
    """A player comes, says SECRET with the end of his handshake and, if he is let in, is answered and leaves."""
    sock, client = tcp_pair()
    peer = TlsPeer(sock, player, session=session)
    with sock, client:
        try:
            tls = await shake_hands(relay, peer, client, offered, then=SECRET)
        except SessionEnded as ended:
            if ended.reason is not CloseReason.HANDSHAKE_FAILED:
                raise
            return Knock(ended.detail, peer.resumed, peer.session)
        server_sock, upstream = tcp_pair()
        server = Peer(server_sock)
        let_in = Session(peer, server, Flow(client, upstream, b"", Terms(LONG, LONG), tls))
        let_in.start(relay)
        assert await server.read(len(SECRET)) == SECRET
        await server.send(b"welcome")
        assert await peer.read(7) == b"welcome"
        await peer.end()
        assert await server.read_all() == b""
        await server.end()
        assert await peer.read_all() == b""
        assert (await let_in.outcome()).reason is CloseReason.CLIENT_CLOSED
        let_in.close()
        assert tls.resumed is peer.resumed
        return Knock(None, peer.resumed, peer.session, tls.subject)


@on_both_versions
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("intermediates", [0, 1, 2])
async def test_as_many_authorities_may_lie_between_as_client_depth_says(
    implementation: Implementation, version: ssl.TLSVersion, intermediates: int, depth: int
) -> None:
    player = player_context(version, identity="ours", intermediates=intermediates)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            offered = server_tls(client_ca="ours", client_depth=depth)
            refused = (await knock(relay, player, offered)).refused
    if intermediates <= depth:
        assert refused is None
    else:
        assert refused is not None
        assert f"{intermediates} authorities" in refused
        assert f"client.depth is {depth}" in refused


@on_both_versions
async def test_who_is_trusted_itself_has_nothing_in_between(
    implementation: Implementation, version: ssl.TLSVersion
) -> None:
    """client.ca may be the player's own certificate: then that is the whole chain."""
    itself = flawed("self-signed").bytes().decode()
    client_ca = itself[itself.index("-----BEGIN CERTIFICATE") :]
    offered = ServerTls(pairs=(pair(),), protocols=(), client_ca=client_ca, client_depth=0)
    player = player_context(version, flaw="self-signed")
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            assert (await knock(relay, player, offered)).refused is None


@on_both_versions
async def test_who_was_too_deep_does_not_come_back_by_resumption(
    implementation: Implementation, version: ssl.TLSVersion
) -> None:
    player = player_context(version, identity="ours", intermediates=2)
    session = None
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            for _ in range(3):
                one = await knock(relay, player, MUTUAL, session)
                session = one.session
                assert one.refused is not None
                assert one.refused.endswith("2 authorities below client.ca, client.depth is 1")
                assert not one.resumed


async def test_nor_at_the_moment_at_which_he_is_found_too_deep(
    implementation: Implementation,
) -> None:
    """With TLS 1.2 a player knows his session before the server has his certificate: he can offer it on a second
    connection just as the handshake of the first one ends.
    """
    player = player_context(V1_2, identity="ours", intermediates=2)
    let_in: list[str] = []

    async def accept(relay: Relay, client: socket.socket, which: str, hello: bytes) -> None:
        with client, suppress(SessionEnded):
            await relay.accept_tls(client, MUTUAL, hello)
            let_in.append(which)

    async def race(relay: Relay) -> None:
        (sock, client), (second_sock, second_client) = tcp_pair(), tcp_pair()
        with sock, second_sock:
            async with trio.open_nursery() as nursery:
                first = TlsPeer(sock, player)
                nursery.start_soon(accept, relay, client, "first", first.hello())
                flight = await first.last_flight()
                second = TlsPeer(second_sock, player, session=first.session)
                hello = second.hello()
                await first.wire.send(flight)
                nursery.start_soon(accept, relay, second_client, "second", hello)
                with suppress(ssl.SSLError):
                    await second.handshake()

    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            for _ in range(20):
                await race(relay)
    assert not let_in


async def test_a_player_may_come_back_with_tls_1_2(implementation: Implementation) -> None:
    """By the session's id: his certificate is not asked for again."""
    player = player_context(V1_2, identity="ours", intermediates=1)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            first = await knock(relay, player, MUTUAL)
            again = await knock(relay, player, MUTUAL, first.session)
    assert first.refused is again.refused is None
    assert again.resumed
    assert first.subject is not None
    assert first.subject.startswith("OU=Testing cert #")  # as trustme makes them
    assert again.subject == first.subject


@on_both_versions
@pytest.mark.parametrize(
    ("made_with", "identity"), [(OPEN, None), (OPEN, "theirs"), (THEIRS, "theirs")]
)
async def test_a_session_is_of_no_use_where_another_certificate_is_asked_for(
    implementation: Implementation,
    version: ssl.TLSVersion,
    made_with: ServerTls,
    identity: str | None,
) -> None:
    player = player_context(version, identity=identity)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            first = await knock(relay, player, made_with)
            assert first.refused is None
            assert (first.subject is None) is (made_with is OPEN)
            control = await knock(relay, player, made_with, first.session)
            tickets = made_with is OPEN or implementation.name == "native"
            assert control.resumed is (tickets or version is V1_2)
            attempt = await knock(relay, player, MUTUAL, control.session)
    assert not attempt.resumed
    missing = "handshake_failure" if version is V1_2 else "certificate_required"
    assert attempt.refused is not None
    assert attempt.refused.startswith(f"sent alert {'unknown_ca' if identity else missing}: ")


@on_both_versions
async def test_a_session_is_of_no_use_where_less_depth_is_allowed(
    implementation: Implementation, version: ssl.TLSVersion
) -> None:
    player = player_context(version, identity="ours", intermediates=1)
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            first = await knock(relay, player, MUTUAL)
            shallow = server_tls(client_ca="ours", client_depth=0)
            attempt = await knock(relay, player, shallow, first.session)
    assert first.refused is None
    assert attempt.refused is not None
    assert attempt.refused.endswith("1 authorities below client.ca, client.depth is 0")


@on_both_versions
@pytest.mark.parametrize("offered", [OPEN, MUTUAL], ids=["open", "mutual"])
async def test_who_gets_a_ticket(
    implementation: Implementation, version: ssl.TLSVersion, offered: ServerTls
) -> None:
    """OpenSSL is told only after the handshake that somebody was too deep: it gives none to who needs a certificate."""
    with trio.fail_after(DEADLINE):
        async with implementation.open(BUFFER) as relay:
            came = await knock(relay, player_context(version, identity="ours"), offered)
    assert came.refused is None
    assert came.session is not None
    assert came.session.has_ticket is (offered is OPEN or implementation.name == "native")
