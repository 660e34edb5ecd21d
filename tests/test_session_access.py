"""Who may come in by address, over real sockets: allow and deny of a listener, ip-restriction of routes and services."""

from typing import Any

import pytest
import trio.testing

from sniproxy.proxy_protocol import encode_local_v2, encode_v1, encode_v2
from sniproxy.settings import Listener
from tests.support.certificates import NAME
from tests.support.clocks import relay_clock
from tests.support.gateway import Objects, route
from tests.support.stage import HELLO, MIXED, PLAIN, Stage, open_stage

pytestmark = pytest.mark.anyio

BALANCER = ("198.51.100.1", 443)
PLAYER = encode_v1(("192.0.2.7", 4242), BALANCER)
OTHER_PLAYER = encode_v2(("192.0.2.8", 4242), BALANCER)
MAPPED = b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4242 443\r\n"
LOCAL = encode_local_v2()  # the balancer speaks for itself
ME, OTHER = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.01)}


def restriction(**lists: list[str]) -> dict[str, Any]:
    """An ip-restriction."""
    return {"ip-restriction": lists}


async def assert_let_in(stage: Stage, expected: bool, header: bytes = b"", **where: str) -> None:
    """Whether a player is served, or refused for his address before anything reaches the game server."""
    says = HELLO if stage.listener.is_tls else b"x"
    if expected:
        await stage.leave(*await stage.join(says, header=header, **where))
    else:
        line = await stage.refused(says, header=header, **where)
        assert line["reason"] == "address_denied"


EVERYWHERE, IPV4_ONLY = "[::]:0", "127.0.0.1:0"


@pytest.mark.parametrize(
    ("address", "lists", "welcome", "unwelcome"),
    [
        (IPV4_ONLY, {"deny": [OTHER]}, [ME], [OTHER]),
        (IPV4_ONLY, {"deny": ["0.0.0.0/0"]}, [], [ME, OTHER]),
        (IPV4_ONLY, {"deny": ["::/0"]}, [ME], []),
        (IPV4_ONLY, {"allow": ["127.0.0.2/32"]}, [OTHER], [ME]),
        (IPV4_ONLY, {"allow": ["10.0.0.0/8", "127.0.0.0/30"]}, [ME, OTHER], ["127.0.0.4"]),
        (IPV4_ONLY, {"allow": ["127.0.0.0/8"], "deny": [OTHER]}, [ME], [OTHER]),
        (IPV4_ONLY, {"allow": [OTHER], "deny": [OTHER]}, [], [ME, OTHER]),
        (EVERYWHERE, {"deny": ["127.0.0.0/8"]}, ["::1"], [ME]),
        (EVERYWHERE, {"deny": ["::ffff:127.0.0.0/104"]}, ["::1"], [ME]),
        (EVERYWHERE, {"deny": ["::/0"]}, [ME], ["::1"]),
        (EVERYWHERE, {"allow": ["127.0.0.0/8"]}, [ME], ["::1"]),
        (EVERYWHERE, {"allow": ["::1"]}, ["::1"], [ME]),
    ],
)
async def test_the_networks_of_a_listener(
    address: str, lists: dict[str, Any], welcome: list[str], unwelcome: list[str]
) -> None:
    """An IPv4 player on a socket for both is an IPv4 player."""
    async with open_stage() as stage:
        await stage.open(Listener(address=address, **lists))
        for expected, sources in ((True, welcome), (False, unwelcome)):
            for source in sources:
                host = "::1" if source == "::1" else ME
                await assert_let_in(stage, expected, host=host, source=source)
        ended = {"client_closed": len(welcome), "address_denied": len(unwelcome)}
        assert stage.gateway.closed() == {reason: n for reason, n in ended.items() if n}


async def test_whom_the_listener_denies_is_not_listened_to() -> None:
    """He waits for no deadline, and the line says who he is and why."""
    listener = Listener(address="127.0.0.1:0", tls=True, deny=("127.0.0.2",))
    async with open_stage() as stage:
        await stage.open(listener)
        line = await stage.refused(source=OTHER)
    assert (line["reason"], line["detail"]) == (
        "address_denied",
        "by allow and deny of the listener",
    )
    assert line["client"].startswith("127.0.0.2:")
    assert (line["route"], line["sni"]) == (None, None)
    assert line["duration_ms"] == 0


