"""What attempts to reach a game server say of it to its circuit, and what of them says nothing. On virtual time."""

import errno
import gc
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.balancer import Target
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.forbidden import Forbidden
from sniproxy.health import OPEN_FOR, Circuit
from sniproxy.metrics import Metrics
from sniproxy.objects import InlineUpstream, StreamRoute
from sniproxy.plan import Plan
from sniproxy.relay import Attempt
from sniproxy.router import Route
from sniproxy.settings import Listener, Proxy
from sniproxy.upstream import FAILURES, Connected, reach
from tests.support.names import Resolver, open_names
from tests.support.upstreams import CONNECT_TIMEOUT, ways

pytestmark = pytest.mark.anyio

CLOSED = Forbidden(Proxy(listeners=(), deny_upstreams=("127.0.0.0/8",)))
REFUSING = ("127.0.0.77", 9)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    """What other tests have found out is forgotten with what they leave behind."""
    gc.collect()


@pytest.fixture
def alive() -> Iterator[tuple[str, int]]:
    """Where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()


def leading_to(*nodes: tuple[str, int], threshold: int = 1, **members: Any) -> Target:
    """An upstream that asks them in order; so many failures in a row open a circuit."""
    listed = [
        {"host": host, "port": port, "weight": 1, "priority": -place}
        for place, (host, port) in enumerate(nodes)
    ]
    passive = {"unhealthy": {"tcp_failures": threshold, "timeouts": threshold}}
    checks = {"active": {"type": "tcp"}, "passive": passive}
    return Target(InlineUpstream.model_validate({"nodes": listed, "checks": checks, **members}))


def circuits(target: Target) -> list[Circuit]:
    """Of its nodes, in order."""
    assert target.checkup is not None
    found = [target.checkup.circuit(node) for node in target.balancer.nodes]
    assert all(found)
    return [one for one in found if one is not None]


class Told:
    """`reach`, again and again, and what was counted."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._metrics = Metrics()

    async def reach(self, **members: Any) -> Connected:
        """A connection that is closed again."""
        own = {one: members.pop(one) for one in ("forbidden", "connect_timeout") if one in members}
        async with open_names(Resolver({"silent.example": None})) as names:
            by = replace(ways(names, self._metrics), **own)
            connected = await reach(self._target, by, default_port=1, **members)
        connected.sock.close()
        return connected

    async def fail(self, **members: Any) -> SessionEnded:
        """How it came to nothing."""
        with pytest.raises(SessionEnded) as caught:
            await self.reach(**members)
        return caught.value

    def count(self, name: str) -> float | None:
        return self._metrics.registry.get_sample_value(f"sniproxy_upstream_{name}_total")


GREETINGS = [one for one in CloseReason if one.value.startswith("upstream_")]


@pytest.mark.parametrize("reason", [*GREETINGS, CloseReason.DESCRIPTOR_LIMIT])
async def test_which_reasons_say_something_of_the_node(
    alive: tuple[str, int], reason: CloseReason
) -> None:
    """What comes of the greeting stands for what comes of connecting."""
    to = leading_to(alive)
    told = Told(to)

    async def greet(_sock: socket.socket, _host: str) -> None:
        raise SessionEnded(reason)

    await told.fail(greet=greet)
    says = reason in {
        CloseReason.UPSTREAM_REFUSED,
        CloseReason.UPSTREAM_UNREACHABLE,
        CloseReason.UPSTREAM_RESET,
        CloseReason.UPSTREAM_TIMEOUT,
        CloseReason.UPSTREAM_TLS,
        CloseReason.UPSTREAM_CERTIFICATE,
    }
    assert (circuits(to)[0].until is not None) is says is (reason in FAILURES)
    assert told.count("circuits_opened") == says


async def test_who_refuses(alive: tuple[str, int]) -> None:
    to = leading_to(REFUSING, alive, threshold=2)
    told = Told(to)
    attempts = [(await told.reach()).attempts for _ in range(4)]
    assert attempts == [2, 2, 1, 1]
    assert (told.count("circuits_opened"), told.count("panics")) == (1, 0)


async def test_who_is_silent(alive: tuple[str, int], deaf: tuple[str, int]) -> None:
    to = leading_to(deaf, alive)
    told = Told(to)
    assert [(await told.reach()).attempts for _ in range(2)] == [2, 1]
    since = circuits(to)[0].until
    assert since is not None
    assert 0 < since - trio.current_time() <= OPEN_FOR


