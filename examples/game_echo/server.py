"""The echo game server: each line a player sends comes back as `[name] ` and the line.

`LineEcho` decides on bytes alone; `bind`, `attend_players` and `serve` put it on sockets.
"""

import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from sniproxy.proxy_protocol import BrokenHeader, ProxyHeader, ProxyHeaderReader

MAX_LINE = 64 * 1024
"""Bytes held back while waiting for the end of a line; a longer line is echoed as it comes."""

RECEIVE_SIZE = 64 * 1024


class LineEcho:
    """Turns what one player sent into the answer, however the bytes were cut on the way."""

    def __init__(self, name: str) -> None:
        self._prefix = f"[{name}] ".encode()
        self._held = bytearray()
        self._inside = False  # this line's prefix is already out

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return what can be answered now, which may be nothing."""
        searched = len(self._held)
        self._held += data
        answer = self._take(self._held.rfind(b"\n", searched) + 1)
        if self._inside or len(self._held) > MAX_LINE:
            answer += self.flush()
        return answer

    def flush(self) -> bytes:
        """Answer everything held, an unfinished line too."""
        return self._take(len(self._held))

    def _take(self, size: int) -> bytes:
        *lines, last = bytes(self._held[:size]).split(b"\n")
        del self._held[:size]
        return b"".join(self._answer(line + b"\n") for line in lines) + self._answer(last)

    def _answer(self, piece: bytes) -> bytes:
        if not piece:
            return b""
        prefix = b"" if self._inside else self._prefix
        self._inside = not piece.endswith(b"\n")
        return prefix + piece


async def serve(
    name: str,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a game server until cancelled; `nursery.start` returns the (host, port) it is bound to.

    With `tls` (see `tls_context`) the server speaks TLS itself. Raises OSError when it cannot listen there.
    """
    listeners = await bind(host, port)
    task_status.started(bound_address(listeners))
    await attend_players(name, listeners, tls)


def tls_context(cert: str | Path, key: str | Path) -> ssl.SSLContext:
    """TLS with this certificate chain and key; raises OSError (ssl.SSLError is one) when they do not fit."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # OpenSSL 3 takes a player that leaves without close_notify for an attack, and would not send its last answer.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.load_cert_chain(cert, key)
    return context


async def bind(host: str, port: int) -> Sequence[trio.SocketListener]:
    """Listen on host:port (0: any free port)."""
    return await trio.open_tcp_listeners(port, host=host)


def bound_address(listeners: Sequence[trio.SocketListener]) -> tuple[str, int]:
    """The (host, port) that `bind` got."""
    host, port, *_ = listeners[0].socket.getsockname()
    return host, port


async def attend_players(
    name: str,
    listeners: Sequence[trio.SocketListener],
    tls: ssl.SSLContext | None,
    meet: Callable[[str], None] | None = None,
) -> None:
    """Accept players and echo to each of them, until cancelled.

    `meet`: a PROXY header comes first, and it is told whose session that is, and which.
    """
    await trio.serve_listeners(partial(_attend, name, tls, meet), list(listeners))


async def _attend(
    name: str,
    tls: ssl.SSLContext | None,
    meet: Callable[[str], None] | None,
    player: trio.SocketStream,
) -> None:
    """One player's session; the accept loop closes the socket afterwards."""
    # A reset, or a hello that is not TLS, ends this player's session and nobody else's.
    with suppress(trio.BrokenResourceError, BrokenHeader):
        if meet is not None:
            meet(describe(await _read_header(player)))
        if tls is None:
            await _echo(name, player)
            return
        # Compatible: trio too lets a player leave without close_notify.
        stream = trio.SSLStream(player, tls, server_side=True, https_compatible=True)
        await _echo(name, stream)
        # It would also leave without close_notify when closed; unwrap says goodbye. The player's end has been
        # seen, so there is nothing to wait for.
        await stream.unwrap()


async def _read_header(player: trio.SocketStream) -> ProxyHeader | None:
    """None: the player is gone. Byte by byte, so that none of what follows is taken."""
    reader, header = ProxyHeaderReader(), None
    while header is None and (byte := await player.receive_some(1)):
        header = reader.feed(byte)
    return header


def describe(header: ProxyHeader | None) -> str:
    """Which session it is, as the proxy's log calls it, and whose."""
    if header is None or header.source is None:
        return "somebody looked whether this server is there"
    unique = header.unique_id or b"-"
    host, port = header.source
    return f"session {unique.decode('ascii', 'backslashreplace')!a} of {host} port {port}"


async def _echo(name: str, stream: trio.abc.Stream) -> None:
    echo = LineEcho(name)
    while data := await stream.receive_some(RECEIVE_SIZE):
        if answer := echo.feed(bytes(data)):
            await stream.send_all(answer)
    if rest := echo.flush():
        await stream.send_all(rest)
