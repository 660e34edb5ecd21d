"""From a route's upstream to a connected socket: pick a node, look its name up, connect, else the next node.

Every attempt has a deadline of its own (name lookup included); after `retry_timeout` no new one begins.
"""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import trio

from sniproxy.balancer import Target
from sniproxy.deadline import Deadline
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay.sockets import connect

# The others mean plain TCP for streams, as in APISIX. Who asks for TLS must never get plain TCP instead.
UNSPOKEN = frozenset({"tls", "udp", "kafka"})

Address = tuple[int, Any]  # family, what connect() takes


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a game server."""

    sock: socket.socket
    node: str  # host:port as the object names it
    attempts: int


async def reach(
    target: Target, *, default_port: int, connect_timeout: float, keepalive_idle: int
) -> Connected:
    """A connection to one of the target's nodes, or SessionEnded with the last reason and every detail."""
    scheme = target.object.scheme
    if scheme in UNSPOKEN:
        raise SessionEnded(CloseReason.NO_UPSTREAM, f"scheme {scheme} is not spoken to upstreams")
    failures: list[SessionEnded] = []
    tried: set[int] = set()
    give_up = trio.current_time() + (target.retry_timeout or float("inf"))
    while len(tried) <= target.retries and trio.current_time() < give_up:
        node = target.balancer.pick(tried)
        if node is None:
            break
        tried.add(id(node))
        port = node.port or default_port
        try:
            sock = await _reach_node(
                node.bare_host,
                port,
                seconds=target.connect_timeout or connect_timeout,
                keepalive_idle=keepalive_idle,
            )
        except SessionEnded as failure:
            failures.append(failure)
        else:
            return Connected(sock, f"{node.host}:{port}", len(tried))
    if not failures:
        raise SessionEnded(CloseReason.NO_UPSTREAM, "no node with a weight above 0")
    raise SessionEnded(failures[-1].reason, "; ".join(failure.detail for failure in failures))


async def _reach_node(
    host: str, port: int, *, seconds: float, keepalive_idle: int
) -> socket.socket:
    where = f"{host}:{port}"
    with Deadline(seconds, CloseReason.UPSTREAM_TIMEOUT, where + ": no answer in {:g} s"):
        return await _try_addresses(
            await _look_up(host, port), where, keepalive_idle=keepalive_idle
        )


async def _try_addresses(
    addresses: list[Address], where: str, *, keepalive_idle: int
) -> socket.socket:
    failure: SessionEnded | None = None
    for family, address in addresses:
        try:
            return await connect(family, address, keepalive_idle=keepalive_idle)
        except OSError as error:
            failure = SessionEnded(
                _reason(error), f"{where}: {error.strerror or type(error).__name__}"
            )
    raise failure or SessionEnded(CloseReason.UPSTREAM_NAME, f"{where}: the name has no address")


def _reason(error: OSError) -> CloseReason:
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return CloseReason.UPSTREAM_REFUSED
    if error.errno == errno.ETIMEDOUT:
        return CloseReason.UPSTREAM_TIMEOUT
    return CloseReason.UPSTREAM_UNREACHABLE


async def _look_up(host: str, port: int) -> list[Address]:
    """An IP literal as it is; a name through the resolver of the system, in a thread that a timeout leaves behind."""
    family = _family(host)
    if family is not None:
        return [(family, (host, port))]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise SessionEnded(CloseReason.UPSTREAM_NAME, f"{host}: {cause}") from None
    return [(family, address) for family, _, _, _, address in found]


@lru_cache(maxsize=4096)
def _family(host: str) -> int | None:
    """The address family of an IP literal; None for a name. Remembered, since it is asked for every session."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6
