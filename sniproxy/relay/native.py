"""The native relay: once both sockets stand, no Python runs until the session ends.

A thread outside the interpreter's lock owns the sockets (the crate in relay/). This is its door: sessions go in as
descriptors, ends come out in batches through an eventfd. TLS of ours is spoken there too, by rustls; what that does not take
goes to OpenSSL, and such sessions are moved by the relay on trio.
"""

import os
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import cast

import trio

from sniproxy.errors import CloseReason
from sniproxy.plan import Plan
from sniproxy.relay import Flow, Link, Originated, Outcome, Terminated
from sniproxy.relay.front import NativeFront, as_numbers, milliseconds
from sniproxy.relay.native_tls import Handshakes, NativeTls
from sniproxy.relay.trio_relay import NEVER_CLOSED, TrioRelay, open_trio_relay
from sniproxy.settings import Proxy
from sniproxy.stick_table import Places
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls

try:
    from sniproxy import _relay
except ImportError:  # installed where there was no Rust toolchain
    BUILT = False
else:
    BUILT = True

KEEPALIVE_IDLE = 300  # seconds

_REASONS = {
    "client_closed": CloseReason.CLIENT_CLOSED,
    "upstream_closed": CloseReason.UPSTREAM_CLOSED,
    "client_lost": CloseReason.CLIENT_RESET,
    "upstream_lost": CloseReason.UPSTREAM_RESET,
    "idle": CloseReason.IDLE_TIMEOUT,
    "time_up": CloseReason.SESSION_TIMEOUT,
    "client_closed_alone": CloseReason.CLIENT_CLOSED,
    "upstream_closed_alone": CloseReason.UPSTREAM_CLOSED,
    "drained": CloseReason.SHUTDOWN,
    "killed": CloseReason.KILLED,
    "shed": CloseReason.SHED,
    "stopped": CloseReason.SHUTDOWN,
    "client_truncated": CloseReason.CLIENT_TRUNCATED,
    "upstream_truncated": CloseReason.UPSTREAM_TRUNCATED,
    "client_tls": CloseReason.TLS_ERROR,
    "upstream_tls": CloseReason.UPSTREAM_TLS,
    "broken": CloseReason.INTERNAL_ERROR,
}


def read_end(how: str, errno: int, mishap: str | None) -> tuple[CloseReason, str]:
    """Reason and detail of what the engine says of an end."""
    try:
        detail = os.strerror(errno) if errno else NEVER_CLOSED if how.endswith("_alone") else ""
        return _REASONS[how], mishap or detail
    except Exception:  # a defect of ours ends this session alone, and is logged with it
        return CloseReason.INTERNAL_ERROR, traceback.format_exc()


class NativeRelay:
    """See `sniproxy.relay.Relay`. Made by `open_native_relay`."""

    name = "native"

    def __init__(
        self,
        engine: "_relay.Engine[_Link, Plan]",
        terminating: TrioRelay,
        front: NativeFront,
        handshakes: Handshakes,
    ) -> None:
        self.front = front
        self._handshakes = handshakes
        self._engine = engine
        self._terminating = terminating
        self._over = False

    def settle(self, settings: Proxy) -> None:
        self._engine.limit(settings.max_sessions)
        self.front.settle(settings)

    async def accept_tls(
        self,
        client: socket.socket,
        server_tls: ServerTls,
        received: bytes,
        name: str | None = None,
    ) -> Terminated:
        handle = self._handshakes.server(server_tls)
        if handle is not None:
            return await self._handshakes.accept(client, handle, received)
        return await self._terminating.accept_tls(client, server_tls, received, name)

    async def connect_tls(
        self, upstream: socket.socket, client_tls: ClientTls, peer: str
    ) -> Originated:
        handle = self._handshakes.client(client_tls)
        if handle is not None:
            return await self._handshakes.connect(upstream, handle, peer)
        return await self._terminating.connect_tls(upstream, client_tls, peer)

    def drain(self, after: float, spread: float) -> None:
        self.tick_now()  # from now on, not from the last tick
        self._engine.drain(milliseconds(after), milliseconds(spread))
        self._terminating.drain(after, spread)

    def undrain(self) -> None:
        self._engine.undrain()
        self._terminating.undrain()

    def held(self) -> int:
        return self._engine.held() + self._terminating.held()

    def shed(self) -> int:
        # Whichever of the two has the session that holds the most.
        return self._engine.shed(self._terminating.most_held()) or self._terminating.shed()

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> Link:
        if self._over:
            raise RuntimeError("the relay was closed")
        tls, upstream_tls = _handle(flow.tls), _handle(flow.upstream_tls)
        if (tls is None) != (flow.tls is None) or (upstream_tls is None) != (
            flow.upstream_tls is None
        ):
            return self._terminating.start(flow, on_end)  # OpenSSL's
        link, terms = _Link(self._engine, on_end), as_numbers(flow.terms)
        client, upstream = flow.client.detach(), flow.upstream.detach()
        try:
            meter = cast("_relay.Meter | None", flow.terms.meter)
            link.token = self._engine.start(
                client, upstream, flow.first, terms, link, meter, tls, upstream_tls
            )
        except BaseException:  # it has taken nothing
            os.close(client)
            os.close(upstream)
            raise
        return link

    async def deliver(self, fileno: int) -> None:
        """Tells sessions' owners of their ends, for ever."""
        while True:
            await trio.lowlevel.wait_readable(fileno)
            self.deliver_now()

    def deliver_now(self) -> None:
        """The ends that there are by now: all of them, whatever one of their owners makes of it.

        RuntimeError once the engine has ended unasked: it has ended everybody, and nobody else can be served here.
        """
        failures: list[Exception] = []
        for link, end, to_upstream, to_client in self._engine.ended():
            try:
                link.ended(*read_end(*end), to_upstream, to_client)
            except Exception as error:  # a defect of ours
                failures.append(error)
        if failures:
            raise ExceptionGroup("told of their ends", failures)
        mishap = self._engine.mishap()
        if mishap is not None and not self._over:
            raise RuntimeError(f"the native relay has broken: {mishap}")

    def close(self) -> None:
        """Ends every session; their owners have heard of it when this returns."""
        self._over = True
        self._engine.stop()
        self.deliver_now()
        self.front.account_now()
        self.front.receive_now()

    async def tick(self) -> None:
        """Tells the engine the time of trio's clock, for ever."""
        while True:
            await trio.sleep(_relay.TICK / 1000)
            self.tick_now()

    def tick_now(self) -> None:
        """What time it is."""
        self._engine.tick(milliseconds(trio.current_time()))


