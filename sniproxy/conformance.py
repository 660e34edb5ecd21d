"""Plays the corpus against an SNI proxy, ours or another, and judges every row by what reached which server.

The servers are here: one that every name of the corpus is routed to, one for everything else. A server says a number of
its own to each connection at once, so a player that reads it knows which connection is its own, whatever plays beside it.

`judge` and `render` are pure; `run` does the rest.
"""

import re
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

import trio
from trio.testing import wait_all_tasks_blocked

from sniproxy.corpus import Expect, Level, Row
from sniproxy.errors import SettingsError
from sniproxy.listener import bind, listen
from sniproxy.settings import split_address

GREETING = b"sniproxy conformance %08d\n"
GREETED = re.compile(rb"sniproxy conformance ([0-9]{8})\n")
READ_SIZE = 64 * 1024


class Server(StrEnum):
    """The two servers behind the proxy."""

    NAMED = "named"
    DEFAULT = "default"


class End(StrEnum):
    """How a player's connection came to its end."""

    REACHED = "reached a server"
    CLOSED = "closed"
    DEADLINE = "silent until the deadline"
    NO_CONNECTION = "no connection"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed of one row."""

    end: End
    server: Server | None = None
    intact: bool = True  # the server got every byte as it was sent, and no other


@dataclass(frozen=True, slots=True)
class Result:
    """A row and what became of it; `wrong` is None when that was right."""

    row: Row
    seen: Seen
    wrong: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and the connections at a server that carried the bytes of no row."""

    results: Sequence[Result]
    strays: int = 0

    @property
    def passed(self) -> bool:
        """Whether every `must` row was answered rightly."""
        right = all(one.wrong is None for one in self.results if one.row.level is Level.MUST)
        return right and not self.strays


def judge(row: Row, seen: Seen) -> str | None:
    """What was wrong, or None."""
    if seen.end is End.NO_CONNECTION:
        return "the proxy took no connection"
    if row.expect is Expect.REFUSE or (
        row.expect is Expect.NO_NAME and seen.server is Server.NAMED
    ):
        return None if seen.server is None else f"reached the {seen.server} server"
    if row.expect is Expect.ROUTE and seen.server is not Server.NAMED:
        where = f"refused: {seen.end}" if seen.server is None else "reached the default server"
        return f"{where}; expected the server of {row.name}"
    return None if seen.intact else f"the {seen.server} server got other bytes than were sent"


def render(report: Report) -> str:
    """The table, the failures and the last line."""
    wrong = [one for one in report.results if one.wrong is not None]
    wrong.sort(key=lambda one: one.row.level)  # must before should
    parts = [_table(report.results), _refusals(report.results)]
    parts += [
        f"{one.row.level:6}  {one.row.id}: {one.wrong}\n        {one.row.why}" for one in wrong
    ]
    if report.strays:
        parts.append(f"{report.strays} connections at a server carried the bytes of no row")
    right, count = _score(report.results, Level.MUST)
    return "\n".join([*parts, f"{right} of {count} must rows answered rightly"])


def _score(results: Sequence[Result], level: Level) -> tuple[int, int]:
    of_level = [one for one in results if one.row.level is level]
    return sum(one.wrong is None for one in of_level), len(of_level)


def _table(results: Sequence[Result]) -> str:
    groups = dict.fromkeys(one.row.group for one in results)
    lines = [f"{'class':20}{'must':>12}{'should':>12}"]
    for group in groups:
        cells = ""
        for level in Level:
            right, count = _score([one for one in results if one.row.group == group], level)
            cells += f"{f'{right}/{count}' if count else '-':>12}"
        lines.append(f"{group:20}{cells}")
    return "\n".join(lines)


def _refusals(results: Sequence[Result]) -> str:
    ends = Counter(
        one.seen.end for one in results if one.row.expect is Expect.REFUSE and one.wrong is None
    )
    return f"refused: {ends[End.CLOSED]} by closing, {ends[End.DEADLINE]} {End.DEADLINE}"


@dataclass(eq=False)
class Arrival:
    """A connection at one of the servers."""

    server: Server
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False
    _changed: trio.Event = field(default_factory=trio.Event)

    def take(self, data: bytes | bytearray) -> None:
        """More bytes; none is the end."""
        self.received += data
        self.ended = not data
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, count: int) -> None:
        """Waits until that many bytes are there, or no more come."""
        while len(self.received) < count and not self.ended:
            await self._changed.wait()