@pytest.mark.parametrize(
    ("node", "members", "reason"),
    [
        (("silent.example", 9), {}, CloseReason.UPSTREAM_NAME),
        (("127.0.0.1", 9), {"forbidden": CLOSED}, CloseReason.UPSTREAM_DENIED),
    ],
)
async def test_what_is_not_the_nodes_fault(
    node: tuple[str, int], members: dict[str, Any], reason: CloseReason
) -> None:
    to = leading_to(node)
    told = Told(to)
    assert (await told.fail(**members)).reason is reason
    assert circuits(to)[0].until is None
    assert told.count("circuits_opened") == 0


async def open_and_wait(to: Target) -> Told:
    """The first node's circuit is open, and one may try."""
    told = Told(to)
    circuits(to)[0].fail(FAILURES[CloseReason.UPSTREAM_REFUSED], trio.current_time(), 0)
    circuits(to)[0].until = trio.current_time()
    return told


async def test_one_that_tries_and_is_given_up_lets_the_next_one_try(deaf: tuple[str, int]) -> None:
    to = leading_to(deaf)
    told = await open_and_wait(to)
    with trio.move_on_after(CONNECT_TIMEOUT / 10):
        await told.reach()
    assert circuits(to)[0].admits(trio.current_time())


async def test_one_that_tries_and_finds_out_nothing_lets_the_next_one_try() -> None:
    to = leading_to(("127.0.0.1", 9))
    told = await open_and_wait(to)
    assert (await told.fail(forbidden=CLOSED)).reason is CloseReason.UPSTREAM_DENIED
    assert circuits(to)[0].admits(trio.current_time())


async def test_one_that_gets_there_ends_the_row(alive: tuple[str, int]) -> None:
    to = leading_to(alive, threshold=2)
    told = Told(to)

    async def refuse(_sock: socket.socket, _host: str) -> None:
        raise SessionEnded(CloseReason.UPSTREAM_REFUSED)

    for _ in range(3):
        await told.fail(greet=refuse)
        await told.reach()
    assert told.count("circuits_opened") == 0
    await told.fail(greet=refuse)
    await told.fail(greet=refuse)
    assert told.count("circuits_opened") == 1


async def test_while_one_tries_nobody_else_does(
    alive: tuple[str, int], deaf: tuple[str, int]
) -> None:
    to = leading_to(deaf, alive)
    told = await open_and_wait(to)
    attempts: list[int] = []

    async def note() -> None:
        attempts.append((await told.reach()).attempts)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note)
        await trio.sleep(CONNECT_TIMEOUT / 10)
        for _ in range(3):
            await note()
    assert attempts == [1, 1, 1, 2]
    assert not circuits(to)[0].admits(trio.current_time())


async def test_what_the_relay_has_tried_counts(alive: tuple[str, int]) -> None:
    """Were there a plan for it."""
    to = leading_to(REFUSING, alive)
    told = Told(to)
    plan = Plan(Listener(address="127.0.0.1:0"), "x", Route("1", StreamRoute()), to, 1)
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    begun = Attempt(plan, 0, refused, trio.current_time())
    assert (await told.reach(begun=begun)).attempts == 2
    assert (await told.reach()).attempts == 1


@pytest.mark.parametrize(
    ("retries", "asked"),
    [(None, [2, 0, 1]), (0, [2]), (1, [2, 0]), (7, [2, 0, 1])],
)
async def test_those_left_out_come_last_and_are_no_attempts(
    retries: int | None, asked: list[int]
) -> None:
    """Two are out, the third one refuses: then they are asked after all."""
    nodes = [(f"127.0.0.{last}", 9) for last in (71, 72, 73)]
    first = leading_to(*nodes[:2])
    await Told(first).fail()
    to = leading_to(*nodes, **({} if retries is None else {"retries": retries}))
    told = Told(to)
    detail = (await told.fail()).detail
    assert [part.partition(": ")[0] for part in detail.split("; ")] == [
        f"{host}:{port}" for host, port in (nodes[place] for place in asked)
    ]
    assert told.count("panics") == (len(asked) > 1)  # once for each session
    assert circuits(first)[0] is circuits(to)[0]


async def test_where_all_are_out_all_are_tried(alive: tuple[str, int]) -> None:
    to = leading_to(REFUSING, alive)
    told = Told(to)
    for one in circuits(to):
        one.fail(FAILURES[CloseReason.UPSTREAM_REFUSED], 0, trio.current_time())
    connected = await told.reach()
    assert (connected.node, connected.attempts) == (f"{alive[0]}:{alive[1]}", 2)
    assert told.count("panics") == 1


async def test_without_checks_nobody_panics(alive: tuple[str, int]) -> None:
    told = Told(leading_to(REFUSING, alive, checks=None))
    assert [(await told.reach()).attempts for _ in range(5)] == [2] * 5
    await Told(leading_to(REFUSING, checks=None)).fail()
    assert told.count("panics") == 0
