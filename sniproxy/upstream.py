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


@dataclass(frozen=True, slots=True)
class Ways:
    """What all sessions of a worker connect by."""

    names: Names
    forbidden: Forbidden
    metrics: Metrics
    connect_timeout: float  # seconds for one node, where the upstream names none
    keepalive_idle: int


async def reach(
    target: Target,
    ways: Ways,
    *,
    default_port: int,
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
    if target.service is not None:
        seconds = target.connect_timeout or ways.connect_timeout
        late = "its service_name: DNS has not answered in {:g} s"
        with Deadline(seconds, CloseReason.UPSTREAM_NAME, late):
            target = await discovered(target, ways.names)
    # not the errors: each knows this frame, and would be a cycle, which nobody collects (`worker.tame_garbage_collection`)
    reason, details = CloseReason.NO_UPSTREAM, list[str]()
    tried: set[int] = set()
    panicked = False
    since = begun.hello_at if begun else trio.current_time()
    give_up = since + (target.retry_timeout or float("inf"))
    while len(tried) <= target.retries and (begun or trio.current_time() < give_up):
        now = trio.current_time()
        node = target.round[begun.pick] if begun else _pick_well(target, tried, caller, now)
        if node is None:
            node = target.balancer.pick(tried, caller, now)
            if node is None:
                break
            if not panicked:
                ways.metrics.panics.inc()
            panicked = True
        tried.add(id(node))
        try:
            return await _Try(target, node, ways, default_port, len(tried)).run(begun, greet)
        except SessionEnded as failure:
            reason = failure.reason
            details.append(failure.detail)
            begun = None
    raise SessionEnded(reason, "; ".join(details) or "no node with a weight above 0")


def _pick_well(target: Target, tried: set[int], caller: Caller, now: float) -> Node | None:
    """The next node, of those that are well."""
    out = target.checkup.out(now) if target.checkup else None
    return target.balancer.pick(out | tried if out and tried else out or tried, caller, now)


class _Try:
    """One attempt at one node, and what it says of that."""

    def __init__(
        self, target: Target, node: Node, ways: Ways, default_port: int, number: int
    ) -> None:
        self._ways = ways
        self._host = node.bare_host
        self._port = node.port or default_port
        self._where = f"{node.host}:{self._port}"
        self._number = number
        self._seconds = target.connect_timeout or ways.connect_timeout
        self._absolute = target.service is not None  # DNS has given the name (RFC 2782)
        self._seat = node.state
        self._circuit = target.checkup.circuit(node) if target.checkup else None

    async def run(self, begun: Attempt | None, greet: Greet | None) -> Connected:
        """As `reach`, of this node alone."""
        started, seat, circuit = trio.current_time(), self._seat, self._circuit
        seat.enter()
        if circuit is not None:
            circuit.begin(started, self._seconds)
        try:
            sock = await self._connect(begun)
            tls = greet and await self._greet(greet, sock, started)
        except SessionEnded as failure:
            now = trio.current_time()
            seat.leave()
            seat.observe(self._seconds, now)  # who refuses at once is not quick
            if circuit is not None and _tell(circuit, failure.reason, started, now):
                self._ways.metrics.circuits_opened.inc()
            raise
        except BaseException:
            seat.leave()
            if circuit is not None:
                circuit.withdraw()
            raise
        now = trio.current_time()
        if begun is None:
            seat.observe(now - started, now)
        if circuit is not None:
            circuit.connect(now)
        return Connected(sock, self._where, self._number, seat, now, circuit, tls)

    async def _connect(self, begun: Attempt | None) -> socket.socket:
        where, ways, host = self._where, self._ways, self._host
        since = begun.hello_at if begun else trio.current_time()
        addresses: Sequence[str] = (host,)
        if begun is None and family_of(host) is None:
            if why := ways.forbidden.why_named(host, self._port):
                raise SessionEnded(CloseReason.UPSTREAM_DENIED, f"{where}: {why}")
            late = host + ": DNS has not answered in {:g} s"
            with Deadline(self._seconds, CloseReason.UPSTREAM_NAME, late, since=since):
                # no search list may complete what DNS has given to another name
                name = f"{host}." if self._absolute else host
                addresses = in_order(*await ways.names.look_up(name))
        late = where + ": no answer in {:g} s"
        with Deadline(self._seconds, CloseReason.UPSTREAM_TIMEOUT, late, since=since):
            if begun is not None:
                return await _go_on(begun.outcome, where)
            allowed = _without_forbidden(addresses, self._port, where, ways.forbidden)
            try:
                return await connect_first(allowed, self._port, keepalive_idle=ways.keepalive_idle)
            except OSError as error:
                raise _failure(error, where) from None

    async def _greet(self, greet: Greet, sock: socket.socket, since: float) -> Originated | None:
        where, late = self._where, CloseReason.UPSTREAM_TIMEOUT
        try:
            with Deadline(self._seconds, late, where + ": no TLS handshake in {:g} s", since=since):
                try:
                    return await greet(sock, self._host)
                except SessionEnded as failure:
                    raise SessionEnded(failure.reason, f"{where}: {failure.detail}") from None
        except BaseException:
            close(sock)
            raise


def _tell(circuit: Circuit, reason: CloseReason, began: float, now: float) -> bool:
    """What became of an attempt; whether that opens the circuit."""
    failure = FAILURES.get(reason)
    if failure is not None:
        return circuit.fail(failure, began, now)
    circuit.withdraw()
    return False


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
