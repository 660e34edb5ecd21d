"""Sessions and balancers, over real sockets: where each counts and until when, and who is asked by what. On virtual time."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.balancing import state_of
from sniproxy.proxy_protocol import encode_v1
from tests.support.clocks import relay_clock
from tests.support.gateway import Objects
from tests.support.hellos import named
from tests.support.peers import deaf_server
from tests.support.stage import MIXED, PROXIED, Stage, open_stage

pytestmark = pytest.mark.anyio

LOOKS = 20_000  # at who counts, before it is given up: about ten seconds, as virtual time stands still meanwhile


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


@pytest.fixture
def other() -> Iterator[int]:
    """The port of a second game server, whose queue holds whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def leading_to(*ports: int, kind: str = "least_conn", **members: Any) -> Objects:
    """A route for everybody to these game servers, in order."""
    nodes = [{"host": "127.0.0.1", "port": port, "weight": 1} for port in ports]
    upstream = {"type": kind, "nodes": nodes, **members}
    return {"stream_routes/1": {"upstream": upstream, "tls_passthrough": True}}


def seated(*ports: int) -> list[int]:
    """How many sessions count on each."""
    return [state_of("127.0.0.1", port).active for port in ports]


async def until_seated(stage: Stage, count: int) -> None:
    for _ in range(LOOKS):
        if stage.seated() == count:
            return
        await trio.testing.wait_all_tasks_blocked()
    raise AssertionError(f"{stage.seated()} sessions count, not {count}")


async def test_a_session_counts_from_its_pick_to_its_end(other: int) -> None:
    async with open_stage() as stage:
        await stage.open(objects=leading_to(stage.port, other))
        player, server = await stage.join()
        assert seated(stage.port, other) == [1, 0]
        second = await stage.dial(b"x")  # goes where nobody plays
        await until_seated(stage, 2)
        assert seated(stage.port, other) == [1, 1]
        await stage.leave(player, server)
        assert seated(stage.port, other) == [0, 1]
        await stage.join()
        assert seated(stage.port, other) == [1, 1]
        second.reset()
        line = await stage.gateway.lines.next()
        assert line["node"] == f"127.0.0.1:{other}"
        assert seated(stage.port, other) == [1, 0]


async def test_it_counts_while_it_is_on_its_way_and_not_where_it_failed() -> None:
    """The first node never answers, and the session goes on to the second one."""
    with deaf_server() as (_, deaf):
        async with open_stage() as stage:
            await stage.open(objects=leading_to(deaf, stage.port))
            player = await stage.dial(b"x")
            await until_seated(stage, 1)
            assert seated(deaf, stage.port) == [1, 0]
            server = await stage.accept()
            assert await server.read(1) == b"x"
            await until_seated(stage, 1)
            assert seated(deaf, stage.port) == [0, 1]
            await stage.leave(player, server)
            assert seated(deaf, stage.port) == [0, 0]
            waited = state_of("127.0.0.1", deaf).connect_time(trio.current_time())
            assert waited == pytest.approx(stage.gateway.worker.settings.connect_timeout, 0.1)


async def test_one_that_is_ended_on_its_way_counts_no_more() -> None:
    with deaf_server() as (_, deaf):
        async with open_stage() as stage:
            await stage.open(objects=leading_to(deaf))
            await stage.dial(b"x")
            await until_seated(stage, 1)
            await stage.stack.aclose()
            assert (await stage.gateway.lines.next())["reason"] == "shutdown"
            assert stage.seated() == 0


async def test_one_whose_game_server_cannot_be_told_who_he_is_counts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A defect of ours between the connection and the relay."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sniproxy.session.send_all", broken)
    async with open_stage() as stage:
        await stage.open(objects=leading_to(stage.port, proxy_protocol="v1"))
        await stage.dial(b"x")
        assert (await stage.gateway.lines.next())["reason"] == "internal_error"
        assert stage.seated() == 0


async def test_an_object_that_is_written_again_knows_who_plays(other: int) -> None:
    """Also by another type, which did not count before."""
    async with open_stage() as stage:
        await stage.open(objects=leading_to(stage.port, kind="chash"))
        await stage.join()
        assert stage.change(leading_to(stage.port, other)) == []
        assert seated(stage.port, other) == [1, 0]
        await stage.dial(b"x")
        await until_seated(stage, 2)
        assert seated(stage.port, other) == [1, 1]


async def test_a_node_of_weight_0_keeps_its_sessions_and_gets_no_new_one(other: int) -> None:
    async with open_stage() as stage:
        await stage.open(objects=leading_to(stage.port, kind="roundrobin"))
        player, server = await stage.join()
        nodes = {f"127.0.0.1:{stage.port}": 0, f"127.0.0.1:{other}": 1}
        stage.change({"stream_routes/1": {"upstream": {"nodes": nodes}, "tls_passthrough": True}})
        for count in (1, 2, 3):
            await stage.dial(b"x")
            await until_seated(stage, count)
        assert seated(stage.port, other) == [1, 3]
        await player.send(b"still here")
        assert await server.read(10) == b"still here"
        await stage.leave(player, server)
        assert seated(stage.port, other) == [0, 3]


@pytest.mark.parametrize(
    ("key", "together"), [("remote_addr", True), ("remote_port", False), ("server_name", True)]
)
async def test_who_comes_again_goes_where_he_was(other: int, key: str, together: bool) -> None:
    """By the address that a balancer says; all ask for one name."""
    async with open_stage() as stage:
        objects = leading_to(stage.port, other, kind="chash", key=key)
        await stage.open(PROXIED, objects)
        for port in range(20):
            await stage.dial(encode_v1(("192.0.2.7", 1000 + port), ("198.51.100.1", 443)) + b"x")
            await until_seated(stage, port + 1)
        assert (0 in seated(stage.port, other)) is together


@pytest.mark.parametrize("together", [True, False])
async def test_who_asks_for_a_name_goes_where_others_went_who_asked_for_it(
    other: int, together: bool
) -> None:
    async with open_stage() as stage:
        await stage.open(MIXED, leading_to(stage.port, other, kind="chash", key="server_name"))
        for count in range(20):
            await stage.dial(named(b"one.example" if together else b"%d.example" % count))
            await until_seated(stage, count + 1)
        assert (0 in seated(stage.port, other)) is together
