"""The game server of examples/game_echo, in this process and as a command, and plain connections to it."""

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from examples.game_echo.server import serve, tls_context

ROOT = Path(__file__).parents[2]
NAME = "gs-1.com"
DEADLINE = 20  # seconds for one test, the start of Python processes included


def server_context(certs: Path) -> ssl.SSLContext:
    """TLS as the game server speaks it."""
    return tls_context(certs / f"{NAME}.crt", certs / f"{NAME}.key")


def player_context(certs: Path) -> ssl.SSLContext:
    """TLS that trusts the test CA only."""
    return ssl.create_default_context(cafile=certs / "ca.pem")


@asynccontextmanager
async def game_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A game server in this process; gives its port."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(partial(serve, NAME, tls=tls))
            assert host == "127.0.0.1"
            yield port
            nursery.cancel_scope.cancel()


async def connect(port: int) -> trio.SocketStream:
    """A plain connection to a server of this test."""
    return await trio.open_tcp_stream("127.0.0.1", port)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything until the end of the stream."""
    return b"".join([bytes(chunk) async for chunk in stream])


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """The next `size` bytes."""
    data = b""
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


@asynccontextmanager
async def game_server_command(*options: str) -> AsyncIterator[tuple[trio.Process, int, str]]:
    """`python -m examples.game_echo 0 NAME`; gives the process, its port and its first line."""
    command = [sys.executable, "-m", "examples.game_echo", "0", NAME, *options]
    with trio.fail_after(DEADLINE):
        process = await trio.lowlevel.open_process(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            line = b""
            while not line.endswith(b"\n"):
                line += await read_exactly(process.stdout, 1)
            text = line.decode()
            yield process, int(text.split()[-2].rpartition(":")[2]), text
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await close_pipes(process)


async def close_pipes(process: trio.Process) -> None:
    """Close our ends of a process's pipes."""
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        await pipe.aclose()


async def run_module(module: str, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a module to its end; return exit code, standard output and standard error."""
    command = [sys.executable, "-m", module, *arguments]
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command, cwd=ROOT, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
