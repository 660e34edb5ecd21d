"""From a route's upstream to a connected socket: pick a node, look its name up, connect, greet it, else the next node.

Every attempt has a deadline of its own, which holds for name lookup, all addresses of the name and greeting together; after
`retry_timeout` no new one begins.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from sniproxy.balancer import UNSPOKEN, Target
from sniproxy.balancing import NOBODY, Caller, Node, NodeState
from sniproxy.deadline import Deadline
from sniproxy.discovery import discovered
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.eyeballs import connect_first, in_order
from sniproxy.forbidden import Forbidden
from sniproxy.health import Circuit, Failure
from sniproxy.metrics import Metrics
from sniproxy.names import Names
from sniproxy.networks import family_of, parse_address
from sniproxy.relay import Attempt, Originated
from sniproxy.relay.sockets import close, wait_connected

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# What these say of a game server. Others say nothing: they are ours, or those of DNS.
FAILURES = {
    CloseReason.UPSTREAM_REFUSED: Failure.TCP,
    CloseReason.UPSTREAM_UNREACHABLE: Failure.TCP,
    CloseReason.UPSTREAM_RESET: Failure.TCP,
    CloseReason.UPSTREAM_TLS: Failure.TCP,
    CloseReason.UPSTREAM_CERTIFICATE: Failure.TCP,
    CloseReason.UPSTREAM_TIMEOUT: Failure.TIMEOUT,
}
# What is done on a connection, to the node of that bare host, before anything of the client goes there; SessionEnded.
Greet = Callable[[socket.socket, str], Awaitable[Originated | None]]


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a game server."""

    sock: socket.socket
    node: str  # host:port as the object names it
    attempts: int
    seat: NodeState  # where the session counts by now; who has the connection lets it leave
    at: float  # when it stood, in seconds of trio's clock
    circuit: Circuit | None = None  # who has the connection tells it of an early end
    tls: Originated | None = None


async def reach(
    target: Target,
    names: Names,
    *,
    default_port: int,
    connect_timeout: float,
    keepalive_idle: int,
    forbidden: Forbidden,
    metrics: Metrics,
    begun: Attempt | None = None,
    caller: Caller = NOBODY,
    greet: Greet | None = None,
) -> Connected:
    """A connection to one of the target's nodes, or SessionEnded with the last reason and every detail.

    Nodes that are not well are tried when all others were, or there are none.
    `greet`: a node that does not get through it has failed, and is closed.
    `begun`: the first attempt, which the relay has made; its socket is closed if nothing comes of it.
    """
    if target.scheme in UNSPOKEN:
        why = f"scheme {target.scheme} is not spoken to upstreams"
        raise SessionEnded(CloseReason.NO_UPSTREAM, why)
    seconds = target.connect_timeout or connect_timeout
    if target.service is not None:
        late = "its service_name: DNS has not answered in {:g} s"
        with Deadline(seconds, CloseReason.UPSTREAM_NAME, late):
            target = await discovered(target, names)
    # not the failures themselves: their tracebacks lead back here, and a cycle would keep all of it
    reason: CloseReason | None = None
    details: list[str] = []
    tried: set[int] = set()
    panicked = False
    since = begun.hello_at if begun else trio.current_time()
    give_up = since + (target.retry_timeout or float("inf"))
    while len(tried) <= target.retries and (begun or trio.current_time() < give_up):
        started = trio.current_time()
        node = target.round[begun.pick] if begun else _pick_well(target, tried, caller, started)
        if node is None:
            node = target.balancer.pick(tried, caller, started)
            if node is None:
                break
            if not panicked:
                metrics.panics.inc()
            panicked = True
        tried.add(id(node))
        circuit = target.checkup.circuit(node) if target.checkup else None
        port = node.port or default_port
        where = f"{node.host}:{port}"
        seat = node.state
        seat.enter()
        if circuit is not None:
            circuit.begin(started, seconds)
        try:
            sock = await _reach_node(
                node.bare_host,
                port,
                names,
                seconds=seconds,
                keepalive_idle=keepalive_idle,
                forbidden=forbidden,
                begun=begun,
            )
            tls = greet and await _greet_node(
                greet, sock, node.bare_host, where, seconds=seconds, since=started
            )
        except SessionEnded as failure:
            now = trio.current_time()
            seat.leave()
            seat.observe(seconds, now)  # who refuses at once is not quick
            if circuit is not None and _tell(circuit, failure.reason, started, now):
                metrics.circuits_opened.inc()
            reason = failure.reason
            details.append(failure.detail)
            begun = None
        except BaseException:
            seat.leave()
            if circuit is not None:
                circuit.withdraw()
            raise
        else:
            now = trio.current_time()
            if begun is None:
                seat.observe(now - started, now)
            if circuit is not None:
                circuit.connect(now)
            return Connected(sock, where, len(tried), seat, now, circuit, tls)
    if reason is None:
        raise SessionEnded(CloseReason.NO_UPSTREAM, "no node with a weight above 0")
    raise SessionEnded(reason, "; ".join(details))


def _pick_well(target: Target, tried: set[int], caller: Caller, now: float) -> Node | None:
    """The next node, of those that are well."""
    out = target.checkup.out(now) if target.checkup else None
    return target.balancer.pick(tried | out if out else tried, caller, now)


def _tell(circuit: Circuit, reason: CloseReason, began: float, now: float) -> bool:
    """What became of an attempt; whether that opens the circuit."""
    failure = FAILURES.get(reason)
    if failure is not None:
        return circuit.fail(failure, began, now)
    circuit.withdraw()
    return False


async def _reach_node(
    host: str,
    port: int,
    names: Names,
    *,
    seconds: float,
    keepalive_idle: int,
    forbidden: Forbidden,
    begun: Attempt | None,
) -> socket.socket:
    where, since = f"{host}:{port}", begun.hello_at if begun else trio.current_time()
    addresses: Sequence[str] = (host,)
    if begun is None and family_of(host) is None:
        late = host + ": DNS has not answered in {:g} s"
        with Deadline(seconds, CloseReason.UPSTREAM_NAME, late, since=since):
            addresses = in_order(*await names.look_up(host))
    late = where + ": no answer in {:g} s"
    with Deadline(seconds, CloseReason.UPSTREAM_TIMEOUT, late, since=since):
        if begun is not None:
            return await _go_on(begun.outcome, where)
        allowed = _without_forbidden(addresses, port, where, forbidden)
        try:
            return await connect_first(allowed, port, keepalive_idle=keepalive_idle)
        except OSError as error:
            raise _failure(error, where) from None


def _without_forbidden(
    addresses: Sequence[str], port: int, where: str, forbidden: Forbidden
) -> list[str]:
    """Of what a name is by now: an object was looked at when it was written, and a name may have moved since."""
    refusals, allowed = [], []
    for address in addresses:
        why = forbidden.why(parse_address(address), port)
        if why is None:
            allowed.append(address)
        else:
            refusals.append(f"{where}: {address}: {why}")
    if not allowed:
        raise SessionEnded(CloseReason.UPSTREAM_DENIED, "; ".join(refusals))
    return allowed


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
