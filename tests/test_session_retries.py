"""Which failures of a game server lead to the next one: those before it has the player, and no other. On virtual time."""

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from tests.support.certificates import NAME
from tests.support.clocks import relay_clock
from tests.support.gateway import open_gateway
from tests.support.hellos import named

pytestmark = pytest.mark.anyio

HELLO = named(NAME.encode())
DEADLINE = 100  # virtual seconds
Conduct = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.02)}


async def closes(stream: trio.SocketStream) -> None:
    """At once: the hello may still be on its way."""
    await stream.aclose()


async def resets(stream: trio.SocketStream) -> None:
    """As soon as it has a byte of the hello."""
    await stream.receive_some(1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def answers_and_resets(stream: trio.SocketStream) -> None:
    """What it has said stays said."""
    await stream.receive_some()
    await stream.send_all(b"first")
    await trio.sleep(1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def ends_after_the_hello(stream: trio.SocketStream) -> None:
    """Without a word, as a server that does not want this player."""
    await stream.receive_some()
    await stream.aclose()


async def play(first: tuple[str, int], second: Conduct, **members: Any) -> dict[str, Any]:
    """The line of a player whose upstream has `first`, and as a last resort one that does as `second`."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.2")
            nursery.start_soon(trio.serve_listeners, second, [listener])
            nodes = [
                {"host": first[0], "port": first[1], "weight": 1},
                {
                    "host": "127.0.0.2",
                    "port": listener.socket.getsockname()[1],
                    "weight": 1,
                    "priority": -1,
                },
            ]
            upstream = {"nodes": nodes, **members}
            route = {"upstream": upstream, "tls_passthrough": True}
            async with open_gateway(objects={"stream_routes/1": route}) as gateway:
                player = gateway.dial()
                await player.send(HELLO)
                with suppress(ConnectionResetError):
                    await player.read_all()
                player.close()
                line = await gateway.lines.next()
            nursery.cancel_scope.cancel()
    return line


@pytest.mark.parametrize(
    "conduct",
    [closes, resets, answers_and_resets, ends_after_the_hello],
    ids=lambda one: one.__name__,
)
async def test_nobody_is_sent_on_whom_a_game_server_has_had(conduct: Conduct) -> None:
    """It may have seen the hello: another would see it for the second time."""
    came = 0

    async def second(stream: trio.SocketStream) -> None:
        nonlocal came
        came += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, conduct, [listener])
        line = await play(listener.socket.getsockname()[:2], second)
        nursery.cancel_scope.cancel()
    assert came == 0
    assert "attempts" not in line
    assert line["node"].startswith("127.0.0.1:")
    assert line["reason"] in ("upstream_closed", "upstream_reset", "client_closed")


async def test_a_refusal_leads_to_the_next_at_once() -> None:
    line = await play(("127.0.0.77", 9), ends_after_the_hello)
    assert (line["node"].partition(":")[0], line["attempts"]) == ("127.0.0.2", 2)
    assert line["connect_ms"] < 1000


async def test_silence_leads_to_the_next_within_three_seconds(deaf: tuple[str, int]) -> None:
    """Row B8's first half: the time of one attempt, and then the next."""
    line = await play(deaf, ends_after_the_hello)
    assert (line["node"].partition(":")[0], line["attempts"]) == ("127.0.0.2", 2)
    assert 3000 <= line["connect_ms"] < 4000


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"retries": 0}, "upstream_timeout"),
        ({"retry_timeout": 2}, "upstream_timeout"),
        ({"retries": 1, "retry_timeout": 0}, "upstream_closed"),
        (
            {"timeout": {"connect": 1, "send": 60, "read": 60}, "retry_timeout": 2},
            "upstream_closed",
        ),
    ],
)
async def test_the_upstream_says_how_often_and_how_long(
    deaf: tuple[str, int], members: dict[str, Any], reason: str
) -> None:
    line = await play(deaf, ends_after_the_hello, **members)
    assert line["reason"].replace("client_closed", "upstream_closed") == reason
