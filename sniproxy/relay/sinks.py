"""Where one direction's bytes go in the trio relay: to a socket as they are, or through TLS."""

import socket
from typing import Protocol

from sniproxy.relay.sockets import Keeper, send_all, shut_writing
from sniproxy.relay.trio_tls import TrioTls

LITTLE = 8 * 1024  # bytes that are encrypted at once for somebody who may be slow
KEEPS_UP = 64  # times in a row that the kernel took all at once: more than it takes for one who reads nothing


class Sink(Protocol):
    """Where one direction's bytes go."""

    def most(self, size: int) -> int:
        """How many of so many bytes may be read for it at once."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Every byte; nobody else runs before they were sent or copied."""
        ...

    async def end(self) -> None:
        """No more come."""
        ...


class Plain:
    """To a socket, as they are."""

    __slots__ = ("_keeper", "_sock")

    def __init__(self, sock: socket.socket, keeper: Keeper) -> None:
        self._sock = sock
        self._keeper = keeper

    def most(self, size: int) -> int:
        return size

    async def send(self, data: bytes | memoryview) -> None:
        await send_all(self._sock, data, self._keeper)

    async def end(self) -> None:
        shut_writing(self._sock)


class Encrypted:
    """Through TLS; the end as close_notify and a write shutdown.

    A little at a time until who reads is known to keep up: what is not taken is kept encrypted, and OpenSSL's buffer stays
    as large as it was once.
    """

    __slots__ = ("_in_a_row", "_sock", "_tls")

    def __init__(self, sock: socket.socket, tls: TrioTls) -> None:
        self._sock = sock
        self._tls = tls
        self._in_a_row = 0

    def most(self, size: int) -> int:
        return size if self._in_a_row >= KEEPS_UP else min(LITTLE, size)

    async def send(self, data: bytes | memoryview) -> None:
        self._in_a_row = self._in_a_row + 1 if await self._tls.send(data) else 0

    async def end(self) -> None:
        await self._tls.end()
        shut_writing(self._sock)
