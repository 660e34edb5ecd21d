"""Clients of a pod that is full: each is let in, turned away, or left waiting. All in one trio loop."""

import time
from dataclasses import dataclass, field

import trio

from bench.every_byte import read_exactly
from bench.machine import percentile

RATE = 20.0  # messages a second of a player
LOST = (OSError, EOFError, trio.BrokenResourceError)


@dataclass
class Players:
    """Those who play all the time."""

    trips: list[float] = field(default_factory=list)  # milliseconds, since the last cut
    lost: list[str] = field(default_factory=list)

    def cut(self) -> list[float]:
        """The round trips since the last cut."""
        found, self.trips = self.trips, []
        return found

    async def play(self, port: int, hello: bytes, number: int, source: str) -> None:
        """One of them, until cancelled."""
        try:
            async with await _enter(port, hello, source) as stream:
                await trio.sleep(number / RATE / 50)  # players do not act in step
                message = bytes(64)
                while True:
                    started = time.perf_counter()
                    await stream.send_all(message)
                    await read_exactly(stream, len(message))
                    self.trips.append((time.perf_counter() - started) * 1000)
                    await trio.sleep(1 / RATE)
        except LOST as error:
            self.lost.append(repr(error))


@dataclass
class Visitors:
    """Those who come to a full house, and stay until they are let go."""

    came: int = 0
    inside: int = 0  # by now, or were
    refused: int = 0
    lost: int = 0  # once they were inside
    leave: trio.Event = field(default_factory=trio.Event)
    first: float = float("inf")  # when one came in after that; of the monotonic clock

    @property
    def waiting(self) -> int:
        """Neither inside nor refused."""
        return self.came - self.inside - self.refused

    async def visit(self, port: int, hello: bytes, source: str) -> None:
        """One of them."""
        self.came += 1
        try:
            stream = await _enter(port, hello, source)
        except LOST:
            self.refused += 1
            return
        self.inside += 1
        if self.leave.is_set():
            self.first = min(self.first, time.monotonic())
        async with stream:
            with trio.move_on_after(float("inf")) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._notice_end, stream)
                    await self.leave.wait()
                    scope.cancel()

    async def _notice_end(self, stream: trio.SocketStream) -> None:
        try:
            ended = not await stream.receive_some(1)
        except LOST:
            ended = True
        self.lost += ended


async def try_until_inside(port: int, hello: bytes, source: str, pause: float = 0.02) -> float:
    """A player who asks again and again; when one is let in, of the monotonic clock."""
    while True:
        try:
            stream = await _enter(port, hello, source)
        except LOST:
            await trio.sleep(pause)
            continue
        await stream.aclose()
        return time.monotonic()


async def _enter(port: int, hello: bytes, source: str) -> trio.SocketStream:
    """A session, once its hello has come back."""
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=source)
    try:
        await stream.send_all(hello)
        await read_exactly(stream, len(hello))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def trips_of(trips: list[float]) -> str:
    """For people."""
    return f"p50 {percentile(trips, 0.5):.2f}, p99 {percentile(trips, 0.99):.2f}, max {max(trips):.2f} ms"
