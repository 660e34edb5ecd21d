"""A game server is killed under players and started again: probes see to it that nobody comes to it meanwhile."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import plain_http
from tests.support.crowd import Crowd
from tests.support.crowds import PATIENCE, until
from tests.support.echo import Echo
from tests.support.ports import free_ports
from tests.support.stack import Stack, retry_until, stores

pytestmark = pytest.mark.anyio

NAME, ROUTE = "probed.example.com", "probed"
PLAYERS, VISITORS, WORKERS, SERVERS = 200, 60, 2, 3
CHECKS = {
    "active": {
        "type": "tcp",
        "healthy": {"interval": 1, "successes": 2},
        "unhealthy": {"interval": 1, "tcp_failures": 2},
    }
}


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@contextmanager
def servers() -> Iterator[list[Echo]]:
    """Echo servers."""
    found = [Echo(port) for port in free_ports(SERVERS)]
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            one.kill()


def ask(stack: Stack, path: str) -> Any:
    """Of the status port."""
    return plain_http.get(f"http://127.0.0.1:{stack.status_port}{path}", timeout=5).json()


def playing(stack: Stack) -> dict[str, int]:
    """Sessions by game server."""
    nodes: dict[str, int] = ask(stack, "/sessions")["nodes"]
    return nodes


def statuses(stack: Stack) -> dict[int, str]:
    """What the probes found, by port."""
    nodes = [node for one in ask(stack, "/v1/healthcheck") for node in one["nodes"]]
    return {node["port"]: node["status"] for node in nodes}


async def test_a_game_server_is_killed_and_comes_back_under_players(tmp_path: Path) -> None:
    with (
        servers() as games,
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=WORKERS, refused_log_interval=0) as stack,
    ):
        for _ in retry_until(PATIENCE, "all workers"):
            if stack.metrics()["sniproxy_workers"] == WORKERS:
                break
        nodes = {f"127.0.0.1:{one.port}": 1 for one in games}
        stack.put("/upstreams/probed", {"nodes": nodes, "checks": CHECKS})
        route = {"sni": NAME, "tls_passthrough": True, "upstream_id": "probed"}
        stack.put(f"/stream_routes/{ROUTE}?wait=all&timeout=60s", route)
        # before anybody has played
        await until(lambda: set(statuses(stack).values()) == {"healthy"})
        assert len(statuses(stack)) == SERVERS
        crowd = Crowd(NAME, lambda: stack.port)
        try:
            await _kill_and_start(stack, crowd, games[1], f"127.0.0.1:{games[1].port}")
        finally:
            with trio.CancelScope(shield=True):
                await crowd.leave()


async def _kill_and_start(stack: Stack, crowd: Crowd, victim: Echo, node: str) -> None:
    await crowd.stay(PLAYERS)
    before = playing(stack)
    third = range(PLAYERS // SERVERS - WORKERS, PLAYERS // SERVERS + WORKERS + 2)
    assert len(before) == SERVERS
    assert all(count in third for count in before.values()), before

    victim.kill()
    await crowd.play()
    assert len(crowd.lost) == before[node]  # and nobody else
    # Each comes back at once, though no probe may have found it yet: another node takes him.
    await crowd.stay(before[node])
    await until(lambda: statuses(stack)[victim.port] == "unhealthy")
    after = playing(stack)
    assert after.get(node, 0) == 0
    assert sum(after.values()) == PLAYERS
    assert stack.metrics()["sniproxy_upstream_unhealthy"] == 1

    # From now on nobody is even tried there.
    seen = len(stack.proxy.lines("session"))
    visitors = Crowd(NAME, lambda: stack.port)
    await visitors.stay(VISITORS)
    await visitors.leave()
    await until(lambda: len(stack.proxy.lines("session")) == seen + VISITORS)
    late = stack.proxy.lines("session")[seen:]
    assert node not in {line["node"] for line in late}
    assert {line.get("attempts", 1) for line in late} == {1}

    victim.start()
    await until(lambda: statuses(stack)[victim.port] in ("healthy", "mostly_healthy"))

    def comes() -> bool:
        return bool(playing(stack).get(node))

    with trio.fail_after(PATIENCE):
        while not await trio.to_thread.run_sync(comes):
            await crowd.stay(3)
    await crowd.play()
    assert len(crowd.lost) == before[node]
    assert stack.metrics()["sniproxy_upstream_unhealthy"] == 0
    events = [line["node"] for line in stack.proxy.lines("game server unhealthy")]
    assert events == [node]  # of both workers one
    await until(lambda: stack.proxy.lines("game server healthy"))
    assert [line["node"] for line in stack.proxy.lines("game server healthy")] == [node]


async def test_what_was_found_stays_with_an_upgrade(tmp_path: Path) -> None:
    """And the next version goes on with it: one of its workers, and none of the old ones."""
    checks = {"active": {**CHECKS["active"], "unhealthy": {"interval": 10_000, "tcp_failures": 1}}}
    (port,) = free_ports(1)  # where nobody listens
    with (
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=WORKERS) as stack,
    ):
        stack.put("/upstreams/probed", {"nodes": {f"127.0.0.1:{port}": 1}, "checks": checks})
        await until(lambda: statuses(stack) == {port: "unhealthy"})
        os.kill(stack.proxy.pid, signal.SIGUSR2)
        await until(lambda: len(stack.proxy.lines("old worker ended")) == WORKERS, 30)
        await until(lambda: statuses(stack) == {port: "unhealthy"})
        (node,) = (node for one in ask(stack, "/v1/healthcheck") for node in one["nodes"])
        assert node["counter"]["tcp_failure"] == 0  # nobody has asked again
        assert stack.metrics()["sniproxy_upstream_unhealthy"] == 1
        assert len(stack.proxy.lines("game server unhealthy")) == 1
