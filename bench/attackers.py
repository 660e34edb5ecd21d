"""Clients that mean harm, in a process of their own: `python -m bench.attackers slow|garbage PORT ...` prints JSON.

slow     connects COUNT clients, evenly over some seconds; each sends one byte of a sound hello now and one every 5 s,
         and notes when it is closed.
garbage  opens RATE connections a second, each of which says something that is no sound hello and waits to be closed.
"""

import errno
import json
import random
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator

import click

from sniproxy.corpus import Expect, load
from tests.support.players import client_hello

DRIP = 5.0  # seconds between two bytes of a slow client
PATIENCE = 30.0  # seconds after which one that is still open counts as never closed
SCANNERS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.7\r\n",
    bytes.fromhex("030000130ee000000000000100080003000000"),  # RDP
    bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0"),  # SSLv2
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\0" * 100,
)


def connect(port: int) -> socket.socket:
    """A connection to the proxy, non-blocking from then on."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def is_over(sock: socket.socket) -> bool:
    """Whether the proxy has closed it."""
    try:
        return sock.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ECONNRESET:
            raise
        return True


class Slow:
    """Slow clients and when each began and ended."""

    def __init__(self, port: int, name: str) -> None:
        self._port = port
        self._hello = client_hello(name)
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float, int]] = {}  # began, bytes sent
        self.lives: list[float] = []  # seconds

    def connect(self) -> None:
        """One more."""
        sock = connect(self._port)
        sock.send(self._hello[:1])
        self._open[sock.fileno()] = (sock, time.monotonic(), 1)
        self._poll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)

    def serve(self, seconds: float) -> None:
        """Sees who was closed within that time."""
        for number, _ in self._poll.poll(max(0.0, seconds)):
            sock, began, _ = self._open[number]
            if is_over(sock):
                self.lives.append(time.monotonic() - began)
                del self._open[number]
                sock.close()

    def drip(self) -> None:
        """A byte more from whoever has been quiet for DRIP seconds."""
        now = time.monotonic()
        for number, (sock, began, sent) in self._open.items():
            if now - began >= sent * DRIP:
                try:
                    sock.send(self._hello[sent : sent + 1])
                except OSError:  # closed meanwhile: `serve` will see it
                    continue
                self._open[number] = (sock, began, sent + 1)

    @property
    def left(self) -> int:
        """Those that are still open."""
        return len(self._open)


def run_slow(port: int, count: int, seconds: float, name: str) -> dict[str, object]:
    """How long each of them was let be."""
    clients = Slow(port, name)
    begun = time.monotonic()
    for number in range(count):
        clients.connect()
        while (wait := begun + seconds * number / count - time.monotonic()) > 0:
            clients.serve(wait)
    end = time.monotonic() + PATIENCE
    while clients.left and time.monotonic() < end:
        clients.serve(0.2)
        clients.drip()
    return {"lives": clients.lives, "never_closed": clients.left}


def garbage() -> Iterator[bytes]:
    """What scanners, and clients that are broken or mean harm, say first."""
    dice = random.Random(1)
    broken = [
        row.sent for row in load() if row.expect is Expect.REFUSE and 0 < len(row.sent) <= 2048
    ]
    while True:
        yield dice.choice(SCANNERS)
        yield dice.randbytes(dice.randint(1, 600))
        yield dice.choice(broken)


def run_garbage(port: int, rate: float, seconds: float) -> dict[str, object]:
    """How many were sent and seen closed."""
    poll = select.epoll()
    opened: dict[int, socket.socket] = {}
    counts: Counter[str] = Counter()
    said = garbage()
    begun = time.monotonic()
    end = begun + seconds
    while (now := time.monotonic()) < end or (opened and now < end + PATIENCE):
        due = int((min(now, end) - begun) * rate) - counts["sent"]
        for _ in range(min(due, 100)):
            sock = connect(port)
            sock.send(next(said))
            sock.shutdown(socket.SHUT_WR)
            opened[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
            counts["sent"] += 1
        for number, _ in poll.poll(0.001):
            if is_over(opened[number]):
                opened.pop(number).close()
                counts["closed"] += 1
    return {**counts, "never_closed": len(opened), "seconds": time.monotonic() - begun}


@click.group()
def main() -> None:
    """Clients that mean harm."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@main.command()
@click.argument("port", type=int)
@click.option("--count", default=5000)
@click.option("--seconds", default=4.0, help="In which they connect.")
@click.option("--name", default="passed.example.com")
def slow(port: int, count: int, seconds: float, name: str) -> None:
    """Hellos that come a byte at a time."""
    click.echo(json.dumps(run_slow(port, count, seconds, name)))


@main.command(name="garbage")
@click.argument("port", type=int)
@click.option("--rate", default=2000.0)
@click.option("--seconds", default=60.0)
def garbage_command(port: int, rate: float, seconds: float) -> None:
    """What is no sound hello."""
    click.echo(json.dumps(run_garbage(port, rate, seconds)))


if __name__ == "__main__":
    main()