class Servers:
    """Both servers, and every connection that they took."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    async def serve(self, server: Server, sock: socket.socket) -> None:
        """Takes connections for ever."""

        async def greet_and_read(stream: trio.SocketStream) -> None:
            arrival = Arrival(server)
            self.arrivals.append(arrival)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(GREETING % (len(self.arrivals) - 1))
                async for data in stream:
                    arrival.take(data)
            arrival.take(b"")

        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(greet_and_read, [listener])


@dataclass(slots=True)
class Play:
    """One row on its way through the proxy."""

    row: Row
    end: End = End.NO_CONNECTION
    arrival: Arrival | None = None

    @property
    def seen(self) -> Seen:
        """What there is to judge."""
        if self.arrival is None:
            return Seen(self.end)
        intact = self.arrival.received == self.row.sent
        return Seen(End.REACHED, self.arrival.server, intact)

    async def run(self, stream: trio.SocketStream, servers: Servers, pause: float) -> None:
        """Sends the segments and waits for the greeting of a server, or the end."""
        self.end = End.DEADLINE  # unless something happens before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, self.row.segments, pause)
            number = await _greeting(stream)
            if number is None or number >= len(servers.arrivals):
                self.end = End.CLOSED
            else:
                self.arrival = servers.arrivals[number]
                await self.arrival.until(len(self.row.sent))
            nursery.cancel_scope.cancel()


async def _send(stream: trio.SocketStream, segments: Sequence[bytes], pause: float) -> None:
    with suppress(trio.BrokenResourceError):  # the proxy has closed; what it did is read elsewhere
        for segment in segments:
            await stream.send_all(segment)
            await trio.sleep(pause)


async def _greeting(stream: trio.SocketStream) -> int | None:
    """The number that a server said; None when the stream ends or starts with something else."""
    got = b""
    with suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(READ_SIZE):
            got += data
            if greeted := GREETED.match(got):
                return int(greeted[1])
    return None


def claim(plays: Sequence[Play], arrivals: Sequence[Arrival]) -> int:
    """Gives arrivals whose greeting was lost, or came too late, to the rows whose bytes they carry; how many are left.

    A connection without a byte is no row's: proxies look so whether a server is there.
    """
    known = {id(play.arrival) for play in plays}
    strays = 0
    for arrival in arrivals:
        if id(arrival) in known or not arrival.received:
            continue
        got = bytes(arrival.received)
        free = [play for play in plays if play.arrival is None and play.row.sent.startswith(got)]
        if free:
            min(free, key=lambda play: len(play.row.sent)).arrival = arrival
        else:
            strays += 1
    return strays


@dataclass(frozen=True, slots=True)
class Setup:
    """The proxy, the two servers behind it, and how the rows are played."""

    target: str
    named: str = "127.0.0.1:9101"
    default: str = "127.0.0.1:9102"
    deadline: float = 1.0  # seconds for a row, its pauses not counted
    at_once: int = 20  # rows
    pause: float = 0.001  # seconds between two segments: the proxy is likely to read them apart


async def run(rows: Sequence[Row], setup: Setup) -> Report:
    """Plays the rows. SettingsError when an address cannot be used or no proxy answers."""
    address = _address("HOST:PORT", setup.target)
    servers, plays = Servers(), [Play(row) for row in rows]
    await _probe(*address, setup.deadline)
    with (
        _listening("--listen", setup.named) as named,
        _listening("--default-listen", setup.default) as default,
    ):
        async with trio.open_nursery() as background:
            background.start_soon(servers.serve, Server.NAMED, named)
            background.start_soon(servers.serve, Server.DEFAULT, default)
            await _play_all(plays, servers, setup)
            await wait_all_tasks_blocked()  # connections that the kernel still holds are taken
            background.cancel_scope.cancel()
    strays = claim(plays, servers.arrivals)
    seen = [(play.row, play.seen) for play in plays]
    return Report([Result(row, one, judge(row, one)) for row, one in seen], strays)


async def _play_all(plays: Sequence[Play], servers: Servers, setup: Setup) -> None:
    host, port = split_address(setup.target)
    limit = trio.CapacityLimiter(setup.at_once)

    async def play(one: Play) -> None:
        async with limit:
            seconds = setup.deadline + setup.pause * len(one.row.segments)
            with suppress(OSError), trio.move_on_after(seconds):
                async with await trio.open_tcp_stream(host, port) as stream:
                    await one.run(stream, servers, setup.pause)

    async with trio.open_nursery() as nursery:
        for one in plays:
            nursery.start_soon(play, one)


def _address(setting: str, address: str) -> tuple[str, int]:
    try:
        return split_address(address)
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}") from None


def _listening(setting: str, address: str) -> socket.socket:
    _address(setting, address)
    sock = bind(address, setting)
    listen(sock, setting, backlog=128)
    return sock


async def _probe(host: str, port: int, deadline: float) -> None:
    """SettingsError when there is no proxy to play against."""
    try:
        with trio.fail_after(deadline):
            stream = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        raise SettingsError(
            f"HOST:PORT: no proxy at {host}:{port}: {str(error) or 'no answer'}"
        ) from None
    await stream.aclose()
