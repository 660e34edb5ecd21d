"""TLS for the trio relay: OpenSSL through the standard library, between a socket and two memory buffers.

`ssl.SSLObject` does no I/O: bytes from the socket are written into `incoming`, what it wants sent is read from `outgoing`.
Two tasks use one object, one per direction, and both may have something to send (the reader answers a KeyUpdate), so
sending is done under a lock, which also keeps the records in order.
"""

import os
import socket
import ssl
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.relay.alerts import cause_of, explain_failure
from sniproxy.relay.sockets import Lost, receive, receive_into, send_all
from sniproxy.tls import ServerTls

CHUNK = 16 * 1024 + 512  # bytes: one TLS record with its overhead (RFC 8446 section 5.2)

_VERSIONS = {
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

_contexts: WeakKeyDictionary[ServerTls, ssl.SSLContext] = WeakKeyDictionary()


def server_context(server_tls: ServerTls) -> ssl.SSLContext:
    """The OpenSSL context of an ssl object, made at its first handshake and kept as long as the object is.

    SessionEnded NO_CERTIFICATE when OpenSSL does not take the object's certificate and key.
    """
    context = _contexts.get(server_tls)
    if context is None:
        try:
            context = _contexts[server_tls] = _make_context(server_tls)
        except ssl.SSLError as error:  # such as a key that is too short for its policy
            raise SessionEnded(
                CloseReason.NO_CERTIFICATE, f"OpenSSL refuses it: {cause_of(error)}"
            ) from None
    return context


def _make_context(server_tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _limit_versions(context, server_tls.protocols or ("TLSv1.2", "TLSv1.3"))
    context.options |= ssl.OP_NO_RENEGOTIATION
    if server_tls.client_ca is not None:
        # Comments between the certificates may be in any language; OpenSSL wants ASCII.
        authorities = server_tls.client_ca.encode("ascii", "replace").decode()
        context.load_verify_locations(cadata=authorities)
        context.verify_mode = ssl.CERT_REQUIRED
        # Nobody comes back by a ticket whose certificate was found too deep once the handshake was over.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    for certificate, key in server_tls.pairs:
        with _private_file(f"{certificate}\n{key}\n") as path:
            context.load_cert_chain(path)
    return context


def _limit_versions(context: ssl.SSLContext, protocols: tuple[str, ...]) -> None:
    asked = [version for name, version in _VERSIONS.items() if name in protocols]
    if asked[0] < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 has no TLS 1.1 at level 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # asked for by the operator
        context.minimum_version, context.maximum_version = asked[0], asked[-1]
        if len(asked) == 2 and asked[-1] - asked[0] == 2:
            context.options |= ssl.OP_NO_TLSv1_2


@contextmanager
def _private_file(text: str) -> Iterator[str]:
    """A path that OpenSSL can read `text` from. On Linux it is memory only: a key in clear never touches a disk."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("certificate")
        try:
            os.write(fd, text.encode())
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        with tempfile.NamedTemporaryFile("w") as file:  # created with mode 0600
            file.write(text)
            file.flush()
            yield file.name


class TrioTls:
    """The server's side of one TLS session. Implements `sniproxy.relay.Terminated`."""

    def __init__(self, sock: socket.socket, server_tls: ServerTls, received: bytes) -> None:
        """SessionEnded NO_CERTIFICATE when OpenSSL does not take certificate and key."""
        context = server_context(server_tls)
        self._sock = sock
        self._depth = server_tls.client_depth if server_tls.client_ca is not None else None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._incoming.write(received)
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = trio.Lock()
        self._held_back = b""  # decrypted by `end`, not yet read
        self._eof = False  # the client's
        self._ended = False  # ours
        self.kept = 0  # bytes, on their way to a client who does not take them
        self.version = ""
        self.cipher = ""

    @property
    def held(self) -> int:
        """Bytes that are kept, encrypted or not; OpenSSL's own are not known."""
        between = self._incoming.pending + self._outgoing.pending
        return self.kept + between + len(self._held_back)

    async def handshake(self) -> None:
        """SessionEnded HANDSHAKE_FAILED, after the alert went out, when the client does not get through it."""
        try:
            while not self._advance():
                await self._flush()
                data = await receive(self._sock, CHUNK)
                if not data:
                    raise SessionEnded(CloseReason.HANDSHAKE_FAILED, "closed by the client")
                self._incoming.write(data)
            self._check_depth()  # before anybody else runs, who might resume what is refused here
            await self._flush()
        except ssl.SSLError as error:
            last = self._outgoing.read()
            with suppress(Lost):
                await send_all(self._sock, last)
            why = explain_failure(error, last)
            raise SessionEnded(CloseReason.HANDSHAKE_FAILED, why) from None
        except Lost as lost:
            raise SessionEnded(CloseReason.HANDSHAKE_FAILED, lost.cause) from None
        self.version = self._object.version() or ""
        self.cipher = (self._object.cipher() or ("",))[0]

    def _check_depth(self) -> None:
        """At most `depth` intermediate authorities between the client's certificate and the trusted one.

        The standard library has no way to tell OpenSSL so before the handshake. A session that is resumed (TLS 1.2, by
        its id) has no chain any more: only one that passed is there to be resumed, since OpenSSL forgets a session whose
        object goes without a close_notify.
        """
        if self._depth is None:
            return
        chain = self._object._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public from 3.13 on
        between = len(chain) - 2 if chain else 0
        if between > self._depth:
            del self._object
            why = f"{between} authorities below client.ca, client.depth is {self._depth}"
            raise SessionEnded(CloseReason.HANDSHAKE_FAILED, why)

    def read(self, size: int = CHUNK) -> bytes | None:
        """Up to `size` decrypted bytes; None when more must be fetched; b"" after the client's end."""
        if self._held_back:
            data, self._held_back = self._held_back[:size], self._held_back[size:]
            return data
        try:
            return self._object.read(size)
        except ssl.SSLWantReadError:
            return b"" if self._eof else None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError:
            self._alert()
            raise

    async def fetch(self, buffer: memoryview) -> None:
        """More from the socket. The end of the stream is the client's end, with or without a close_notify.

        OpenSSL is not told of it: it would refuse to send the answers that are still on their way.
        """
        count = await receive_into(self._sock, buffer)
        if count:
            self._incoming.write(buffer[:count])
        else:
            self._eof = True

    async def send(self, data: memoryview) -> bool:
        """Encrypts and sends every byte; whether the kernel took them at once."""
        self._object.write(data)
        return await self._flush()

    async def answer(self) -> None:
        """Sends what reading has made due: the answer to a KeyUpdate (RFC 8446 section 4.6.3).

        Whoever is sending takes it along: a client that does not read must not keep us from hearing it.
        """
        if self._outgoing.pending and not self._ended and not self._sending.locked():
            await self._flush()

    async def end(self) -> None:
        """Sends close_notify; reading goes on (RFC 8446 section 6.1).

        OpenSSL looks for the client's close_notify once ours is sent, and would lose data that it finds in its place:
        so all that is in hand is decrypted before, and kept for the next `read`.
        """
        pending = bytearray()
        while data := self.read():
            pending += data
        self._held_back = bytes(pending)
        with suppress(ssl.SSLError):  # "want read": the client has not ended yet
            self._object.unwrap()
        await self._flush()
        self._ended = True

    def _alert(self) -> None:
        """Tells the client what was wrong, unless it is behind in its reading: the session is over."""
        if not self._sending.locked():
            with suppress(OSError):
                self._sock.send(self._outgoing.read())

    def _advance(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _flush(self) -> bool:
        """Sends what is due; whether the kernel took it at once."""
        at_once = True
        async with self._sending:
            while data := self._outgoing.read(4 * CHUNK):
                at_once = await send_all(self._sock, data, self) and at_once
        return at_once