@asynccontextmanager
async def open_native_relay(
    *,
    buffer_size: int,
    pipes: int = 0,
    keepalive_idle: int = KEEPALIVE_IDLE,
    places: Places | None = None,
    max_sessions: int = sys.maxsize,
    secrets: Callable[[], Iterable[bytes]] = tuple,
) -> AsyncIterator[NativeRelay]:
    """A relay; leaving the block ends its sessions with the reason `shutdown`. Only where BUILT.

    `pipes`: through which bulk goes uncopied, at most so many at once.
    `places`: where it counts the sessions that it accepts itself, `max_sessions` with all others there.
    `secrets`: what tickets of players are sealed under, as `Keyring.ticket_secrets` has them; none: nobody else's open here.
    """
    words, own, everybody = (None, 0, []) if places is None else places
    engine: _relay.Engine[_Link, Plan] = _relay.Engine(
        buffer_size, pipes, words, own, everybody, max_sessions
    )
    try:
        async with open_trio_relay(buffer_size=buffer_size) as terminating:
            handshakes = Handshakes(engine, secrets)
            front = NativeFront(engine, read_end, keepalive_idle, handshakes)
            relay = NativeRelay(engine, terminating, front, handshakes)
            relay.tick_now()  # before the first session
            async with trio.open_nursery() as nursery:
                ends, plays, arrivals, shakes = engine.filenos()
                nursery.start_soon(relay.deliver, ends)
                nursery.start_soon(front.account, plays)
                nursery.start_soon(front.receive, arrivals)
                nursery.start_soon(handshakes.deliver, shakes)
                nursery.start_soon(relay.tick)
                try:
                    yield relay
                finally:
                    nursery.cancel_scope.cancel()
                    relay.close()
    finally:
        engine.stop()


def _handle(tls: object) -> "_relay.Tls | None":
    return tls.handle if isinstance(tls, NativeTls) else None


class _Link:
    """One session in the engine's hands. Implements `sniproxy.relay.Link`."""

    __slots__ = ("_counts", "_engine", "_killed", "_on_end", "token")

    def __init__(
        self, engine: "_relay.Engine[_Link, Plan]", on_end: Callable[[Outcome], None]
    ) -> None:
        self.token = 0  # once it has started
        self._engine = engine
        self._on_end = on_end
        self._killed: CloseReason | None = None
        self._counts: tuple[int, int] | None = None  # once it has ended

    @property
    def to_upstream(self) -> int:
        return self._now()[0]

    @property
    def to_client(self) -> int:
        return self._now()[1]

    def kill(self, reason: CloseReason) -> None:
        if self._killed is None:
            self._killed = reason
            self._engine.kill(self.token)

    def ended(self, reason: CloseReason, detail: str, to_upstream: int, to_client: int) -> None:
        """The engine has closed both sockets."""
        self._counts = to_upstream, to_client
        if reason is CloseReason.KILLED and self._killed is not None:
            reason = self._killed
        self._on_end(Outcome(reason, detail, to_upstream, to_client))

    def _now(self) -> tuple[int, int]:
        return self._counts or self._engine.counts(self.token) or (0, 0)
