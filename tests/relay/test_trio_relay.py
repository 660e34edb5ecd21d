"""What is true of the portable relay alone: a defect in its copying, its OpenSSL contexts, private keys in clear."""

import gc
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Terms
from sniproxy.relay.contexts import MOST_NAMES, _for_players, server_context
from sniproxy.relay.trio_relay import TrioRelay, open_trio_relay
from sniproxy.relay.trio_tls import Broken, OriginatedTls
from sniproxy.tls import ServerTls
from tests.support.certificates import game_context, pair
from tests.support.files import open_files, settled_files
from tests.support.peers import Peer, TlsPeer, tcp_pair
from tests.support.relaying import BUFFER, DEADLINE, Session, begin, greet

pytestmark = pytest.mark.anyio


class Cursed(socket.socket):
    """A socket that the relay cannot have been written for."""

    def recv_into(self, *args: Any) -> int:
        """A defect."""
        raise ZeroDivisionError("a defect in the copying")


@pytest.mark.parametrize("cursed", ["client", "upstream"])
async def test_a_defect_ends_its_own_session_and_is_logged_whole(cursed: str) -> None:
    with trio.fail_after(DEADLINE):
        async with open_trio_relay(buffer_size=BUFFER) as relay:
            other = await begin(relay)
            session = cursed_session(relay, cursed)
            await session.player.send(b"x")
            await session.server.send(b"x")
            outcome = await session.outcome()
            await other.player.send(b"still here")
            assert await other.server.read(10) == b"still here"
        session.close()
        other.close()
    assert outcome.reason is CloseReason.INTERNAL_ERROR
    assert "Traceback" in outcome.detail
    assert "a defect in the copying" in outcome.detail


def cursed_session(relay: TrioRelay, cursed: str) -> Session:
    """A session of which one socket fails in a way that no socket does."""
    player, client = tcp_pair()
    server, upstream = tcp_pair()
    if cursed == "client":
        client = Cursed(fileno=client.detach())
    else:
        upstream = Cursed(fileno=upstream.detach())
    session = Session(Peer(player), Peer(server), Flow(client, upstream, b"", Terms(60, 60)))
    session.start(relay)
    return session


def test_a_name_of_an_ssl_object_has_one_context_for_as_long_as_it_lives() -> None:
    one = ServerTls(pairs=(pair(),), protocols=())
    same = ServerTls(pairs=(pair(),), protocols=())
    gc.collect()  # those of other tests
    before = len(_for_players)
    assert server_context(one, "a.test") is server_context(one, "a.test")
    assert server_context(one, "a.test") is not server_context(one, "b.test")
    assert server_context(one, "a.test") is not server_context(same, "a.test")
    assert len(_for_players) == before + 2
    del one, same
    gc.collect()
    assert len(_for_players) == before


def test_the_name_that_was_asked_for_the_longest_time_ago_gives_way() -> None:
    one = ServerTls(pairs=(pair(),), protocols=())
    first, second = server_context(one, "0.test"), server_context(one, "1.test")
    for number in range(2, MOST_NAMES):
        server_context(one, f"{number}.test")
    assert server_context(one, "0.test") is first
    server_context(one, "one more.test")
    assert server_context(one, "0.test") is first
    assert server_context(one, "1.test") is not second


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_private_key_leaves_no_file_behind(
    in_memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenSSL wants to read a file; without memfd (macOS) it is one that goes at once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    before = settled_files()
    server_context(ServerTls(pairs=(pair(),), protocols=()))
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_sent_through_tls_after_its_end() -> None:
    """OpenSSL would say so; whoever gets there has a defect, which must not pass for a lost connection."""
    sock, upstream = tcp_pair()
    with trio.fail_after(DEADLINE), sock, upstream:
        async with open_trio_relay(buffer_size=BUFFER) as relay:
            tls = await greet(relay, TlsPeer(sock, game_context(), serves=True), upstream)
            assert isinstance(tls, OriginatedTls)
            await tls.end()
            with pytest.raises(Broken, match="protocol is shutdown") as caught:
                await tls.send(b"x")
    assert caught.value.reason is CloseReason.UPSTREAM_TLS
