"""Players beside clients that mean harm: the players must not notice, and nothing may be left behind.

    python -m bench.hostile [--slow 5000] [--rate 2000] [--seconds 60]

First slow clients, each sending its hello a byte every 5 seconds: all are closed when the time for a hello is over, and
the players' p99 round trip stays within a fifth of what it was before. Then garbage, so many connections a second: none
reaches a game server, not even the one behind the default route; descriptors, tasks, sessions and memory are back to what
they were; and the log has at most one line a second for each reason.
"""

import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio

from bench.every_byte import PASSED, read_exactly
from bench.machine import describe_machine, percentile
from bench.processes import cpu_seconds
from bench.settling import settled
from sniproxy.errors import REFUSALS
from tests.support.echo import echo_process
from tests.support.players import client_hello
from tests.support.stack import Stack, retry_until, stores

HELLO_TIMEOUT = 5.0  # the proxy's, seconds
LATE = 1.0  # seconds after it within which a slow client must be closed
SLOWER = 1.2  # times the players' p99 of before
ROUNDS = 3  # of slow clients, of which the middle one counts: the machine is shared
GROWTH = 2 * 2**20  # bytes that the proxy may keep after a flood: allocators do not give all back
WARM_UP = 1 / 6  # of the garbage, after which memory is looked at first


@dataclass
class Players:
    """Round trips of the players, in milliseconds, window by window."""

    trips: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def cut(self) -> list[float]:
        """The round trips since the last cut."""
        found, self.trips = self.trips, []
        return found


