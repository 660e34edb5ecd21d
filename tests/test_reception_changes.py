"""A change of the configuration is in force for whoever comes next, also where the native relay plays by plans."""

import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from sniproxy.relay import Accepted
from sniproxy.worker_state import Worker
from tests.support.certificates import NAME
from tests.support.gateway import Objects, route
from tests.support.peers import game_server
from tests.support.stage import HELLO, MIXED, open_stage

pytestmark = pytest.mark.anyio

PASS: dict[str, Any] = {"sni": NAME, "tls_passthrough": True}
DENY = {"ip-restriction": {"blacklist": ["127.0.0.0/8"]}}

Changed = Mapping[str, Mapping[str, Any] | None]


def by_id(port: int) -> Objects:
    """A route to an upstream by its id."""
    return {"upstreams/1": route(port)["upstream"], "stream_routes/1": {"upstream_id": 1, **PASS}}


def by_service(port: int) -> Objects:
    """A route to a service with an upstream."""
    return {"services/1": route(port), "stream_routes/1": {"service_id": 1, **PASS}}


def own(port: int) -> Objects:
    """A route with an upstream of its own."""
    return {"stream_routes/1": route(port, **PASS)}


# What there is, what changes (given the game server's port and another's), and what becomes of whoever comes next: the
# reason why he is not let in, or "other" where he is, at the other game server.
CHANGES: dict[str, tuple[Callable[[int], Objects], Callable[[int, int], Changed], str]] = {
    "another port": (own, lambda _, there: own(there), "other"),
    "deleted": (own, lambda *_: {"stream_routes/1": None}, "no_route"),
    "another name": (
        own,
        lambda here, _: {"stream_routes/1": route(here, **PASS | {"sni": "other.example.com"})},
        "no_route",
    ),
    "terminated": (own, lambda here, _: {"stream_routes/1": route(here, sni=NAME)}, "no_certificate"),
    "a plugin": (
        own,
        lambda here, _: {"stream_routes/1": route(here, **PASS, plugins=DENY)},
        "address_denied",
    ),
    "no weight": (
        own,
        lambda here, _: {
            "stream_routes/1": {"upstream": {"nodes": {f"127.0.0.1:{here}": 0}}, **PASS}
        },
        "no_upstream",
    ),
    "a narrower route": (
        own,
        lambda _, there: {"stream_routes/2": route(there, **PASS, remote_addr="127.0.0.1")},
        "other",
    ),
    "a wider route by a lower id": (
        lambda here: {"stream_routes/2": route(here, **PASS)},
        lambda _, there: {"stream_routes/1": route(there, **PASS)},
        "other",
    ),
    "the exact name": (
        lambda here: {"stream_routes/1": route(here, sni="*", tls_passthrough=True)},
        lambda _, there: {"stream_routes/2": route(there, **PASS)},
        "other",
    ),
    "an upstream": (by_id, lambda _, there: {"upstreams/1": route(there)["upstream"]}, "other"),
    "an upstream is deleted": (by_id, lambda *_: {"upstreams/1": None}, "no_upstream"),
    "a service": (by_service, lambda _, there: {"services/1": route(there)}, "other"),
    "a service's plugin": (
        by_service,
        lambda here, _: {"services/1": route(here, plugins=DENY)},
        "address_denied",
    ),
    "a service is deleted": (by_service, lambda *_: {"services/1": None}, "no_upstream"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "changed", "then"), CHANGES.values(), ids=CHANGES)
async def test_a_change_is_in_force_for_the_next_who_comes(
    served: list[Accepted],
    before: Callable[[int], Objects],
    changed: Callable[[int, int], Changed],
    then: str,
) -> None:
    """And the one after; those who play already play on."""
    async with game_server() as other, open_stage() as stage:
        await stage.open(MIXED, before(stage.port))
        await stage.leave(*await stage.join(HELLO))
        playing = await stage.join(HELLO)
        assert len(served) == 1
        assert stage.change(changed(stage.port, other.port)) == []
        for turn in (1, 2):
            if then == "other":
                player = await stage.dial(HELLO)
                assert await player.read(len(HELLO)) == HELLO
                assert len(other.heard) == turn
                assert stage.nobody_came()
            else:
                assert (await stage.refused(HELLO))["reason"] == then
        await stage.leave(*playing)


