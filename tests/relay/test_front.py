"""What the native relay does by itself with those who come: turns, nodes that refuse, hellos in pieces, addresses."""

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.relay import Accepted
from sniproxy.settings import Listener
from tests.support.certificates import NAME
from tests.support.files import open_files, settled_files
from tests.support.gateway import Gateway, Objects, open_gateway
from tests.support.hellos import named
from tests.support.peers import game_server
from tests.support.stage import HELLO, MIXED, open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 60  # seconds for one test, for when something hangs
VOLATILE = {"started", "session", "client", "duration_ms", "hello_ms", "connect_ms"}
NOWHERE = "127.0.0.77:1"


def to(*nodes: str, weights: tuple[int, ...] = (), **members: Any) -> Objects:
    """A route for everybody to these nodes, of weight 1 if nothing else is said."""
    weighted = dict(zip(nodes, weights or [1] * len(nodes), strict=True))
    return {
        "stream_routes/1": {"upstream": {"nodes": weighted, **members}, "tls_passthrough": True}
    }


async def play(gateway: Gateway) -> dict[str, Any]:
    """A session with a server that echoes, from the hello to the end; its line."""
    player = gateway.dial()
    await player.send(HELLO)
    assert await player.read(len(HELLO)) == HELLO
    await player.end()
    assert await player.read_all() == b""
    player.close()
    return await gateway.lines.next()


async def give_up(gateway: Gateway) -> dict[str, Any]:
    """The line of a player who reaches no game server."""
    player = gateway.dial()
    await player.send(HELLO)
    assert await player.read_all() == b""
    player.close()
    return await gateway.lines.next()


# Which node


@pytest.mark.parametrize("weights", [(1,), (1, 1), (3, 1), (5, 1, 1), (2000, 1000)])
async def test_shares_are_exact_over_whole_rounds(
    served: list[Accepted], weights: tuple[int, ...]
) -> None:
    """By plans alone; a change of something else does not begin a round anew."""
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(DEADLINE))
        servers = [await stack.enter_async_context(game_server()) for _ in weights]
        objects = to(*(f"127.0.0.1:{one.port}" for one in servers), weights=weights)
        gateway = await stack.enter_async_context(open_gateway(MIXED, objects))
        snapshot = gateway.worker.snapshot
        route = snapshot.router.match_for_all(NAME, gateway.address[1])
        assert route is not None
        assert route.target is not None
        expected = [f"{node.host}:{node.port}" for node in route.target.round]
        nodes = []
        for turn in range(3 * len(expected)):
            if turn in (0, len(expected) + 1):  # in the midst of a round
                snapshot.on_change()
                await play(gateway)
            nodes.append((await play(gateway))["node"])
        assert len(served) == 2
    assert nodes == expected * 3
    assert len(set(nodes)) == len(weights)


async def test_all_names_that_lead_to_an_upstream_take_turns(served: list[Accepted]) -> None:
    async with game_server() as one, game_server() as other:
        nodes = {f"127.0.0.1:{server.port}": 1 for server in (one, other)}
        leads = {"upstream_id": 1, "tls_passthrough": True}
        objects: Objects = {"upstreams/1": {"nodes": nodes}, "stream_routes/1": leads}
        async with open_gateway(MIXED, objects) as gateway:
            names = [named(b"a.example.com"), named(b"b.example.com")]
            found = []
            for hello in names * 3:
                player = gateway.dial()
                await player.send(hello)
                await player.read(len(hello))
                player.close()
                found.append((await gateway.lines.next())["node"])
        assert len(served) == 2
    assert Counter(found[2:]) == dict.fromkeys(nodes, 2)
    assert found[2] != found[3]


async def test_who_is_refused_by_all_nodes_is_told_as_ever(served: list[Accepted]) -> None:
    other = "127.0.0.78:1"
    with trio.fail_after(DEADLINE):
        async with open_gateway(MIXED, to(NOWHERE, other)) as gateway:
            lines = [await give_up(gateway) for _ in range(5)]
            assert gateway.closed() == {"upstream_refused": 5}
            assert gateway.counted() == {"opened": 5, "active": 0, "in": 0, "out": 0}
    assert [one.attempt is not None for one in served] == [False, True, True, True, True]
    refused = "{}: Connection refused; {}: Connection refused".format
    details = [line.pop("detail") for line in lines]
    assert set(details) == {refused(NOWHERE, other), refused(other, NOWHERE)}
    assert details[1::2] == details[1:2] * 2
    assert details[2::2] == details[2:3] * 2
    for line in lines:
        assert {name: line[name] for name in line if name not in VOLATILE} == {
            "event": "session",
            "level": "info",
            "reason": "upstream_refused",
            "listener": "127.0.0.1:0",
            "sni": NAME,
            "alpn": None,
            "route": "1",
            "node": None,
            "node_address": None,
            "source": None,
            "tls": "passthrough",
            "bytes_in": 0,
            "bytes_out": 0,
        }
        assert "hello_ms" in line
        assert "connect_ms" not in line


