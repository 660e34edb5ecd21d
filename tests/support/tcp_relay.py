"""A TCP relay between a client and a server of the tests, with which the network between them is cut or falls silent.

It has one thread, which works out anew in each round which sockets it waits for: there are few of them, and so what the
test has changed meanwhile needs no bookkeeping.
"""

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from select import POLLIN, POLLOUT, poll
from typing import Self

from tests.support.ports import free_ports

PIECE = 65_536  # bytes taken at once, and kept at most for each direction
BACKLOG = 128
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, and nothing stays behind


@dataclass(eq=False)
class _Way:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    pending: bytes = b""
    ended: bool = False  # the source has sent its end, and the sink has it too

    def take(self) -> int:
        """Moves what it can; how many bytes were taken from the source."""
        taken = 0
        with suppress(BlockingIOError):
            if not self.pending and not self.ended:
                self.pending = self.source.recv(PIECE)
                taken = len(self.pending)
                if not taken:
                    self.ended = True
                    self.sink.shutdown(socket.SHUT_WR)
        with suppress(BlockingIOError):
            if self.pending:
                self.pending = self.pending[self.sink.send(self.pending) :]
        return taken


@dataclass(eq=False)
class _Connection:
    """A client, and what was opened for it towards the server."""

    client: socket.socket
    server: socket.socket
    silent: bool = False  # for ever
    up: _Way = field(init=False)
    down: _Way = field(init=False)

    def __post_init__(self) -> None:
        self.up = _Way(self.client, self.server)
        self.down = _Way(self.server, self.client)

    def close(self, *, reset: bool) -> None:
        for sock in (self.client, self.server):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()


class TcpRelay:
    """Connections to `port` go on to `target_port`; `with` starts and ends it. `target_port` may change meanwhile.

    greeting: what the target hears first of each, such as the PROXY header of a load balancer. port: none is a free one.
    """

    def __init__(
        self,
        target_port: int,
        *,
        greeting: bytes = b"",
        target_host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.target_port = target_port
        self.target_host = target_host
        self.greeting = greeting
        self.port = free_ports(1)[0] if port is None else port
        self._accepted = self._bytes_up = self._bytes_down = 0
        self._frozen = self._over = False
        self._listening: socket.socket | None = None
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()  # held except while waiting
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"relay-{target_port}", daemon=True)

    def __enter__(self) -> Self:
        self._woken.setblocking(False)
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with self._lock:
            self._over = True
        self._tell()
        self._thread.join()
        self._woken.close()
        self._wake.close()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._connections)

    @property
    def accepted(self) -> int:
        """How many connections there were in all."""
        with self._lock:
            return self._accepted

    @property
    def bytes_up(self) -> int:
        """What went to the target. The lock is held from the sending to the counting."""
        with self._lock:
            return self._bytes_up

    @property
    def bytes_down(self) -> int:
        """What came back."""
        with self._lock:
            return self._bytes_down

    def cut(self) -> None:
        """Resets all connections and refuses new ones."""
        with self._lock:
            if self._listening is not None:
                # A socket that the thread waits for is closed when the thread has woken up: it would still accept.
                self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()
                self._listening = None
            for connection in self._connections:
                connection.close(reset=True)
            self._connections.clear()
        self._tell()

    def freeze(self, *, existing_only: bool = False) -> None:
        """No byte goes either way, and nobody is told: connections stay open, new ones are accepted and silent as well.

        existing_only: new ones work, and those that are there now stay silent for ever.
        """
        with self._lock:
            if existing_only:
                for connection in self._connections:
                    connection.silent = True
            else:
                self._frozen = True
        self._tell()

    def heal(self) -> None:
        """As before `cut` and `freeze`: what was frozen goes on where it stood."""
        with self._lock:
            self._frozen = False
            if self._listening is None:
                self._listen()
        self._tell()

    def _listen(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(BACKLOG)
        self._listening = listening

    def _tell(self) -> None:
        """Lets the thread look at what has changed."""
        self._wake.send(b"x")

    def _run(self) -> None:
        while True:
            self._wait()
            with self._lock:
                if self._over:
                    return
                with suppress(BlockingIOError):
                    self._woken.recv(PIECE)
                self._accept()
                if not self._frozen:
                    self._connections = [one for one in self._connections if self._move(one)]

    def _wait(self) -> None:
        """Until something can be done. A socket that is closed meanwhile wakes nobody: whoever closes it tells."""
        waiting = poll()
        waiting.register(self._woken, POLLIN)
        with self._lock:
            if self._listening is not None:
                waiting.register(self._listening, POLLIN)
            wanted: dict[socket.socket, int] = {}
            for connection in () if self._frozen else self._connections:
                for way in () if connection.silent else (connection.up, connection.down):
                    sock, event = (way.sink, POLLOUT) if way.pending else (way.source, POLLIN)
                    if way.pending or not way.ended:
                        wanted[sock] = wanted.get(sock, 0) | event
            for sock, events in wanted.items():
                waiting.register(sock, events)
        waiting.poll()

    def _accept(self) -> None:
        if self._listening is None:
            return
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket()
                for sock in (client, server):
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.connect_ex(
                    (self.target_host, self.target_port)
                )  # how it ends is seen when used
                connection = _Connection(client, server)
                connection.up.pending = self.greeting
                self._connections.append(connection)
                self._accepted += 1

    def _move(self, connection: _Connection) -> bool:
        """Forwards what there is; whether the connection goes on."""
        if connection.silent:
            return True
        try:
            self._bytes_up += connection.up.take()
            self._bytes_down += connection.down.take()
        except OSError:
            connection.close(reset=True)
            return False
        if connection.up.ended and connection.down.ended:
            connection.close(reset=False)
            return False
        return True
