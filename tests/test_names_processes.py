"""Names in a data plane of processes: its workers ask the DNS server of the settings, and no thread does."""

import json
import os
from pathlib import Path

import pytest
import trio

from sniproxy.settings import Dns
from sniproxy.store.sqlite import SqliteStore
from tests.support.crews import PATIENCE, played, until
from tests.support.dns_server import dns_server
from tests.support.gateway import route
from tests.support.peers import game_server
from tests.support.planes import Plane, house_of

pytestmark = pytest.mark.anyio


def threads(plane: Plane) -> set[str]:
    """Of all workers. One that has had nothing to do for a while ends."""
    pids = [member.pid for member in plane.parent.crew.everybody]
    return {number for pid in pids for number in os.listdir(f"/proc/{pid}/task")}


async def come_and_go(plane: Plane) -> None:
    """A player."""
    player = plane.dial()
    await played(player)
    player.close()


async def test_workers_reach_a_game_server_by_its_name(tmp_path: Path) -> None:
    with trio.fail_after(2 * PATIENCE):
        async with (
            game_server() as game,
            dns_server({"gs.example.": {"A": ["127.0.0.1"]}}) as dns,
            house_of(tmp_path, workers=1, dns=Dns(servers=(dns.address,))) as house,
        ):
            store = SqliteStore(tmp_path / "config.db")
            literal, named = route(game.port), route(game.port, host="gs.example")
            async with house.version() as plane:
                await plane.ready()
                await store.put("/apisix/stream_routes/7", json.dumps(literal).encode())
                idle = threads(plane)
                await come_and_go(plane)
                await until(lambda: threads(plane) - idle)  # that of the log, with its first line
                before = threads(plane)
                await store.put("/apisix/stream_routes/7", json.dumps(named).encode())
                while not dns.asked:
                    await come_and_go(plane)
                await come_and_go(plane)
                assert threads(plane) <= before
                assert sorted(about for _, about, _ in dns.asked) == ["A", "AAAA"]
                assert await plane.metric("names_resolved_total") == 1
            await store.aclose()
