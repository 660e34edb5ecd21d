"""A game server that echoes bytes as they come, in a process of its own: `python -m tests.support.echo PORT`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from tests.support.ports import free_ports


async def _echo(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)
        await stream.send_eof()


@contextmanager
def echo_process() -> Iterator[int]:
    """The port of a running echo server."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "tests.support.echo", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield port
        finally:
            process.terminate()


async def main() -> None:
    """Until SIGTERM."""
    listeners = await trio.open_tcp_listeners(int(sys.argv[1]), host="127.0.0.1", backlog=2000)
    print("ready", flush=True)
    await trio.serve_listeners(_echo, listeners)


if __name__ == "__main__":
    trio.run(main)
