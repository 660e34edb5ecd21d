"""A player and a game server on real sockets, in clear or over TLS, moved step by step by a test."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import trio

from tests.support.certificates import NAME

CHUNK = 64 * 1024


def tcp_pair(
    *, kernel_buffer: int | None = None, host: str = "127.0.0.1"
) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback, both non-blocking; `kernel_buffer` bounds what lies between them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        _limit(listening, kernel_buffer)
        listening.bind((host, 0))
        listening.listen(1)
        ours = socket.socket(family)
        _limit(ours, kernel_buffer)
        ours.connect(listening.getsockname())
        theirs, _ = listening.accept()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def _limit(sock: socket.socket, kernel_buffer: int | None) -> None:
    if kernel_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_buffer)


class Peer:
    """One end of a stream. What the kernel says comes out as it is: a reset is ConnectionResetError."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = 0  # bytes that the kernel took from us

    @property
    def wire(self) -> "Peer":
        """The socket below TLS, for what TLS would not say."""
        return Peer(self.sock)

    async def send(self, data: bytes) -> None:
        """Every byte."""
        rest = memoryview(data)
        while rest:
            count = await self._send_some(rest)
            self.sent += count
            rest = rest[count:]

    async def receive(self) -> bytes:
        """Some bytes, b"" at the end."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            with suppress(BlockingIOError):
                return self.sock.recv(CHUNK)

    async def read(self, size: int) -> bytes:
        """At least that many bytes, fewer only at the end."""
        data = bytearray()
        while len(data) < size and (more := await self.receive()):
            data += more
        return bytes(data)

    async def read_all(self) -> bytes:
        """Everything up to the end."""
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    async def end(self) -> None:
        """Sends nothing more; goes on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Closes, with FIN unless there is something unread."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    async def _send_some(self, data: memoryview) -> int:
        while True:
            await trio.lowlevel.wait_writable(self.sock)
            with suppress(BlockingIOError):
                return self.sock.send(data)


class TlsPeer(Peer):
    """One that speaks TLS, and ends it as the standard has it: its close_notify does not stop its reading."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None = NAME,
        *,
        session: ssl.SSLSession | None = None,
        serves: bool = False,
    ) -> None:
        """`session`: one to come back to, of the same context. `serves`: it is the game server."""
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=serves,
            server_hostname=None if serves else name,
            session=session,
        )
        self._sending = trio.Lock()
        self._held_back = b""
        self.goodbye = False  # the other side's close_notify came
        self._failure: ssl.SSLError | None = None  # of the handshake

    @property
    def session(self) -> ssl.SSLSession | None:
        """What the player may come back to."""
        return self._tls.session

    @property
    def resumed(self) -> bool | None:
        """Whether both sides went on with the session that was offered."""
        return self._tls.session_reused

    @property
    def shown(self) -> bytes | None:
        """The certificate of the other side in DER, if it was verified."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def version(self) -> str | None:
        """What the handshake agreed on."""
        return self._tls.version()

    async def handshake(self, *, then: bytes = b"") -> None:
        """SSLError when the two do not agree, after our alert went out. `then` goes with our last flight."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self.wire.receive()
                if not data:
                    raise ssl.SSLEOFError("closed during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError as error:
                self._failure = error
                await self._flush()
                raise
            else:
                if then:
                    self._tls.write(then)
                await self._flush()
                return

    async def last_flight(self) -> bytes:
        """Goes on after `hello` with a handshake of TLS 1.2; what ends it is given, not sent. `session` is known then."""
        while not (flight := self._outgoing.read()):
            self._incoming.write(await self.wire.receive())
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
        return flight

    async def told(self) -> str | None:
        """The fatal alert with which the other side ended, by name; None when it ended without one."""
        failure: OSError | None = self._failure
        try:
            if failure is None:
                await self.read_all()
        except OSError as error:  # SSLError is one
            failure = error
        _, alert, name = (getattr(failure, "reason", None) or "").partition("_ALERT_")
        return name.lower() if alert else None

    def hello(self) -> bytes:
        """The first flight; `handshake` goes on from there."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    async def send(self, data: bytes) -> None:
        """Every byte, encrypted; `sent` counts clear bytes of what was taken whole."""
        view = memoryview(data)
        for start in range(0, len(data), CHUNK):
            self._tls.write(view[start : start + CHUNK])
            await self._flush()
            self.sent += len(view[start : start + CHUNK])

    async def receive(self) -> bytes:
        """Some bytes, b"" after close_notify (`goodbye` is set) or at a bare end of the stream."""
        while True:
            data = self._decrypted()
            if data is not None:
                return data
            data = await self.wire.receive()
            if not data:
                return b""
            self._incoming.write(data)

    async def end(self, *, shutdown: bool = True) -> None:
        """Sends close_notify, and EOF unless told otherwise; goes on reading."""
        pending = bytearray()
        while data := self._decrypted():
            pending += data
        self._held_back = bytes(pending)
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self._flush()
        if shutdown:
            await super().end()

    def _decrypted(self) -> bytes | None:
        if self._held_back:
            data, self._held_back = self._held_back, b""
            return data
        try:
            data = self._tls.read(CHUNK)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            data = b""
        self.goodbye = self.goodbye or not data
        return data

    async def _flush(self) -> None:
        async with self._sending:
            while data := self._outgoing.read():
                await self.wire.send(data)


@contextmanager
def deaf_server() -> Iterator[tuple[str, int]]:
    """An address that never answers: its queue is full, so the kernel drops whoever knocks."""
    with socket.socket() as listening, ExitStack() as queued:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address: tuple[str, int] = listening.getsockname()
        for _ in range(4):
            sock = queued.enter_context(socket.socket())
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(address)
        yield address


@dataclass
class GameServer:
    """Echoes what it gets, and remembers all of it."""

    port: int
    heard: list[bytearray] = field(default_factory=list)  # one per connection


@asynccontextmanager
async def game_server(host: str = "127.0.0.1") -> AsyncIterator[GameServer]:
    """A server on loopback, for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        (listening,) = await trio.open_tcp_listeners(0, host=host)
        server = GameServer(listening.socket.getsockname()[1])

        async def echo(stream: trio.SocketStream) -> None:
            heard = bytearray()
            server.heard.append(heard)
            with suppress(trio.BrokenResourceError):  # a player who resets
                async for data in stream:
                    heard += data
                    await stream.send_all(data)

        nursery.start_soon(trio.serve_listeners, echo, [listening])
        yield server
        nursery.cancel_scope.cancel()
