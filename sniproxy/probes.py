"""One probe of one game server, as `checks.active` of its upstream says, and what was found.

    tcp      it connects
    tls      it connects, and goes through a TLS handshake; whoever it is (a name is asked for, no certificate is verified)
    http     it answers a GET with one of the statuses that are named
    https    the same over TLS, verified by the system's authorities unless `https_verify_certificate` is false

It has `timeout` seconds for everything, the look-up of its name too, and is asked on the address that a session would get.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TypeVar

import h11
import trio

from sniproxy.balancing import Node
from sniproxy.errors import SessionEnded
from sniproxy.eyeballs import connect_first, in_order
from sniproxy.forbidden import Forbidden
from sniproxy.health import Failure
from sniproxy.names import Names
from sniproxy.networks import family_of, parse_address
from sniproxy.objects.upstream import Active

MAX_HEAD = 16 * 1024  # bytes of an answer's head
CHUNK = 4096  # bytes read at once
KEEPALIVE_IDLE = 300  # seconds; no probe lives that long


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe has found: a failure, a success, or nothing that counts."""

    failure: Failure | None = None
    why: str = ""
    counts: bool = True

    @property
    def result(self) -> str:
        """One word for it."""
        if self.failure is not None:
            return self.failure.value
        return "success" if self.counts else "neither"


class _Failed(Exception):
    """How a probe came to nothing."""

    def __init__(self, failure: Failure, why: str) -> None:
        super().__init__(why)
        self.finding = Finding(failure, why)


class Probe:
    """What is asked of one game server."""

    def __init__(self, node: Node, active: Active, *, absolute: bool = False) -> None:
        """ValueError, with what to do, for one that cannot be asked.

        absolute: its name is one that DNS has given, which no search list may complete to another.
        """
        port = active.port or node.port
        if port is None:
            raise ValueError("no port is known: give the node one, or checks.active.port")
        self.host, self.port = node.bare_host, port
        self._name = f"{self.host}." if absolute else self.host
        self.active = active
        self.address = self.host  # that it had at last
        self.asked = (active.host or node.host).strip("[]").partition("%")[0]
        self.request = b""
        if active.type in ("http", "https"):
            self.request = _request(active, node.host)
        self._turns = count()

    async def run(self, names: Names, forbidden: Forbidden) -> Finding:
        """Asks once."""
        seconds = self.active.timeout
        try:
            with trio.fail_after(seconds):
                return await self._run(names, forbidden)
        except trio.TooSlowError:
            return Finding(Failure.TIMEOUT, f"no answer in {seconds:g} s")
        except _Failed as failed:
            return failed.finding
        except SessionEnded as end:  # of its name
            return Finding(Failure.TCP, end.detail)

    async def _run(self, names: Names, forbidden: Forbidden) -> Finding:
        addresses = await self._addresses(names, forbidden)
        async with _connected(addresses, self.port) as plain:
            self.address = str(plain.socket.getpeername()[0])
            match self.active.type:
                case "tcp":
                    return Finding()
                case "http":
                    return await self._ask(plain)
                case "tls":
                    await self._shake_hands(plain, verify=False)
                    return Finding()
                case "https":
                    verify = self.active.https_verify_certificate
                    return await self._ask(await self._shake_hands(plain, verify=verify))

    async def _addresses(self, names: Names, forbidden: Forbidden) -> list[str]:
        addresses: Sequence[str] = (self.host,)
        if family_of(self.host) is None:
            if named := forbidden.why_named(self.host, self.port):
                raise _Failed(Failure.TCP, f"{self.host}: {named}")
            found, _ = await names.look_up(self._name)
            addresses = in_order(found, next(self._turns))
        why: str | None = None
        allowed = []
        for address in addresses:
            refused = forbidden.why(parse_address(address), self.port)
            if refused is None:
                allowed.append(address)
            else:
                why = refused
        if not allowed:
            raise _Failed(Failure.TCP, f"{addresses[0]}: {why}")
        return allowed

    async def _shake_hands(self, plain: trio.SocketStream, *, verify: bool) -> "_Tls":
        try:
            stream = _Tls(plain, _context(verify=verify), self.asked)
            await stream.do_handshake()
        except (ssl.SSLError, trio.BrokenResourceError) as error:
            raise _Failed(Failure.TCP, f"TLS: {error.__cause__ or error}") from None
        except ValueError as error:  # no name that TLS could ask for
            raise _Failed(Failure.TCP, f"TLS: {self.asked}: {error}") from None
        return stream

    async def _ask(self, stream: "trio.SocketStream | _Tls") -> Finding:
        try:
            await stream.send_all(self.request)
            status = await _status(stream)
        except (ssl.SSLError, trio.BrokenResourceError) as error:
            raise _Failed(Failure.TCP, f"HTTP: {error.__cause__ or error}") from None
        if status in self.active.healthy.http_statuses:
            return Finding()
        if status in self.active.unhealthy.http_statuses:
            return Finding(Failure.HTTP, f"HTTP status {status}")
        return Finding(None, f"HTTP status {status}, which is in neither list", counts=False)


