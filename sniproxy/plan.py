"""What becomes of everybody who asks a listener for a name: decided once, and good until the configuration changes. Pure.

Most games have one route per name and one game server, or a few in turn, behind it: then nothing about a connection but its
name matters, and whoever moves the bytes may go by the plan without asking again. Where anything else matters (the client's
address, a limit, a plugin, a name to look up, a PROXY header to send), there is no plan, and each connection is decided alone.
"""

from dataclasses import dataclass

from sniproxy.balancer import Target
from sniproxy.networks import family_of
from sniproxy.router import Route
from sniproxy.settings import Limits, Listener
from sniproxy.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """The course of a passed-through session. Its node is the next one of `target.round`."""

    listener: Listener
    name: str
    route: Route
    target: Target
    port: int  # of a node that names none


def plan_for(
    snapshot: Snapshot, listener: Listener, limits: Limits, name: str, port: int
) -> Plan | None:
    """The plan for a name at a listener, whose port that is; None where not everybody fares the same."""
    if listener.allow or listener.deny or listener.proxy_protocol or limits.ask_each:
        return None
    route = snapshot.router.match_for_all(name, port)
    if route is None or not listener.passes_through(asked=route.object.tls_passthrough):
        return None
    target = snapshot.target(route)
    if target is None or not target.is_plain or snapshot.plugins(route):
        return None
    if not target.round or any(family_of(node.bare_host) is None for node in target.round):
        return None
    return Plan(listener, name, route, target, port)
