"""A connection's life, from accept to the account of how it ended. `serve` is the page to read."""

import socket
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from sniproxy.accounting import Account, alpn_text
from sniproxy.balancer import Target
from sniproxy.balancing import Caller
from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader
from sniproxy.deadline import Deadline
from sniproxy.defects import last_line, report
from sniproxy.errors import REFUSALS, CloseReason, SessionEnded
from sniproxy.first_flight import FirstFlight
from sniproxy.health import Circuit
from sniproxy.limits import site_of
from sniproxy.networks import IpAddress, parse_address, peer_pair, peer_text
from sniproxy.plan import PASSTHROUGH, plan_for
from sniproxy.proxy_protocol import encode_v1, encode_v2
from sniproxy.refusals import Refused, shortened
from sniproxy.relay import Accepted, Attempt, Flow, Originated, Outcome, Terminated, Terms
from sniproxy.relay.sockets import Lost, close, send_all
from sniproxy.router import Arrival, Match
from sniproxy.settings import Listener
from sniproxy.tallies import Tally
from sniproxy.upstream import reach
from sniproxy.upstream_tls import TLS_IN_TLS
from sniproxy.worker_state import Worker

# A fatal alert in clear: nothing was agreed upon yet (RFC 8446 section 6, RFC 6066 section 3).
UNRECOGNIZED_NAME = bytes((21, 3, 1, 0, 2, 2, 112))
HUNG_UP = (
    CloseReason.UPSTREAM_CLOSED,
    CloseReason.UPSTREAM_TRUNCATED,
    CloseReason.UPSTREAM_RESET,
)
UNSERVED = (CloseReason.NO_ROUTE, CloseReason.NO_CERTIFICATE)  # whose clients are sent it


async def serve(worker: Worker, accepted: Accepted) -> None:
    """One connection: hello, route, its turn, TLS, upstream; then the relay has it and this task is over.

    Whoever accepted it has counted it (`opened` and `worker.limits.enter`), so that of a batch all are before the first one
    runs. The relay may have come further with it than to accept, by a plan; nothing that it has done is done again.
    """
    listener, sock = accepted.listener, accepted.sock
    account = Account("", listener.address, accepted.since)
    flight = FirstFlight(worker.settings, accepted)
    flow: Flow | None = None
    handed_over = False
    try:
        account.client = peer_text(accepted.peer)
        server = sock.getsockname()
        if accepted.attempt is None:
            with flight.deadline():
                await flight.read_proxy_header()
                account.client = peer_text(flight.client)
                client = parse_address(flight.client[0])
                if not flight.local:
                    worker.limits.admit_client(listener, client, account.claims)
                hello = await flight.read_hello()
                if hello is not None:
                    worker.metrics.counts.sound(hello, split=flight.split)
                if flight.local:  # a balancer's health check ends before this
                    worker.limits.admit_client(listener, client, account.claims)
            match = await _route(worker, client, server, hello, account)
            async with worker.turns.take(match.route.id, site_of(client)):
                account.routed_at = trio.current_time()
                tls = await _terminate(worker, accepted, match, hello, flight.received, account)
                target = _target(worker, match)
                _teach(worker, listener, server, account)
                flow = await _connect(worker, accepted, server, flight, target, tls, account)
        else:  # its connection to the game server is on its way already
            target = _by_plan(worker, accepted.attempt, accepted.said, account)
            tls = None
            if accepted.handshake is not None:  # it is over
                tls = await accepted.handshake()
                _agreed(account, tls, accepted.attempt.shaken_at)
            flow = await _connect(worker, accepted, server, flight, target, tls, account)
        account.settle()
        worker.relay.start(flow, _Ending(worker, account))
        handed_over = True
    except SessionEnded as end:
        _refused(worker, accepted, account, end, flight)
    except trio.Cancelled:
        _ended(worker, account, Outcome(CloseReason.SHUTDOWN, "", 0, 0))
        raise
    except Exception as error:  # a defect of ours ends this session alone
        _failed(worker, account)
        _ended(worker, account, Outcome(CloseReason.INTERNAL_ERROR, repr(error), 0, 0))
    finally:
        worker.metrics.counts.set_up(account, by_plan=accepted.attempt is not None)
        if not handed_over:
            close_all(accepted)
            if flow is not None:
                close(flow.upstream)


def refuse(worker: Worker, accepted: Accepted, reason: CloseReason) -> None:
    """Closes a connection that was accepted and may not be served."""
    account = Account(peer_text(accepted.peer), accepted.listener.address, accepted.since)
    if accepted.attempt is not None:
        _by_plan(worker, accepted.attempt, accepted.said, account)
    worker.metrics.counts.refuse(reason)
    close_all(accepted)
    _ended(worker, account, Outcome(reason, "", 0, 0))


def close_all(accepted: Accepted) -> None:
    """All that whoever takes it has to close."""
    close(accepted.sock)
    if accepted.attempt is not None and isinstance(accepted.attempt.outcome, socket.socket):
        close(accepted.attempt.outcome)


