"""A connection's life, from accept to the account of how it ended. `serve` is the page to read."""

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from sniproxy.accounting import Account
from sniproxy.client_hello import ClientHello
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.first_flight import first_flight, read_hello, read_proxy_header
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.proxy_protocol import encode_v1, encode_v2
from sniproxy.relay import Flow, Outcome, Relay, Terminated
from sniproxy.relay.sockets import Lost, close, send_all, tune
from sniproxy.router import Arrival, IpAddress, Match
from sniproxy.settings import Listener, Proxy
from sniproxy.snapshot import Snapshot
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


async def serve(worker: Worker, listener: Listener, sock: socket.socket, peer: Any) -> None:
    """One connection: hello, route, TLS, upstream; then the relay has it and this task is over."""
    account = Account(_text(peer), listener.address, trio.current_time())
    worker.metrics.opened.inc()
    worker.metrics.active += 1
    handed_over = False
    try:
        tune(sock, keepalive_idle=worker.settings.keepalive_idle)
        with first_flight(worker.settings):
            said = await read_proxy_header(worker.settings, listener, sock, peer)
            account.client = _text(said.client)
            hello, received = await read_hello(worker.settings, listener, sock, said)
        match = _route(worker, sock, said.client, hello, account)
        tls = await _terminate(worker, listener, sock, match, hello, received, account)
        flow = await _connect(worker, sock, said.client, match, received, tls, account)
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


def _route(
    worker: Worker,
    sock: socket.socket,
    client: Any,
    hello: ClientHello | None,
    account: Account,
) -> Match:
    if hello is not None:
        account.hello_at, account.sni = trio.current_time(), hello.server_name
    server = sock.getsockname()
    arrival = Arrival(account.sni, _address(client[0]), _address(server[0]), server[1])
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
    client: Any,
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
    await _introduce(connected.sock, target.object.proxy_protocol, sock, client, account)
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


async def _introduce(
    upstream: socket.socket, version: str | None, sock: socket.socket, client: Any, account: Account
) -> None:
    """Tells the game server who the player is, if its upstream asks for it."""
    if version is None:
        return
    source, destination = _pair(client), _pair(sock.getsockname())
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


def _ended(worker: Worker, account: Account, outcome: Outcome) -> None:
    """The one place where a session is accounted for."""
    metrics = worker.metrics
    metrics.active -= 1
    metrics.closed[outcome.reason].inc()
    metrics.bytes_to_upstream.inc(outcome.to_upstream)
    metrics.bytes_to_client.inc(outcome.to_client)
    if outcome.reason is CloseReason.PROBE:
        return  # every few seconds, for ever: counted and not logged
    line = account.line(
        trio.current_time(), outcome.reason, outcome.detail, outcome.to_upstream, outcome.to_client
    )
    worker.log.info("session", **line)


def _pair(peer: Any) -> tuple[str, int]:
    return str(_address(peer[0])), peer[1]


def _text(peer: Any) -> str:
    host = _address(peer[0])
    return f"[{host}]:{peer[1]}" if host.version == 6 else f"{host}:{peer[1]}"


def _address(text: str) -> IpAddress:
    """An IPv4 client on an IPv6 socket is an IPv4 client; a zone (%eth0) is no part of an address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
