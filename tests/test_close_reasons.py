"""Every close reason: how a session comes to it, over real sockets, and that line and counter say the same word.

On virtual time.
"""

import resource
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import CloseReason, Limit
from sniproxy.metrics.counts import LIMITS
from sniproxy.proxy_protocol import encode_local_v2, encode_v1
from sniproxy.relay.trio_relay import open_trio_relay
from sniproxy.settings import Listener
from sniproxy.tallies import Tally
from tests.support.certificates import NAME, authority_pem, game_context, player_context
from tests.support.clocks import relay_clock
from tests.support.gateway import Gateway, Objects, certificate, route
from tests.support.hellos import named, padded, record, records
from tests.support.names import resolving
from tests.support.peers import Peer, TlsPeer, deaf_server, game_server
from tests.support.relays import Defective, Watched
from tests.support.stage import HELLO, MIXED, PLAIN, PROXIED_TLS, Stage, open_stage
from tests.support.tls_game import tls_game

pytestmark = pytest.mark.anyio

Scenario = Callable[[Stage], Awaitable[None]]  # one session comes to its end; others may be open

HEADER = encode_v1(("192.0.2.7", 4242), ("198.51.100.1", 443))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


def saying(
    says: bytes, listener: Listener = MIXED, objects: Objects | None = None, **settings: Any
) -> Scenario:
    """A player says that and waits."""

    async def scenario(stage: Stage) -> None:
        await stage.open(listener, objects, **settings)
        await stage.dial(says)

    return scenario


def towards(port: int | None, host: str = "127.0.0.1", **settings: Any) -> Scenario:
    """The route leads there."""
    return saying(b"", PLAIN, {"stream_routes/1": route(port, host=host)}, **settings)


def one_too_many(plugins: Mapping[str, Any] | None = None, **settings: Any) -> Scenario:
    """Two players come where one may be; the first plays on."""

    async def scenario(stage: Stage) -> None:
        wanted = route(stage.port, plugins=plugins or {})
        await stage.open(PLAIN, {"stream_routes/1": wanted}, **settings)
        await stage.join()
        await stage.dial()

    return scenario


def playing(
    then: Callable[[Peer, Peer], Awaitable[None] | None] | None = None, **settings: Any
) -> Scenario:
    """A player and the game server meet, and then do that."""

    async def scenario(stage: Stage) -> None:
        await stage.open(**settings)
        player, server = await stage.join()
        if then is not None and (going_on := then(player, server)) is not None:
            await going_on

    return scenario


async def ends(first: Peer, second: Peer) -> None:
    """One side ends, and the other when it hears of it."""
    await first.end()
    assert await second.read_all() == b""
    await second.end()


async def killed(stage: Stage) -> None:
    relay = Watched(await stage.stack.enter_async_context(open_trio_relay(buffer_size=1 << 16)))
    await stage.open(relay=relay)
    await stage.join()
    (link,) = relay.links
    link.kill(CloseReason.KILLED)


