"""The channel between the data plane's parent and one of its workers: JSON messages, a line each, over a socket pair.

Orders go to the worker, reports and answers come back; `orders.py` says which there are. Whoever finds the other side gone
gets the end of the messages. A side that takes nothing for so long that MAX_WAITING messages wait counts as gone. A line
that is no message is left out: one may be cut off where a process takes a channel over from another.
"""

import json
import socket
from collections import deque
from contextlib import suppress
from typing import Any, Self

import trio

from sniproxy.relay.sockets import Lost, receive, send_all

MAX_WAITING = 1000  # messages that are not sent yet
MOST_OFFERED = 100  # of them, where one that is left out is said again soon
MAX_MESSAGE = 256 * 1024 * 1024  # bytes; /config with a hundred thousand objects is a tenth of it
CHUNK = 256 * 1024  # bytes read at once

Message = dict[str, Any]


class Channel:
    """One end. `run` must run for messages to leave; iterating gives those that come."""

    def __init__(self, sock: socket.socket, unread: bytes | None = None) -> None:
        """`unread`: what an earlier process had read of the messages from the other side; None: there was none."""
        sock.setblocking(False)
        self._sock = sock
        # It may have sent half a line: that ends here, and takes no message of ours with it.
        self._waiting = deque([b"\n"] if unread is not None else [])
        self._news = trio.Event()
        self._read = bytearray(unread or b"")
        self._idle = trio.Event()
        self._idle.set()
        self.gone = False

    @property
    def unread(self) -> bytes:
        """What was read and is no whole message yet."""
        return bytes(self._read)

    def fileno(self) -> int:
        """Of the socket."""
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        """Queued; lost if the other side is gone."""
        if self.gone:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.close()
            return
        self._waiting.append(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        if self._idle.is_set():  # else somebody may wait for it
            self._idle = trio.Event()
        self._news.set()

    def offer(self, message: Message) -> None:
        """The same, but left out while many wait: something newer will be said."""
        if len(self._waiting) < MOST_OFFERED:
            self.send(message)

    async def run(self) -> None:
        """Sends what is queued, until the other side is gone."""
        try:
            while not self.gone:
                while self._waiting:
                    await send_all(self._sock, self._waiting[0])
                    self._waiting.popleft()
                self._idle.set()
                self._news = trio.Event()
                await self._news.wait()
        except (Lost, trio.ClosedResourceError):
            self.close()

    async def flushed(self) -> None:
        """Until everything was sent, or the other side is gone."""
        await self._idle.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            while (end := self._read.find(b"\n")) < 0:
                try:
                    more = await receive(self._sock, CHUNK)
                except (Lost, trio.ClosedResourceError):
                    more = b""
                if not more or len(self._read) > MAX_MESSAGE:
                    self.close()
                    raise StopAsyncIteration
                self._read += more
            line = bytes(self._read[:end])
            del self._read[: end + 1]
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    return message

    def close(self) -> None:
        """No more messages, either way."""
        if not self.gone:
            self.gone = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._idle.set()
            self._news.set()
