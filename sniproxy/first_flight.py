"""What comes first on a connection: the PROXY header, where the listener wants one, and the ClientHello.

Both are read within one deadline, total, and within their bounds. Who closes without a byte, or after a LOCAL header, was a
load balancer looking whether we are there.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.proxy_protocol import BrokenHeader, ProxyHeader, ProxyHeaderReader
from sniproxy.relay.sockets import Lost, receive
from sniproxy.settings import Listener, Proxy

READ_SIZE = 16 * 1024  # bytes per read


@contextmanager
def first_flight(settings: Proxy) -> Iterator[None]:
    """The deadline for all of it; SessionEnded when it passes."""
    try:
        with trio.fail_after(settings.hello_timeout):
            yield
    except trio.TooSlowError:
        waited = f"not complete in {settings.hello_timeout:g} s"
        raise SessionEnded(CloseReason.HELLO_TIMEOUT, waited) from None


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who the client is, and what was read beyond the header that said so."""

    client: Any  # address and port, as accept() gives them
    early: bytes
    silent: bool  # nothing was said yet, or LOCAL only


async def read_proxy_header(
    settings: Proxy, listener: Listener, sock: socket.socket, peer: Any
) -> Introduction:
    """The header's word for who the client is; the peer itself where no header is wanted, and after LOCAL."""
    if not listener.proxy_protocol:
        return Introduction(peer, b"", silent=True)
    if not settings.trusts(peer[0]):
        raise SessionEnded(CloseReason.PROXY_UNTRUSTED, "not in proxy.trusted")
    reader = ProxyHeaderReader()
    header: ProxyHeader | None = None
    silent = True
    try:
        while header is None:
            header = reader.feed(await _receive(sock, silent=silent))
            silent = False
    except BrokenHeader as broken:
        detail = f"{broken.header_class}: {broken.detail}"
        raise SessionEnded(CloseReason.PROXY_BROKEN, detail) from None
    return Introduction(header.source or peer, reader.rest, silent=header.local and not reader.rest)


async def read_hello(
    settings: Proxy, listener: Listener, sock: socket.socket, said: Introduction
) -> tuple[ClientHello | None, bytes]:
    """The ClientHello and every byte from its first on; (None, what was read) on a listener for plain TCP."""
    if not listener.is_tls:
        return None, said.early
    reader = ClientHelloReader(max_hello=settings.max_hello, max_raw=settings.max_hello_raw)
    silent = said.silent
    try:
        hello = reader.feed(said.early) if said.early else None
        while hello is None:
            hello = reader.feed(await _receive(sock, silent=silent))
            silent = False
    except BrokenHello as broken:
        detail = f"{broken.hello_class}: {broken.detail}"
        raise SessionEnded(_reason(broken.hello_class), detail) from None
    return hello, reader.received


async def _receive(sock: socket.socket, *, silent: bool) -> bytes:
    reason = CloseReason.PROBE if silent else CloseReason.HELLO_ABANDONED
    try:
        data = await receive(sock, READ_SIZE)
    except Lost as lost:
        raise SessionEnded(reason, lost.cause) from None
    if not data:
        raise SessionEnded(reason, "closed by the client")
    return data


def _reason(hello_class: HelloClass) -> CloseReason:
    if hello_class is HelloClass.TOO_LARGE:
        return CloseReason.HELLO_TOO_LARGE
    if hello_class.startswith("not_tls"):
        return CloseReason.HELLO_NOT_TLS
    return CloseReason.HELLO_BROKEN
