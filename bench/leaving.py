"""Workers and data planes that come and go under players: nobody is refused, and nobody thrown out who need not be.

    python -m bench.leaving [--quick] [--only crash]

crash    one of four workers is killed: only its sessions end, and another takes its place within a second
stop     SIGTERM: not ready at once, open for `drain.accept`, nobody reset before the deadline, then one by one
upgrade  another version on the same sockets, again and again, under newcomers
rolling  three data planes behind a balancer that asks for /readyz, restarted one after the other under newcomers

The players of this command are one process of Python, and share the machine with what they measure.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import trio

from bench.machine import describe_machine
from tests.support.crowd import Crowd, is_open
from tests.support.crowds import NAME, ROUTE, crowd_at, crowded, ready_code, until, workers_of
from tests.support.echo import echo_process
from tests.support.stack import Stack, stores

CHECK_EVERY = 0.2  # seconds between two questions of the balancer
LOOK_LATE = 0.5  # seconds by which a loaded machine may be late beside a bar
PLANES = 3


@dataclass(frozen=True)
class Size:
    """How much is asked for."""

    staying: int  # sessions that stand
    rate: float  # newcomers a second
    accept: float  # drain.accept of the stop, seconds
    deadline: float  # and drain.deadline
    spread: float  # and drain.spread
    upgrades: int


FULL = Size(staying=2000, rate=300, accept=120, deadline=60, spread=30, upgrades=5)
QUICK = Size(staying=200, rate=60, accept=1, deadline=1.5, spread=1, upgrades=2)


async def crash(folder: Path, size: Size) -> str:
    """A line of figures; AssertionError when a bar does not hold."""
    with crowded(folder, workers=4) as stack:
        async with crowd_at(stack, size.staying, size.rate) as crowd:
            before = workers_of(stack)
            killed_at = time.monotonic()
            os.kill(min(before), signal.SIGKILL)
            await until(lambda: len(workers_of(stack) - {min(before)}) == 4)
            await until(lambda: stack.metrics()["sniproxy_worker_crashes_total"] == 1)
            await until(lambda: stack.metrics()["sniproxy_workers"] == 4)
            back = time.monotonic() - killed_at
            served = crowd.served
            await until(lambda: crowd.served > served + size.rate)
            await crowd.play()
            counted = stack.metrics()["sniproxy_worker_sessions_lost_total"]
        late = [one.at - killed_at for one in crowd.turned_away]
        line = (
            f"one of 4 workers killed under {size.staying} sessions: {len(crowd.lost)} lost ({counted:.0f} counted), "
            f"{len(late)} newcomers of {crowd.served} lost on their way through it, "
            f"the last {max(late, default=0):.2f} s after; all 4 serve again after {back:.2f} s"
        )
        assert len(crowd.lost) <= counted <= len(crowd.lost) + len(late) + 5, line
        assert 0 < len(crowd.lost) < size.staying / 2, line
        assert max(late, default=0) < 1 + LOOK_LATE, line
        return line


async def stop(folder: Path, size: Size) -> str:
    """The same."""
    drain = {"accept": size.accept, "deadline": size.deadline, "spread": size.spread}
    with crowded(folder, drain, workers=2) as stack:
        process = stack.proxy.process
        assert process is not None
        async with crowd_at(stack, size.staying) as crowd:
            asked = time.monotonic()
            process.terminate()
            await until(lambda: ready_code(stack) == 503)
            unready = time.monotonic() - asked
            async with trio.open_nursery() as newcomers:
                newcomers.start_soon(crowd.come_and_go, size.rate)
                await trio.sleep(size.accept * 0.9 - unready)
                newcomers.cancel_scope.cancel()
            await until(lambda: not is_open(stack.port), size.accept + 10)
            closed = time.monotonic() - asked
            await crowd.play()
            ends: list[float] = []
            async with trio.open_nursery() as watching:
                for stream in crowd.staying.values():
                    watching.start_soon(_note_end, stream, ends)
        await until(lambda: process.poll() is not None)
        first, last = min(ends) - asked, max(ends) - asked
        line = (
            f"SIGTERM with {size.staying} sessions: not ready after {unready * 1000:.0f} ms; {crowd.served} "
            f"newcomers served and {len(crowd.turned_away)} refused until it closed after {closed:.1f} s; "
            f"sessions ended from {first:.1f} s to {last:.1f} s, {len(crowd.lost)} before; "
            f"exit code {process.returncode}"
        )
        assert not crowd.lost, line
        assert not crowd.turned_away, line
        assert process.returncode == 0, line
        assert closed >= size.accept, line
        assert first >= size.accept + size.deadline - LOOK_LATE, line
        assert last - first >= size.spread / 2, line
        return line


async def _note_end(stream: trio.SocketStream, ends: list[float]) -> None:
    assert await stream.receive_some(1) == b"", "more than an end"
    ends.append(time.monotonic())


async def upgrade(folder: Path, size: Size) -> str:
    """The same."""
    with crowded(folder, workers=2) as stack:
        async with crowd_at(stack, size.staying, size.rate) as crowd:
            took = []
            for _ in range(size.upgrades):
                served = crowd.served
                await until(lambda served=served: crowd.served > served + size.rate)  # type: ignore[misc]
                begun = time.monotonic()
                command = [sys.executable, "-m", "sniproxy.cli", "upgrade", "-c", str(stack.config)]
                await trio.run_process(command, stdout=subprocess.DEVNULL)
                took.append(time.monotonic() - begun)
            await crowd.play()
        line = (
            f"{size.upgrades} upgrades under {size.staying} sessions and {size.rate:g} newcomers a second: "
            f"{len(crowd.turned_away)} of {crowd.served} newcomers refused, {len(crowd.lost)} sessions lost; "
            f"each took {min(took):.1f} to {max(took):.1f} s"
        )
        assert not crowd.turned_away, line
        assert not crowd.lost, line
        return line


class Balancer:
    """Sends players to those that are ready, in turn."""

    def __init__(self, planes: list[Stack]) -> None:
        self._planes = planes
        self._ready = list(planes)
        self._turn = 0

    def pick(self) -> int:
        """The port for the next one."""
        self._turn += 1
        return self._ready[self._turn % len(self._ready)].port

    async def watch(self) -> None:
        """Asks each now and then, until cancelled."""
        while True:
            found = []
            for plane in self._planes:
                try:
                    code = await trio.to_thread.run_sync(ready_code, plane)
                except httpx.TransportError:
                    continue
                if code == 200:
                    found.append(plane)
            self._ready = found or self._ready
            await trio.sleep(CHECK_EVERY)


async def rolling(folder: Path, size: Size) -> str:
    """The same."""
    drain = {"accept": 20 * CHECK_EVERY, "deadline": size.deadline, "spread": size.spread}
    with (
        echo_process() as game,
        stores("sqlite", folder) as (store, _),
        ExitStack() as opened,
    ):
        first = opened.enter_context(Stack(folder / "0", store, drain=drain, workers=1))
        planes = [first]
        for number in range(1, PLANES):
            one = Stack(folder / str(number), store, parts=["proxy"], drain=drain, workers=1)
            planes.append(opened.enter_context(one))
        route = {"sni": NAME, "upstream": {"nodes": {f"127.0.0.1:{game}": 1}}}
        first.put(
            f"/stream_routes/{ROUTE}?wait=all&timeout=60s", {**route, "tls_passthrough": True}
        )
        balancer = Balancer(planes)
        crowd = Crowd(NAME, balancer.pick)
        await crowd.stay(size.staying // 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(balancer.watch)
            nursery.start_soon(crowd.come_and_go, size.rate)
            begun = time.monotonic()
            for plane in planes:
                process = plane.proxy.process
                assert process is not None
                process.terminate()
                await until(lambda process=process: process.poll() is not None, 200)  # type: ignore[misc]
                assert process.returncode == 0
                plane.proxy.start()
                await trio.to_thread.run_sync(plane.wait_ready)
                await trio.sleep(2 * CHECK_EVERY)
            took = time.monotonic() - begun
            nursery.cancel_scope.cancel()
        ended = len(crowd.staying)
        await crowd.leave()
        line = (
            f"{PLANES} data planes restarted one after the other in {took:.0f} s under {size.rate:g} newcomers a second: "
            f"{len(crowd.turned_away)} of {crowd.served} refused ({ended} sessions stood, and ended at the deadlines)"
        )
        assert not crowd.turned_away, (line, crowd.turned_away[:3])
        return line


SCENARIOS: dict[str, Callable[[Path, Size], Awaitable[str]]] = {
    "crash": crash,
    "stop": stop,
    "upgrade": upgrade,
    "rolling": rolling,
}


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of it.")
@click.option("--only", type=click.Choice(list(SCENARIOS)), multiple=True, help="Not all of them.")
def main(quick: bool, only: tuple[str, ...]) -> None:
    """Workers and data planes that come and go."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    click.echo(describe_machine())
    failed = False
    for name in only or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                line = trio.run(SCENARIOS[name], Path(folder), QUICK if quick else FULL)
                click.echo(f"{name}: {line}")
            except AssertionError as error:
                click.echo(f"{name}: FAILED: {error}", err=True)
                failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
