"""A connection's life, from accept to the account of how it ended. `serve` is the page to read."""

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from sniproxy.accounting import Account
from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.relay import Flow, Outcome, Relay, Terminated
from sniproxy.relay.sockets import Lost, close, receive, tune
from sniproxy.router import Arrival, IpAddress, Match
from sniproxy.settings import Listener, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.upstream import reach

READ_SIZE = 16 * 1024  # bytes per read while the hello comes in

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


async def serve(worker: Worker, listener: Listener, sock: socket.socket, peer: Any) -> None:
    """One connection: hello, route, TLS, upstream; then the relay has it and this task is over."""
    account = Account(_text(peer), listener.address, trio.current_time())
    worker.metrics.opened.inc()
    worker.metrics.active += 1
    handed_over = False
    try:
        tune(sock, keepalive_idle=worker.settings.keepalive_idle)
        hello, received = await _read_hello(worker, listener, sock, account)
        match = _route(worker, listener, sock, peer, hello, account)
        tls = await _terminate(worker, listener, sock, match, hello, received, account)
        flow = await _connect(worker, sock, match, received, tls, account)
        worker.relay.start(flow, partial(_ended, worker, account))
        handed_over = True
    except SessionEnded as end:
        if end.reason in (CloseReason.NO_ROUTE, CloseReason.NO_CERTIFICATE) and listener.is_tls:
            with suppress(OSError):  # the client may be gone
                sock.send(UNRECOGNIZED_NAME)
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


def refuse(
    worker: Worker, listener: Listener, sock: socket.socket, peer: Any, reason: CloseReason
) -> None:
    """Closes a connection that was accepted and may not be served."""
    account = Account(_text(peer), listener.address, trio.current_time())
    worker.metrics.opened.inc()
    worker.metrics.active += 1
    sock.close()
    _ended(worker, account, Outcome(reason, "", 0, 0))


async def _read_hello(
    worker: Worker, listener: Listener, sock: socket.socket, account: Account
) -> tuple[ClientHello | None, bytes]:
    """The ClientHello and every byte that was read, or (None, b"") on a listener for plain TCP."""
    if not listener.is_tls:
        return None, b""
    settings = worker.settings
    reader = ClientHelloReader(max_hello=settings.max_hello, max_raw=settings.max_hello_raw)
    hello = None
    try:
        with trio.fail_after(settings.hello_timeout):
            while hello is None:
                data = await receive(sock, READ_SIZE)
                if not data:
                    raise SessionEnded(CloseReason.HELLO_ABANDONED, "closed by the client")
                hello = reader.feed(data)
    except trio.TooSlowError:
        raise SessionEnded(
            CloseReason.HELLO_TIMEOUT,
            f"{len(reader.received)} bytes in {settings.hello_timeout:g} s",
        ) from None
    except BrokenHello as broken:
        raise SessionEnded(
            _broken(broken.hello_class), f"{broken.hello_class}: {broken.detail}"
        ) from None
    except Lost as lost:
        raise SessionEnded(CloseReason.HELLO_ABANDONED, lost.cause) from None
    account.hello_at = trio.current_time()
    account.sni = hello.server_name
    return hello, reader.received


def _broken(hello_class: HelloClass) -> CloseReason:
    if hello_class is HelloClass.TOO_LARGE:
        return CloseReason.HELLO_TOO_LARGE
    if hello_class.startswith("not_tls"):
        return CloseReason.HELLO_NOT_TLS
    return CloseReason.HELLO_BROKEN


def _route(
    worker: Worker,
    listener: Listener,
    sock: socket.socket,
    peer: Any,
    hello: ClientHello | None,
    account: Account,
) -> Match:
    server = sock.getsockname()
    arrival = Arrival(
        hello.server_name if hello else None, _address(peer[0]), _address(server[0]), server[1]
    )
    match = worker.snapshot.router.match(arrival)
    if match is None:
        raise SessionEnded(CloseReason.NO_ROUTE)
    account.route = match.route.id
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
    try:
        with trio.fail_after(seconds):
            tls = await worker.relay.accept_tls(sock, certificate.server_tls, received)
    except trio.TooSlowError:
        raise SessionEnded(CloseReason.HANDSHAKE_TIMEOUT, f"not done in {seconds:g} s") from None
    account.tls = tls.version
    account.handshake_at = trio.current_time()
    return tls


async def _connect(
    worker: Worker,
    sock: socket.socket,
    match: Match,
    received: bytes,
    tls: Terminated | None,
    account: Account,
) -> Flow:
    target = worker.snapshot.target(match.route)
    if target is None:
        raise SessionEnded(CloseReason.NO_UPSTREAM, "the route has no upstream")
    settings = worker.settings
    connected = await reach(
        target,
        default_port=sock.getsockname()[1],
        connect_timeout=settings.connect_timeout,
        keepalive_idle=settings.keepalive_idle,
    )
    account.connected_at = trio.current_time()
    account.node, account.attempts = connected.node, connected.attempts
    return Flow(
        client=sock,
        upstream=connected.sock,
        first=b"" if tls else received,
        idle_timeout=target.idle_timeout or settings.idle_timeout,
        half_close_timeout=settings.half_close_timeout,
        tls=tls,
    )


def _ended(worker: Worker, account: Account, outcome: Outcome) -> None:
    """The one place where a session is accounted for."""
    metrics = worker.metrics
    metrics.active -= 1
    metrics.closed[outcome.reason].inc()
    metrics.bytes_to_upstream.inc(outcome.to_upstream)
    metrics.bytes_to_client.inc(outcome.to_client)
    line = account.line(
        trio.current_time(), outcome.reason, outcome.detail, outcome.to_upstream, outcome.to_client
    )
    worker.log.info("session", **line)


def _text(peer: Any) -> str:
    host = _address(peer[0])
    return f"[{host}]:{peer[1]}" if host.version == 6 else f"{host}:{peer[1]}"


def _address(text: str) -> IpAddress:
    """An IPv4 client on an IPv6 socket is an IPv4 client; a zone (%eth0) is no part of an address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
