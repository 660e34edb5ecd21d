"""Many players at once: no byte lost, none out of order, nothing left behind. `python -m bench.load --only every-byte`

Half of the sessions are terminated TLS, half are passed through. Every session sends `rate` messages a second, each of
random bytes, and hashes what it sent and what the echo game server sent back; the hashes must be equal when it has ended.
Before and after, the proxy's descriptors, loop tasks and live sessions are counted.
"""

import hashlib
import os
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trustme

from bench.machine import percentile
from bench.outcome import Outcome
from bench.processes import cpu_seconds
from bench.settling import left_over, settled
from tests.support.echo import echo_process
from tests.support.players import client_hello, pem_pair, trusting
from tests.support.stack import Stack, retry_until, stores

TERMINATED, PASSED = "terminated.example.com", "passed.example.com"


@dataclass
class Tally:
    """What all sessions saw."""

    bytes: int = 0
    messages: int = 0
    round_trips: list[float] = field(default_factory=list)  # milliseconds
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """How much is asked for."""

    sessions: int
    seconds: float
    rate: float  # messages per second and session
    size: int  # bytes per message


async def open_stream(
    port: int, number: int, context: ssl.SSLContext
) -> tuple[trio.abc.HalfCloseableStream | trio.SSLStream[trio.SocketStream], bytes]:
    """A session, and the first bytes that it must send and see again."""
    raw = await trio.open_tcp_stream("127.0.0.1", port)
    if number % 2:
        return raw, client_hello(PASSED)
    try:
        stream = trio.SSLStream(raw, context, server_hostname=TERMINATED, https_compatible=True)
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return stream, b""


async def read_exactly(stream: trio.abc.Stream, count: int) -> bytes:
    """That many bytes; EOFError if the stream ends before."""
    got = bytearray()
    while len(got) < count:
        data = await stream.receive_some(count - len(got))
        if not data:
            raise EOFError(f"ended after {len(got)} of {count} bytes")
        got += data
    return bytes(got)


async def play(port: int, number: int, plan: Plan, context: ssl.SSLContext, tally: Tally) -> None:
    """One session from start to end."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    try:
        stream, first = await open_stream(port, number, context)
        async with stream:
            interval = 1 / plan.rate
            await trio.sleep(interval * number / plan.sessions)  # players do not act in step
            end = trio.current_time() + plan.seconds
            message = first
            while True:
                message += os.urandom(plan.size)
                started = trio.current_time()
                sent.update(message)
                await stream.send_all(message)
                received.update(await read_exactly(stream, len(message)))
                tally.round_trips.append((trio.current_time() - started) * 1000)
                tally.bytes += len(message)
                tally.messages += 1
                message = b""
                if trio.current_time() >= end:
                    break
                await trio.sleep(max(0, started + interval - trio.current_time()))
        if sent.digest() != received.digest():
            tally.failures.append(f"session {number}: the bytes differ")
    except (OSError, EOFError, trio.BrokenResourceError, ssl.SSLError) as error:
        tally.failures.append(f"session {number}: {type(error).__name__}: {error}")


async def play_all(port: int, plan: Plan, context: ssl.SSLContext) -> Tally:
    """All sessions at once."""
    tally = Tally()
    async with trio.open_nursery() as nursery:
        for number in range(plan.sessions):
            nursery.start_soon(play, port, number, plan, context, tally)
            if number % 50 == 49:
                await trio.sleep(0.02)  # let the connections be accepted
    return tally


def prepare(stack: Stack, game_port: int, authority: trustme.CA) -> None:
    """One name of each kind."""
    upstream = {"nodes": {f"127.0.0.1:{game_port}": 1}}
    stack.put("/ssls/t", {"sni": TERMINATED} | pem_pair(authority, TERMINATED))
    stack.put("/stream_routes/t", {"sni": TERMINATED, "upstream": upstream})
    route = {"sni": PASSED, "tls_passthrough": True, "upstream": upstream}
    stack.put("/stream_routes/p", route)


def run(plan: Plan, folder: Path) -> tuple[Tally, float]:
    """One run on SQLite; AssertionError when anything was lost or left. Returns the proxy's CPU seconds too."""
    authority = trustme.CA()
    with (
        echo_process() as game_port,
        stores("sqlite", folder) as (store, _),
        Stack(folder / "stack", store) as stack,
    ):
        prepare(stack, game_port, authority)
        warm_up = Plan(sessions=20, seconds=0.2, rate=10, size=plan.size)
        for _ in retry_until(10, "both names in force"):
            if not trio.run(play_all, stack.port, warm_up, trusting(authority)).failures:
                break
        before = settled(stack)
        cpu = cpu_seconds(stack.proxy.pid)
        tally = trio.run(play_all, stack.port, plan, trusting(authority))
        cpu = cpu_seconds(stack.proxy.pid) - cpu
        assert not tally.failures, tally.failures[:10]
        assert settled(stack) == before, f"before {before}, after {left_over(stack)}"
        return tally, cpu


FULL = Plan(sessions=1000, seconds=30, rate=2, size=1024)
QUICK = Plan(sessions=200, seconds=2, rate=2, size=1024)


def every_byte(plan: Plan, folder: Path) -> Outcome:
    """The scenario of `bench.load`."""
    started = time.perf_counter()
    try:
        tally, cpu = run(plan, folder)
    except AssertionError as error:
        return Outcome([], [f"every-byte: {error}"])
    trips = tally.round_trips
    took = time.perf_counter() - started
    return Outcome(
        [
            f"{plan.sessions} sessions, {tally.messages} messages of {plan.size} bytes, {tally.bytes} bytes each way "
            f"in {took:.1f} s: every stream's hash is right; "
            "descriptors, tasks and sessions are back to what they were",
            f"round trip ms: p50 {percentile(trips, 0.5):.2f}, p99 {percentile(trips, 0.99):.2f}, "
            f"max {max(trips):.2f}; CPU of the proxy: {cpu:.2f} s",
        ]
    )
