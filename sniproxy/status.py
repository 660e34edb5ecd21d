"""/livez, /readyz, /metrics, /config and /refused over HTTP/1.1, small enough to stand beside sessions on one loop."""

import json
import socket
from functools import partial
from typing import Any

import h11
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sniproxy.following import Freshness
from sniproxy.refusals import Recorder
from sniproxy.relay.sockets import Lost, close, receive, send_all
from sniproxy.snapshot import Snapshot

REQUEST_TIMEOUT = 5.0  # seconds, request and answer together
MAX_REQUEST = 16 * 1024  # bytes of a request's head
MAX_CLIENTS = 64  # at once; more wait in the kernel's queue

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BYTES = "application/octet-stream"
FLIGHT = ".hello"  # ends the name of a downloaded first flight
Answer = tuple[int, str, bytes]


class Status:
    """What the status port answers from."""

    def __init__(
        self,
        registry: CollectorRegistry,
        recorder: Recorder,
        snapshot: Snapshot,
        freshness: Freshness,
    ) -> None:
        self.ready = False
        self._registry = registry
        self._recorder = recorder
        self._snapshot = snapshot
        self._freshness = freshness

    def answer(self, path: str) -> Answer:
        """Status code, content type and body for GET `path`."""
        match path.partition("?")[0]:
            case "/livez":
                return 200, TEXT, b"ok\n"
            case "/readyz":
                return self._readiness()
            case "/config":
                return 200, JSON, json.dumps(self._config()).encode() + b"\n"
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case "/refused":
                refused = [one.summary() for one in self._recorder]
                return 200, JSON, json.dumps({"refused": refused}).encode() + b"\n"
            case flight if flight.startswith("/refused/"):
                return self._flight(flight.removeprefix("/refused/").removesuffix(FLIGHT))
        return 404, TEXT, b"there are /livez, /readyz, /metrics, /config and /refused\n"

    def _readiness(self) -> Answer:
        """Who serves by an old configuration is ready: no pod would be better off without it."""
        if not self.ready:
            return 503, TEXT, b"no configuration yet: the store has not answered\n"
        if not self._freshness.stale:
            return 200, TEXT, b"ok\n"
        old = f"ok, but config_stale: revision {self._snapshot.revision} was last known to be the store's "
        return 200, TEXT, f"{old}{self._freshness.age:.0f} s ago\n".encode()

    def _config(self) -> dict[str, Any]:
        """Which revision of which object is in force, or was looked at and cannot be used."""
        broken = self._snapshot.broken.values()
        return {
            "revision": self._snapshot.revision,
            "stale": self._freshness.stale,
            "age": round(self._freshness.age, 3),
            "objects": self._snapshot.revisions(),
            "broken": [{"key": one.key, "why": one.why, "kept": one.kept} for one in broken],
        }

    def _flight(self, session: str) -> Answer:
        found = self._recorder.flight(session)
        if found is None:
            return 404, TEXT, b"no such session: /refused lists those that are kept\n"
        return 200, BYTES, found


async def serve_status(listening: socket.socket, status: Status) -> None:
    """Never returns."""
    clients = trio.CapacityLimiter(MAX_CLIENTS)
    async with trio.open_nursery() as nursery:
        while True:
            token = object()
            await clients.acquire_on_behalf_of(token)
            await trio.lowlevel.wait_readable(listening)
            try:
                sock, _ = listening.accept()
            except OSError:  # gone again, or out of descriptors: sessions come first
                clients.release_on_behalf_of(token)
                await trio.sleep(0.1)
                continue
            sock.setblocking(False)
            done = partial(clients.release_on_behalf_of, token)
            nursery.start_soon(_serve_client, sock, status, done)


async def _serve_client(sock: socket.socket, status: Status, done: partial[None]) -> None:
    try:
        with trio.move_on_after(REQUEST_TIMEOUT):
            await _answer_one(sock, status)
    except Lost:
        pass  # a monitor that does not wait for its answer
    finally:
        close(sock)
        done()


async def _answer_one(sock: socket.socket, status: Status) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
    method = b"GET"
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await receive(sock, MAX_REQUEST))
        if not isinstance(event, h11.Request):
            return  # closed before it asked
        method = event.method
        answer = status.answer(event.target.decode("ascii", "replace"))
        if method not in (b"GET", b"HEAD"):
            answer = 405, TEXT, b"only GET is answered here\n"
    except h11.RemoteProtocolError:
        answer = 400, TEXT, b"not an HTTP request\n"
    await send_all(sock, _encode(connection, answer, with_body=method != b"HEAD"))


def _encode(connection: h11.Connection, answer: Answer, *, with_body: bool) -> bytes:
    code, kind, body = answer
    headers = [
        ("content-type", kind),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    head = connection.send(h11.Response(status_code=code, headers=headers)) or b""
    return head + body if with_body else head
