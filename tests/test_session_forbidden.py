"""Sessions whose route leads where nobody may be connected to: refused with a reason, whoever moves the bytes."""

import socket
from typing import Any

import pytest
import trio

from tests.support.gateway import Gateway, open_gateway
from tests.support.hellos import named

pytestmark = pytest.mark.anyio

NAME = "play.example.com"
HELLO = named(NAME.encode())


def route(*nodes: str) -> dict[str, Any]:
    """A route to these, one after the other."""
    found = {
        "nodes": [
            {"host": host, "port": int(port), "weight": 1, "priority": -number}
            for number, (host, port) in enumerate(node.rsplit(":", 1) for node in nodes)
        ]
    }
    return {"stream_routes/1": {"sni": NAME, "tls_passthrough": True, "upstream": found}}


async def refused(gateway: Gateway) -> dict[str, Any]:
    """A player says hello and is closed; the line."""
    player = gateway.dial()
    await player.send(HELLO)
    assert await player.read_all() == b""
    player.close()
    return await gateway.lines.next()


async def served(gateway: Gateway, game: socket.socket) -> dict[str, Any]:
    """A player says hello and comes to the game server; the line."""
    player = gateway.dial()
    await player.send(HELLO)
    sock, _ = await trio.socket.from_stdlib_socket(game).accept()
    sock.close()
    player.close()
    return await gateway.lines.next()


@pytest.mark.parametrize(
    ("node", "detail"),
    [
        ("169.254.169.254:80", "169.254.169.254:80: 169.254.169.254: link-local, multicast"),
        ("127.0.0.1:80", "127.0.0.1:80: 127.0.0.1: it is in proxy.deny_upstreams"),
        ("localhost:80", "localhost:80: 127.0.0.1: it is in proxy.deny_upstreams"),
    ],
)
async def test_a_node_that_may_not_be_reached(node: str, detail: str) -> None:
    """Every time, also where a relay might go by a plan."""
    denied = ["127.0.0.0/8", "::1/128"]
    with trio.fail_after(20):
        async with open_gateway(objects=route(node), deny_upstreams=denied) as gateway:
            for _ in range(3):
                line = await refused(gateway)
                assert line["reason"] == "upstream_denied"
                assert detail in line["detail"]


async def test_the_next_node_is_tried() -> None:
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as game:
        game.setblocking(False)
        port = game.getsockname()[1]
        objects = route("169.254.169.254:80", f"127.0.0.1:{port}")
        async with open_gateway(objects=objects) as gateway:
            for _ in range(3):
                assert (await served(gateway, game))["node"] == f"127.0.0.1:{port}"


async def test_what_is_denied_from_now_on() -> None:
    """By settings that are read again: plans that were made before are taken back."""
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as game:
        game.setblocking(False)
        objects = route(f"127.0.0.1:{game.getsockname()[1]}")
        async with open_gateway(objects=objects) as gateway:
            for _ in range(2):
                assert (await served(gateway, game))["reason"] != "upstream_denied"
            worker = gateway.worker
            denied = worker.settings.model_copy(update={"deny_upstreams": ("127.0.0.0/8",)})
            worker.settle(denied, worker.turns.settings)
            assert (await refused(gateway))["reason"] == "upstream_denied"
