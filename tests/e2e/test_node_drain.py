"""A game server is taken out by one PATCH, and put back by another: nobody new there within a second, nobody thrown out."""

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.logs import stamp
from tests.support import plain_http
from tests.support.crowd import Crowd
from tests.support.crowds import PATIENCE, until
from tests.support.echo import echo_process
from tests.support.stack import Stack, retry_until, stores

pytestmark = pytest.mark.anyio

NAME, WITHIN = "drained.example.com", 1.0  # seconds from the answer until nobody new comes there
STAYING, RATE, WORKERS = 40, 100, 2


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def playing(stack: Stack) -> dict[str, int]:
    """Sessions by game server, as the status port tells."""
    nodes: dict[str, int] = plain_http.get(f"http://127.0.0.1:{stack.status_port}/sessions").json()[
        "nodes"
    ]
    return nodes


@pytest.mark.parametrize("kind", ["roundrobin", "two-tiers"])
async def test_a_node_is_drained_and_comes_back(tmp_path: Path, kind: str) -> None:
    with (
        echo_process() as first,
        echo_process() as second,
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=WORKERS, refused_log_interval=0) as stack,
    ):
        going = f"127.0.0.1:{first}"
        lower = 0 if kind == "roundrobin" else -1
        nodes: list[dict[str, Any]] = [
            {"host": "127.0.0.1", "port": first, "weight": 1},
            {"host": "127.0.0.1", "port": second, "weight": 1, "priority": lower},
        ]
        stack.put("/upstreams/game", {"nodes": nodes})
        stack.put(
            "/stream_routes/game?wait=all&timeout=60s",
            {"sni": NAME, "tls_passthrough": True, "upstream_id": "game"},
        )
        for _ in retry_until(PATIENCE, "all workers"):
            if stack.metrics()["sniproxy_workers"] == WORKERS:
                break
        crowd = Crowd(NAME, lambda: stack.port)
        try:
            async with trio.open_nursery() as nursery:
                await crowd.stay(STAYING)
                held = playing(stack)
                assert sum(held.values()) == STAYING
                # each worker has its own turn
                half = range(STAYING // 2 - WORKERS, STAYING // 2 + WORKERS + 1)
                assert held[going] in (half if kind == "roundrobin" else (STAYING,))
                nursery.start_soon(crowd.come_and_go, RATE)
                await until(lambda: crowd.served > RATE / 2)

                drained = [{**nodes[0], "weight": 0}, nodes[1]]
                await _patch(stack, drained)
                await trio.sleep(WITHIN)
                served, since = crowd.served, stamp(time.time())
                await until(lambda: crowd.served > served + RATE)
                lines = stack.proxy.lines("session")
                late = [line for line in lines if line["started"] > since]  # whenever it has ended
                assert [line for line in late if line["node"] == going] == []
                assert playing(stack)[going] == held[going]  # nobody was thrown out
                await crowd.play()
                await crowd.leave(STAYING // 2)
                await until(lambda: playing(stack).get(going, 0) < held[going])

                await _patch(stack, nodes)
                seen = len(stack.proxy.lines("session"))
                await until(lambda: _came_to(stack, going, seen))
                await crowd.leave()
                nursery.cancel_scope.cancel()
            await until(lambda: playing(stack) == {})
        finally:
            with trio.CancelScope(shield=True):
                await crowd.leave()
        assert not crowd.lost
        assert not crowd.turned_away


async def _patch(stack: Stack, nodes: list[dict[str, Any]]) -> None:
    """By the API, away from the players' loop."""

    def ask() -> None:
        stack.api.patch("/upstreams/game/nodes", json=nodes).raise_for_status()

    await trio.to_thread.run_sync(ask)


def _came_to(stack: Stack, node: str, seen: int) -> bool:
    return any(line["node"] == node for line in stack.proxy.lines("session")[seen:])
