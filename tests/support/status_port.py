"""A status port for tests, and a listener whose accept may fail."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from sniproxy.following import Freshness
from sniproxy.metrics import Metrics
from sniproxy.refusals import Recorder
from sniproxy.snapshot import Snapshot
from sniproxy.status import Status, serve_status
from tests.support.gateway import fill
from tests.support.peers import Peer

BOUND = 10.0  # seconds without a sign of the store after which the configuration is stale
DEADLINE = 1000  # virtual seconds for one test
TEXT = "text/plain; charset=utf-8"
HOSTILE = 'a"\\\r\n\x1b[2J\0\u2028<script>\x7f\x85\ud800é'


class Listening(socket.socket):
    """A listener whose accept fails with each of `failures` before it works."""

    failures: Sequence[OSError] = ()

    def accept(self) -> tuple[socket.socket, Any]:
        """As the kernel would."""
        if self.failures:
            first, *self.failures = self.failures
            raise first
        return super().accept()


class Port:
    """A status port."""

    def __init__(
        self,
        listening: "Listening",
        metrics: Metrics,
        status: Status,
        snapshot: Snapshot,
        freshness: Freshness,
    ) -> None:
        self.listening = listening
        self.snapshot = snapshot
        self.freshness = freshness
        self.address: tuple[str, int] = listening.getsockname()
        self.metrics = metrics
        self.status = status

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request of a real client."""
        host, port = self.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
            return await client.request(method, path, **more)

    def dial(self) -> Peer:
        """A client that has connected and said nothing."""
        sock = socket.create_connection(self.address)
        sock.setblocking(False)
        return Peer(sock)


@asynccontextmanager
async def open_port(recorder: Recorder | None = None) -> AsyncIterator[Port]:
    """A status port that serves until the block is left."""
    metrics = Metrics(lambda: 7)
    snapshot, freshness = fill({"upstreams/1": {"nodes": {}}}), Freshness(bound=BOUND)
    freshness.proven()
    status = Status(metrics.registry, recorder or Recorder(limit=10_000), snapshot, freshness)
    with trio.fail_after(DEADLINE), Listening() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        listening.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_status, listening, status)
            yield Port(listening, metrics, status, snapshot, freshness)
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