async def _route(
    worker: Worker,
    client: IpAddress,
    server: Any,
    hello: ClientHello | None,
    account: Account,
) -> Match:
    if hello is not None:
        account.hello_at, account.sni = trio.current_time(), hello.server_name
        account.alpn = alpn_text(hello.alpn)
    arrival = Arrival(account.sni, client, parse_address(server[0]), server[1])
    match = worker.snapshot.router.match(arrival)
    if match is None:
        raise SessionEnded(CloseReason.NO_ROUTE)
    account.tally = worker.metrics.counts.tallies.of(match.route.id)
    account.tally.opened += 1
    _count(worker, account, match.route.id)
    if match.route.id in worker.drained:
        raise SessionEnded(CloseReason.ROUTE_DRAINED)
    plugins = worker.snapshot.plugins(match.route)
    delay = worker.limits.admit_route(match.route.id, plugins, arrival, account.claims)
    if delay:
        await trio.sleep(delay)
    return match


def _count(worker: Worker, account: Account, route: str) -> None:
    """Its route is known; `_ended` takes it back."""
    account.route = route
    worker.routed[route] += 1


async def _terminate(
    worker: Worker,
    accepted: Accepted,
    match: Match,
    hello: ClientHello | None,
    received: bytes,
    account: Account,
) -> Terminated | None:
    """The TLS handshake, or None where the stream is forwarded as it is."""
    if hello is None:
        return None
    handshake = accepted.handshake
    if handshake is None:
        if accepted.listener.passes_through(asked=match.route.tls_passthrough):
            account.tls = PASSTHROUGH
            return None
        certificate = worker.snapshot.certificates.choose(hello.server_name, time.time())
        if certificate is None:
            raise SessionEnded(CloseReason.NO_CERTIFICATE)
        accept_tls, server_tls = worker.relay.accept_tls, certificate.server_tls
        handshake = partial(accept_tls, accepted.sock, server_tls, received, hello.server_name)
    seconds = worker.settings.handshake_timeout
    with Deadline(seconds, CloseReason.HANDSHAKE_TIMEOUT, "not done in {:g} s"):
        tls = await handshake()
    worker.metrics.counts.shake_hands(tls)
    _agreed(account, tls, trio.current_time())
    return tls


def _agreed(account: Account, tls: Terminated, at: float | None) -> None:
    """The handshake with the client is over."""
    account.tls, account.cipher = tls.version, tls.cipher
    account.resumed, account.subject = tls.resumed, tls.subject
    account.handshake_at = at


def _target(worker: Worker, match: Match) -> Target:
    target = worker.snapshot.target(match.route)
    if target is None:
        raise SessionEnded(
            CloseReason.NO_UPSTREAM, "the route has no upstream, or what it names is not there"
        )
    return target


def _teach(worker: Worker, listener: Listener, server: Any, account: Account) -> None:
    """Lets a relay that accepts by itself do so for the next one who asks for that name, if all fare the same."""
    front, settings = worker.relay.front, worker.settings
    if front is None or account.sni is None:
        return
    if worker.short_of_memory or account.route in worker.drained:  # since it came
        return
    forbidden, tally = worker.forbidden, account.tally
    plan = plan_for(worker.snapshot, listener, settings, account.sni, server[1], forbidden, tally)
    if plan is not None:
        front.learn(plan, _terms(worker, plan.target, tally))


def _terms(worker: Worker, target: Target, tally: Tally | None) -> Terms:
    settings = worker.settings
    return Terms(
        idle_timeout=target.idle_timeout or settings.idle_timeout,
        half_close_timeout=settings.half_close_timeout,
        session_time=settings.limits.session_time,
        bandwidth=settings.limits.session_bandwidth,
        meter=None if tally is None else tally.meter,
        answered=worker.metrics.counts.first_byte.observe,
    )


def _by_plan(worker: Worker, attempt: Attempt, said: bytes, account: Account) -> Target:
    """What the relay has found out."""
    plan = attempt.plan
    with suppress(BrokenHello):  # a sound one, and whole: the relay has read it
        hello = ClientHelloReader().feed(said)
        account.alpn = None if hello is None else alpn_text(hello.alpn)
    account.hello_at = account.routed_at = attempt.hello_at
    account.sni = plan.name
    account.tls = PASSTHROUGH if plan.server_tls is None else None
    # Its meter has counted it already.
    account.tally = plan.tally or worker.metrics.counts.tallies.of(plan.route.id)
    _count(worker, account, plan.route.id)
    return plan.target


