"""Every way in which a session with a game server may end, very many times: each has its own reason, and leaves nothing.

    python -m bench.endings [--times 10000] [--at-once 200] [--relay native --relay trio]

One real data plane; game servers of `bench.moody`, one that refuses, and one that never answers (B8 of what peers got
wrong: envoy#45198 and microsandbox#1181 leak a slot for each half-close, until the table is full). Where there is a second
node, whoever does not get through to the first one is served by it, within `timeout.connect`. Afterwards descriptors,
tasks, sessions and memory are what they were after a warm-up.
"""

import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import trio

from bench.machine import describe_machine, percentile
from bench.moody import GOODBYE, WAYS
from bench.settling import settled
from sniproxy.relay.native import BUILT
from tests.support import plain_http
from tests.support.peers import deaf_server
from tests.support.players import client_hello
from tests.support.ports import free_ports
from tests.support.stack import Stack, retry_until, stores

CONNECT = 1.0  # seconds that a node may take to answer
STEP = 30.0  # seconds for one player, of which many wait for a node that is silent
WARM_UP = 1 / 5  # of the sessions
GROWTH = 4 * 2**20  # bytes that the data plane may keep: allocators do not give all back
PATIENCE = 60.0  # seconds until all has ended

Player = Callable[[trio.SocketStream, bytes], Awaitable[None]]


async def _read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([data async for data in stream])


def _same(found: bytes, expected: bytes) -> None:
    if found != expected:
        raise AssertionError(f"{found[:40]!r}, not {expected[:40]!r}")


async def talks(stream: trio.SocketStream, hello: bytes) -> None:
    """Hears back what he says, and ends."""
    await stream.send_all(hello)
    heard = b""
    while len(heard) < len(hello):
        heard += await stream.receive_some(len(hello)) or bytes(len(hello))
    _same(heard, hello)
    await stream.send_eof()
    _same(await _read_all(stream), b"")


async def is_left(stream: trio.SocketStream, hello: bytes) -> None:
    """Is closed, in whatever way."""
    await stream.send_all(hello)
    with suppress(trio.BrokenResourceError):
        _same(await _read_all(stream), b"")


async def is_reset(stream: trio.SocketStream, hello: bytes) -> None:
    """Learns that the session was cut, and did not end."""
    await stream.send_all(hello)
    try:
        await _read_all(stream)
    except trio.BrokenResourceError:
        return
    raise AssertionError("an end, where the game server has cut the session")


async def is_told_goodbye(stream: trio.SocketStream, hello: bytes) -> None:
    """Hears the end of the other side, can speak on, and ends."""
    await stream.send_all(hello)
    _same(await _read_all(stream), GOODBYE)
    await stream.send_all(b"and to you")
    await stream.send_eof()


async def ends_first(stream: trio.SocketStream, hello: bytes) -> None:
    """Ends his side, and hears everything after that."""
    said = hello + bytes(10_000)
    await stream.send_all(said)
    await stream.send_eof()
    _same(await _read_all(stream), said)


async def cuts(stream: trio.SocketStream, hello: bytes) -> None:
    """Is gone in the middle."""
    await stream.send_all(hello)
    await stream.receive_some(1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True)
class Ending:
    """nodes: the ways of the game servers, one after the other. reason: of the session's line. attempts: in it."""

    nodes: tuple[str, ...]
    player: Player
    reason: str
    attempts: int = 1


ENDINGS = {
    "the player ends": Ending(("echo",), talks, "client_closed"),
    "the player ends his side first": Ending(("late",), ends_first, "client_closed"),
    "the player cuts": Ending(("echo",), cuts, "client_reset"),
    "the server ends its side first": Ending(("ends",), is_told_goodbye, "upstream_closed"),
    "the server closes during the hello": Ending(("closes",), is_left, "upstream_closed"),
    "the server cuts": Ending(("reset",), is_reset, "upstream_reset"),
    "the server refuses": Ending(("refuses",), is_left, "upstream_refused"),
    "the server is silent": Ending(("silent",), is_left, "upstream_timeout"),
    "one refuses, the next serves": Ending(("refuses", "echo"), talks, "client_closed", 2),
    "one is silent, the next serves": Ending(("silent", "echo"), talks, "client_closed", 2),
}


@contextmanager
def servers() -> Iterator[dict[str, int]]:
    """Ports of game servers, by their ways."""
    with ExitStack() as stack:
        ports = dict(zip((*WAYS, "refuses"), free_ports(len(WAYS) + 1), strict=True))
        ports["silent"] = stack.enter_context(deaf_server())[1]
        command = [sys.executable, "-m", "bench.moody", *(f"{one}={ports[one]}" for one in WAYS)]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(process.terminate)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield ports