async def test_a_node_that_refuses_costs_an_attempt_and_no_session(served: list[Accepted]) -> None:
    async with game_server() as game:
        node = f"127.0.0.1:{game.port}"
        with trio.fail_after(DEADLINE):
            async with open_gateway(MIXED, to(NOWHERE, node)) as gateway:
                lines = [await play(gateway) for _ in range(7)]
                assert gateway.closed() == {"client_closed": 7}
                assert gateway.counted()["in"] == 7 * len(HELLO)
        assert game.heard == [HELLO] * 7
    assert [line.get("attempts", 1) for line in lines] == [2, 2, 1, 2, 1, 2, 1]
    assert {line["node"] for line in lines} == {node}
    assert len(served) == 4


@pytest.mark.parametrize(("retries", "reason"), [(0, "upstream_refused"), (1, "client_closed")])
async def test_the_first_attempt_counts_among_the_retries(
    served: list[Accepted], retries: int, reason: str
) -> None:
    async with game_server() as game:
        with trio.fail_after(DEADLINE):
            objects = to(NOWHERE, f"127.0.0.1:{game.port}", retries=retries)
            async with open_gateway(MIXED, objects) as gateway:
                for turn in range(2):
                    player = gateway.dial()
                    await player.send(HELLO)
                    await player.end()
                    assert await player.read_all() == (HELLO if retries else b"")
                    player.close()
                    assert (await gateway.lines.next())["reason"] == reason
                    assert (served[turn].attempt is not None) is (turn == 1)


# What they say


@pytest.mark.parametrize("size", [1, 40, 100])
async def test_a_hello_in_pieces_goes_by_the_plan_too(served: list[Accepted], size: int) -> None:
    async with open_stage() as stage:
        await stage.open(MIXED)
        await stage.join(HELLO)
        player = await stage.dial()
        says = HELLO + b"and more"
        for start in range(0, len(says), size):
            await player.send(says[start : start + size])
            await trio.lowlevel.checkpoint()
        server = await stage.accept()
        assert await server.read(len(says)) == says
        assert len(served) == 1


# Who they are


@pytest.mark.parametrize(
    ("address", "host", "client"),
    [
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1:{}"),
        ("0.0.0.0:0", "127.0.0.1", "127.0.0.1:{}"),
        ("[::1]:0", "::1", "[::1]:{}"),
        ("[::]:0", "::1", "[::1]:{}"),
        ("[::]:0", "127.0.0.1", "127.0.0.1:{}"),  # over IPv4 he is an IPv4 client
    ],
)
async def test_a_players_address_reads_the_same_by_plan(
    served: list[Accepted], address: str, host: str, client: str
) -> None:
    listener = Listener(address=address, tls_passthrough=True)
    with trio.fail_after(DEADLINE):
        async with game_server(host) as game:
            node = f"[{host}]:{game.port}" if ":" in host else f"{host}:{game.port}"
            async with open_gateway(listener, to(node)) as gateway:
                for turn in range(2):
                    player = gateway.dial(host)
                    expected = client.format(player.sock.getsockname()[1])
                    await player.send(HELLO)
                    assert await player.read(len(HELLO)) == HELLO
                    player.close()
                    line = await gateway.lines.next()
                    assert (line["client"], line["node"]) == (expected, node)
                    assert len(served) == 1, turn


async def test_no_descriptor_is_left(served: list[Accepted]) -> None:
    """Of any who came: played, refused, retried, not let in."""
    async with open_stage() as stage:
        nodes = to(NOWHERE, f"127.0.0.1:{stage.port}")
        nowhere = {**to(NOWHERE)["stream_routes/1"], "sni": "nowhere.example.com"}
        gateway = await stage.open(MIXED, {**nodes, "stream_routes/2": nowhere}, max_sessions=2)
        await trio.testing.wait_all_tasks_blocked()
        before = settled_files()
        for _ in range(10):
            pairs = [await stage.join(HELLO) for _ in range(2)]
            assert (await stage.refused(HELLO))["reason"] == "session_limit"
            for pair in pairs:
                await stage.leave(*pair)
            for says in (named(b"nowhere.example.com"), b"GET / HTTP/1.1\r\n\r\n"):
                await stage.refused(says)
        stage.clear()
        await trio.testing.wait_all_tasks_blocked()
        assert open_files() == before
        assert gateway.counted()["active"] == 0
