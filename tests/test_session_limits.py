"""How many are let in, over real sockets: limits per address and per route, and limit-conn.

On virtual time, but for the rates, whose clock is the machine's: theirs gain nothing while a test runs.
"""

from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.proxy_protocol import encode_v1, encode_v2
from sniproxy.settings import Limits, Listener
from tests.support.certificates import NAME
from tests.support.clocks import relay_clock
from tests.support.gateway import Objects, route
from tests.support.hellos import message, named, record
from tests.support.peers import Peer
from tests.support.stage import HELLO, MIXED, PLAIN, PROXIED, Stage, open_stage

pytestmark = pytest.mark.anyio

BALANCER = ("198.51.100.1", 443)
HERE, THERE = "127.0.0.1", "127.0.0.2"
TWICE = {"per_second": 0.001, "burst": 2}  # and then for a long time not
DELAY = 5  # seconds


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


def header(address: str) -> bytes:
    """What a balancer says of a player from there."""
    player = (address, 4242)
    if ":" in address:
        return encode_v2(player, ("2001:db8::1", 443))
    return encode_v1(player, BALANCER)


def limit_conn(conn: int, burst: int = 0, key: str = "remote_addr", **more: Any) -> dict[str, Any]:
    """A route's plugins: those beyond `conn` wait, for DELAY seconds at least."""
    conf = {"conn": conn, "burst": burst, "default_conn_delay": DELAY, "key": key, **more}
    return {"limit-conn": conf}


# Two players, as `Stage.dial` takes them: by their own address, and by what a balancer says.
by_either_address = pytest.mark.parametrize(
    ("listener", "one", "other"),
    [
        pytest.param(PLAIN, {"source": HERE}, {"source": THERE}, id="own"),
        pytest.param(
            PROXIED, {"header": header("192.0.2.7")}, {"header": header("192.0.2.8")}, id="header"
        ),
        pytest.param(
            PROXIED,
            {"header": header("2001:db8::7")},
            {"header": header("2001:db8:0:1::7")},
            id="IPv6 header",
        ),
    ],
)