@contextmanager
def data_plane(folder: Path, relay: str, ports: dict[str, int]) -> Iterator[Stack]:
    """With a route for each ending."""
    with (
        stores("sqlite", folder) as (store, _),
        Stack(
            folder / "stack",
            store,
            relay=relay,
            workers=1,
            refused_log_interval=0,
        ) as stack,
    ):
        for number, ending in enumerate(ENDINGS.values()):
            nodes = [
                {"host": "127.0.0.1", "port": ports[way], "weight": 1, "priority": -place}
                for place, way in enumerate(ending.nodes)
            ]
            upstream: dict[str, Any] = {
                "nodes": nodes,
                "timeout": {"connect": CONNECT, "send": 60, "read": 60},
            }
            route = {"sni": name_of(number), "tls_passthrough": True, "upstream": upstream}
            stack.put(f"/stream_routes/{number}?wait=all&timeout=60s", route)
        yield stack


def name_of(number: int) -> str:
    """What players of an ending ask for."""
    return f"ending-{number}.example.com"


async def visit(stack: Stack, number: int, times: int, at_once: int) -> list[float]:
    """So many players of an ending, some at a time; the seconds that each took."""
    player = [*ENDINGS.values()][number].player
    hello = client_hello(name_of(number))
    took: list[float] = []
    left = iter(range(times))

    async def one_after_the_other() -> None:
        for _ in left:
            begun = time.monotonic()
            with trio.fail_after(STEP):
                async with await trio.open_tcp_stream("127.0.0.1", stack.port) as stream:
                    await player(stream, hello)
            took.append(time.monotonic() - begun)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(one_after_the_other)
    return took


def measure(folder: Path, relay: str, times: int, at_once: int) -> Iterator[str]:
    """A line for each ending and one for what is left; AssertionError where something is not as it must be."""
    with servers() as ports, data_plane(folder, relay, ports) as stack:
        for number in range(len(ENDINGS)):
            trio.run(visit, stack, number, max(1, round(times * WARM_UP)), at_once)
        before, memory = settled(stack, PATIENCE), _memory(stack)
        for number, (name, ending) in enumerate(ENDINGS.items()):
            seen, closed = len(_lines(stack, number)), _closed(stack)
            took = trio.run(visit, stack, number, times, at_once)
            for _ in retry_until(PATIENCE, f"{name}: every session counted"):
                if _closed(stack) >= closed + times:
                    break
            for _ in retry_until(PATIENCE, f"{name}: a line for each session"):
                lines = _lines(stack, number)[seen:]
                if len(lines) >= times:
                    break
            found = {(line["reason"], line.get("attempts", 1)) for line in lines}
            assert found == {(ending.reason, ending.attempts)}, (name, found)
            assert len(lines) == times, (name, len(lines))
            p50, p99 = (1000 * percentile(took, share) for share in (0.5, 0.99))
            yield f"{name}: {times} x {ending.reason}, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        after, grown = settled(stack, PATIENCE), _memory(stack) - memory
        assert after == before, (before, after)
        assert grown <= GROWTH, f"{grown} bytes more than before"
        sessions = plain_http.get(f"http://127.0.0.1:{stack.status_port}/sessions").json()
        assert sessions == {"routes": {}, "nodes": {}}, sessions
        yield f"descriptors, tasks and sessions as before: {after}; memory {grown / 1024:+.0f} KiB"


def _lines(stack: Stack, number: int) -> list[dict[str, Any]]:
    return [line for line in stack.proxy.lines("session") if line["route"] == str(number)]


def _closed(stack: Stack) -> int:
    start = "sniproxy_sessions_closed_total{"
    return int(sum(count for one, count in stack.metrics().items() if one.startswith(start)))


def _memory(stack: Stack) -> float:
    return stack.metrics()["process_resident_memory_bytes"]


@click.command()
@click.option("--times", default=10_000, show_default=True, help="Sessions of each ending.")
@click.option("--at-once", default=200, show_default=True, help="Players of an ending at a time.")
@click.option(
    "--relay",
    "relays",
    type=click.Choice(["native", "trio"]),
    multiple=True,
    default=("native", "trio") if BUILT else ("trio",),
)
def main(times: int, at_once: int, relays: tuple[str, ...]) -> None:
    """All endings, on each relay."""
    click.echo(describe_machine())
    for relay in relays:
        with tempfile.TemporaryDirectory() as folder:
            try:
                for line in measure(Path(folder), relay, times, at_once):
                    click.echo(f"{relay}: {line}")
            except AssertionError as error:
                click.echo(f"FAILED: {relay}: {error}", err=True)
                sys.exit(1)


if __name__ == "__main__":
    main()
