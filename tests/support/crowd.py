"""Many players of one name, in this process: some stay, some come and go, and every byte that comes back is compared."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from tests.support.players import client_hello

STEP = 10.0  # seconds for whatever a player waits for


@dataclass
class Lost:
    """A session that broke: when, in seconds of `time.monotonic`, and how. Of a newcomer: when he came."""

    at: float
    why: str


@dataclass
class Crowd:
    """They are passed through to an echo server. `pick` names the port to go to."""

    name: str
    pick: Callable[[], int]
    staying: dict[int, trio.SocketStream] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)  # of those who stay
    turned_away: list[Lost] = field(default_factory=list)  # of those who come and go
    served: int = 0  # of those
    _number: int = 0

    def __post_init__(self) -> None:
        self._hello = client_hello(self.name)

    def rename(self, name: str) -> None:
        """Those who come from now on ask for that."""
        self.name, self._hello = name, client_hello(name)

    async def stay_one(self) -> None:
        """One more; the error of one who is not served."""
        await self._join()

    async def stay(self, count: int) -> None:
        """So many more join, and stay."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._join)

    async def _join(self) -> None:
        stream = await self._enter()
        self._number += 1
        self.staying[self._number] = stream

    async def _enter(self) -> trio.SocketStream:
        with trio.fail_after(STEP):
            stream = await trio.open_tcp_stream("127.0.0.1", self.pick())
            try:
                await echoed(stream, self._hello)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return stream

    async def play(self) -> None:
        """All who stay say something and hear it back; who does not is lost."""
        async with trio.open_nursery() as nursery:
            for number in list(self.staying):
                nursery.start_soon(self._play_one, number)

    async def _play_one(self, number: int) -> None:
        try:
            with trio.fail_after(STEP):
                await echoed(self.staying[number], f"{number} plays".encode())
        except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self.lost.append(Lost(time.monotonic(), repr(error)))
            await trio.aclose_forcefully(self.staying.pop(number))

    async def come_and_go(self, rate: float) -> None:
        """So many a second, until cancelled; those on their way then are not counted."""
        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._visit)
                due = max(due + 1 / rate, trio.current_time() - 1)
                await trio.sleep_until(due)

    async def _visit(self) -> None:
        came = time.monotonic()  # when he learns of it says more about the machine
        try:
            stream = await self._enter()
        except (OSError, EOFError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self.turned_away.append(Lost(came, repr(error)))
        else:
            self.served += 1
            await stream.aclose()

    async def leave(self, count: int | None = None) -> None:
        """Those who stay go, or so many of them."""
        for number in list(self.staying)[:count]:
            await self.staying.pop(number).aclose()


async def echoed(stream: trio.SocketStream, said: bytes) -> None:
    """Says that, and hears it back; EOFError if something else comes, or the end."""
    await stream.send_all(said)
    heard = b""
    while len(heard) < len(said):
        data = await stream.receive_some(len(said) - len(heard))
        if not data:
            raise EOFError(f"ended after {len(heard)} of {len(said)} bytes")
        heard += data
    if heard != said:
        raise EOFError(f"{said[:40]!r} came back as {heard[:40]!r}")


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
