"""A connection's life, from accept to the account of how it ended. `serve` is the page to read."""

import mmap
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from sniproxy.accounting import Account
from sniproxy.client_hello import ClientHello
from sniproxy.deadline import Deadline
from sniproxy.errors import REFUSALS, CloseReason, SessionEnded
from sniproxy.first_flight import FirstFlight
from sniproxy.limits import Limits
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.networks import IpAddress, parse_address
from sniproxy.proxy_protocol import encode_v1, encode_v2
from sniproxy.refusals import Recorder, Refused, Sampler, shortened
from sniproxy.relay import Flow, Outcome, Relay, Terminated
from sniproxy.relay.sockets import Lost, close, send_all
from sniproxy.router import Arrival, Match
from sniproxy.settings import Listener, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.stick_table import StickTable, prepare, table_size
from sniproxy.upstream import reach

# A fatal alert in clear: nothing was agreed upon yet (RFC 8446 section 6, RFC 6066 section 3).
UNRECOGNIZED_NAME = bytes((21, 3, 1, 0, 2, 2, 112))


@dataclass(frozen=True, slots=True)
class Worker:
    """What every session of a worker shares."""

    settings: Proxy
    snapshot: Snapshot
    relay: Relay
    metrics: Metrics
    log: Log
    limits: Limits
    sampler: Sampler
    recorder: Recorder


def open_worker(settings: Proxy, snapshot: Snapshot, relay: Relay, log: Log) -> Worker:
    """A worker that shares its limits with nobody."""
    entries = settings.limits.table
    memory = memoryview(mmap.mmap(-1, table_size(entries, workers=1)))
    limits = Limits(settings, StickTable(prepare(memory), entries=entries))
    return Worker(
        settings=settings,
        snapshot=snapshot,
        relay=relay,
        metrics=Metrics(lambda: limits.active, lambda: limits.uncounted),
        log=log,
        limits=limits,
        sampler=Sampler(settings.refused_log_interval),
        recorder=Recorder(settings.refused_kept),
    )


async def serve(worker: Worker, listener: Listener, sock: socket.socket, peer: Any) -> None:
    """One connection: hello, route, TLS, upstream; then the relay has it and this task is over.

    Whoever accepted it has called `worker.limits.enter`, so that a batch of them is counted before the first one runs.
    """
    account = Account(_text(peer), listener.address, trio.current_time())
    worker.metrics.opened.inc()
    flight = FirstFlight(worker.settings, listener, sock, peer)
    flow: Flow | None = None
    handed_over = False
    try:
        with flight.deadline():
            await flight.read_proxy_header()
            account.client = _text(flight.client)
            client = parse_address(flight.client[0])
            if not flight.local:
                worker.limits.admit_client(listener, client, account.claims)
            hello = await flight.read_hello()
            if flight.local:  # a balancer's health check ends before this
                worker.limits.admit_client(listener, client, account.claims)
        server = sock.getsockname()
        match = await _route(worker, client, server, hello, account)
        tls = await _terminate(worker, listener, sock, match, hello, flight.received, account)
        flow = await _connect(worker, sock, server, flight, match, tls, account)
        account.settle()
        worker.relay.start(flow, _Ending(worker, account))
        handed_over = True
    except SessionEnded as end:
        if end.reason in (CloseReason.NO_ROUTE, CloseReason.NO_CERTIFICATE) and listener.is_tls:
            with suppress(OSError):  # the client may be gone
                sock.send(UNRECOGNIZED_NAME)
        _record(worker, account, end, flight.seen)
        _ended(worker, account, Outcome(end.reason, end.detail, 0, 0))
    except trio.Cancelled:
        _ended(worker, account, Outcome(CloseReason.SHUTDOWN, "", 0, 0))
        raise
    except Exception as error:  # a defect of ours ends this session alone
        worker.log.exception("session failed", session=account.id)
        _ended(worker, account, Outcome(CloseReason.INTERNAL_ERROR, repr(error), 0, 0))
    finally:
        if not handed_over:
            close(sock)
            if flow is not None:
                close(flow.upstream)


def refuse(
    worker: Worker, listener: Listener, sock: socket.socket, peer: Any, reason: CloseReason
) -> None:
    """Closes a connection that was accepted and may not be served."""
    account = Account(_text(peer), listener.address, trio.current_time())
    worker.metrics.opened.inc()
    sock.close()
    _ended(worker, account, Outcome(reason, "", 0, 0))


