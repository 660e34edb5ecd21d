"""An HTTP port of ours for tests, and a listener whose accept may fail."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio

from sniproxy.small_http import Answers, serve_http
from tests.support.peers import Peer

DEADLINE = 1000  # virtual seconds for one test


class Listening(socket.socket):
    """A listener whose accept fails with each of `failures` before it works."""

    failures: Sequence[OSError] = ()

    def accept(self) -> tuple[socket.socket, Any]:
        """As the kernel would."""
        if self.failures:
            first, *self.failures = self.failures
            raise first
        return super().accept()


class HttpPort:
    """What a test sees of it."""

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.address: tuple[str, int] = listening.getsockname()

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request of a real client."""
        host, port = self.address
        async with httpx.AsyncClient(
            base_url=f"http://{host}:{port}", trust_env=False, verify=False
        ) as client:
            return await client.request(method, path, **more)

    def dial(self) -> Peer:
        """A client that has connected and said nothing."""
        sock = socket.create_connection(self.address)
        sock.setblocking(False)
        return Peer(sock)


@asynccontextmanager
async def open_http(answers: Answers, **more: Any) -> AsyncIterator[HttpPort]:
    """A port that answers so until the block is left; `more` as `serve_http` takes it."""
    with trio.fail_after(DEADLINE), Listening() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        listening.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_http, listening, answers, **more))
            yield HttpPort(listening)
            nursery.cancel_scope.cancel()


async def read_until_gone(client: Peer) -> bytes:
    """All that comes; a reset after it is an end too, when not all that was sent was read."""
    data = bytearray()
    try:
        while more := await client.receive():
            data += more
    except ConnectionResetError:
        pass
    return bytes(data)
