"""How many sessions there are by route and by game server, for as long as they last, whoever moves the bytes."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.hellos import named
from tests.support.peers import Peer

pytestmark = pytest.mark.anyio

NAME = "play.example.com"
HELLO = named(NAME.encode())


@pytest.fixture
def game() -> Iterator[socket.socket]:
    """A game server that accepts when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def objects(port: int, **members: Any) -> dict[str, Any]:
    """A route to it, and one to a port where nobody listens."""
    route = {"sni": NAME, "tls_passthrough": True}
    return {"stream_routes/1": {**route, "upstream": {"nodes": {f"127.0.0.1:{port}": 1}} | members}}


async def until(gateway: Gateway, routes: dict[str, int], nodes: dict[str, int]) -> None:
    """It is so, at last."""
    with trio.fail_after(10):
        while (gateway.worker.playing(), gateway.worker.playing_on()) != (routes, nodes):  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_sessions_are_counted_where_they_play(game: socket.socket) -> None:
    """The first is served by the worker; those after it by a plan, where the relay has plans."""
    port = game.getsockname()[1]
    node = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        async with open_gateway(objects=objects(port)) as gateway:
            players: list[Peer] = []
            for count in range(1, 5):
                players.append(gateway.dial())
                stack.callback(players[-1].close)
                await players[-1].send(HELLO)
                server, _ = await trio.socket.from_stdlib_socket(game).accept()
                stack.callback(server.close)
                await server.recv(10_000)
                await until(gateway, {"1": count}, {node: count})
            for count in range(3, -1, -1):
                players.pop(0).reset()
                left = {node: count} if count else {}
                await until(gateway, {"1": count} if count else {}, left)


async def test_who_comes_to_no_game_server_is_counted_by_route_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with open_gateway(objects=objects(port)) as gateway:
        for _ in range(3):
            player = gateway.dial()
            await player.send(HELLO)
            assert await player.read_all() == b""
            player.close()
            line = await gateway.lines.next()
            assert line["reason"] == "upstream_refused"
        await until(gateway, {}, {})