async def _route(
    worker: Worker,
    client: IpAddress,
    server: Any,
    hello: ClientHello | None,
    account: Account,
) -> Match:
    if hello is not None:
        account.hello_at, account.sni = trio.current_time(), hello.server_name
    arrival = Arrival(account.sni, client, parse_address(server[0]), server[1])
    match = worker.snapshot.router.match(arrival)
    if match is None:
        raise SessionEnded(CloseReason.NO_ROUTE)
    account.route = match.route.id
    plugins = worker.snapshot.plugins(match.route)
    delay = worker.limits.admit_route(match.route.id, plugins, arrival, account.claims)
    if delay:
        await trio.sleep(delay)
    return match


async def _terminate(
    worker: Worker,
    listener: Listener,
    sock: socket.socket,
    match: Match,
    hello: ClientHello | None,
    received: bytes,
    account: Account,
) -> Terminated | None:
    """The TLS handshake, or None where the stream is forwarded as it is."""
    if hello is None:
        return None
    if listener.passes_through(asked=match.route.object.tls_passthrough):
        account.tls = "passthrough"
        return None
    certificate = worker.snapshot.certificates.choose(hello.server_name)
    if certificate is None:
        raise SessionEnded(CloseReason.NO_CERTIFICATE)
    seconds = worker.settings.handshake_timeout
    with Deadline(seconds, CloseReason.HANDSHAKE_TIMEOUT, "not done in {:g} s"):
        tls = await worker.relay.accept_tls(sock, certificate.server_tls, received)
    account.tls = tls.version
    account.handshake_at = trio.current_time()
    return tls


async def _connect(
    worker: Worker,
    sock: socket.socket,
    server: Any,
    flight: FirstFlight,
    match: Match,
    tls: Terminated | None,
    account: Account,
) -> Flow:
    target = worker.snapshot.target(match.route)
    if target is None:
        raise SessionEnded(
            CloseReason.NO_UPSTREAM, "the route has no upstream, or what it names is not there"
        )
    settings = worker.settings
    connected = await reach(
        target,
        default_port=server[1],
        connect_timeout=settings.connect_timeout,
        keepalive_idle=settings.keepalive_idle,
    )
    await _introduce(connected.sock, target.object.proxy_protocol, server, flight.client, account)
    account.connected_at = trio.current_time()
    account.node, account.attempts = connected.node, connected.attempts
    return Flow(
        client=sock,
        upstream=connected.sock,
        first=b"" if tls else flight.received,
        idle_timeout=target.idle_timeout or settings.idle_timeout,
        half_close_timeout=settings.half_close_timeout,
        session_time=settings.limits.session_time,
        tls=tls,
    )


async def _introduce(
    upstream: socket.socket, version: str | None, server: Any, client: Any, account: Account
) -> None:
    """Tells the game server who the player is, if its upstream asks for it."""
    if version is None:
        return
    source, destination = _pair(client), _pair(server)
    if version == "v1":
        header = encode_v1(source, destination)
    else:
        unique = account.id.encode()
        header = encode_v2(source, destination, authority=account.sni, unique_id=unique)
    try:
        await send_all(upstream, header)
    except BaseException as error:
        close(upstream)
        if isinstance(error, Lost):
            raise SessionEnded(CloseReason.UPSTREAM_RESET, error.cause) from None
        raise


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
        _ended(self._worker, self._account, outcome)


def _ended(worker: Worker, account: Account, outcome: Outcome) -> None:
    """The one place where a session is accounted for."""
    worker.limits.leave(account.claims)
    metrics = worker.metrics
    metrics.closed[outcome.reason].inc()
    metrics.bytes_to_upstream.inc(outcome.to_upstream)
    metrics.bytes_to_client.inc(outcome.to_client)
    if outcome.reason is CloseReason.PROBE:
        return  # every few seconds, for ever: counted and not logged
    left_out = 0
    if outcome.reason in REFUSALS:
        noted = worker.sampler.note(outcome.reason, trio.current_time())
        if noted is None:
            return
        left_out = noted
    line = account.line(
        trio.current_time(), outcome.reason, outcome.detail, outcome.to_upstream, outcome.to_client
    )
    if left_out:
        line["left_out"] = left_out  # refusals for the same reason since its last line
    worker.log.info("session", **line)


def _pair(peer: Any) -> tuple[str, int]:
    return str(parse_address(peer[0])), peer[1]


def _text(peer: Any) -> str:
    if ":" not in peer[0]:
        return f"{peer[0]}:{peer[1]}"
    host = parse_address(peer[0])
    return f"[{host}]:{peer[1]}" if host.version == 6 else f"{host}:{peer[1]}"