@pytest.mark.parametrize("by", ["listener", "route"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("header", "denied", "let_in"),
    [
        pytest.param(PLAYER, "192.0.2.0/24", False, id="v1"),
        pytest.param(PLAYER, "127.0.0.0/8", True, id="v1, balancer denied"),
        pytest.param(OTHER_PLAYER, "192.0.2.7", True, id="v2, other denied"),
        pytest.param(OTHER_PLAYER, "192.0.2.8", False, id="v2"),
        pytest.param(MAPPED, "192.0.2.7", False, id="IPv4 written as IPv6"),
        pytest.param(LOCAL, "127.0.0.0/8", False, id="local"),
        pytest.param(LOCAL, "192.0.2.0/24", True, id="local, other denied"),
    ],
)
async def test_behind_a_balancer_the_header_says_whose_address_it_is(
    header: bytes, denied: str, let_in: bool, tls: bool, by: str
) -> None:
    async with open_stage() as stage:
        listener = Listener(
            address="127.0.0.1:0",
            tls_passthrough=tls,
            proxy_protocol=True,
            deny=[denied] if by == "listener" else [],
        )
        plugins = restriction(blacklist=[denied]) if by == "route" else {}
        await stage.open(listener, {"stream_routes/1": route(stage.port, plugins=plugins)})
        await assert_let_in(stage, let_in, header)


HERE, ELSEWHERE = ["127.0.0.0/8", "::1"], ["192.0.2.0/24", "2001:db8::/32"]
OFF = {"_meta": {"disable": True}}
TEN = {"conn": 10, "burst": 0, "default_conn_delay": 1, "key": "remote_addr"}


@pytest.mark.parametrize("listener", [PLAIN, MIXED], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("own", "services", "let_in"),
    [
        (restriction(whitelist=HERE), None, True),
        (restriction(whitelist=ELSEWHERE), None, False),
        (restriction(blacklist=HERE), None, False),
        (restriction(blacklist=ELSEWHERE), None, True),
        ({"ip-restriction": {"blacklist": HERE, **OFF}}, None, True),
        ({}, restriction(blacklist=HERE), False),
        ({}, restriction(whitelist=HERE), True),
        ({}, {"ip-restriction": {"blacklist": HERE, **OFF}}, True),
        (restriction(whitelist=HERE), restriction(blacklist=HERE), True),
        (restriction(blacklist=HERE), restriction(whitelist=HERE), False),
        ({"ip-restriction": OFF}, restriction(blacklist=HERE), True),
        ({"limit-conn": OFF}, restriction(blacklist=HERE), False),
        ({"limit-conn": TEN}, restriction(blacklist=HERE), False),
    ],
)
async def test_ip_restriction_of_a_route_goes_before_that_of_its_service(
    listener: Listener, own: dict[str, Any], services: dict[str, Any] | None, let_in: bool
) -> None:
    async with open_stage() as stage:
        wanted = route(stage.port, tls_passthrough=True, plugins=own)
        objects = {"stream_routes/1": wanted}
        if services is not None:
            wanted["service_id"] = "s"
            objects["services/s"] = {"upstream": wanted.pop("upstream"), "plugins": services}
        await stage.open(listener, objects)
        await assert_let_in(stage, let_in)
        if not let_in:
            (line,) = stage.gateway.lines.sessions
            assert (line["route"], line["detail"]) == ("1", "by ip-restriction of the route")
            assert line["sni"] == (NAME if listener.is_tls else None)


@pytest.mark.parametrize(
    "services", [None, {"plugins": {"unheard-of": {}}}], ids=["gone", "broken"]
)
async def test_a_route_does_not_run_without_the_rules_of_its_service(
    services: dict[str, Any] | None,
) -> None:
    """Of a service that is not there or cannot be read nobody knows whom it keeps out."""
    async with open_stage() as stage:
        await stage.open(PLAIN, {"stream_routes/1": route(stage.port, service_id="s")})
        broken = stage.change({} if services is None else {"services/s": services})
        assert len(broken) == (services is not None)
        await stage.dial(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert stage.nobody_came()
        assert stage.gateway.counted()["active"] == 0


async def test_a_change_counts_for_new_sessions_only() -> None:
    def wanted(**lists: list[str]) -> Objects:
        plugins = restriction(**lists) if lists else {}
        return {"stream_routes/1": route(stage.port, plugins=plugins)}

    async with open_stage() as stage:
        await stage.open(PLAIN, wanted())
        first = await stage.join()
        for objects, let_in in (
            (wanted(blacklist=HERE), False),
            (wanted(whitelist=HERE), True),
            (wanted(whitelist=ELSEWHERE), False),
            (wanted(), True),
            ({"stream_routes/1": route(stage.port, service_id="s"), "services/s": {}}, True),
            ({"services/s": {"plugins": restriction(blacklist=HERE)}}, False),
            ({"services/s": {"plugins": {"ip-restriction": OFF}}}, True),
        ):
            assert stage.change(objects) == []
            if let_in:
                await stage.leave(*await stage.join())
            else:
                assert (await stage.refused())["reason"] == "address_denied"
            await first[0].send(b"still here")
            assert await first[1].read(10) == b"still here"
        await stage.leave(*first)
        assert stage.gateway.closed() == {"client_closed": 5, "address_denied": 3}
