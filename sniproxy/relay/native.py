"""The native relay: once both sockets stand, no Python runs until the session ends.

A thread outside the interpreter's lock owns the sockets (the crate in relay/). This is its door: sessions go in as
descriptors, ends come out in batches through an eventfd. Sessions with terminated TLS are still moved by the relay on trio.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Link, Outcome, Terminated
from sniproxy.relay.trio_relay import NEVER_CLOSED, TrioRelay, open_trio_relay
from sniproxy.tls import ServerTls

try:
    from sniproxy import _relay
except ImportError:  # installed where there was no Rust toolchain
    BUILT = False
else:
    BUILT = True

LONGEST = 100 * 365 * 24 * 3600.0  # seconds: what is meant by more fits into no machine's number

_REASONS = {
    "client_closed": CloseReason.CLIENT_CLOSED,
    "upstream_closed": CloseReason.UPSTREAM_CLOSED,
    "client_lost": CloseReason.CLIENT_RESET,
    "upstream_lost": CloseReason.UPSTREAM_RESET,
    "idle": CloseReason.IDLE_TIMEOUT,
    "time_up": CloseReason.SESSION_TIMEOUT,
    "client_closed_alone": CloseReason.CLIENT_CLOSED,
    "upstream_closed_alone": CloseReason.UPSTREAM_CLOSED,
    "killed": CloseReason.KILLED,
    "stopped": CloseReason.SHUTDOWN,
}


class NativeRelay:
    """See `sniproxy.relay.Relay`. Made by `open_native_relay`."""

    name = "native"

    def __init__(self, engine: "_relay.Engine[_Link]", terminating: TrioRelay) -> None:
        self._engine = engine
        self._terminating = terminating
        self._over = False

    async def accept_tls(
        self, client: socket.socket, server_tls: ServerTls, received: bytes
    ) -> Terminated:
        return await self._terminating.accept_tls(client, server_tls, received)

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> Link:
        if self._over:
            raise RuntimeError("the relay was closed")
        if flow.tls is not None:
            return self._terminating.start(flow, on_end)
        link = _Link(self._engine, on_end)
        link.token = self._engine.start(
            flow.client.detach(),
            flow.upstream.detach(),
            flow.first,
            _milliseconds(flow.idle_timeout),
            _milliseconds(flow.half_close_timeout),
            None if flow.session_time is None else _milliseconds(flow.session_time),
            link,
        )
        return link

    async def deliver(self) -> None:
        """Tells sessions' owners of their ends, for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._engine.fileno())
            self.deliver_now()

    def deliver_now(self) -> None:
        """The ends that there are by now: all of them, whatever one of their owners makes of it."""
        failures: list[Exception] = []
        for link, how, errno, to_upstream, to_client in self._engine.ended():
            try:
                link.ended(how, errno, to_upstream, to_client)
            except Exception as error:  # a defect of ours
                failures.append(error)
        if failures:
            raise ExceptionGroup("told of their ends", failures)

    def close(self) -> None:
        """Ends every session; their owners have heard of it when this returns."""
        self._over = True
        self._engine.stop()
        self.deliver_now()

    async def tick(self) -> None:
        """Tells the engine the time of trio's clock, for ever."""
        while True:
            await trio.sleep(_relay.TICK / 1000)
            self.tick_now()

    def tick_now(self) -> None:
        """What time it is."""
        self._engine.tick(_milliseconds(trio.current_time()))


@asynccontextmanager
async def open_native_relay(*, buffer_size: int) -> AsyncIterator[NativeRelay]:
    """A relay; leaving the block ends its sessions with the reason `shutdown`. Only where BUILT."""
    engine: _relay.Engine[_Link] = _relay.Engine(buffer_size)
    try:
        async with open_trio_relay(buffer_size=buffer_size) as terminating:
            relay = NativeRelay(engine, terminating)
            relay.tick_now()  # before the first session
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.deliver)
                nursery.start_soon(relay.tick)
                try:
                    yield relay
                finally:
                    nursery.cancel_scope.cancel()
                    relay.close()
    finally:
        engine.stop()


class _Link:
    """One session in the engine's hands. Implements `sniproxy.relay.Link`."""

    __slots__ = ("_counts", "_engine", "_killed", "_on_end", "token")

    def __init__(self, engine: "_relay.Engine[_Link]", on_end: Callable[[Outcome], None]) -> None:
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

    def ended(self, how: str, errno: int, to_upstream: int, to_client: int) -> None:
        """The engine has closed both sockets."""
        self._counts = to_upstream, to_client
        reason = _REASONS[how]
        if reason is CloseReason.KILLED and self._killed is not None:
            reason = self._killed
        detail = os.strerror(errno) if errno else NEVER_CLOSED if how.endswith("_alone") else ""
        self._on_end(Outcome(reason, detail, to_upstream, to_client))

    def _now(self) -> tuple[int, int]:
        return self._counts or self._engine.counts(self.token) or (0, 0)


def _milliseconds(seconds: float) -> int:
    return round(min(seconds, LONGEST) * 1000)
