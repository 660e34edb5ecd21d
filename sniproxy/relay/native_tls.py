"""TLS in the native relay's engine: from what a session needs to rustls's handles, and from its failures to ours.

What rustls does not take (TLS 1.1, a short RSA key, a certificate of version 1) is left to OpenSSL, in the relay on trio.
"""

import hashlib
import hmac
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import trio

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.objects.pem import subject_of
from sniproxy.relay.alerts import NAMES
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls

with suppress(ImportError):  # installed where there was no Rust toolchain
    from sniproxy import _relay

if TYPE_CHECKING:
    from sniproxy._relay import Unshaken


class NativeTls:
    """A handshake that is over. Implements `sniproxy.relay.Terminated` and `Originated`."""

    __slots__ = ("alpn", "certificate", "cipher", "handle", "resumed", "version")

    def __init__(self, handle: "_relay.Tls") -> None:
        self.handle = handle
        self.version: str = handle.version
        self.cipher: str = handle.cipher
        self.alpn: bytes | None = handle.alpn
        self.resumed: bool = handle.resumed
        self.certificate: bytes | None = handle.certificate  # the peer's, in DER

    @property
    def subject(self) -> str | None:
        """Of the certificate that the peer has shown."""
        return None if self.certificate is None else subject_of(self.certificate)


class Handshakes:
    """Those of one engine."""

    def __init__(
        self,
        engine: "_relay.Engine[Any, Any]",
        secrets: Callable[[], Iterable[bytes]],
    ) -> None:
        """`secrets`: of 32 bytes, that all pods share, the one that is written with first; none: ours alone."""
        self._engine = engine
        self._secrets = secrets
        self._own_secret = os.urandom(32)
        self._sealed_under: tuple[bytes, ...] = ()  # what tickets of those of `_servers` are
        self._servers: WeakKeyDictionary[ServerTls, _relay.ServerTls | None] = WeakKeyDictionary()
        self._clients: WeakKeyDictionary[ClientTls, _relay.ClientTls | None] = WeakKeyDictionary()

    def server(self, server_tls: ServerTls) -> "_relay.ServerTls | None":
        """What handshakes by it are made with; None where rustls does not take it."""
        secrets = tuple(self._secrets()) or (self._own_secret,)
        if secrets != self._sealed_under:  # a key has come, by other settings or in the key file
            self._servers.clear()
            self._sealed_under = secrets
        if server_tls not in self._servers:
            self._servers[server_tls] = self._make_server(server_tls)
        return self._servers[server_tls]

    def client(self, client_tls: ClientTls) -> "_relay.ClientTls | None":
        """As `server`."""
        if client_tls not in self._clients:
            self._clients[client_tls] = _make_client(client_tls)
        return self._clients[client_tls]

    async def accept(
        self, client: socket.socket, handle: "_relay.ServerTls", received: bytes
    ) -> NativeTls:
        """See `Relay.accept_tls`."""
        shake = Shake()
        token = self._engine.accept_tls(client.fileno(), handle, received, shake)
        failed = CloseReason.HANDSHAKE_FAILED
        return await self._outcome(shake, token, "the client", failed, failed)

    async def resume(
        self,
        client: socket.socket,
        handle: "_relay.Tls | None",
        failure: "Unshaken | None",
    ) -> NativeTls:
        """Goes on with one that the engine has begun itself, as `accept`."""
        shake = Shake()
        if handle is None or handle.is_over:
            shake.handle, shake.failure = handle, failure
            return self._read(
                shake, "the client", CloseReason.HANDSHAKE_FAILED, CloseReason.HANDSHAKE_FAILED
            )
        token = self._engine.go_on_tls(client.fileno(), handle, shake)
        failed = CloseReason.HANDSHAKE_FAILED
        return await self._outcome(shake, token, "the client", failed, failed)

    async def connect(
        self, upstream: socket.socket, handle: "_relay.ClientTls", peer: str
    ) -> NativeTls:
        """See `Relay.connect_tls`."""
        shake = Shake()
        try:
            token = self._engine.connect_tls(upstream.fileno(), handle, peer, shake)
        except ValueError as error:
            why = f"{peer[:64]!r} cannot be asked for: {error}"
            raise SessionEnded(CloseReason.UPSTREAM_TLS, why) from None
        failed, distrusted = CloseReason.UPSTREAM_TLS, CloseReason.UPSTREAM_CERTIFICATE
        return await self._outcome(shake, token, "the game server", failed, distrusted)

    async def deliver(self, fileno: int) -> None:
        """Tells those who wait of what came of their handshakes, for ever."""
        while True:
            await trio.lowlevel.wait_readable(fileno)
            self.deliver_now()

    def deliver_now(self) -> None:
        """Those that are over by now."""
        for shake, handle, failure in self._engine.shaken():
            assert isinstance(shake, Shake)
            shake.handle, shake.failure = handle, failure
            shake.over.set()

    async def _outcome(
        self,
        shake: "Shake",
        token: int,
        peer: str,
        failed: CloseReason,
        distrusted: CloseReason,
    ) -> NativeTls:
        try:
            await shake.over.wait()
        except BaseException:
            self._engine.abandon(token)
            raise
        return self._read(shake, peer, failed, distrusted)

    def _read(
        self, shake: "Shake", peer: str, failed: CloseReason, distrusted: CloseReason
    ) -> NativeTls:
        if shake.handle is not None:
            return NativeTls(shake.handle)
        assert shake.failure is not None
        at_fault = shake.failure[3]
        reason = distrusted if at_fault else failed
        raise SessionEnded(reason, explain(shake.failure, peer))

    def _make_server(self, server_tls: ServerTls) -> "_relay.ServerTls | None":
        versions = server_tls.protocols or ("TLSv1.2", "TLSv1.3")
        if "TLSv1.1" in versions:
            return None
        asked = server_tls.client_ca
        with suppress(ValueError):
            return _relay.ServerTls(
                list(server_tls.pairs),
                ("TLSv1.2" in versions, "TLSv1.3" in versions),
                None if asked is None else (asked, server_tls.client_depth),
                [],
                [_of_policy(secret, server_tls) for secret in self._sealed_under],
            )
        return None


class Shake:
    """A handshake that somebody waits for."""

    __slots__ = ("failure", "handle", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.handle: _relay.Tls | None = None
        self.failure: Unshaken | None = None


def explain(failure: "Unshaken", peer: str) -> str:
    """In words. RuntimeError for a defect of ours."""
    word, number, cause, _ = failure
    name = NAMES.get(number, str(number))
    match word:
        case "received":
            return f"received alert {name}"
        case "sent":
            return f"sent alert {name}: {cause}"
        case "sent_encrypted":
            return f"sent an encrypted alert: {cause}"
        case "silent":
            return f"sent no alert: {cause}"
        case "lost":
            return os.strerror(number)
        case "closed":
            return f"closed by {peer}"
    raise RuntimeError(f"the native relay: {cause}")


def _make_client(client_tls: ClientTls) -> "_relay.ClientTls | None":
    trusted = list(client_tls.authorities) if client_tls.verify else None
    with suppress(ValueError):
        return _relay.ClientTls(trusted, client_tls.pair)
    return None


def _of_policy(secret: bytes, server_tls: ServerTls) -> bytes:
    """What tickets of a policy are sealed under: who was let in by one is not let in by another's."""
    policy = repr(
        (sorted(server_tls.protocols), server_tls.client_ca, server_tls.client_depth)
    ).encode()
    digest = hashlib.sha256(policy).digest()
    return hmac.digest(secret, b"sniproxy tickets of a policy: " + digest, "sha256")
