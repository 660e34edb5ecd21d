"""A data plane's parent in the process of a test, with workers that are processes of their own."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio
import trio.testing

from sniproxy.control import FILE
from sniproxy.member import Member
from sniproxy.parent import DataPlane
from sniproxy.settings import Drain, Settings, Status
from sniproxy.upgrade import Estate
from tests.support.crews import PATIENCE, bury, dial, played, settings_of
from tests.support.gateway import Lines, open_lines
from tests.support.peers import Peer, game_server


@dataclass
class Plane:
    """One version of it at work."""

    parent: DataPlane
    lines: Lines
    signals: trio.MemorySendChannel[int]
    ended: trio.Event = field(default_factory=trio.Event)
    left: Estate | None = None  # once it has ended

    def send(self, number: signal.Signals) -> None:
        self.signals.send_nowait(number)

    async def ready(self) -> None:
        """Until all workers are, and players let in unless it is being drained."""
        with trio.fail_after(PATIENCE):
            await self.parent.crew.all_ready.wait()
            while not self.logged("ready"):  # noqa: ASYNC110  # the store is told in a thread
                await trio.sleep(0.005)
            await trio.testing.wait_all_tasks_blocked()

    def dial(self, listener: int = 0) -> Peer:
        return dial(self.parent._doors.ports[listener])

    async def join(self, count: int) -> list[Peer]:
        """So many players who play."""
        players = [self.dial() for _ in range(count)]
        for player in players:
            await played(player)
        return players

    async def look(self, path: str) -> httpx.Response:
        """What the status port answers."""
        port = self.parent._status_socket.getsockname()[1]
        async with httpx.AsyncClient(timeout=PATIENCE, verify=False) as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")

    async def readiness(self) -> int:
        """What a balancer hears."""
        return (await self.look("/readyz")).status_code

    async def metric(self, name: str) -> float:
        """On the status port; one without labels."""
        text = (await self.look("/metrics")).text
        lines = (line.split(" ") for line in text.splitlines() if not line.startswith("#"))
        return {one[0]: float(one[-1]) for one in lines}[f"sniproxy_{name}"]

    async def ask(self, method: str, target: str) -> httpx.Response:
        """What the control socket answers."""
        path = str(self.parent.settings.state_dir / FILE)
        transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:
            return await client.request(method, f"http://sniproxy{target}")

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines.all if line["event"] == event]


class House:
    """Where one version follows the other, in the same place."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._started: set[Member] = set()  # all workers that were there

    @asynccontextmanager
    async def version(self, left: Estate | None = None) -> AsyncIterator[Plane]:
        """One, until the block is left: it has ended by then, or is torn away from its workers."""
        log, lines = open_lines()
        sends, signals = trio.open_memory_channel[int](10)
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            parent = DataPlane(self.settings, lambda: self.settings, log, left, stack)
            stack.callback(os.close, parent.crew._table)
            plane = Plane(parent, lines, sends)

            async def run() -> None:
                plane.left = await parent.run(signals)
                self._let_go(parent)
                plane.ended.set()

            nursery.start_soon(run)
            try:
                yield plane
            finally:
                self._let_go(parent)
                nursery.cancel_scope.cancel()

    def _let_go(self, parent: DataPlane) -> None:
        """As if its process were not there any more."""
        self._started.update(parent.crew.everybody)
        for one in parent.crew.everybody:
            one.channel.close()

    def clear(self) -> None:
        """No worker is there any more."""
        for one in self._started:
            bury(one)


@asynccontextmanager
async def house_of(
    folder: Path, drain: Drain | None = None, workers: int = 2, **proxy: Any
) -> AsyncIterator[House]:
    """Settings and a game server; whatever a test does, no worker outlives it."""
    async with game_server() as game:
        settings = await settings_of(folder, game.port, drain, workers=workers, **proxy)
        status = Status(address="127.0.0.1:0")
        house = House(settings.model_copy(update={"status": status}))
        try:
            yield house
        finally:
            house.clear()
