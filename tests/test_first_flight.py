"""The PROXY header before the hello, over real sockets: who may say it, what it changes, and health checks."""

import socket

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason
from sniproxy.proxy_protocol import ProxyHeaderReader, encode_local_v2, encode_v1, encode_v2
from sniproxy.settings import Listener, Proxy
from tests.support.certificates import NAME
from tests.support.gateway import open_gateway, route
from tests.support.hellos import named
from tests.support.peers import Peer

pytestmark = pytest.mark.anyio

DEADLINE = 10.0  # seconds for a whole test
HELLO = named(NAME.encode())
PLAYER, BALANCER = ("192.0.2.7", 4242), ("198.51.100.1", 443)
PLAYER6 = ("2001:db8::7", 4242)
MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True, proxy_protocol=True)
PLAIN = Listener(address="127.0.0.1:0", proxy_protocol=True)
LOCAL = encode_local_v2()

HEADERS = {
    "v1": (encode_v1(PLAYER, BALANCER), "192.0.2.7:4242"),
    "v1 of IPv6": (encode_v1(PLAYER6, ("2001:db8::1", 443)), "[2001:db8::7]:4242"),
    "v2": (encode_v2(PLAYER, BALANCER), "192.0.2.7:4242"),
    "v2 with checksum and name": (
        encode_v2(PLAYER, BALANCER, authority="x.example.com", crc=True),
        "192.0.2.7:4242",
    ),
}


@pytest.mark.parametrize(("header", "client"), HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_the_client_is_the_one_of_the_header(header: bytes, client: str, step: int) -> None:
    """In the route's match and in the log; the game server sees the hello and no header."""
    said = header + HELLO
    network = "192.0.2.0/24" if "." in client else "2001:db8::/32"
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as game:
        objects = {
            "stream_routes/1": route(
                game.getsockname()[1], sni=NAME, tls_passthrough=True, remote_addr=network
            )
        }
        async with open_gateway(MIXED, objects, trusted=("127.0.0.0/8",)) as gateway:
            player = gateway.dial()
            for start in range(0, len(said), step):
                await player.send(said[start : start + step])
                await trio.testing.wait_all_tasks_blocked()
            server = await accept(game)
            assert await server.read(len(HELLO)) == HELLO
            await player.end()
            assert await server.read_all() == b""
            await server.end()
            line = await gateway.lines.next()
            player.close()
            server.close()
    assert (line["reason"], line["client"]) == ("client_closed", client)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("listener", [MIXED, PLAIN], ids=["passthrough", "plain"])
async def test_the_game_server_is_told_who_the_player_is(version: str, listener: Listener) -> None:
    says = HELLO if listener.is_tls else b"hello"
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as game:
        upstream = {"nodes": {f"127.0.0.1:{game.getsockname()[1]}": 1}, "proxy_protocol": version}
        objects = {"stream_routes/1": {"upstream": upstream, "tls_passthrough": True}}
        async with open_gateway(listener, objects, trusted=("127.0.0.0/8",)) as gateway:
            player = gateway.dial()
            await player.send(HEADERS["v2"][0] + says)
            server = await accept(game)
            reader = ProxyHeaderReader()
            header, rest = None, b""
            while header is None:
                header = reader.feed(await server.receive())
            rest = reader.rest
            rest += await server.read(len(says) - len(rest))
            player.close()
            server.close()
            line = await gateway.lines.next()
    assert rest == says
    assert header.source == PLAYER
    assert header.destination == gateway.address
    assert line["bytes_in"] == len(says)
    if version == "v2":
        assert header.authority == (NAME if listener.is_tls else None)
        assert header.unique_id == line["session"].encode()


async def accept(game: socket.socket) -> Peer:
    game.setblocking(False)
    await trio.lowlevel.wait_readable(game)
    sock, _ = game.accept()
    sock.setblocking(False)
    return Peer(sock)


async def test_plain_tcp_after_a_header() -> None:
    with trio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as game:
        objects = {"stream_routes/1": route(game.getsockname()[1])}
        async with open_gateway(PLAIN, objects, trusted=("127.0.0.1",)) as gateway:
            player = gateway.dial()
            await player.send(HEADERS["v2"][0] + b"hello")
            server = await accept(game)
            assert await server.read(5) == b"hello"
            player.close()
            server.close()
            line = await gateway.lines.next()
    assert line["client"] == "192.0.2.7:4242"


@pytest.mark.parametrize(
    ("says", "trusted", "reason", "client"),
    [
        (HEADERS["v2"][0] + HELLO, "10.0.0.0/8", CloseReason.PROXY_UNTRUSTED, "127.0.0.1:"),
        (HELLO, "127.0.0.0/8", CloseReason.PROXY_BROKEN, "127.0.0.1:"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 x\r\n", "127.0.0.0/8", CloseReason.PROXY_BROKEN, "127.0.0.1:"),
        (HEADERS["v1"][0] * 2, "127.0.0.0/8", CloseReason.HELLO_NOT_TLS, "192.0.2.7:4242"),
        (HEADERS["v1"][0] + b"GET / HTTP/1.1\r\n", "127.0.0.0/8", CloseReason.HELLO_NOT_TLS, "192.0.2.7:4242"),
        (HEADERS["v2"][0] + HELLO, "127.0.0.0/8", CloseReason.NO_ROUTE, "192.0.2.7:4242"),
        (LOCAL + HELLO, "127.0.0.0/8", CloseReason.NO_ROUTE, "127.0.0.1:"),
    ],
)  # fmt: skip
async def test_what_is_refused(says: bytes, trusted: str, reason: CloseReason, client: str) -> None:
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, {}, trusted=(trusted,)) as gateway:
            player = gateway.dial()
            await player.send(says)
            line = await gateway.lines.next()
            player.close()
    assert line["reason"] == reason
    assert line["client"].startswith(client)


@pytest.mark.parametrize("says", [b"", LOCAL])
@pytest.mark.parametrize("resets", [False, True])
async def test_a_health_check_is_counted_and_not_logged(says: bytes, resets: bool) -> None:
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, {}, trusted=("127.0.0.0/8",)) as gateway:
            balancer = gateway.dial()
            await balancer.send(says)
            await trio.testing.wait_all_tasks_blocked()
            if resets:
                balancer.reset()
            else:
                balancer.close()
            while not gateway.closed():
                await trio.testing.wait_all_tasks_blocked()
                await trio.sleep(0.001)
            assert gateway.closed() == {"probe": 1}
            assert gateway.lines.all == []


@pytest.mark.parametrize("says", [LOCAL[:5], HEADERS["v1"][0], HEADERS["v2"][0], LOCAL + HELLO[:9]])
async def test_who_leaves_after_saying_something_was_no_health_check(says: bytes) -> None:
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, {}, trusted=("127.0.0.0/8",)) as gateway:
            player = gateway.dial()
            await player.send(says)
            await player.end()
            line = await gateway.lines.next()
            player.close()
    assert line["reason"] == CloseReason.HELLO_ABANDONED


def test_a_header_from_nobody_in_particular_is_no_setting() -> None:
    with pytest.raises(ValueError, match=r"proxy\.trusted"):
        Proxy(listeners=(MIXED,))


@pytest.mark.parametrize(
    ("address", "believed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fe80::1%eth0", True), ("11.0.0.1", False)],
)
def test_who_is_trusted(address: str, believed: bool) -> None:
    settings = Proxy(listeners=(MIXED,), trusted=("10.0.0.0/8", "fe80::/10"))
    assert settings.trusts(address) is believed
