"""Reaching a game server: which node, how long, and what a failure says. On virtual time, with real sockets."""

import errno
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.balancer import Target
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.name_cache import Failed, Key, Outcome
from sniproxy.names import Names
from sniproxy.objects import InlineUpstream, StreamRoute
from sniproxy.plan import Plan
from sniproxy.relay import Attempt
from sniproxy.relay.sockets import connect
from sniproxy.router import Route
from sniproxy.settings import Listener
from sniproxy.upstream import Connected, _reason, reach
from tests.support.files import open_files, settled_files
from tests.support.names import Resolver, open_names
from tests.support.upstreams import CONNECT_TIMEOUT, node, target, ways

pytestmark = pytest.mark.anyio

DEADLINE = 1000.0  # virtual seconds for one test


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.fixture
def alive() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def refusing() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def attempt(
    target: Target, *, default_port: int = 1, resolver: Resolver | None = None
) -> Connected:
    """`reach`, and the connection closed again."""
    with trio.fail_after(DEADLINE):
        async with open_names(resolver or Resolver({})) as names:
            return await attempt_by(names, target, default_port=default_port)


async def attempt_by(names: Names, target: Target, *, default_port: int = 1) -> Connected:
    """`attempt` with names that others share."""
    with trio.fail_after(DEADLINE):
        connected = await reach(target, ways(names), default_port=default_port)
    connected.sock.close()
    return connected


async def failure(
    target: Target, resolver: Resolver | None = None
) -> tuple[CloseReason, str, float]:
    """How `reach` failed, and after how many seconds."""
    started, before = trio.current_time(), settled_files()
    with pytest.raises(SessionEnded) as caught:
        await attempt(target, resolver=resolver)
    assert open_files() == before
    return caught.value.reason, caught.value.detail, trio.current_time() - started


async def test_a_node_that_listens_is_reached(alive: int) -> None:
    connected = await attempt(target(node(alive)))
    assert (connected.node, connected.attempts) == (f"127.0.0.1:{alive}", 1)


async def test_a_session_has_its_seat_at_the_node_that_it_reached(
    alive: int, refusing: int
) -> None:
    """And whoever refused at once is not taken for quick."""
    both = target(node(refusing, priority=1), node(alive))
    connected = await attempt(both)
    refused, reached = (one.state for one in both.balancer.nodes)
    assert connected.seat is reached
    assert (refused.active, reached.active) == (0, 1)
    now = trio.current_time()
    assert refused.connect_time(now) == pytest.approx(CONNECT_TIMEOUT, 0.1)
    assert reached.connect_time(now) < 1


async def test_how_long_a_node_took_is_known(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*where: Any, **how: Any) -> socket.socket:
        await trio.sleep(2)
        return await connect(*where, **how)

    monkeypatch.setattr("sniproxy.eyeballs.connect", slow)
    connected = await attempt(target(node(alive)))
    assert connected.seat.connect_time(trio.current_time()) == pytest.approx(2, 0.1)


async def test_who_was_refused_everywhere_has_no_seat(refusing: int) -> None:
    nowhere = target(node(refusing), node(refusing, "127.0.0.2"))
    await failure(nowhere)
    assert [one.state.active for one in nowhere.balancer.nodes] == [0, 0]


async def test_a_node_without_a_port_is_reached_on_the_one_that_the_player_chose(
    alive: int,
) -> None:
    connected = await attempt(target(node(None)), default_port=alive)
    assert connected.node == f"127.0.0.1:{alive}"


async def test_an_ipv6_node_stands_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        port = listening.getsockname()[1]
        connected = await attempt(
            Target(InlineUpstream.model_validate({"nodes": {f"[::1]:{port}": 1}}))
        )
    assert connected.node == f"[::1]:{port}"


async def test_a_node_that_refuses_is_passed_over(alive: int, refusing: int) -> None:
    """Whichever is asked first: two sessions in a row start at different nodes."""
    both = target(node(refusing), node(alive))
    reached = [await attempt(both) for _ in range(2)]
    assert {connected.node for connected in reached} == {f"127.0.0.1:{alive}"}
    assert sorted(connected.attempts for connected in reached) == [1, 2]


async def test_a_node_of_lower_priority_is_the_last_resort(alive: int, refusing: int) -> None:
    spare = target(node(alive, priority=-1), node(refusing))
    assert [(await attempt(spare)).attempts for _ in range(3)] == [2, 2, 2]


async def test_nobody_listens(refusing: int) -> None:
    """The detail tells of every attempt."""
    reason, detail, _ = await failure(target(node(refusing), node(refusing, "127.0.0.2")))
    assert reason is CloseReason.UPSTREAM_REFUSED
    assert sorted(detail.split("; ")) == [
        f"127.0.0.1:{refusing}: Connection refused",
        f"127.0.0.2:{refusing}: Connection refused",
    ]


