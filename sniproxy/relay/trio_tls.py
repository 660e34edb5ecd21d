"""TLS for the trio relay: OpenSSL through the standard library, between a socket and two memory buffers.

`ssl.SSLObject` does no I/O: bytes from the socket are written into `incoming`, what it wants sent is read from `outgoing`.
Two tasks use one object, one per direction, and both may have something to send (the reader answers a KeyUpdate), so
sending is done under a lock, which also keeps the records in order.
"""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ClassVar

import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.objects.pem import subject_of
from sniproxy.relay.alerts import cause_of, explain_failure
from sniproxy.relay.contexts import client_context, server_context
from sniproxy.relay.sockets import Lost, receive, receive_into, send_all
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls

CHUNK = 16 * 1024 + 512  # bytes: one TLS record with its overhead (RFC 8446 section 5.2)


class Broken(Exception):
    """TLS failed after the handshake: what that is for the session, and OpenSSL's words."""

    def __init__(self, reason: CloseReason, error: ssl.SSLError) -> None:
        self.reason = reason
        self.cause = cause_of(error)
        super().__init__(self.cause)


class TrioTls:
    """One TLS session, in which we are server (`AcceptedTls`) or client (`OriginatedTls`)."""

    PEER: ClassVar[str]
    FAILED: ClassVar[CloseReason]  # the handshake
    DISTRUSTED: ClassVar[CloseReason]  # the certificate in it
    BROKEN: ClassVar[CloseReason]  # something later

    def __init__(
        self,
        sock: socket.socket,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        received: bytes = b"",
    ) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._incoming.write(received)
        self._object = wrap(self._incoming, self._outgoing)
        self._sending = trio.Lock()
        self._held_back = b""  # decrypted by `end`, not yet read
        self._eof = False  # the peer's
        self._said_goodbye = False  # the peer, by a close_notify
        self._ended = False  # ours
        self.kept = 0  # bytes, on their way to a peer who does not take them
        self.version = ""
        self.cipher = ""
        self.resumed = False

    @property
    def truncated(self) -> bool:
        """Whether the peer ended without a close_notify: bytes may be missing (RFC 8446 section 6.1)."""
        return self._eof and not self._said_goodbye

    @property
    def held(self) -> int:
        """Bytes that are kept, encrypted or not; OpenSSL's own are not known."""
        between = self._incoming.pending + self._outgoing.pending
        return self.kept + between + len(self._held_back)

    async def handshake(self) -> None:
        """SessionEnded, after the alert went out, when the two do not get through it."""
        try:
            while not self._advance():
                await self._flush()
                data = await receive(self._sock, CHUNK)
                if not data:
                    raise SessionEnded(self.FAILED, f"closed by {self.PEER}")
                self._incoming.write(data)
            self._check()  # before anybody else runs, who might resume what is refused here
            await self._flush()
        except ssl.SSLError as error:
            last = self._outgoing.read()
            with suppress(Lost):
                await send_all(self._sock, last)
            distrusted = isinstance(error, ssl.SSLCertVerificationError)
            reason = self.DISTRUSTED if distrusted else self.FAILED
            raise SessionEnded(reason, explain_failure(error, last)) from None
        except Lost as lost:
            raise SessionEnded(self.FAILED, lost.cause) from None
        self.version = self._object.version() or ""
        self.cipher = (self._object.cipher() or ("",))[0]
        self.resumed = bool(self._object.session_reused)

    def _check(self) -> None:
        """What OpenSSL does not; SessionEnded."""

    def read(self, size: int = CHUNK) -> bytes | None:
        """Up to `size` decrypted bytes; None when more must be fetched; b"" after the peer's end. Broken."""
        if self._held_back:
            data, self._held_back = self._held_back[:size], self._held_back[size:]
            return data
        try:
            return self._object.read(size)
        except ssl.SSLWantReadError:
            return b"" if self._eof else None
        except ssl.SSLZeroReturnError:
            self._said_goodbye = True
            return b""
        except ssl.SSLError as error:
            self._alert()
            raise Broken(self.BROKEN, error) from None

    async def fetch(self, buffer: memoryview) -> None:
        """More from the socket. The end of the stream is the peer's end, with or without a close_notify.

        OpenSSL is not told of it: it would refuse to send the answers that are still on their way.
        """
        count = await receive_into(self._sock, buffer)
        if count:
            self._incoming.write(buffer[:count])
        else:
            self._eof = True

    async def send(self, data: bytes | memoryview) -> bool:
        """Encrypts and sends every byte; whether the kernel took them at once. Broken."""
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise Broken(self.BROKEN, error) from None
        return await self._flush()

    async def answer(self) -> None:
        """Sends what reading has made due: the answer to a KeyUpdate (RFC 8446 section 4.6.3).

        Whoever is sending takes it along: a peer that does not read must not keep us from hearing it.
        """
        if self._outgoing.pending and not self._ended and not self._sending.locked():
            await self._flush()

    async def end(self) -> None:
        """Sends close_notify; reading goes on (RFC 8446 section 6.1).

        OpenSSL looks for the peer's close_notify once ours is sent, and would lose data that it finds in its place:
        so all that is in hand is decrypted before, and kept for the next `read`.
        """
        pending = bytearray()
        while data := self.read():
            pending += data
        self._held_back = bytes(pending)
        with suppress(ssl.SSLError):  # "want read": the peer has not ended yet
            self._object.unwrap()
        await self._flush()
        self._ended = True

    def _alert(self) -> None:
        """Tells the peer what was wrong, unless it is behind in its reading: the session is over."""
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


class AcceptedTls(TrioTls):
    """With a player. Implements `sniproxy.relay.Terminated`."""

    PEER = "the client"
    FAILED = DISTRUSTED = CloseReason.HANDSHAKE_FAILED
    BROKEN = CloseReason.TLS_ERROR

    def __init__(
        self, sock: socket.socket, server_tls: ServerTls, received: bytes, name: str | None
    ) -> None:
        """SessionEnded NO_CERTIFICATE when OpenSSL does not take certificate and key."""
        context = server_context(server_tls, name)
        self._depth = server_tls.client_depth if server_tls.client_ca is not None else None
        super().__init__(sock, partial(context.wrap_bio, server_side=True), received)

    def _check(self) -> None:
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

    @property
    def subject(self) -> str | None:
        """Of the certificate that the client has shown."""
        shown = self._object.getpeercert(binary_form=True) if self._depth is not None else None
        return None if shown is None else subject_of(shown)


class OriginatedTls(TrioTls):
    """With a game server. Implements `sniproxy.relay.Originated`."""

    PEER = "the game server"
    FAILED = BROKEN = CloseReason.UPSTREAM_TLS
    DISTRUSTED = CloseReason.UPSTREAM_CERTIFICATE

    def __init__(self, sock: socket.socket, client_tls: ClientTls, peer: str) -> None:
        """SessionEnded UPSTREAM_TLS when OpenSSL does not take the certificates, or such a name."""
        # The standard library asks for a name only, and verifies an address as one.
        wrap = partial(client_context(client_tls).wrap_bio, server_hostname=peer)
        try:
            super().__init__(sock, wrap)
        except (ValueError, ssl.SSLError) as error:  # UnicodeError is a ValueError
            why = f"{peer[:64]!r} cannot be asked for: {error}"
            raise SessionEnded(CloseReason.UPSTREAM_TLS, why) from None
