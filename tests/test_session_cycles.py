"""A session, however it ends, is freed at once: it leaves no reference cycle for the garbage collector to find.

The worker does without full collections (sniproxy.worker.tame_garbage_collection), so a cycle per session would be a leak.
"""

import gc
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType

import pytest
import trio

from tests.support.certificates import NAME, player_context
from tests.support.gateway import Gateway, certificate, open_gateway, route
from tests.support.hellos import named
from tests.support.peers import TlsPeer, deaf_server

pytestmark = pytest.mark.anyio

TIMES = 5  # a cycle once may be a cache; one per session is a leak
PASSED, NOWHERE, LIMITED = "passed.example.com", "nowhere.example.com", "limited.example.com"
REFUSED, SILENT, SENT_ON = "refused.example.com", "silent.example.com", "sent-on.example.com"
UNKNOWN, ENCRYPTED = "unknown.example.com", "encrypted.example.com"
QUICK = {"timeout": {"connect": 0.1, "send": 60, "read": 60}}
REFUSED_AND_CHECKED = "checked.example.com"


def ours(one: object) -> str | None:
    """What of the gateway an object is; None for a player's."""
    if isinstance(one, FrameType):
        code = one.f_code
        return code.co_qualname if "/sniproxy/" in code.co_filename else None
    kind = type(one)
    return kind.__qualname__ if kind.__module__.startswith("sniproxy.") else None


Way = Callable[[Gateway, socket.socket], Awaitable[None]]


async def accept(game: socket.socket) -> socket.socket:
    """The game server's end of a session."""
    await trio.lowlevel.wait_readable(game)
    sock, _ = game.accept()
    return sock


def saying(first: bytes) -> Way:
    """A client that says that, and waits for its end."""

    async def way(gateway: Gateway, _: socket.socket) -> None:
        player = gateway.dial()
        await player.send(first)
        with suppress(OSError):
            await player.read_all()
        player.close()

    return way


async def played(gateway: Gateway, game: socket.socket, name: str = PASSED) -> None:
    player = gateway.dial()
    await player.send(named(name.encode()))
    server = await accept(game)
    await trio.lowlevel.wait_readable(server)
    server.close()
    with suppress(OSError):
        await player.read_all()
    player.close()


async def sent_on(gateway: Gateway, game: socket.socket) -> None:
    """From a node that does not answer to one that does."""
    await played(gateway, game, SENT_ON)


async def terminated(gateway: Gateway, game: socket.socket) -> None:
    player = TlsPeer(gateway.dial().sock, player_context())
    await player.handshake()
    server = await accept(game)
    await player.send(b"x")
    await trio.lowlevel.wait_readable(server)
    server.close()
    with suppress(OSError):
        await player.read_all()
    player.close()


async def encrypted(gateway: Gateway, game: socket.socket) -> None:
    """Towards a game server that closes instead of shaking hands."""
    player = TlsPeer(gateway.dial().sock, player_context(), ENCRYPTED)
    await player.handshake()
    (await accept(game)).close()
    with suppress(OSError):
        await player.read_all()
    player.close()


async def distrusted(gateway: Gateway, _: socket.socket) -> None:
    player = TlsPeer(gateway.dial().sock, player_context(trusts="theirs"))
    with suppress(OSError):
        await player.handshake()
    player.close()


async def stuck(gateway: Gateway, _: socket.socket) -> None:
    player = TlsPeer(gateway.dial().sock, player_context())
    await player.wire.send(player.hello())
    with suppress(OSError):
        await player.wire.read_all()
    player.close()


def passing(name: str, nodes: object) -> dict[str, object]:
    """A route to these, whose nodes have little time."""
    return {"sni": name, "tls_passthrough": True, "upstream": {"nodes": nodes, **QUICK}}


WAYS: dict[str, tuple[Way, str]] = {
    "played": (played, "upstream_reset"),
    "refused, with checks": (saying(named(REFUSED_AND_CHECKED.encode())), "upstream_refused"),
    "terminated": (terminated, "upstream_reset"),
    "HTTP": (saying(b"GET / HTTP/1.1\r\n\r\n"), "hello_not_tls"),
    "half a hello": (saying(named(NAME.encode())[:50]), "hello_timeout"),
    "no route": (saying(named(NOWHERE.encode())), "no_route"),
    "denied": (saying(named(LIMITED.encode())), "address_denied"),
    "refused": (saying(named(REFUSED.encode())), "upstream_refused"),
    "unanswered": (saying(named(SILENT.encode())), "upstream_timeout"),
    "sent on": (sent_on, "upstream_reset"),
    "a name that leads nowhere": (saying(named(UNKNOWN.encode())), "upstream_name"),
    "no TLS with it": (encrypted, "upstream_tls"),
    "distrusted": (distrusted, "handshake_failed"),
    "stuck in the handshake": (stuck, "handshake_timeout"),
}


@pytest.mark.parametrize(("way", "reason"), WAYS.values(), ids=WAYS)
async def test_a_session_leaves_no_cycle(way: Way, reason: str) -> None:
    with (
        trio.fail_after(20),
        socket.create_server(("127.0.0.1", 0)) as game,
        deaf_server() as (_, deaf),
        socket.socket() as bound,
    ):
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
        game.setblocking(False)
        port = game.getsockname()[1]
        checks = {"active": {"type": "tcp"}, "passive": {}}
        dead = {"nodes": {f"127.0.0.1:{closed}": 1}, "checks": checks}
        nobody = {"ip-restriction": {"whitelist": ["192.0.2.1"]}}
        objects = {
            "ssls/1": certificate(),
            "stream_routes/1": route(port, sni=PASSED, tls_passthrough=True),
            "stream_routes/2": route(port, sni=NAME),
            "stream_routes/3": route(port, sni=LIMITED, plugins=nobody),
            "stream_routes/4": passing(REFUSED, {f"127.0.0.1:{closed}": 1}),
            "stream_routes/5": passing(SILENT, {f"127.0.0.1:{deaf}": 1}),
            "stream_routes/6": passing(
                SENT_ON,
                [
                    {"host": "127.0.0.1", "port": deaf, "weight": 1, "priority": 1},
                    {"host": "127.0.0.1", "port": port, "weight": 1},
                ],
            ),
            "ssls/2": certificate(ENCRYPTED),
            "stream_routes/8": {
                "sni": ENCRYPTED,
                "upstream": {"nodes": {f"127.0.0.1:{port}": 1}, "scheme": "tls"},
            },
            "stream_routes/7": passing(UNKNOWN, {"unknown.example.com:7": 1}),
            "stream_routes/9": {
                "upstream": dead,
                "sni": REFUSED_AND_CHECKED,
                "tls_passthrough": True,
            },
        }
        async with open_gateway(None, objects, hello_timeout=0.1, handshake_timeout=0.1) as gateway:
            await way(gateway, game)
            assert (await gateway.lines.next())["reason"] == reason
            gc.collect()
            gc.disable()
            try:
                for _ in range(TIMES):
                    await way(gateway, game)
                    await gateway.lines.next()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                found = Counter(filter(None, map(ours, gc.garbage)))
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
    assert not [kind for kind, count in found.items() if count >= TIMES], found
