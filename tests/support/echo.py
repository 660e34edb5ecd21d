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


class Echo:
    """An echo server on a port, which may be killed and started again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it listens."""
        command = [sys.executable, "-m", "tests.support.echo", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """At once, with all who play there."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def echo_process() -> Iterator[int]:
    """The port of a running echo server."""
    server = Echo(free_ports(1)[0])
    try:
        server.start()
        yield server.port
    finally:
        server.kill()


async def main() -> None:
    """Until SIGTERM."""
    listeners = await trio.open_tcp_listeners(int(sys.argv[1]), host="127.0.0.1", backlog=2000)
    print("ready", flush=True)
    await trio.serve_listeners(_echo, listeners)


if __name__ == "__main__":
    trio.run(main)
