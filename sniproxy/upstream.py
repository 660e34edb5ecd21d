"""From a route's upstream to a connected socket: pick a node, look its name up, connect, greet it, else the next node.

Every attempt has a deadline of its own (name lookup and greeting included); after `retry_timeout` no new one begins.
"""

import errno
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from sniproxy.balancer import UNSPOKEN, Target
from sniproxy.deadline import Deadline
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.networks import family_of
from sniproxy.relay import Attempt, Originated
from sniproxy.relay.sockets import close, connect, wait_connected

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
Address = tuple[int, Any]  # family, what connect() takes
# What is done on a connection, to the node of that bare host, before anything of the client goes there; SessionEnded.
Greet = Callable[[socket.socket, str], Awaitable[Originated | None]]


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a game server."""

    sock: socket.socket
    node: str  # host:port as the object names it
    attempts: int
    tls: Originated | None = None


async def reach(
    target: Target,
    *,
    default_port: int,
    connect_timeout: float,
    keepalive_idle: int,
    begun: Attempt | None = None,
    greet: Greet | None = None,
) -> Connected:
    """A connection to one of the target's nodes, or SessionEnded with the last reason and every detail.

    `greet`: a node that does not get through it has failed, and is closed.
    `begun`: the first attempt, which the relay has made; its socket is closed if nothing comes of it.
    """
    if target.scheme in UNSPOKEN:
        why = f"scheme {target.scheme} is not spoken to upstreams"
        raise SessionEnded(CloseReason.NO_UPSTREAM, why)
    seconds = target.connect_timeout or connect_timeout
    failures: list[SessionEnded] = []
    tried: set[int] = set()
    since = begun.hello_at if begun else trio.current_time()
    give_up = since + (target.retry_timeout or float("inf"))
    while len(tried) <= target.retries and (begun or trio.current_time() < give_up):
        node = target.round[begun.pick] if begun else target.balancer.pick(tried)
        if node is None:
            break
        tried.add(id(node))
        port = node.port or default_port
        where, started = f"{node.host}:{port}", trio.current_time()
        try:
            sock = await _reach_node(
                node.bare_host,
                port,
                seconds=seconds,
                keepalive_idle=keepalive_idle,
                begun=begun,
            )
            tls = greet and await _greet_node(
                greet, sock, node.bare_host, where, seconds=seconds, since=started
            )
        except SessionEnded as failure:
            failures.append(failure)
            begun = None
        else:
            return Connected(sock, where, len(tried), tls)
    if not failures:
        raise SessionEnded(CloseReason.NO_UPSTREAM, "no node with a weight above 0")
    raise SessionEnded(failures[-1].reason, "; ".join(failure.detail for failure in failures))


async def _reach_node(
    host: str, port: int, *, seconds: float, keepalive_idle: int, begun: Attempt | None
) -> socket.socket:
    where, since = f"{host}:{port}", begun.hello_at if begun else None
    late = CloseReason.UPSTREAM_TIMEOUT
    with Deadline(seconds, late, where + ": no answer in {:g} s", since=since):
        if begun is not None:
            return await _go_on(begun.outcome, where)
        return await _try_addresses(
            await _look_up(host, port), where, keepalive_idle=keepalive_idle
        )


async def _greet_node(
    greet: Greet, sock: socket.socket, host: str, where: str, *, seconds: float, since: float
) -> Originated | None:
    late = CloseReason.UPSTREAM_TIMEOUT
    try:
        with Deadline(seconds, late, where + ": no TLS handshake in {:g} s", since=since):
            try:
                return await greet(sock, host)
            except SessionEnded as failure:
                raise SessionEnded(failure.reason, f"{where}: {failure.detail}") from None
    except BaseException:
        close(sock)
        raise


async def _go_on(outcome: socket.socket | OSError, where: str) -> socket.socket:
    if isinstance(outcome, OSError):
        raise _failure(outcome, where)
    try:
        await wait_connected(outcome)
    except BaseException as error:
        outcome.close()
        if isinstance(error, OSError):
            raise _failure(error, where) from None
        raise
    return outcome


async def _try_addresses(
    addresses: list[Address], where: str, *, keepalive_idle: int
) -> socket.socket:
    failure: SessionEnded | None = None
    for family, address in addresses:
        try:
            return await connect(family, address, keepalive_idle=keepalive_idle)
        except OSError as error:
            failure = _failure(error, where)
    raise failure or SessionEnded(CloseReason.UPSTREAM_NAME, f"{where}: the name has no address")


def _failure(error: OSError, where: str) -> SessionEnded:
    return SessionEnded(_reason(error), f"{where}: {error.strerror or type(error).__name__}")


def _reason(error: OSError) -> CloseReason:
    if error.errno in OUT_OF_DESCRIPTORS:
        return CloseReason.DESCRIPTOR_LIMIT
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return CloseReason.UPSTREAM_REFUSED
    if error.errno == errno.ETIMEDOUT:
        return CloseReason.UPSTREAM_TIMEOUT
    return CloseReason.UPSTREAM_UNREACHABLE


async def _look_up(host: str, port: int) -> list[Address]:
    """An IP literal as it is; a name through the resolver of the system, in a thread that a timeout leaves behind."""
    family = family_of(host)
    if family is not None:
        return [(family, (host, port))]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise SessionEnded(CloseReason.UPSTREAM_NAME, f"{host}: {cause}") from None
    return [(family, address) for family, _, _, _, address in found]
