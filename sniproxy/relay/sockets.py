"""Non-blocking sockets under trio's low-level waits: what session set-up and the trio relay both need.

What the kernel says of a connected socket is translated here, once, into Lost.
"""

import errno
import os
import random
import socket
import struct
from typing import Any, Protocol

import trio

NONBLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)  # saves a call where there is such a flag
WOULD_BLOCK = (BlockingIOError, InterruptedError)


class Lost(Exception):
    """A connected socket failed: which one, and how."""

    def __init__(self, sock: socket.socket, error: OSError) -> None:
        self.sock = sock
        self.cause = error.strerror or type(error).__name__
        super().__init__(self.cause)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Up to `size` bytes, b"" at EOF. Does not yield to others when there are bytes already."""
    while True:
        try:
            return sock.recv(size)
        except WOULD_BLOCK:
            await trio.lowlevel.wait_readable(sock)
        except OSError as error:
            raise Lost(sock, error) from None


async def receive_into(sock: socket.socket, buffer: memoryview) -> int:
    """How many bytes came, 0 at EOF. Always yields to others first, and nobody runs between the read and the return."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv_into(buffer)
        except WOULD_BLOCK:
            continue
        except OSError as error:
            raise Lost(sock, error) from None


class Keeper(Protocol):
    """For whom bytes are kept that the kernel did not take."""

    kept: int


async def send_all(
    sock: socket.socket, data: bytes | memoryview, keeper: Keeper | None = None
) -> bool:
    """Every byte, in order; whether the kernel took them at once.

    What it does not take at once is copied: a buffer may be overwritten meanwhile. The keeper counts the copy for as long
    as there is one.
    """
    try:
        sent = sock.send(data)
    except WOULD_BLOCK:
        sent = 0
    except OSError as error:
        raise Lost(sock, error) from None
    if sent == len(data):
        return True
    # Bytes do not change: they are kept as they are, once.
    rest = memoryview(data)[sent:] if isinstance(data, bytes) else memoryview(bytes(data[sent:]))
    if keeper is None:
        await _send_rest(sock, rest)
        return False
    count = len(rest)
    keeper.kept += count
    try:
        await _send_rest(sock, rest)
    finally:
        keeper.kept -= count
    return False


async def _send_rest(sock: socket.socket, rest: memoryview) -> None:
    while rest:
        await trio.lowlevel.wait_writable(sock)
        try:
            rest = rest[sock.send(rest) :]
        except WOULD_BLOCK:
            continue
        except OSError as error:
            raise Lost(sock, error) from None


async def connect(family: int, address: Any, *, keepalive_idle: int) -> socket.socket:
    """A connected TCP socket; OSError as the kernel says."""
    sock = socket.socket(family, socket.SOCK_STREAM | NONBLOCKING)
    try:
        if not NONBLOCKING:
            sock.setblocking(False)
        tune(sock, keepalive_idle=keepalive_idle)
        spread_keepalive(sock, keepalive_idle)
        try:
            sock.connect(address)
        except BlockingIOError:
            await wait_connected(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def wait_connected(sock: socket.socket) -> None:
    """Until a connection that was begun stands; OSError as the kernel says."""
    await trio.lowlevel.wait_writable(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def tune(sock: socket.socket, *, keepalive_idle: int) -> None:
    """No Nagle delay; TCP keepalive after that many idle seconds, so that balancers on the way keep the flow."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS names it otherwise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive_idle)


def spread_keepalive(sock: socket.socket, idle: int) -> None:
    """A fifth of the seconds at most is taken off, by chance: sessions that began together, as after the restart of a game
    server, would be asked together for ever whether they live, and a burst of thousands of packets loses some.
    """
    if hasattr(socket, "TCP_KEEPIDLE"):
        earlier = random.randrange(idle // 5 + 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle - earlier)


def keep_little(sock: socket.socket, unsent: int) -> None:
    """So many bytes beyond what is on its way: of a reader that is slow the kernel would keep megabytes. 0: its default."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)


def shut_writing(sock: socket.socket) -> None:
    """Sends EOF, unless the peer is gone altogether: whoever reads from it will hear how."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise Lost(sock, error) from None


def close(sock: socket.socket, *, reset: bool = False) -> None:
    """Closes, waking whoever waits for it with ClosedResourceError. `reset`: with RST in place of FIN."""
    if sock.fileno() < 0:
        return
    trio.lowlevel.notify_closing(sock)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
