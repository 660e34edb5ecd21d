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
from tests.support.peers import TlsPeer

pytestmark = pytest.mark.anyio

TIMES = 5  # a cycle once may be a cache; one per session is a leak
PASSED, NOWHERE, LIMITED = "passed.example.com", "nowhere.example.com", "limited.example.com"
DEAD, RETRIED = "dead.example.com", "retried.example.com"
REFUSING = "127.0.0.77:9"


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


async def retried(gateway: Gateway, game: socket.socket) -> None:
    """The first node refuses him."""
    await played(gateway, game, RETRIED)


async def played(gateway: Gateway, game: socket.socket, name: str = PASSED) -> None:
    player = gateway.dial()
    await player.send(named(name.encode()))
    server = await accept(game)
    await trio.lowlevel.wait_readable(server)
    server.close()
    with suppress(OSError):
        await player.read_all()
    player.close()


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


WAYS: dict[str, tuple[Way, str]] = {
    "played": (played, "upstream_reset"),
    "sent on": (retried, "upstream_reset"),
    "refused": (saying(named(DEAD.encode())), "upstream_refused"),
    "terminated": (terminated, "upstream_reset"),
    "HTTP": (saying(b"GET / HTTP/1.1\r\n\r\n"), "hello_not_tls"),
    "half a hello": (saying(named(NAME.encode())[:50]), "hello_timeout"),
    "no route": (saying(named(NOWHERE.encode())), "no_route"),
    "denied": (saying(named(LIMITED.encode())), "address_denied"),
    "distrusted": (distrusted, "handshake_failed"),
    "stuck in the handshake": (stuck, "handshake_timeout"),
}


@pytest.mark.parametrize(("way", "reason"), WAYS.values(), ids=WAYS)
async def test_a_session_leaves_no_cycle(way: Way, reason: str) -> None:
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as game:
        game.setblocking(False)
        port = game.getsockname()[1]
        checks = {"active": {"type": "tcp"}, "passive": {}}
        dead = {"nodes": {REFUSING: 1}, "checks": checks}
        first = {"host": "127.0.0.77", "port": 9, "weight": 1, "priority": 1}
        rest = {"host": "127.0.0.1", "port": port, "weight": 1}
        nobody = {"ip-restriction": {"whitelist": ["192.0.2.1"]}}
        objects = {
            "ssls/1": certificate(),
            "stream_routes/1": route(port, sni=PASSED, tls_passthrough=True),
            "stream_routes/2": route(port, sni=NAME),
            "stream_routes/3": route(port, sni=LIMITED, plugins=nobody),
            "stream_routes/4": {"upstream": dead, "sni": DEAD, "tls_passthrough": True},
            "stream_routes/5": {
                "upstream": {"nodes": [first, rest]},
                "sni": RETRIED,
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
