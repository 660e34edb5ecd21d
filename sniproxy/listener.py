"""Listening sockets: bind with an error that helps, accept in batches, survive running out of descriptors."""

import errno
import socket
import sys
from contextlib import suppress
from typing import Any, Protocol

import trio

from sniproxy.errors import SettingsError
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.settings import split_address

OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Of a connection that broke before we came to it: accept(2) passes on what the network says of it.
GONE = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "EPROTO", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH"),
        *("EOPNOTSUPP", "ENETDOWN", "ENETUNREACH"),
    )
    if hasattr(errno, name)
)
MOST_WAITING = 1 << 16  # connections: no queue of the kernel's is longer
PAUSE = 0.1  # seconds without accepting once there is no room
LOG_EVERY = 1.0  # seconds between two log lines about it
_REUSEPORT = getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)  # Windows has no such option


class OnAccept(Protocol):
    """Takes a connected, non-blocking socket over; must not block."""

    def __call__(self, sock: socket.socket, peer: object, /) -> None: ...


def bind(address: str, setting: str) -> socket.socket:
    """A bound, non-blocking socket that does not listen yet; SettingsError that names port and setting if it cannot be."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if family == socket.AF_INET:
            host = socket.gethostbyname(host)
        # With the protocol named, asyncio knows accepted sockets for TCP and turns Nagle's delay off: 40 ms per answer.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise SettingsError(f"{setting}: {_why(error, address, port)}") from None
    return sock


def bind_group(address: str, setting: str, count: int) -> list[socket.socket]:
    """So many sockets for one address, over which the kernel spreads those who come (SO_REUSEPORT); `bind` otherwise.

    Only processes of one user can share an address so, and two data planes of one user would: hence nobody else may have
    the address when this is called. One socket where the system does not spread. A group of one may grow as well.
    """
    alone = bind(address, setting)
    if not sys.platform.startswith("linux"):
        return [alone]
    family, name = alone.family, alone.getsockname()
    alone.close()
    group: list[socket.socket] = []
    try:
        group.extend(_bind_shared(family, name, setting) for _ in range(count))  # one by one
    except BaseException:
        for sock in group:
            sock.close()
        raise
    return group


def widen(group: list[socket.socket], setting: str, count: int) -> None:
    """Makes a group larger, up to so many sockets."""
    while len(group) < count and group[0].getsockopt(socket.SOL_SOCKET, _REUSEPORT):
        group.append(_bind_shared(group[0].family, group[0].getsockname(), setting))


def ensure_unshared(group: list[socket.socket], setting: str) -> None:
    """Before a group begins to listen: SettingsError if another program does, whose players it would share unnoticed."""
    first = group[0]
    is_shared = first.getsockopt(socket.SOL_SOCKET, _REUSEPORT)
    if is_shared and not first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        bind(_written(first.getsockname()), setting).close()


def _bind_shared(family: int, name: Any, setting: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, _REUSEPORT, 1)
        sock.bind(name)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SettingsError(f"{setting}: {_why(error, _written(name), name[1])}") from None
    return sock


def stop_listening(sock: socket.socket) -> None:
    """Lets nobody in any more, in whichever process holds the socket; the address stays ours, and `listen` may follow.

    Whoever waits in its queue is reset: that is to be emptied before.
    """
    # Not listening, or not on Linux: then nobody accepts, and closing does it.
    with suppress(OSError):
        # One that does not listen would pass this on to all whom it accepts later: they could not be read from.
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.shutdown(socket.SHUT_RD)


def listen(sock: socket.socket, setting: str, *, backlog: int, defer_accept: int = 0) -> None:
    """Lets clients in. SettingsError if another program came first.

    `defer_accept`: seconds for which the kernel keeps a connection that has said nothing, where clients speak first.
    """
    try:
        if hasattr(socket, "TCP_DEFER_ACCEPT"):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer_accept)
            # Accepted sockets inherit it: what comes first is answered soon, and its acknowledgement goes with the answer.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, int(not defer_accept))
        sock.listen(backlog)
    except OSError as error:
        name = sock.getsockname()
        raise SettingsError(f"{setting}: {_why(error, _written(name), name[1])}") from None


def _written(name: Any) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken ({address}): end the program that uses it, or choose another port"
    if error.errno == errno.EACCES:
        return f"port {port} needs a privilege ({address}): take a port from 1024 on"
    return f"cannot listen on {address}: {error.strerror or error}"


class PauseLog:
    """Accepting pauses now and then: each time counts, and a line is written once in a while."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log
        self._quiet_until = -float("inf")

    def note(self, cause: str) -> None:
        """It has paused."""
        self._metrics.accept_paused.inc()
        if trio.current_time() >= self._quiet_until:
            self._quiet_until = trio.current_time() + LOG_EVERY
            self._log.warning("accepting pauses", cause=cause)


async def accept_forever(
    listening: socket.socket, on_accept: OnAccept, *, batch: int, pauses: PauseLog
) -> None:
    """Hands every new connection to `on_accept`, up to `batch` per turn of the loop.

    Returns when another process that has the socket too lets nobody in there any more.
    """
    while True:
        await trio.lowlevel.checkpoint_if_cancelled()  # another task may wait for it by now
        await trio.lowlevel.wait_readable(listening)
        await trio.lowlevel.checkpoint_if_cancelled()  # the socket may be closed by now
        try:
            _accept_batch(listening, on_accept, batch)
        except OSError as error:
            if error.errno == errno.EINVAL:  # it does not listen
                return
            if error.errno not in OUT_OF_ROOM:
                raise
            pauses.note(error.strerror or type(error).__name__)
            await trio.sleep(PAUSE)


def accept_waiting(listening: socket.socket, on_accept: OnAccept) -> None:
    """Everybody who waits in the queue of a socket that is about to let nobody in any more."""
    with suppress(OSError):  # out of descriptors: who waits cannot be helped
        _accept_batch(listening, on_accept, MOST_WAITING)


def _accept_batch(listening: socket.socket, on_accept: OnAccept, batch: int) -> None:
    for _ in range(batch):
        try:
            sock, peer = listening.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in GONE:
                continue
            raise
        sock.setblocking(False)
        on_accept(sock, peer)
