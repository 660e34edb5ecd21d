"""Worker processes for tests: real ones, on a store in a file, before a game server that echoes."""

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from sniproxy.crew import Crew
from sniproxy.doors import Doors
from sniproxy.keyring import open_keyring
from sniproxy.member import Member
from sniproxy.metrics import PodMetrics
from sniproxy.scrape import merge, written
from sniproxy.settings import Drain, Listener, Proxy, Settings
from sniproxy.store.sqlite import SqliteStore
from tests.support.gateway import MOVED_BY, Lines, open_lines, route
from tests.support.peers import Peer, game_server

PATIENCE = 60.0  # seconds for anything that must happen: a busy machine starts a worker slowly


async def until(what: Callable[[], object]) -> None:
    """Until it is so, or TooSlowError."""
    with trio.fail_after(PATIENCE):
        while not what():  # noqa: ASYNC110  # processes have no event to wait for
            await trio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def settings_of(
    folder: Path, game: int, drain: Drain | None = None, **proxy: Any
) -> Settings:
    """Settings of a data plane whose store takes everybody to that game server."""
    path = folder / "config.db"
    store = SqliteStore(path)
    await store.put("/apisix/stream_routes/7", json.dumps(route(game)).encode())
    await store.aclose()
    usual: dict[str, Any] = {"listeners": (Listener(address="127.0.0.1:0"),), "relay": MOVED_BY}
    settings = Settings(
        store=f"sqlite://{path}",
        state_dir=folder,
        proxy=Proxy(**{**usual, **proxy}),
        drain=drain or Drain(deadline=0.5, spread=0),
    )
    open_keyring(settings)  # it is made once
    return settings


def bury(member: Member) -> None:
    """It is not there any more, however it was."""
    member.kill()
    member.channel.close()
    member._wait()


def dial(port: int) -> Peer:
    """A player who has connected."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    return Peer(sock)


async def played(player: Peer, says: bytes = b"hello") -> None:
    """What he says comes back."""
    await player.send(says)
    with trio.fail_after(PATIENCE):
        assert await player.read(len(says)) == says


@dataclass
class Running:
    """A crew at work."""

    crew: Crew
    doors: Doors
    metrics: PodMetrics
    lines: Lines
    changed: list[int]
    players: list[Peer] = field(default_factory=list)  # who have come, and may have gone

    def dial(self) -> Peer:
        self.players.append(dial(self.doors.ports[0]))
        return self.players[-1]

    async def join(self, count: int) -> list[Peer]:
        """So many players who play."""
        players = [self.dial() for _ in range(count)]
        for player in players:
            await played(player)
        return players

    async def serve(self) -> None:
        """From the start to where all let players in."""
        with trio.fail_after(PATIENCE):
            await self.crew.all_ready.wait()
        self.doors.open()
        self.crew.accept()

    def sessions(self, worker: int) -> int:
        """Of one of them."""
        return self.crew._overview.active(worker)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines.all if line["event"] == event]

    async def counted(self) -> dict[str, float]:
        """What the status port would show of the workers; of the one route without its name."""
        text = written(merge(json.loads(json.dumps(await self.crew.counted())))).decode()
        return {
            one.name: one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.labels in ({}, {"route": "7"})
        }

    def metric(self, name: str) -> float | None:
        """Of the parent's own."""
        return self.metrics.registry.get_sample_value(f"sniproxy_{name}")


@asynccontextmanager
async def crew_of(folder: Path, workers: int = 2, **proxy: Any) -> AsyncIterator[Running]:
    """Workers that are kept running until the block is left; then they are killed, if they have not ended."""
    async with game_server() as game:
        settings = await settings_of(folder, game.port, workers=workers, **proxy)
        log, lines = open_lines()
        metrics, changed = PodMetrics(), list[int]()
        with ExitStack() as stack:
            doors = stack.enter_context(Doors(settings.proxy, workers))
            crew = Crew(
                settings, workers, doors, metrics, log, lambda: changed.append(crew.revision)
            )
            running = Running(crew, doors, metrics, lines, changed)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crew.run)
                    yield running
                    nursery.cancel_scope.cancel()
            finally:
                for player in running.players:
                    player.close()
                for member in crew.everybody:
                    bury(member)
                os.close(crew._table)
