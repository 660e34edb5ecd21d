"""Upstreams whose nodes are what DNS has under a name."""

from gc import collect
from typing import Any
from weakref import ref

import pytest
import trio.testing

from sniproxy import discovery
from sniproxy.balancer import Target
from sniproxy.discovery import discovered, of_addresses, of_services
from sniproxy.name_cache import Found, Service
from sniproxy.objects import InlineUpstream
from tests.support.names import Resolver, open_names

pytestmark = pytest.mark.anyio

SRV = "_game._tcp.example"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """There is no socket here: time jumps whenever nobody has anything to do."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def upstream(name: str, **members: Any) -> Target:
    """With the nodes of that service."""
    value = {"service_name": name, "discovery_type": "dns", **members}
    return Target(InlineUpstream.model_validate(value))


def service(host: str, port: int = 7001, priority: int = 10, weight: int = 5) -> Service:
    """An SRV record."""
    return Service(priority, weight, port, host)


def hosts(target: Target) -> list[str]:
    """Its nodes, sorted."""
    return sorted(f"{node.host}:{node.port}" for node in target.balancer.nodes)


@pytest.mark.parametrize(
    ("services", "nodes"),
    [
        ([service("a.example.")], [("a.example", 7001, 5, -10)]),
        (
            [service("a.", 1, 0, 0), service("b.", 2, 7, 65535)],
            [("a", 1, 1, 0), ("b", 2, 65535, -7)],
        ),
        ([service("a.", port=0), service("b c."), service("d.")], [("d", 7001, 5, -10)]),
    ],
)
def test_srv_records_are_nodes(
    services: list[Service], nodes: list[tuple[str, int, int, int]]
) -> None:
    """The least weight is none at all only with nodes; what makes no node is left out."""
    found = of_services(services)
    assert [(one.host, one.port, one.weight, one.priority) for one in found] == nodes


def test_addresses_are_nodes() -> None:
    found = of_addresses(["10.0.0.1", "fd00::1"], 7001)
    assert [(one.host, one.port, one.weight) for one in found] == [
        ("10.0.0.1", 7001, 1),
        ("[fd00::1]", 7001, 1),
    ]


async def test_the_nodes_are_those_of_now() -> None:
    """And as long as they are the same, so is their turn."""
    dns = Resolver({"games.example": ["10.0.0.1", "10.0.0.2"]})
    games = upstream("games.example:7001", type="roundrobin", retries=7)
    async with open_names(dns) as names:
        first = await discovered(games, names)
        assert hosts(first) == ["10.0.0.1:7001", "10.0.0.2:7001"]
        assert first.retries == 7
        assert await discovered(games, names) is first
        dns.names["games.example"] = ["10.0.0.2", "10.0.0.3"]
        await trio.sleep(31)
        assert hosts(await discovered(games, names)) == ["10.0.0.2:7001", "10.0.0.3:7001"]


async def test_what_was_there_before_is_given_up() -> None:
    """A name may change every minute, for years."""
    dns = Resolver({"games.example": ["10.0.0.1"]})
    games = upstream("games.example")
    async with open_names(dns) as names:
        before = ref(await discovered(games, names))
        for last in range(2, 5):
            dns.names["games.example"] = [f"10.0.0.{last}"]
            await trio.sleep(31)
            await discovered(games, names)
    collect()
    assert before() is None


async def test_nodes_are_made_when_records_change_and_not_for_each_session() -> None:
    """Of a thousand records that would hold everybody up for milliseconds."""
    made = upstream(SRV)
    async with open_names(Resolver({SRV: Found((service("a."),), 30)})) as names:
        first = await discovered(made, names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discovery, "of_services", None)  # whoever calls it fails
            assert await discovered(made, names) is first


async def test_all_but_the_nodes_is_the_upstream_s_own() -> None:
    timeout = {"connect": 1, "send": 20, "read": 7}
    games = upstream("games.example", timeout=timeout, proxy_protocol="v2", retry_timeout=9)
    async with open_names(Resolver({"games.example": ["10.0.0.1", "10.0.0.2"]})) as names:
        found = await discovered(games, names)
    assert (found.connect_timeout, found.idle_timeout, found.proxy_protocol) == (1, 20, "v2")
    assert (found.retries, found.retry_timeout) == (1, 9)
    assert hosts(found) == ["10.0.0.1:None", "10.0.0.2:None"]


async def test_the_lower_an_srv_s_priority_the_sooner_it_is_asked() -> None:
    records = (service("spare.", priority=20), service("main.", priority=10))
    games = upstream(SRV)
    async with open_names(Resolver({SRV: Found(records, 30)})) as names:
        found = await discovered(games, names)
    first = found.balancer.pick()
    assert first is not None
    assert first.host == "main"
    second = found.balancer.pick({id(first)})
    assert second is not None
    assert second.host == "spare"


async def test_an_upstream_with_nodes_is_left_alone() -> None:
    target = Target(InlineUpstream.model_validate({"nodes": {"10.0.0.1:1": 1}}))
    async with open_names(Resolver({})) as names:
        assert await discovered(target, names) is target