class _Tls:
    """A TLS client. trio's own refers to itself, which would stay for ever (`worker.tame_garbage_collection`)."""

    def __init__(self, plain: trio.SocketStream, context: ssl.SSLContext, name: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def do_handshake(self) -> None:
        """SSLError, or BrokenResourceError."""
        await self._do(self._object.do_handshake)

    async def send_all(self, data: bytes) -> None:
        """As a trio stream does."""
        self._object.write(data)
        await self._flush()

    async def receive_some(self, size: int) -> bytes:
        """As a trio stream does; an end without TLS's farewell is one as well."""
        try:
            return await self._do(partial(self._object.read, size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _do(self, action: Callable[[], T]) -> T:
        while True:
            try:
                done = action()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._plain.receive_some(CHUNK)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return done

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._plain.send_all(data)


@asynccontextmanager
async def _connected(addresses: Sequence[str], port: int) -> AsyncIterator[trio.SocketStream]:
    try:
        sock = await connect_first(addresses, port, keepalive_idle=KEEPALIVE_IDLE)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    except OSError as error:
        raise _Failed(Failure.TCP, error.strerror or type(error).__name__) from None
    try:
        yield stream
    finally:
        stream.socket.close()


def _request(active: Active, host: str) -> bytes:
    lines = [line.partition(":") for line in active.req_headers or ()]
    if not all(colon for _, colon, _ in lines):
        raise ValueError("no HTTP request can be made of req_headers: a header has a colon")
    headers = [(name.strip(), value.strip()) for name, _, value in lines]
    given = {name.lower() for name, _ in headers}
    own = {"host": active.host or host, "user-agent": "sniproxy", "connection": "close"}
    headers = [(name, value) for name, value in own.items() if name not in given] + headers
    try:
        request = h11.Request(method="GET", target=active.http_path, headers=headers)
        return h11.Connection(h11.CLIENT).send(request) or b""
    except (h11.LocalProtocolError, UnicodeError) as error:
        why = f"no HTTP request can be made of http_path and req_headers: {error}"
        raise ValueError(why) from None


async def _status(stream: trio.SocketStream | _Tls) -> int:
    """Of the final answer; BrokenResourceError, or _Failed."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "-")]))
    connection.send(h11.EndOfMessage())
    received = 0
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise _Failed(Failure.HTTP, f"no HTTP answer: {error}") from None
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            data = await stream.receive_some(CHUNK)
            if not data:
                raise _Failed(Failure.TCP, "HTTP: closed before it had answered")
            received += len(data)
            if received > MAX_HEAD:
                raise _Failed(Failure.HTTP, f"the head of its answer is over {MAX_HEAD} bytes")
            connection.receive_data(bytes(data))


@cache
def _context(*, verify: bool) -> ssl.SSLContext:
    """With the system's authorities it takes its time: made once."""
    if verify:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
