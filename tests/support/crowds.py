"""A data plane of several workers with a crowd in front of it and an echo server behind it."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from bench.processes import tree
from tests.support import plain_http
from tests.support.crowd import Crowd
from tests.support.echo import echo_process
from tests.support.stack import Stack, retry_until, stores

NAME, ROUTE = "crowd.example.com", "crowd"
PATIENCE = 60.0  # seconds for anything that must happen


@contextmanager
def crowded(folder: Path, drain: dict[str, Any] | None = None, **proxy: Any) -> Iterator[Stack]:
    """A stack with one route. drain: those settings; proxy: others."""
    with (
        echo_process() as game,
        stores("sqlite", folder) as (store, _),
        Stack(folder / "stack", store, drain=drain, **proxy) as stack,
    ):
        route = {"upstream": {"nodes": {f"127.0.0.1:{game}": 1}}, "tls_passthrough": True}
        answer = stack.api.put(
            f"/stream_routes/{ROUTE}?wait=all&timeout=60s", json={"sni": NAME, **route}
        )
        assert answer.status_code == 201, answer.text
        for _ in retry_until(PATIENCE, "all workers"):
            if stack.metrics()["sniproxy_workers"] == proxy["workers"]:
                break
        yield stack


@asynccontextmanager
async def crowd_at(stack: Stack, staying: int, rate: float = 0) -> AsyncIterator[Crowd]:
    """Players who stay, and so many newcomers a second until the block is left."""
    crowd = Crowd(NAME, lambda: stack.port)
    try:
        await crowd.stay(staying)
        async with trio.open_nursery() as nursery:
            if rate:
                nursery.start_soon(crowd.come_and_go, rate)
            yield crowd
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await crowd.leave()


def workers_of(stack: Stack) -> set[int]:
    """Process ids of a data plane's workers."""
    return {pid for pid in tree(stack.proxy.pid)[1:] if b"sniproxy.worker" in _command(pid)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def until(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Until it is so, or TooSlowError."""
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(what):  # noqa: ASYNC110  # of other processes
            await trio.sleep(0.01)


def ready_code(stack: Stack) -> int:
    """What /readyz answers."""
    return plain_http.get(f"http://127.0.0.1:{stack.status_port}/readyz", timeout=5).status_code


def heard(stack: Stack) -> None:
    """What workers were told before has been done by them: each does what it is told, and answers, in that order.

    The log says so when they are told, and what a command asks for is answered then too.
    """
    stack.metrics()  # every worker is asked


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