async def play(port: int, players: Players, rate: float, number: int) -> None:
    """Sends 64 bytes `rate` times a second until cancelled."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        hello = client_hello(PASSED)
        await stream.send_all(hello)
        await read_exactly(stream, len(hello))
        await trio.sleep(number / rate / 50)
        message = bytes(64)
        try:
            while True:
                started = time.perf_counter()
                await stream.send_all(message)
                await read_exactly(stream, len(message))
                players.trips.append((time.perf_counter() - started) * 1000)
                await trio.sleep(1 / rate)
        except (EOFError, trio.BrokenResourceError) as error:
            players.failures.append(repr(error))


async def attack(kind: str, port: int, *options: str) -> dict[str, Any]:
    """What the attackers saw."""
    # Others' machines: they must not take the processor from the players on this one.
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "bench.attackers",
        kind,
        str(port),
        *options,
    ]
    done = await trio.run_process(command, capture_stdout=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def proxy_and_games(folder: Path) -> Iterator[tuple[Stack, socket.socket]]:
    """A proxy with a route by name, and a default route to a trap, where nobody may come in."""
    with (
        echo_process() as game,
        socket.create_server(("127.0.0.1", 0)) as trap,
        stores("sqlite", folder) as (store, _),
        Stack(folder / "stack", store) as stack,
    ):
        for name, members, port in (
            ("p", {"sni": PASSED}, game),
            ("any", {}, trap.getsockname()[1]),
        ):
            upstream = {"nodes": {f"127.0.0.1:{port}": 1}}
            stack.put(
                f"/stream_routes/{name}", {"tls_passthrough": True, "upstream": upstream} | members
            )
        trap.setblocking(False)
        for _ in retry_until(10, "both routes in force"):
            if stack.metrics()["sniproxy_config_revision"] >= 2:
                break
        yield stack, trap


def slow_clients(stack: Stack, count: int, seconds: float) -> tuple[float, str]:
    """How many times the players' p99 before is that during the attack, and a line of figures.

    AssertionError when one was not closed in time, or a player was lost.
    """

    async def run() -> tuple[dict[str, Any], Players, list[float], list[float]]:
        players = Players()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(play, stack.port, players, 20.0, number)
            await trio.sleep(2)
            players.cut()
            await trio.sleep(seconds + HELLO_TIMEOUT)
            before = players.cut()
            options = (f"--count={count}", f"--seconds={seconds}", f"--name={PASSED}")
            seen = await attack("slow", stack.port, *options)
            during = players.cut()
            nursery.cancel_scope.cancel()
        return seen, players, before, during

    cpu = cpu_seconds(stack.proxy.pid)
    seen, players, before, during = trio.run(run)
    cpu = cpu_seconds(stack.proxy.pid) - cpu
    lives = seen["lives"]
    assert not players.failures, players.failures[:5]
    assert len(lives) == count, f"{seen['never_closed']} were never closed"
    first, last = min(lives), max(lives)
    factor = percentile(during, 0.99) / percentile(before, 0.99)
    line = (
        f"{count} slow clients within {seconds:g} s: closed after {first:.2f} to {last:.2f} s; "
        f"players' p50 {percentile(before, 0.5):.2f} -> {percentile(during, 0.5):.2f} ms, "
        f"p99 {percentile(before, 0.99):.2f} -> {percentile(during, 0.99):.2f} ms "
        f"(x{factor:.2f}), "
        f"max {max(before):.2f} -> {max(during):.2f} ms; CPU of the proxy {cpu:.2f} s"
    )
    assert HELLO_TIMEOUT - 0.1 <= first <= last <= HELLO_TIMEOUT + LATE, line
    return factor, line


def garbage(stack: Stack, trap: socket.socket, rate: float, seconds: float) -> str:
    """A line of figures; AssertionError when a bar does not hold."""
    trio.run(attack, "garbage", stack.port, f"--rate={rate}", f"--seconds={seconds * WARM_UP}")
    before, memory = settled(stack), stack.metrics()["process_resident_memory_bytes"]
    closed, lines = refused(stack), len(stack.proxy.lines("session"))
    cpu = cpu_seconds(stack.proxy.pid)
    started = time.monotonic()
    seen = trio.run(attack, "garbage", stack.port, f"--rate={rate}", f"--seconds={seconds}")
    took = time.monotonic() - started
    cpu = cpu_seconds(stack.proxy.pid) - cpu
    after, grown = settled(stack), stack.metrics()["process_resident_memory_bytes"] - memory
    lines = len(stack.proxy.lines("session")) - lines
    counted = {reason: int(refused(stack)[reason] - closed[reason]) for reason in closed}
    found = {reason: count for reason, count in counted.items() if count}
    line = (
        f"{seen['sent']} connections of garbage in {seconds:g} s: all closed, {found}; "
        f"descriptors, tasks and sessions as before, memory {grown / 1024:+.0f} KiB, {lines} log lines, "
        f"CPU of the proxy {cpu:.2f} s"
    )
    assert seen["sent"] == seen["closed"] == sum(found.values()), (seen, line)
    assert seen["sent"] >= 0.95 * rate * seconds, (seen, line)
    assert after == before, (before, after, line)
    assert grown <= GROWTH, line
    assert lines <= len(found) * (took + 2), line
    assert not has_visitor(trap), line
    return line


def has_visitor(trap: socket.socket) -> bool:
    """Whether somebody has connected to it."""
    try:
        trap.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def refused(stack: Stack) -> dict[str, float]:
    """How many connections ended for each reason of refusal so far."""
    metrics = stack.metrics()
    return {
        reason.value: metrics[f'sniproxy_sessions_closed_total{{reason="{reason.value}"}}']
        for reason in REFUSALS
    }


@click.command()
@click.option("--slow", default=5000, show_default=True, help="Slow clients.")
@click.option("--slow-seconds", default=4.0, show_default=True, help="In which they connect.")
@click.option("--rate", default=2000.0, show_default=True, help="Connections of garbage a second.")
@click.option("--seconds", default=60.0, show_default=True, help="Of garbage.")
def main(slow: int, slow_seconds: float, rate: float, seconds: float) -> None:
    """Slow clients, then garbage."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    click.echo(describe_machine())
    with tempfile.TemporaryDirectory() as folder, proxy_and_games(Path(folder)) as (stack, trap):
        try:
            factors = []
            for _ in range(ROUNDS):
                factor, line = slow_clients(stack, slow, slow_seconds)
                factors.append(factor)
                click.echo(line)
            median = sorted(factors)[ROUNDS // 2]
            assert median <= SLOWER, (
                f"the players' p99 is x{median:.2f} of what it was, not x{SLOWER}"
            )
            click.echo(garbage(stack, trap, rate, seconds))
        except AssertionError as error:
            click.echo(f"FAILED: {error}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