async def shed(stage: Stage) -> None:
    """A player who does not read, while his game server goes on."""
    await stage.open()
    _, server = await stage.join()
    relay = stage.gateway.worker.relay
    while not relay.held():
        with suppress(BlockingIOError):
            server.sock.send(bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked()
    assert relay.shed() > 0


async def shut_down(stage: Stage) -> None:
    await stage.open()
    await stage.join()
    await stage.stack.aclose()


async def probed(stage: Stage) -> None:
    await stage.open(MIXED)
    player = await stage.dial()
    player.close()


async def health_checked(stage: Stage) -> None:
    await stage.open(PROXIED_TLS)
    balancer = await stage.dial(encode_local_v2())
    await balancer.end()


async def abandoned(stage: Stage) -> None:
    await stage.open(MIXED)
    player = await stage.dial(HELLO[:40])
    await player.end()


async def terminating(stage: Stage, *, trusts: str = "ours", **settings: Any) -> TlsPeer:
    """A player who speaks TLS with the data plane."""
    objects = {"stream_routes/1": route(stage.port, sni=NAME), "ssls/1": certificate()}
    await stage.open(MIXED, objects, **settings)
    player = await stage.dial()
    return TlsPeer(player.sock, player_context(trusts=trusts))


async def distrusted(stage: Stage) -> None:
    player = await terminating(stage, trusts="theirs")
    with pytest.raises(ssl.SSLCertVerificationError):
        await player.handshake()


async def silent_in_the_handshake(stage: Stage) -> None:
    player = await terminating(stage)
    await player.wire.send(player.hello())


async def crowded_out(stage: Stage) -> None:
    player = await terminating(stage, overload={"setups": 1, "queue": 0})
    await player.wire.send(player.hello())
    assert await player.wire.receive()  # it is in the midst of its handshake, and stays there
    await stage.dial(HELLO)


async def to_a_drained_route(stage: Stage) -> None:
    await stage.open()
    stage.gateway.worker.drained = frozenset({"1"})
    await stage.dial(b"let me in")


async def without_a_descriptor_left(stage: Stage) -> None:
    await stage.open(MIXED)
    player = await stage.dial(HELLO[:40])
    while not stage.gateway.counted()[
        "opened"
    ]:  # a relay's own thread may not have accepted it yet
        await trio.testing.wait_all_tasks_blocked()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    stage.stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no new ones
    await player.send(HELLO[40:])


async def when_memory_is_short(stage: Stage) -> None:
    await stage.open()
    stage.gateway.worker.short_of_memory = True
    await stage.dial(b"let me in")


async def garbled(stage: Stage) -> None:
    player = await terminating(stage)
    await player.handshake()
    await stage.accept()
    await player.wire.send(record(bytes(40), kind=23))


async def cut_off(stage: Stage) -> None:
    """The player's stream ends, but not his TLS."""
    player = await terminating(stage)
    await player.handshake()
    await ends(player.wire, await stage.accept())


async def cut_off_by_the_game(stage: Stage) -> None:
    """The same of the game server."""
    upstream = {"nodes": {f"127.0.0.1:{stage.port}": 1}, "scheme": "tls"}
    await stage.open(PLAIN, {"stream_routes/1": {"upstream": upstream}})
    player = await stage.dial()
    server = await stage.accept()
    await TlsPeer(server.sock, game_context(), serves=True).handshake()
    await ends(server, player)


async def unanswered(stage: Stage) -> None:
    _, port = stage.stack.enter_context(deaf_server())
    await towards(port)(stage)


async def nameless(stage: Stage) -> None:
    stage.stack.enter_context(resolving({}))
    await towards(9, "gone.example")(stage)


def encrypted(which: str | None) -> Scenario:
    """The route leads to a game server of that authority, or to one without TLS, while ours is asked for."""

    async def scenario(stage: Stage) -> None:
        enter = stage.stack.enter_async_context
        if which is None:
            port = (await enter(game_server())).port
        else:
            port = (await enter(tls_game(game_context(which=which)))).port
        tls = {"verify": True, "ca_certs": [authority_pem()]}
        upstream = {"nodes": {f"127.0.0.1:{port}": 1}, "scheme": "tls", "tls": tls}
        await stage.open(PLAIN, {"stream_routes/1": {"upstream": upstream}})
        await stage.dial()

    return scenario


async def a_defect_of_ours(stage: Stage) -> None:
    player = await terminating(stage, relay=Defective())
    await player.wire.send(player.hello())


TINY: dict[str, Any] = {"per_second": 0.001, "burst": 1}  # one, and for a long time no other
ONE = {"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "remote_addr"}}
NOT_ME = {"ip-restriction": {"blacklist": ["127.0.0.0/8"]}}

SCENARIOS: dict[CloseReason, Scenario] = {
    CloseReason.CLIENT_CLOSED: playing(ends),
    CloseReason.UPSTREAM_CLOSED: playing(lambda player, server: ends(server, player)),
    CloseReason.CLIENT_TRUNCATED: cut_off,
    CloseReason.UPSTREAM_TRUNCATED: cut_off_by_the_game,
    CloseReason.CLIENT_RESET: playing(lambda player, _: player.reset()),
    CloseReason.UPSTREAM_RESET: playing(lambda _, server: server.reset()),
    CloseReason.IDLE_TIMEOUT: playing(idle_timeout=5),
    CloseReason.SESSION_TIMEOUT: playing(limits={"session_time": 5}),
    CloseReason.KILLED: killed,
    CloseReason.SHED: shed,
    CloseReason.SHUTDOWN: shut_down,
    CloseReason.PROBE: probed,
    CloseReason.PROXY_UNTRUSTED: saying(HEADER + HELLO, PROXIED_TLS, trusted=("192.0.2.0/24",)),
    CloseReason.PROXY_BROKEN: saying(HELLO, PROXIED_TLS),
    CloseReason.HELLO_ABANDONED: abandoned,
    CloseReason.HELLO_TIMEOUT: saying(HELLO[:40]),
    CloseReason.HELLO_NOT_TLS: saying(b"GET / HTTP/1.1\r\n\r\n"),
    CloseReason.HELLO_BROKEN: saying(named(b"a\nb\x1b[2J")),
    CloseReason.HELLO_TOO_LARGE: saying(records(padded(17 * 1024)), max_hello=16 * 1024),
    CloseReason.SESSION_LIMIT: one_too_many(max_sessions=1),
    CloseReason.ADDRESS_DENIED: saying(b"", Listener(address="127.0.0.1:0", deny=("127.0.0.0/8",))),
    CloseReason.ADDRESS_LIMIT: one_too_many(limits={"address_sessions": 1}),
    CloseReason.ADDRESS_RATE: one_too_many(limits={"address_rate": TINY}),
    CloseReason.ROUTE_LIMIT: one_too_many(limits={"route_sessions": 1}),
    CloseReason.ROUTE_RATE: one_too_many(limits={"route_rate": TINY}),
    CloseReason.SETUP_LIMIT: crowded_out,
    CloseReason.ROUTE_DRAINED: to_a_drained_route,
    CloseReason.DESCRIPTOR_LIMIT: without_a_descriptor_left,
    CloseReason.MEMORY_LIMIT: when_memory_is_short,
    CloseReason.NO_ROUTE: saying(HELLO, objects={}),
    CloseReason.NO_CERTIFICATE: saying(HELLO, objects={"stream_routes/1": route(9, sni=NAME)}),
    CloseReason.NO_UPSTREAM: towards(None),
    CloseReason.HANDSHAKE_FAILED: distrusted,
    CloseReason.HANDSHAKE_TIMEOUT: silent_in_the_handshake,
    CloseReason.TLS_ERROR: garbled,
    CloseReason.UPSTREAM_REFUSED: towards(1, "127.0.0.77"),
    CloseReason.UPSTREAM_TIMEOUT: unanswered,
    CloseReason.UPSTREAM_UNREACHABLE: towards(
        9, "255.255.255.255", allow_upstreams=("255.255.255.255",)
    ),
    CloseReason.UPSTREAM_DENIED: towards(80, "169.254.169.254"),
    CloseReason.UPSTREAM_NAME: nameless,
    CloseReason.UPSTREAM_TLS: encrypted(None),
    CloseReason.UPSTREAM_CERTIFICATE: encrypted("theirs"),
    CloseReason.INTERNAL_ERROR: a_defect_of_ours,
}

# Other ways to the same word.
MORE: dict[str, tuple[CloseReason, Scenario, Limit | None]] = {
    "limit-conn": (CloseReason.ROUTE_LIMIT, one_too_many(ONE), Limit.LIMIT_CONN),
    "ip-restriction": (
        CloseReason.ADDRESS_DENIED,
        saying(HELLO, objects={"stream_routes/1": route(9, plugins=NOT_ME)}),
        Limit.IP_RESTRICTION,
    ),
    "LOCAL": (CloseReason.PROBE, health_checked, None),
}

# What those refuse above that a limit refuses.
REFUSED = LIMITS | {
    CloseReason.ADDRESS_DENIED: Limit.ALLOW_DENY,
    CloseReason.SETUP_LIMIT: Limit.QUEUE,
}


def tallies_of(gateway: Gateway) -> list[Tally]:
    """Of all routes."""
    return list(gateway.worker.metrics.counts.tallies.by_route.values())


async def assert_ends(scenario: Scenario, reason: CloseReason, limit: Limit | None = None) -> None:
    async with open_stage() as stage:
        await scenario(stage)
        gateway = stage.gateway
        line = None if reason is CloseReason.PROBE else await gateway.lines.next()
        while not gateway.closed():  # a probe has no line
            await trio.testing.wait_all_tasks_blocked()
        assert gateway.closed() == {reason.value: 1}
        assert gateway.lines.sessions == ([line] if line else [])
        if line:
            assert line["reason"] == reason.value
        route = line and line["route"]
        assert gateway.closed_by_route() == ({(route, reason.value): 1} if route else {})
        refused = {} if limit is None else {(limit.value,): 1}
        assert gateway.labelled("refusals_total") == refused
        others = gateway.counted()["opened"] - 1
        assert gateway.counted()["active"] == gateway.worker.limits.active == others
        stage.clear()
        for _ in range(others):
            await gateway.lines.next()
        assert gateway.counted()["active"] == 0
        assert all(tally.active == 0 for tally in tallies_of(gateway))
        assert gateway.worker.limits.active == stage.seated() == 0
        assert gateway.closed()[reason.value] == 1
        assert sum(gateway.closed().values()) == others + 1


def test_every_reason_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(CloseReason)


@pytest.mark.parametrize("reason", CloseReason)
async def test_the_line_and_the_counter_say_the_same_word(reason: CloseReason) -> None:
    await assert_ends(SCENARIOS[reason], reason, REFUSED.get(reason))


@pytest.mark.parametrize(("reason", "scenario", "limit"), MORE.values(), ids=MORE)
async def test_other_ways_to_the_same_word(
    reason: CloseReason, scenario: Scenario, limit: Limit | None
) -> None:
    await assert_ends(scenario, reason, limit)


async def test_a_relay_that_does_not_take_a_session_leaves_no_socket_open() -> None:
    """The game server is not kept waiting for a player who is gone."""
    relay = Defective()
    async with open_stage() as stage:
        await stage.open(relay=relay)
        await stage.dial()
        line = await stage.gateway.lines.next()
        await trio.testing.wait_all_tasks_blocked()
        (flow,) = relay.flows
        still_open = [sock.fileno() >= 0 for sock in (flow.client, flow.upstream)]
        flow.upstream.close()
    assert line["reason"] == "internal_error"
    assert still_open == [False, False]
