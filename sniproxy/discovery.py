"""Upstreams whose nodes are what DNS has under a name: `discovery_type: dns` and `service_name`.

    _game._tcp.eu.example     SRV records: host, port, priority and weight of each node
    gs.example:7777           each address is a node of weight 1 on that port; without one, on the port that the player chose

An upstream with the nodes of the moment is made when they change, and kept until they change again: so turns go on.
"""

import re
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from sniproxy.balancer import Target
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.name_cache import Records, Service
from sniproxy.names import Names
from sniproxy.objects import Node

_NAME = re.compile(r"(?P<host>[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_SERVICE = "_"  # what the names of SRV records begin with (RFC 2782)


async def discovered(target: Target, names: Names) -> Target:
    """The upstream with its nodes of now. SessionEnded UPSTREAM_NAME if the name cannot be resolved."""
    service = target.service
    if service is None or service.service_name is None:
        return target
    name = service.service_name
    if name.startswith(_SERVICE):
        services = await names.services(name)
        return _of(target, services, lambda: of_services(services))
    match = _NAME.fullmatch(name)
    if match is None:
        why = f"{name}: neither a name nor name:port"
        raise SessionEnded(CloseReason.UPSTREAM_NAME, why)
    addresses, _ = await names.look_up(match["host"])
    port = int(match["port"]) if match["port"] else None
    return _of(target, addresses, lambda: of_addresses(addresses, port))


def of_services(services: Iterable[Service]) -> list[Node]:
    """The lower an SRV's priority, the sooner it is asked, and with nodes the higher; weight 0 is the least, and not none.

    What makes no node, such as port 0, is left out.
    """
    return _nodes(
        {
            "host": one.host.removesuffix("."),
            "port": one.port,
            "weight": max(one.weight, 1),
            "priority": -one.priority,
        }
        for one in services
    )


def of_addresses(addresses: Iterable[str], port: int | None) -> list[Node]:
    """A node for each address."""
    return _nodes(
        {"host": f"[{address}]" if ":" in address else address, "port": port, "weight": 1}
        for address in addresses
    )


def _nodes(members: Iterable[dict[str, object]]) -> list[Node]:
    nodes = []
    for one in members:
        try:
            nodes.append(Node.model_validate(one))
        except ValidationError:
            continue
    return nodes


def _of(target: Target, records: Records, nodes_of: Callable[[], list[Node]]) -> Target:
    """Sessions come far more often than records change: only then nodes are made of them."""
    if target.discovered is None or target.records != records:
        target.discovered, target.records = target.with_nodes(nodes_of()), records
    return target.discovered