async def _connect(
    worker: Worker,
    accepted: Accepted,
    server: Any,
    flight: FirstFlight,
    target: Target,
    tls: Terminated | None,
    account: Account,
) -> Flow:
    terms = _terms(worker, target, account.tally)
    client_tls = worker.snapshot.client_tls(target)
    if client_tls is not None and account.tls == PASSTHROUGH:
        raise SessionEnded(CloseReason.NO_UPSTREAM, TLS_IN_TLS)

    async def greet(upstream: socket.socket, host: str) -> Originated | None:
        await _introduce(upstream, target.proxy_protocol, server, flight.client, account)
        if client_tls is None or target.tls is None:
            return None
        peer = target.tls.peer(account.sni, host)
        return await worker.relay.connect_tls(upstream, client_tls, peer)

    connected = await reach(
        target,
        worker.ways,
        default_port=server[1],
        begun=accepted.attempt,
        caller=Caller(flight.client, server, account.sni),
        greet=None if target.is_plain else greet,
    )
    account.seat = connected.seat  # `_ended` lets it leave
    account.circuit, account.connected_at = connected.circuit, connected.at
    account.node, account.attempts = connected.node, connected.attempts
    with suppress(OSError):  # it is gone already
        account.source = peer_text(connected.sock.getsockname())
        account.node_address = peer_text(connected.sock.getpeername())
    account.node_tls = None if connected.tls is None else connected.tls.version
    worker.placed[account.node] += 1  # `_ended` takes it back
    return Flow(
        client=accepted.sock,
        upstream=connected.sock,
        first=b"" if tls else flight.received,
        terms=terms,
        tls=tls,
        upstream_tls=connected.tls,
    )


async def _introduce(
    upstream: socket.socket, version: str | None, server: Any, client: Any, account: Account
) -> None:
    """Tells the game server who the player is, if its upstream asks for it."""
    if version is None:
        return
    source, destination = peer_pair(client), peer_pair(server)
    if version == "v1":
        header = encode_v1(source, destination)
    else:
        unique = account.id.encode()
        header = encode_v2(source, destination, authority=account.sni, unique_id=unique)
    try:
        await send_all(upstream, header)
    except Lost as lost:
        raise SessionEnded(CloseReason.UPSTREAM_RESET, lost.cause) from None


def _refused(
    worker: Worker, accepted: Accepted, account: Account, end: SessionEnded, flight: FirstFlight
) -> None:
    """A connection that came to no game server. The client is told what can be told in clear."""
    counts = worker.metrics.counts
    counts.refuse(end.reason, end.detail, end.limit)
    if flight.broken is not None:
        counts.broken(flight.broken)
    try:
        if end.reason in UNSERVED and accepted.listener.is_tls:
            with suppress(OSError):  # the client may be gone
                accepted.sock.send(UNRECOGNIZED_NAME)
        _record(worker, account, end, flight.seen)
    except Exception:  # a defect of ours: it is accounted for all the same
        _failed(worker, account)
    _ended(worker, account, Outcome(end.reason, end.detail, 0, 0))


def _record(worker: Worker, account: Account, end: SessionEnded, seen: bytes) -> None:
    """Keeps the first flight of a connection that was refused, for whoever asks why."""
    if end.reason in REFUSALS and seen:
        worker.recorder.add(
            Refused(
                session=account.id,
                time=time.time(),
                client=account.client,
                listener=account.listener,
                reason=end.reason,
                detail=end.detail,
                sni=account.sni,
                flight=shortened(end.reason, seen),
            )
        )


class _Ending:
    """What a relay calls at a session's end: `_ended` with all but the outcome, in a third of a partial's memory."""

    __slots__ = ("_account", "_worker")

    def __init__(self, worker: Worker, account: Account) -> None:
        self._worker = worker
        self._account = account

    def __call__(self, outcome: Outcome) -> None:
        account = self._account
        if outcome.reason is CloseReason.INTERNAL_ERROR:  # a relay's detail is the traceback then
            _failed(self._worker, account, outcome.detail)
            outcome = replace(outcome, detail=last_line(outcome.detail))
        _ended(self._worker, account, outcome)


def _failed(worker: Worker, account: Account, trace: str | None = None) -> None:
    """A defect of ours; without `trace` it is being handled. Raises nothing."""
    trace = traceback.format_exc() if trace is None else trace
    report(worker.metrics, worker.log, trace, session=account.id, route=account.route)


def _ended(worker: Worker, account: Account, outcome: Outcome) -> None:
    """The one place where a session is accounted for. Raises nothing: who calls it serves others too."""
    worker.metrics.counts.end(account, outcome.reason, trio.current_time())
    if account.route is not None:
        _one_less(worker.routed, account.route)
    if account.node is not None:
        _one_less(worker.placed, account.node)
    if account.seat is not None:
        account.seat.leave()
    try:
        if account.circuit is not None:
            _judge(worker, account, account.circuit, outcome)
        worker.limits.leave(account.claims)
        _account_for(worker, account, outcome)
    except Exception:  # a defect of ours costs this session its line
        _failed(worker, account)


def _judge(worker: Worker, account: Account, circuit: Circuit, outcome: Outcome) -> None:
    """Whoever hangs up without a byte may not have taken the session at all."""
    if outcome.reason not in HUNG_UP or outcome.to_client or account.connected_at is None:
        return
    if circuit.lose(account.connected_at, trio.current_time()):
        worker.metrics.circuits_opened.inc()


def _one_less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _account_for(worker: Worker, account: Account, outcome: Outcome) -> None:
    worker.journal.end(account, outcome, trio.current_time())
