"""What is counted of sessions while they live and when they end, whoever moves the bytes. No label is a client's."""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from sniproxy.client_hello import HelloClass
from sniproxy.errors import CloseReason, Limit
from sniproxy.metrics.counts import SOUND
from sniproxy.scrape import export_worker, merge, written
from sniproxy.settings import Listener
from tests.support.certificates import player_context
from tests.support.gateway import Gateway, certificate, open_gateway
from tests.support.hellos import extension, message, named, record, records, server_name
from tests.support.peers import Peer, TlsPeer

pytestmark = pytest.mark.anyio

NAME = "play.example.com"
HELLO = named(NAME.encode())
PASSED = Listener(address="127.0.0.1:0", tls_passthrough=True)
MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
HYBRID = extension(10, b"\x00\x02\x11\xec")
ECH = extension(0xFE0D, b"anything")


@pytest.fixture
def game() -> Iterator[socket.socket]:
    """A game server that accepts when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def objects(game: socket.socket, **members: Any) -> dict[str, Any]:
    """A route to it."""
    nodes = {f"127.0.0.1:{game.getsockname()[1]}": 1}
    return {"stream_routes/r-1": {"sni": NAME, "upstream": {"nodes": nodes}, **members}}


class Play:
    """Players and their game server."""

    def __init__(self, gateway: Gateway, game: socket.socket, stack: ExitStack) -> None:
        self._gateway, self._game, self._stack = gateway, game, stack

    async def join(self, *says: bytes) -> tuple[Peer, Peer]:
        """Somebody who says that, each piece once the one before was read, and his game server, who has heard it."""
        player = self._gateway.dial()
        self._stack.callback(player.close)
        for piece in says:
            await player.send(piece)
            while unread(player):  # noqa: ASYNC110 - the kernel has no event for it
                await trio.sleep(0.001)
        await trio.lowlevel.wait_readable(self._game)
        sock, _ = self._game.accept()
        sock.setblocking(False)
        server = Peer(sock)
        self._stack.callback(server.close)
        assert await server.read(sum(map(len, says))) == b"".join(says)
        return player, server


def unread(player: Peer) -> bool:
    """Whether something of what he said lies in the kernel yet; nobody need have accepted him."""
    ours, theirs = (sock()[1] for sock in (player.sock.getpeername, player.sock.getsockname))
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = f":{ours:04X}", f":{theirs:04X}"
    queues = [row[4] for row in rows if (row[1][-5:], row[2][-5:]) == ends]
    return any(int(queue.partition(":")[2], 16) for queue in queues)


def row(gateway: Gateway) -> list[Any]:
    """Of the route."""
    found: list[Any] = gateway.worker.metrics.rows().get("r-1", [0, 0, 0, 0, {}])
    return found


async def becomes(gateway: Gateway, expected: list[Any]) -> None:
    """That is the route's, at last: what a relay's thread does is seen a moment later."""
    with trio.move_on_after(10):
        while row(gateway) != expected:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert row(gateway) == expected


async def test_bytes_are_counted_while_sessions_live(game: socket.socket) -> None:
    """The first is served by the worker; those after it by a plan, where the relay has plans."""
    size = len(HELLO)
    with ExitStack() as stack:
        async with open_gateway(PASSED, objects(game, tls_passthrough=True)) as gateway:
            play = Play(gateway, game, stack)
            pairs = []
            for count in range(1, 4):
                pairs.append(await play.join(HELLO))
                await becomes(gateway, [count, count, count * size, 0, {}])
            for count, (player, server) in enumerate(pairs, 1):
                await server.send(b"welcome")
                assert await player.read(7) == b"welcome"
                await becomes(gateway, [3, 3, 3 * size, count * 7, {}])
            assert gateway.counted()["in"] == 3 * size
            assert gateway.counted()["out"] == 21
            for count, (player, server) in enumerate(pairs, 1):
                player.reset()
                with pytest.raises(ConnectionResetError):
                    await server.read(1)
                await becomes(gateway, [3, 3 - count, 3 * size, 21, {"client_reset": count}])
            assert gateway.counted() == {"opened": 3, "active": 0, "in": 3 * size, "out": 21}
            for step in ("hello", "connect", "first_byte", "session"):
                assert gateway.labelled(f"{step}_seconds_count") == {(): 3}
            assert gateway.labelled("handshake_seconds_count") == {}


async def test_a_session_that_no_game_server_takes_by_its_plan_counts_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        listening.setblocking(False)
        async with open_gateway(PASSED, objects(listening, tls_passthrough=True)) as gateway:
            play = Play(gateway, listening, stack)
            player, _ = await play.join(HELLO)
            player.reset()
            await gateway.lines.next()
            listening.close()
            player = gateway.dial()
            stack.callback(player.close)
            await player.send(HELLO)
            assert (await gateway.lines.next())["reason"] == "upstream_refused"
            assert row(gateway)[:2] == [2, 0]
            assert row(gateway)[4] == {"client_reset": 1, "upstream_refused": 1}
            assert gateway.labelled("hellos_total") == {("plain",): 2}


async def test_a_handshake_of_ours_is_counted_and_its_bytes_in_clear(game: socket.socket) -> None:
    with ExitStack() as stack:
        all_objects = objects(game) | {"ssls/1": certificate()}
        async with open_gateway(MIXED, all_objects) as gateway:
            raw = gateway.dial()
            stack.callback(raw.close)
            player = TlsPeer(raw.sock, player_context())
            await player.handshake()
            await trio.lowlevel.wait_readable(game)
            sock, _ = game.accept()
            stack.callback(sock.close)
            await player.send(b"in clear")
            await becomes(gateway, [1, 1, 8, 0, {}])
            assert gateway.labelled("tls_handshakes_total") == {("TLSv1.3", "no"): 1}
            for step in ("hello", "handshake", "connect"):  # while it plays
                assert gateway.labelled(f"{step}_seconds_count") == {(): 1}


async def test_a_failed_handshake_says_who_complained(game: socket.socket) -> None:
    with ExitStack() as stack:
        async with open_gateway(MIXED, objects(game) | {"ssls/1": certificate()}) as gateway:
            raw = gateway.dial()
            stack.callback(raw.close)
            with pytest.raises(ssl.SSLCertVerificationError):
                await TlsPeer(raw.sock, player_context(trusts="theirs")).handshake()
            assert (await gateway.lines.next())["reason"] == "handshake_failed"
            assert gateway.labelled("tls_failures_total") == {("received_unknown_ca",): 1}


@pytest.mark.parametrize("learned", [False, True], ids=["served", "by plan"])
async def test_hellos_are_counted_by_what_they_are(game: socket.socket, learned: bool) -> None:
    """The same whoever has read them."""
    sni = server_name(NAME.encode())
    with ExitStack() as stack:
        plugins = {} if learned else {"ip-restriction": {"blacklist": ["192.0.2.1"]}}  # no plans
        route = objects(game, tls_passthrough=True, plugins=plugins)
        async with open_gateway(PASSED, route) as gateway:
            play = Play(gateway, game, stack)
            await play.join(HELLO)
            for pieces in (
                [record(message([HYBRID, sni]))],
                [record(message([ECH, sni]))],
                [record(message([sni, ECH, HYBRID]))],
                [HELLO[:20], HELLO[20:]],
                [records(message([sni]), (30,))],
            ):
                await play.join(*pieces)
            assert gateway.labelled("hellos_total") == {
                ("plain",): 1,
                ("post_quantum",): 2,
                ("ech",): 2,
                ("split_segments",): 1,
                ("split_records",): 1,
            }


HOSTILE = (
    HELLO[:60] + b"\x00" * 200,
    named(b'evil"} 1\nsniproxy_forged_total{x="'),
    named(b"\x1b[2J\x1b[31m.example.com"),
    named(b"unknown-" + b"a" * 50 + b".example.com"),
    *(named(f"flood-{number}.example.com".encode()) for number in range(40)),
    named(b"127.0.0.1"),
    record(message([])),
    record(message([server_name(b"a.example"), server_name(b"b.example")])),
    b'GET /evil"}\n HTTP/1.1\r\nHost: evil.example\r\n\r\n',
    b"PROXY TCP4 evil evil 1 2\r\n",
    b"SSH-2.0-evil\r\n",
    bytes(range(256)),
    record(b"\x02\x28", kind=21),
)


async def test_no_label_is_ever_a_clients(game: socket.socket) -> None:
    """Of whom nothing stands in a scrape: it is no larger for a flood of names, and no line of it can be forged."""
    route = {"sni": "*.example.com", "upstream": {"nodes": {"127.0.0.77:1": 1}}}
    all_objects = objects(game) | {"stream_routes/r-2": route, "ssls/1": certificate()}
    with ExitStack() as stack:
        async with open_gateway(MIXED, all_objects) as gateway:
            for says in HOSTILE:
                player = gateway.dial()
                stack.callback(player.close)
                await player.send(says)
                await player.end()
            with trio.fail_after(10):
                while sum(gateway.closed().values()) < len(HOSTILE):  # noqa: ASYNC110
                    await trio.sleep(0.001)
            text = written(merge([export_worker(gateway.worker.metrics)])).decode()
    assert text.isascii()
    assert not re.search(r"evil|flood|unknown-|forged|\x1b", text)
    words = {*CloseReason, *Limit, *SOUND, *HelloClass, "r-1", "r-2", "closed", "other"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label == "le":
                    float(value)
                else:
                    assert value in words, sample