@pytest.mark.parametrize(
    ("members", "seconds", "said"),
    [
        ({}, CONNECT_TIMEOUT, "3 s"),
        ({"timeout": {"connect": 0.5, "send": 60, "read": 60}}, 0.5, "0.5 s"),
        ({"timeout": {"connect": 20, "send": 1, "read": 1}}, 20, "20 s"),
    ],
)
async def test_a_node_that_does_not_answer_has_its_time(
    deaf: tuple[str, int], members: dict[str, Any], seconds: float, said: str
) -> None:
    reason, detail, waited = await failure(target(node(deaf[1]), **members))
    assert reason is CloseReason.UPSTREAM_TIMEOUT
    assert detail == f"127.0.0.1:{deaf[1]}: no answer in {said}"
    assert waited == pytest.approx(seconds)


async def test_the_last_failure_is_the_reason(deaf: tuple[str, int], refusing: int) -> None:
    reason, detail, _ = await failure(target(node(refusing), node(deaf[1], priority=-1)))
    assert reason is CloseReason.UPSTREAM_TIMEOUT
    assert detail.startswith(f"127.0.0.1:{refusing}: Connection refused; ")


async def test_an_address_without_a_way_to_it_is_unreachable() -> None:
    reason, detail, _ = await failure(target(node(9, "255.255.255.255")))
    assert reason is CloseReason.UPSTREAM_UNREACHABLE
    assert detail.startswith("255.255.255.255:9: ")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ECONNREFUSED, CloseReason.UPSTREAM_REFUSED),
        (errno.ECONNRESET, CloseReason.UPSTREAM_REFUSED),
        (errno.ETIMEDOUT, CloseReason.UPSTREAM_TIMEOUT),
        (errno.EHOSTUNREACH, CloseReason.UPSTREAM_UNREACHABLE),
        (errno.ENETUNREACH, CloseReason.UPSTREAM_UNREACHABLE),
        (errno.EMFILE, CloseReason.DESCRIPTOR_LIMIT),
    ],
)
def test_what_the_kernel_says_becomes_a_reason(code: int, reason: CloseReason) -> None:
    assert _reason(OSError(code, "")) is reason


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (2, 3), (7, 3), (None, 3)])
async def test_retries_bound_the_attempts(
    refusing: int, retries: int | None, attempts: int
) -> None:
    """Unset: every node once. No node is asked twice for one session."""
    nodes = [node(refusing, f"127.0.0.{last}") for last in (1, 2, 3)]
    members = {} if retries is None else {"retries": retries}
    reason, detail, _ = await failure(target(*nodes, **members))
    assert reason is CloseReason.UPSTREAM_REFUSED
    assert len(set(detail.split("; "))) == detail.count(";") + 1 == attempts


@pytest.mark.parametrize(
    ("retry_timeout", "attempts"), [(0.5, 1), (3, 1), (3.5, 2), (100, 3), (0, 3)]
)
async def test_retry_timeout_ends_the_trying(
    deaf: tuple[str, int], retry_timeout: float, attempts: int
) -> None:
    """0 is none, as in APISIX. The attempt in hand keeps its own time."""
    nodes = [node(deaf[1], priority=-turn) for turn in range(3)]
    _, detail, waited = await failure(target(*nodes, retry_timeout=retry_timeout))
    assert detail.count("no answer") == attempts
    assert waited == pytest.approx(attempts * CONNECT_TIMEOUT)


@pytest.mark.parametrize(("ago", "reached"), [(0.0, True), (2.9, True), (3.1, False)])
async def test_what_the_relay_has_tried_counts_from_when_it_began(
    alive: int, ago: float, reached: bool
) -> None:
    """Among the attempts, and in the time for all of them. What came of it is heard, however long ago that was."""
    to = target(node(1, "127.0.0.77"), node(alive), retry_timeout=3)
    plan = Plan(Listener(address="127.0.0.1:0"), "x", Route("1", StreamRoute()), to, 1)
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    begun = Attempt(plan, 0, refused, trio.current_time() - ago)
    refusal = nullcontext() if reached else pytest.raises(SessionEnded, match="upstream_refused")
    with refusal:
        async with open_names(Resolver({})) as names:
            connected = await reach(to, ways(names), default_port=1, begun=begun)
        connected.sock.close()
        assert (connected.node, connected.attempts) == (f"127.0.0.1:{alive}", 2)


@pytest.mark.parametrize("nodes", [[], [node(80, weight=0)], [node(80, weight=0)] * 2])
async def test_without_a_node_that_takes_sessions_there_is_no_upstream(
    nodes: list[dict[str, Any]],
) -> None:
    reason, detail, waited = await failure(target(*nodes))
    assert (reason, detail) == (CloseReason.NO_UPSTREAM, "no node with a weight above 0")
    assert waited == 0


async def test_a_node_of_weight_0_is_no_last_resort(alive: int, refusing: int) -> None:
    reason, _, _ = await failure(target(node(alive, weight=0), node(refusing)))
    assert reason is CloseReason.UPSTREAM_REFUSED


