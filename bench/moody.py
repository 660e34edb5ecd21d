"""A game server that ends each session in one way, by the port it is on: `python -m bench.moody WAY=PORT...`.

echo        as a good one does: all comes back, and it ends when the player has
reset       reads the beginning, then RST
closes      closes at once, without a byte read
ends        reads the beginning, says goodbye, ends its side, and reads on until the player has ended
late        reads until the player has ended, says it all back, and ends
"""

import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

GOODBYE = b"goodbye"
CHUNK = 64 * 1024
Way = Callable[[trio.SocketStream], Awaitable[None]]


async def echo(stream: trio.SocketStream) -> None:
    """All comes back."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def reset(stream: trio.SocketStream) -> None:
    """The session is cut."""
    await stream.receive_some(CHUNK)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def closes(stream: trio.SocketStream) -> None:
    """Whoever comes is left standing."""
    await stream.send_eof()
    async for _ in stream:  # else the end would be a reset
        pass


async def ends(stream: trio.SocketStream) -> None:
    """Ends first, and reads on."""
    await stream.receive_some(CHUNK)
    await stream.send_all(GOODBYE)
    await stream.send_eof()
    async for _ in stream:
        pass


async def late(stream: trio.SocketStream) -> None:
    """Ends last, with much to say."""
    said = bytearray()
    async for data in stream:
        said += data
    await stream.send_all(said)


WAYS: dict[str, Way] = {one.__name__: one for one in (echo, reset, closes, ends, late)}


async def _serve(way: Way, stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        await way(stream)


async def main() -> None:
    """Until SIGTERM."""
    async with trio.open_nursery() as nursery:
        for asked in sys.argv[1:]:
            way, port = asked.split("=")
            listening = await trio.open_tcp_listeners(int(port), host="127.0.0.1", backlog=4000)
            nursery.start_soon(partial(trio.serve_listeners, partial(_serve, WAYS[way]), listening))
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main)
