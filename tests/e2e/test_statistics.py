"""Traffic statistics of real sessions: told while they play, there after a kill -9, and whole after an end in good order."""

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme

from tests.support.players import Game, join_soon, pem_pair, say, trusting
from tests.support.stack import Stack, retry_until, stores

NAME = "counted.example.com"
INTERVAL = 0.5  # seconds between two writings at most
SOON = 20.0  # seconds for what is written to be told, on a machine that does much else
LONG = "x" * 10_000


def told(stack: Stack) -> dict[str, int]:
    """Of the route, over the last days."""
    body = stack.api.get("/statistics?by=day").json()
    found = {one["route"]: one for one in body["routes"]}
    counts: dict[str, int] = found.get("counted", {"sessions": 0, "bytes_to_upstream": 0})
    return counts


def now_and_then(what: str) -> Iterator[None]:
    """Iterations, until something must be so."""
    for _ in retry_until(SOON, what):
        yield
        time.sleep(INTERVAL / 5)


def wait_for(stack: Stack, sessions: int, size: int) -> None:
    for _ in now_and_then(f"{sessions} sessions are told"):
        counts = told(stack)
        assert counts["sessions"] <= sessions
        if counts["sessions"] == sessions and counts["bytes_to_upstream"] >= size:
            return


def now(stack: Stack) -> dict[str, Any]:
    body: dict[str, Any] = stack.api.get("/statistics/now").json()
    return body


def test_sessions_are_counted_once_whatever_becomes_of_the_data_plane(
    tmp_path: Path, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    context = trusting(authority)
    with stores("etcd", tmp_path) as (store, _):
        stack = Stack(tmp_path / "stack", store, workers=1)
        settings = json.loads(stack.config.read_text())
        settings |= {"statistics": {"interval": INTERVAL}, "node_ttl": 3}
        stack.config.write_text(json.dumps(settings))
        with stack:
            stack.put("/ssls/counted", {"sni": NAME} | pem_pair(authority, NAME))
            upstream = {"nodes": games[0].nodes}
            stack.put("/stream_routes/counted", {"sni": NAME, "upstream": upstream})
            with join_soon(stack.port, NAME, context) as player:
                assert say(player, LONG)
                wait_for(stack, 1, len(LONG))  # while it plays
                for _ in now_and_then("who plays now is told"):
                    if now(stack)["sessions"] == 1 and now(stack)["rates"]:
                        break
                stack.proxy.kill()  # it loses nothing of what was told
            stack.proxy.start()
            stack.wait_ready()
            with join_soon(stack.port, NAME, context) as player:
                assert say(player, LONG)
                wait_for(stack, 2, 2 * len(LONG))
            with join_soon(stack.port, NAME, context) as player:
                assert say(player, LONG)
                metrics = stack.metrics()
                assert metrics['sniproxy_route_sessions_opened_total{route="counted"}'] == 2
                stack.proxy.stop()  # what came last is written then
            counts = told(stack)
            assert counts["sessions"] == 3
            assert counts["bytes_to_upstream"] == 3 * (len(LONG) + 1)
            assert counts["peak_sessions"] >= 1
            assert counts["peak_rate"] > 0
            text = stack.api.get("/statistics?by=day&route=counted&format=csv").text
            lines = list(csv.DictReader(io.StringIO(text)))
            assert sum(int(line["sessions"]) for line in lines) == 3