async def test_a_name_is_what_a_node_is_called(alive: int) -> None:
    resolver = Resolver({"gs-1.example": ["127.0.0.1"]})
    connected = await attempt(target(node(alive, "GS-1.example")), resolver=resolver)
    assert connected.node == f"GS-1.example:{alive}"
    assert resolver.asked == ["gs-1.example"]


async def test_a_name_with_several_addresses_is_one_attempt(alive: int) -> None:
    resolver = Resolver({"gs-1.example": ["127.0.0.2", "::1", "127.0.0.1"]})
    connected = await attempt(target(node(alive, "gs-1.example")), resolver=resolver)
    assert connected.attempts == 1


@pytest.mark.parametrize(
    ("host", "reason", "words"),
    [
        ("nobody.example", CloseReason.UPSTREAM_NAME, "knows no such name (NXDOMAIN): correct"),
        ("nowhere.example", CloseReason.UPSTREAM_NAME, "the name has no address in DNS: correct"),
        ("silent.example", CloseReason.UPSTREAM_NAME, "DNS has not answered in 3 s"),
        ("failing.example", CloseReason.UPSTREAM_NAME, "SERVFAIL: see whether the servers of"),
    ],
)
async def test_a_name_that_leads_nowhere(host: str, reason: CloseReason, words: str) -> None:
    resolver = Resolver(
        {"nowhere.example": [], "silent.example": None, "failing.example": Failed("SERVFAIL")}
    )
    found, detail, waited = await failure(target(node(7777, host)), resolver)
    assert found is reason
    assert detail.startswith(f"{host}: ")
    assert words in detail
    assert waited == (CONNECT_TIMEOUT if host.startswith("silent") else 0)


async def test_a_name_that_leads_nowhere_does_not_keep_the_next_node_out(alive: int) -> None:
    nodes = [node(7777, "silent.example"), node(alive, priority=-1)]
    connected = await attempt(target(*nodes), resolver=Resolver({"silent.example": None}))
    assert (connected.node, connected.attempts) == (f"127.0.0.1:{alive}", 2)


async def test_the_look_up_and_all_addresses_have_one_time_together(
    deaf: tuple[str, int], alive: int
) -> None:
    """None of them answers: however many there are, the next node is asked after the time of one attempt."""
    slow = Resolver({"gs.example": [f"127.0.0.{last}" for last in (1, 1, 1, 1)]})

    async def ask(key: Key) -> Outcome:
        await trio.sleep(2)
        return await slow.ask(key)

    resolver = Resolver({})
    resolver.ask = ask  # type: ignore[method-assign]
    started = trio.current_time()
    to = target(node(deaf[1], "gs.example"), node(alive, priority=-1))
    connected = await attempt(to, resolver=resolver)
    assert connected.attempts == 2
    assert trio.current_time() - started == pytest.approx(CONNECT_TIMEOUT)


async def test_nodes_are_what_dns_has_under_a_service_name(alive: int) -> None:
    """The port is the name's, or else the player's."""
    resolver = Resolver({"games.example": ["127.0.0.1"]})
    for name, port in ((f"games.example:{alive}", 1), ("games.example", alive)):
        upstream = {"service_name": name, "discovery_type": "dns"}
        connected = await attempt(
            Target(InlineUpstream.model_validate(upstream)), default_port=port, resolver=resolver
        )
        assert connected.node == f"127.0.0.1:{alive}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.example", "gone.example: DNS knows no such name"),
        ("_game._tcp.gone.example", "_game._tcp.gone.example: DNS knows no such name"),
        ("silent.example", "its service_name: DNS has not answered in 3 s"),
        ("a:b:c", "a:b:c: neither a name nor name:port"),
        ("{brace}", "{brace}: DNS knows no such name"),
    ],
)
async def test_a_service_name_that_leads_nowhere(name: str, words: str) -> None:
    upstream = {"service_name": name, "discovery_type": "dns"}
    to = Target(InlineUpstream.model_validate(upstream))
    reason, detail, _ = await failure(to, Resolver({"silent.example": None}))
    assert reason is CloseReason.UPSTREAM_NAME
    assert detail.startswith(words)


async def test_a_session_that_is_given_up_leaves_nothing(deaf: tuple[str, int]) -> None:
    before = settled_files()
    with trio.move_on_after(1) as scope:
        await attempt(target(node(deaf[1])))
    assert scope.cancelled_caught
    assert open_files() == before


@pytest.mark.parametrize("scheme", ["udp", "kafka"])
async def test_a_scheme_that_is_not_spoken_is_never_plain_tcp(alive: int, scheme: str) -> None:
    reason, detail, _ = await failure(target(node(alive), scheme=scheme))
    assert reason is CloseReason.NO_UPSTREAM
    assert scheme in detail


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs", "tcp"])
async def test_the_other_schemes_mean_tcp_as_they_do_in_apisix(alive: int, scheme: str) -> None:
    assert (await attempt(target(node(alive), scheme=scheme))).attempts == 1
