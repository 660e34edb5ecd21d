"""A data plane with one game server behind it and players before it: for tests of who is let in, and how it ends."""

import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import trio

from sniproxy.router import Route
from sniproxy.session import UNRECOGNIZED_NAME
from sniproxy.settings import Listener
from sniproxy.snapshot import Broken
from sniproxy.store import Deleted, Entry
from tests.support.certificates import NAME
from tests.support.gateway import PREFIX, Gateway, Objects, open_gateway, route
from tests.support.hellos import named
from tests.support.peers import Peer

PLAIN = Listener(address="127.0.0.1:0")
MIXED = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
PROXIED = Listener(address="127.0.0.1:0", proxy_protocol=True)
PROXIED_TLS = Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True, proxy_protocol=True)
TRUSTED = ("127.0.0.0/8",)
HELLO = named(NAME.encode())


class Stage:
    """What a test sees of it. Whoever has come leaves when the test is over."""

    gateway: Gateway
    listener: Listener

    def __init__(self, game: socket.socket, stack: AsyncExitStack) -> None:
        self.port: int = game.getsockname()[1]  # the game server's
        self.stack = stack  # closed before the game server is
        self._game = game
        self._peers: list[Peer] = []

    async def open(
        self, listener: Listener = PLAIN, objects: Objects | None = None, **settings: Any
    ) -> Gateway:
        """The data plane, once per stage; without objects one route takes everybody to the game server."""
        if objects is None:
            objects = {"stream_routes/1": route(self.port, tls_passthrough=True)}
        if listener.proxy_protocol:
            settings = {"trusted": TRUSTED, **settings}
        self.listener = listener
        opened = open_gateway(listener, objects, **settings)
        self.gateway = await self.stack.enter_async_context(opened)
        return self.gateway

    def change(self, objects: Mapping[str, Mapping[str, Any] | None]) -> list[Broken]:
        """Puts them in force, None being a deletion; those that could not be read."""
        snapshot = self.gateway.worker.snapshot
        return snapshot.apply(
            [
                Deleted(f"{PREFIX}/{key}", revision)
                if value is None
                else Entry(f"{PREFIX}/{key}", json.dumps(value).encode(), revision, revision)
                for revision, (key, value) in enumerate(objects.items(), snapshot.revision + 1)
            ]
        )

    async def dial(self, says: bytes = b"", **where: str) -> Peer:
        """A player who has connected and said that; `where` as `Gateway.dial` takes it."""
        player = self.gateway.dial(**where)
        self._peers.append(player)
        await player.send(says)
        return player

    async def accept(self) -> Peer:
        """The game server's side of the next session that reaches it."""
        await trio.lowlevel.wait_readable(self._game)
        sock, _ = self._game.accept()
        sock.setblocking(False)
        server = Peer(sock)
        self._peers.append(server)
        return server

    async def join(
        self, says: bytes = b"x", *, header: bytes = b"", **where: str
    ) -> tuple[Peer, Peer]:
        """A player who is let in, and the game server's side: what he says has come there, and an answer back."""
        player = await self.dial(header + says, **where)
        server = await self.accept()
        assert await server.read(len(says)) == says
        await server.send(b"welcome")
        assert await player.read(7) == b"welcome"
        return player, server

    async def refused(
        self, says: bytes = b"", *, header: bytes = b"", **where: str
    ) -> dict[str, Any]:
        """The line of a player who is not let in. The game server hears nothing of him."""
        player = await self.dial(header + says, **where)
        line = await self.gateway.lines.next()
        with suppress(ConnectionResetError):  # what he said was not read
            assert await player.read_all() in (b"", UNRECOGNIZED_NAME)
        assert self.nobody_came()
        return line

    async def leave(self, player: Peer, server: Peer) -> dict[str, Any]:
        """Ends a session that was joined; its line."""
        await player.end()
        assert await server.read_all() == b""
        await server.end()
        line = await self.gateway.lines.next()
        assert line["reason"] == "client_closed"
        return line

    def seated(self) -> int:
        """How many sessions count on nodes of the routes' own upstreams, played by plans aside."""
        loaded = self.gateway.worker.snapshot._loaded.values()
        targets = [one.target for one in loaded if isinstance(one, Route) and one.target]
        return sum(node.state.active for target in targets for node in target.balancer.nodes)

    def nobody_came(self) -> bool:
        """Whether the queue of the game server is empty; on loopback whoever has connected is in it at once."""
        try:
            sock, _ = self._game.accept()
        except OSError:
            return True
        sock.close()
        return False

    def hang_up(self) -> None:
        """The game server takes nobody any more; whoever it has stays."""
        self._game.close()

    def clear(self) -> None:
        """Everybody leaves."""
        for peer in self._peers:
            peer.close()


@asynccontextmanager
async def open_stage(deadline: float = 200) -> AsyncIterator[Stage]:
    """A stage for one test, which may take that many seconds, of virtual time mostly."""
    with trio.fail_after(deadline), socket.create_server(("127.0.0.1", 0)) as game:
        game.setblocking(False)
        async with AsyncExitStack() as stack:
            stage = Stage(game, stack)
            try:
                yield stage
            finally:
                stage.clear()
