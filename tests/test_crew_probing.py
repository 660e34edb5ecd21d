"""Probes of real workers: once for all of them, and what they found is known to those that come later."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.store.sqlite import SqliteStore
from tests.support.crews import Running, crew_of, until

pytestmark = pytest.mark.anyio

NEVER = 10_000  # seconds until the next probe
PROBES = 4


async def put(folder: Path, upstream: dict[str, Any]) -> None:
    store = SqliteStore(folder / "config.db")
    await store.put("/apisix/upstreams/probed", json.dumps(upstream).encode())
    await store.aclose()


def upstream(port: int, **active: Any) -> dict[str, Any]:
    return {"nodes": {f"127.0.0.1:{port}": 1}, "checks": {"active": {"type": "tcp", **active}}}


async def state(running: Running) -> dict[str, Any]:
    """Of the node, by the one worker that knows; nothing while there is none."""
    answers = await running.crew.answers("health")
    assert len(answers) <= 1
    nodes = [node for found in answers for one in found for node in one["nodes"]]
    return nodes[0] if nodes else {}


async def until_status(running: Running, status: str) -> dict[str, Any]:
    with trio.fail_after(30):
        while (found := await state(running)).get("status") != status:  # noqa: ASYNC110  # of processes
            await trio.sleep(0.05)
    return found


async def test_probes_run_once_for_all_workers(tmp_path: Path) -> None:
    """Before anybody plays; whoever is probed counts who comes."""
    came: list[float] = []

    async def count(stream: trio.SocketStream) -> None:
        came.append(trio.current_time())
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, count, [listening])
        async with crew_of(tmp_path) as running:
            await put(tmp_path, upstream(listening.socket.getsockname()[1]))
            await running.serve()
            await until(lambda: len(came) >= PROBES)
            # Each pause is 0.9 s at least; two who probe would be twice as quick. The first may be seen late here.
            assert came[PROBES - 1] - came[0] > 0.6 * (PROBES - 1)
            assert (await until_status(running, "healthy"))["counter"]["success"] >= PROBES - 1
        nursery.cancel_scope.cancel()


async def kill_prober(running: Running) -> None:
    """Until another has taken over."""
    prober = running.crew._prober
    assert prober is not None
    os.kill(prober.pid, signal.SIGKILL)
    await until(lambda: running.crew._prober not in (None, prober))


async def test_what_was_found_outlives_the_worker_that_found_it(tmp_path: Path) -> None:
    rules = {"unhealthy": {"tcp_failures": 1, "interval": NEVER}}
    async with crew_of(tmp_path, max_crashes=100) as running:
        await put(tmp_path, upstream(1, **rules))  # where nobody listens
        await running.serve()
        found = await until_status(running, "unhealthy")
        assert found["counter"]["tcp_failure"] == 1
        await until(lambda: len(running.crew.unhealthy) == 1)
        # The other one has heard of it, and so has the one that comes in the place of the first.
        for _ in range(2):
            await kill_prober(running)
            found = await until_status(running, "unhealthy")
            assert found["counter"]["tcp_failure"] == 0  # nobody has asked again
            await until(lambda: len(running.crew.members) == 2)
        assert len(running.crew.unhealthy) == 1
        assert (await running.counted())["sniproxy_upstream_unhealthy"] == 1