@by_either_address
async def test_sessions_of_one_address(
    listener: Listener, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """The place is free again when the line of the end is written."""
    async with open_stage() as stage:
        await stage.open(listener, limits={"address_sessions": 2})
        first, _ = [await stage.join(**one) for _ in range(2)]
        for _ in range(3):
            line = await stage.refused(**one)
            assert line["reason"] == "address_limit"
            assert line["detail"] == "limits.address_sessions: 2 are open"
            assert line["route"] is None
        await stage.join(**other)
        await stage.leave(*first)
        await stage.join(**one)
        assert (await stage.refused(**one))["reason"] == "address_limit"
        assert stage.gateway.closed() == {"address_limit": 4, "client_closed": 1}
        assert stage.gateway.counted()["active"] == 3


async def test_all_addresses_of_an_ipv6_site_are_one_client() -> None:
    async with open_stage() as stage:
        await stage.open(PROXIED, limits={"address_sessions": 1})
        await stage.join(header=header("2001:db8::7"))
        line = await stage.refused(header=header("2001:db8::ffff:8"))
        assert (line["reason"], line["client"]) == ("address_limit", "[2001:db8::ffff:8]:4242")


@by_either_address
async def test_new_sessions_of_one_address(
    listener: Listener, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Those that have ended count too."""
    async with open_stage() as stage:
        await stage.open(listener, limits={"address_rate": TWICE})
        for _ in range(2):
            await stage.leave(*await stage.join(**one))
        line = await stage.refused(**one)
        assert line["reason"] == "address_rate"
        assert line["detail"] == "limits.address_rate: over 0.001 per second, 2 at once"
        await stage.leave(*await stage.join(**other))


def two_routes(port: int, **members: Any) -> Objects:
    """Routes for a.example.com and b.example.com."""
    return {
        f"stream_routes/{name}": route(
            port, sni=f"{name}.example.com", tls_passthrough=True, **members
        )
        for name in "ab"
    }


A, B = named(b"a.example.com"), named(b"b.example.com")


@pytest.mark.parametrize(
    ("limits", "plugins", "reason", "detail"),
    [
        ({"route_sessions": 2}, {}, "route_limit", "limits.route_sessions: 2 are open"),
        ({"route_rate": TWICE}, {}, "route_rate", "limits.route_rate: over 0.001 per second, 2 at once"),
        ({}, limit_conn(2, key="server_port"), "route_limit", "limit-conn of the route: 2 are open"),
    ],
    ids=["sessions", "rate", "limit-conn"],
)  # fmt: skip
async def test_each_route_has_its_own_limit(
    limits: dict[str, Any], plugins: dict[str, Any], reason: str, detail: str
) -> None:
    async with open_stage() as stage:
        await stage.open(MIXED, two_routes(stage.port, plugins=plugins), limits=limits)
        first = await stage.join(A)
        await stage.join(A, source=THERE)
        line = await stage.refused(A)
        assert (line["reason"], line["detail"]) == (reason, detail)
        assert (line["route"], line["sni"]) == ("a", "a.example.com")
        await stage.join(B)
        await stage.leave(*first)
        if reason == "route_limit":
            await stage.join(A)
        assert (await stage.refused(A))["reason"] == reason


async def test_sessions_of_a_worker() -> None:
    """A connection counts before it has said a word."""
    async with open_stage() as stage:
        await stage.open(PLAIN, max_sessions=2)
        first, _ = [await stage.join() for _ in range(2)]
        line = await stage.refused()
        assert (line["reason"], line["duration_ms"]) == ("session_limit", 0)
        await stage.leave(*first)
        await stage.join()


async def test_limits_that_change_while_sessions_play() -> None:
    """Who plays stays, and who comes is asked for the new ones."""
    async with open_stage() as stage:
        worker = (await stage.open(PLAIN, max_sessions=2)).worker
        for _ in range(2):
            await stage.join()
        assert (await stage.refused())["reason"] == "session_limit"
        more = worker.settings.model_copy(update={"max_sessions": 4})
        worker.settle(more, worker.turns.settings)
        await stage.join()
        one = more.model_copy(update={"limits": Limits(address_sessions=1)})
        worker.settle(one, worker.turns.settings)  # those who play have not been counted for it
        await stage.join()
        fewer = one.model_copy(update={"max_sessions": 1})
        worker.settle(fewer, worker.turns.settings)
        assert (await stage.refused())["reason"] == "session_limit"
        assert stage.gateway.counted()["active"] == 4


async def test_of_several_workers_each_logs_its_share() -> None:
    """So that all together log a refusal as often as one would."""
    async with open_stage() as stage:
        gateway = await stage.open(PLAIN, max_sessions=1)
        worker = gateway.worker
        worker.workers = 3
        worker.settle(
            worker.settings.model_copy(update={"refused_log_interval": 2}), worker.turns.settings
        )
        await stage.join()
        await stage.refused()
        for at in (2, 4, 7):
            player = await stage.dial()
            await trio.testing.wait_all_tasks_blocked()
            player.close()
            await trio.sleep_until(at)
        assert (await stage.refused())["left_out"] == 3


NAMELESS = record(message())
HOST_HERE: dict[str, Any] = {"host": HERE, "source": HERE}


@pytest.mark.parametrize(
    ("key", "says", "where", "shares"),
    [
        ("remote_addr", A, HOST_HERE, True),
        ("remote_addr", A, {"host": THERE, "source": HERE}, True),
        ("remote_addr", A, {"host": HERE, "source": THERE}, False),
        ("server_addr", A, {"host": HERE, "source": THERE}, True),
        ("server_addr", A, {"host": THERE, "source": HERE}, False),
        ("server_port", B, {"host": THERE, "source": THERE}, True),
        ("ssl_preread_server_name", A, {"host": THERE, "source": THERE}, True),
        ("ssl_server_name", A, {"host": THERE, "source": THERE}, True),
        ("ssl_preread_server_name", B, HOST_HERE, False),
        ("ssl_preread_server_name", NAMELESS, HOST_HERE, False),
        ("$remote_addr $server_addr", B, HOST_HERE, True),
        ("$remote_addr $server_addr", B, {"host": HERE, "source": THERE}, False),
        ("$remote_addr $server_addr", B, {"host": THERE, "source": HERE}, False),
        ("$ssl_server_name${server_port}", A, {"host": THERE, "source": THERE}, True),
        ("$ssl_server_name${server_port}", B, HOST_HERE, False),
    ],
)
async def test_what_limit_conn_counts_by(
    key: str, says: bytes, where: dict[str, Any], shares: bool
) -> None:
    async with open_stage() as stage:
        kind: dict[str, Any] = {"key_type": "var_combination"} if "$" in key else {}
        plugins = limit_conn(1, key=key, **kind)
        listener = Listener(address="0.0.0.0:0", tls_passthrough=True)
        await stage.open(listener, {"stream_routes/1": route(stage.port, plugins=plugins)})
        await stage.join(A, **HOST_HERE)
        if shares:
            assert (await stage.refused(says, **where))["reason"] == "route_limit"
        else:
            await stage.join(says, **where)


async def test_limit_conn_counts_those_without_a_name_by_address() -> None:
    async with open_stage() as stage:
        plugins = limit_conn(1, key="ssl_preread_server_name")
        await stage.open(MIXED, {"stream_routes/1": passed(stage, plugins)})
        await stage.join(NAMELESS, source=HERE)
        await stage.join(NAMELESS, source=THERE)
        assert (await stage.refused(NAMELESS, source=THERE))["reason"] == "route_limit"


def passed(stage: Stage, plugins: dict[str, Any]) -> dict[str, Any]:
    """A route for everybody."""
    return route(stage.port, tls_passthrough=True, plugins=plugins)


async def test_limit_conn_counts_by_the_address_in_the_header() -> None:
    async with open_stage() as stage:
        await stage.open(PROXIED, {"stream_routes/1": passed(stage, limit_conn(1))})
        await stage.join(header=header("192.0.2.7"))
        await stage.join(header=header("192.0.2.8"))
        assert (await stage.refused(header=header("192.0.2.7")))["reason"] == "route_limit"


async def test_limit_conn_keeps_those_beyond_conn_waiting_and_refuses_those_beyond_burst() -> None:
    """Longer the more there are before them; meanwhile the game server hears nothing of them."""
    async with open_stage() as stage:
        await stage.open(PLAIN, {"stream_routes/1": passed(stage, limit_conn(2, burst=3))})
        since = trio.current_time()
        players = []
        for number in range(5):
            players.append(await stage.dial(bytes([number])))
            await trio.testing.wait_all_tasks_blocked()
        came: list[tuple[int, float]] = []
        servers = [await note(stage, came, since) for _ in range(2)]
        assert (await stage.refused())["reason"] == "route_limit"
        servers += [await note(stage, came, since) for _ in range(3)]
        assert {number for number, _ in came[:2]} == {0, 1}
        assert {number for number, _ in came[2:4]} == {2, 3}
        assert came[4][0] == 4
        waited = [0, 0, DELAY, DELAY, 2 * DELAY]
        assert [seconds for _, seconds in came] == pytest.approx(waited)
        for player, server in zip(players, sorted_as(servers, came), strict=True):
            line = await stage.leave(player, server)
            assert line["duration_ms"] >= line["connect_ms"]
        await stage.leave(*await stage.join())
        assert trio.current_time() - since == pytest.approx(2 * DELAY)


async def note(stage: Stage, came: list[tuple[int, float]], since: float) -> Peer:
    """The next to reach the game server, who he is and when."""
    server = await stage.accept()
    (number,) = await server.read(1)
    came.append((number, trio.current_time() - since))
    return server


def sorted_as(servers: list[Peer], came: list[tuple[int, float]]) -> list[Peer]:
    """In the order of the players."""
    return [servers[[number for number, _ in came].index(player)] for player in range(len(came))]


async def test_a_shutdown_ends_those_who_wait() -> None:
    async with open_stage() as stage:
        gateway = await stage.open(PLAIN, {"stream_routes/1": passed(stage, limit_conn(1, 1))})
        await stage.join()
        waiting = await stage.dial()
        await trio.testing.wait_all_tasks_blocked()
        await stage.stack.aclose()
        assert await waiting.read_all() == b""
        assert stage.nobody_came()
        assert gateway.closed() == {"shutdown": 2}
        assert gateway.counted()["active"] == 0


async def test_who_is_refused_holds_no_place() -> None:
    """Neither the one that it was refused for, nor one that it had been given before."""
    async with open_stage() as stage:
        limits = {"address_sessions": 2, "route_sessions": 2}
        await stage.open(PLAIN, {"stream_routes/1": passed(stage, limit_conn(1))}, limits=limits)
        first = await stage.join()
        for _ in range(3):
            assert "limit-conn" in (await stage.refused())["detail"]
        await stage.join(source=THERE)
        line = await stage.refused(source="127.0.0.3")
        assert line["detail"] == "limits.route_sessions: 2 are open"
        await stage.leave(*first)
        await stage.join()


async def test_however_a_session_ends_its_place_is_free_again() -> None:
    objects = {
        "stream_routes/pass": {"sni": NAME, "tls_passthrough": True},
        "stream_routes/uncertified": route(9, sni="uncertified.example.com"),
        "stream_routes/nowhere": route(None, sni="nowhere.example.com", tls_passthrough=True),
        "stream_routes/refused": route(1, host="127.0.0.77", sni="refused.example.com", tls_passthrough=True),
    }  # fmt: skip
    reasons = []
    async with open_stage() as stage:
        upstream = route(stage.port)["upstream"]
        objects["stream_routes/pass"] |= {"upstream": upstream, "plugins": limit_conn(1)}
        limits = {"address_sessions": 1, "route_sessions": 1}
        await stage.open(MIXED, objects, limits=limits)
        for says in (
            b"GET / HTTP/1.1\r\n\r\n",
            HELLO[:-1],  # and then too late
            named(b"a\nb"),
            named(b"other.example.com"),
            named(b"uncertified.example.com"),
            named(b"nowhere.example.com"),
            named(b"refused.example.com"),
        ):
            reasons.append((await stage.refused(says))["reason"])
            await stage.leave(*await stage.join(HELLO))
        for end in ("player", "server"):
            player, server = await stage.join(HELLO)
            (player if end == "player" else server).reset()
            reasons.append((await stage.gateway.lines.next())["reason"])
        await stage.join(HELLO)
        assert (await stage.refused(HELLO))["reason"] == "address_limit"
    assert reasons == [
        *("hello_not_tls", "hello_timeout", "hello_broken", "no_route", "no_certificate"),
        *("no_upstream", "upstream_refused", "client_reset", "upstream_reset"),
    ]


async def test_a_changed_limit_counts_for_new_sessions_only() -> None:
    """Each gives back what it was counted for, whatever stands in the route by then."""
    async with open_stage() as stage:
        limited = {"stream_routes/1": passed(stage, limit_conn(1))}
        unlimited = {"stream_routes/1": passed(stage, {})}
        await stage.open(PLAIN, unlimited)
        uncounted = await stage.join()
        stage.change(limited)
        counted = await stage.join()
        assert (await stage.refused())["reason"] == "route_limit"
        await stage.leave(*uncounted)
        assert (await stage.refused())["reason"] == "route_limit"
        stage.change(unlimited)
        uncounted = await stage.join()
        await stage.leave(*counted)
        stage.change(limited)
        counted = await stage.join()
        assert (await stage.refused())["reason"] == "route_limit"
        stage.change({"stream_routes/1": passed(stage, limit_conn(2))})
        await stage.join()
        assert (await stage.refused())["reason"] == "route_limit"
        await stage.leave(*counted)
        await stage.join()
        await stage.leave(*uncounted)