def is_drained(worker: Worker) -> None:
    worker.drained = frozenset({"1"})


def is_short(worker: Worker) -> None:
    worker.short_of_memory = True


@pytest.mark.parametrize(
    ("happens", "reason"), [(is_drained, "route_drained"), (is_short, "memory_limit")]
)
async def test_who_waited_for_a_turn_meanwhile_teaches_nobody(
    served: list[Accepted], happens: Callable[[Worker], None], reason: str
) -> None:
    """He is let in, as he came before; whoever comes after him is not."""
    async with open_stage(deadline=30) as stage:
        gateway = await stage.open(MIXED, own(stage.port), overload={"setups": 1})
        worker = gateway.worker
        assert worker.turns.enter("other", b"")
        player = await stage.dial(HELLO)
        while not worker.turns.waiting:  # noqa: ASYNC110  # he comes by another thread
            await trio.sleep(0.001)
        happens(worker)
        worker.forget_plans()
        worker.turns.leave("other", b"")
        server = await stage.accept()
        assert await server.read(len(HELLO)) == HELLO
        assert (await stage.refused(HELLO))["reason"] == reason
        await server.send(b"welcome")
        assert await player.read(7) == b"welcome"


async def test_a_door_for_which_no_descriptor_is_left_is_opened_all_the_same(
    served: list[Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another worker has died: this one is not to follow it. It accepts there by itself, without plans."""

    def listen(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("sniproxy.relay.front.NativeFront.open", listen)
    async with open_stage(deadline=30) as stage:
        gateway = await stage.open(MIXED, own(stage.port))
        for _ in range(2):
            await stage.leave(*await stage.join(HELLO))
        assert len(served) == 2
        (line,) = [one for one in gateway.lines.all if one["event"] == "accepting pauses"]
        assert line["cause"] == "Too many open files"


# A crowd

SERVERS, CROWD, COMINGS, TURNS = 7, 5, 600, 100


@asynccontextmanager
async def numbered_servers() -> AsyncIterator[list[int]]:
    """The ports of game servers, each of which says its number to whoever comes, and ends when he does."""

    async def serve(number: int, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(bytes([number]))
        await stream.receive_some()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        ports = []
        for number in range(SERVERS):
            (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ports.append(listening.socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, partial(serve, number), [listening])
        yield ports
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("by", [own, by_id, by_service])
async def test_a_crowd_reaches_what_was_configured_while_it_came(
    served: list[Accepted], by: Callable[[int], Objects]
) -> None:
    """Each the server of some moment between his coming and his answer: mostly the one before a change or after it."""
    async with numbered_servers() as ports, open_stage() as stage:
        gateway = await stage.open(MIXED, by(ports[0]))
        changes = answers = 0
        spans: list[int] = []

        async def come(times: int) -> None:
            nonlocal changes, answers
            for _ in range(times):
                first = changes
                player = gateway.dial()
                await player.send(HELLO)
                (number,) = await player.read(1)
                assert number in {turn % SERVERS for turn in range(first, changes + 1)}
                spans.append(changes - first)
                player.close()
                answers += 1
                if answers % (COMINGS // TURNS) == 0:
                    assert stage.change(by(ports[(changes + 1) % SERVERS])) == []
                    changes += 1

        async with trio.open_nursery() as nursery:
            for _ in range(CROWD):
                nursery.start_soon(come, COMINGS // CROWD)
        for _ in range(COMINGS):
            await gateway.lines.next()
        assert changes == TURNS
        assert sum(span < SERVERS - 1 for span in spans) > COMINGS // 2  # or little was shown
        assert 1 < len(served) < COMINGS  # and both ways
        assert gateway.counted()["opened"] == sum(gateway.closed().values()) == COMINGS
        assert gateway.counted()["active"] == 0
