"""A game server that speaks TLS: echoes what it gets, and remembers whom it was asked for and what it was shown."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from tests.support.peers import TlsPeer


@dataclass
class TlsGame:
    """What a test sees of it; one item per session that got through the handshake, but for `asked` and `headers`."""

    port: int
    asked: list[str | None] = field(default_factory=list)  # names, of every hello
    shown: list[bytes | None] = field(default_factory=list)  # certificates of clients, in DER
    versions: list[str | None] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)  # PROXY v1, of every connection


@asynccontextmanager
async def tls_game(
    context: ssl.SSLContext, host: str = "127.0.0.1", *, header: bool = False
) -> AsyncIterator[TlsGame]:
    """One on loopback, for as long as the block lasts. `header`: a PROXY header of v1 comes first."""

    async def echo(sock: socket.socket) -> None:
        sock.setblocking(False)
        peer = TlsPeer(sock, context, serves=True)
        with sock, suppress(ConnectionError, ssl.SSLError):
            if header:
                game.headers.append(await _line(sock))
            await peer.handshake()
            game.shown.append(peer.shown)
            game.versions.append(peer.version)
            while data := await peer.receive():
                await peer.send(data)
            await peer.end()

    async def accept() -> None:
        while True:
            await trio.lowlevel.wait_readable(listening)
            nursery.start_soon(echo, listening.accept()[0])

    with socket.create_server((host, 0)) as listening:
        listening.setblocking(False)
        game = TlsGame(listening.getsockname()[1])
        context.sni_callback = lambda _object, name, _context: game.asked.append(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield game
            nursery.cancel_scope.cancel()


async def _line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        await trio.lowlevel.wait_readable(sock)
        line += sock.recv(1)
    return line
