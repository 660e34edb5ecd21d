"""The portable relay: two trio tasks per session, one per direction, in one nursery for the whole worker.

Each task waits until its source is readable, reads into a buffer that all sessions share, and sends at once, before anyone
else can run; only what the kernel did not take is copied and waited for. So an idle session holds no buffer.

A session ends in one of two ways. Gently: a task sees EOF, passes it on as a write shutdown and returns; when both have
returned, the session is over, and whoever ended first is the reason. Hard: a reset, an idle timeout or `kill` closes both
sockets, which wakes the tasks that wait for them, or for their allowance, with ClosedResourceError. No cancel scope per
session is needed.
"""

import socket
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Originated, Outcome, Terminated
from sniproxy.relay.deadlines import Deadlines
from sniproxy.relay.pace import Pace
from sniproxy.relay.sinks import Encrypted, Plain, Sink
from sniproxy.relay.sockets import Lost, close, receive_into
from sniproxy.relay.trio_tls import CHUNK, AcceptedTls, Broken, OriginatedTls, TrioTls
from sniproxy.settings import Proxy
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls

NEVER_CLOSED = "the other side never closed"
TICK = 1.0  # seconds between two looks at the idle deadlines

_TRUNCATED = {
    CloseReason.CLIENT_CLOSED: CloseReason.CLIENT_TRUNCATED,
    CloseReason.UPSTREAM_CLOSED: CloseReason.UPSTREAM_TRUNCATED,
}


class TrioRelay:
    """See `sniproxy.relay.Relay`. Made by `open_trio_relay`."""

    name = "trio"
    front = None

    def __init__(self, nursery: trio.Nursery, buffer_size: int) -> None:
        self._nursery = nursery
        self._buffer = memoryview(bytearray(buffer_size))
        self._deadlines: Deadlines[_Link] = Deadlines(trio.current_time())
        self._links: set[_Link] = set()

    def settle(self, settings: Proxy) -> None:
        """Nothing here depends on what may change."""

    async def accept_tls(
        self,
        client: socket.socket,
        server_tls: ServerTls,
        received: bytes,
        name: str | None = None,
    ) -> Terminated:
        tls = AcceptedTls(client, server_tls, received, name)
        await tls.handshake()
        return tls

    async def connect_tls(
        self, upstream: socket.socket, client_tls: ClientTls, peer: str
    ) -> Originated:
        tls = OriginatedTls(upstream, client_tls, peer)
        await tls.handshake()
        return tls

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> "_Link":
        link = _Link(flow, self._deadlines, on_end, self._links)
        self._links.add(link)
        inbound, outbound = _inbound(link, self._buffer), _outbound(link, self._buffer)
        self._nursery.start_soon(link.run, inbound, CloseReason.CLIENT_CLOSED, name="relay inbound")
        self._nursery.start_soon(
            link.run, outbound, CloseReason.UPSTREAM_CLOSED, name="relay outbound"
        )
        return link

    def drain(self, after: float, spread: float) -> None:
        begins = trio.current_time() + after
        for turn, link in enumerate(self._links):
            link.drain(begins + spread * turn / len(self._links))

    def undrain(self) -> None:
        for link in self._links:
            link.undrain()

    def held(self) -> int:
        return sum(link.held for link in self._links)

    def most_held(self) -> int:
        """By one session."""
        return max((link.held for link in self._links), default=0)

    def shed(self) -> int:
        link = max(self._links, key=_held, default=None)
        held = 0 if link is None else link.held
        if link is not None and held:
            link.shed()
        return held

    async def watch_deadlines(self) -> None:
        """Ends what is idle, for ever."""
        while True:
            await trio.sleep(TICK)
            for link in self._deadlines.due(trio.current_time()):
                link.expire()


@asynccontextmanager
async def open_trio_relay(*, buffer_size: int) -> AsyncIterator[TrioRelay]:
    """A relay; leaving the block ends its sessions with the reason `shutdown`."""
    async with trio.open_nursery() as nursery:
        relay = TrioRelay(nursery, buffer_size)
        nursery.start_soon(relay.watch_deadlines)
        yield relay
        nursery.cancel_scope.cancel()


class _Link:
    """One session: its counters and how it ends. Implements `Idle` and `sniproxy.relay.Link`."""

    __slots__ = (
        "_deadlines",
        "_detail",
        "_first_end",
        "_lasts_until",
        "_living",
        "_on_end",
        "_reason",
        "_running",
        "_time_up",
        "begun",
        "bucket",
        "closed",
        "ends_at",
        "flow",
        "idle_timeout",
        "kept",
        "last_active",
        "to_client",
        "to_upstream",
    )

    def __init__(
        self,
        flow: Flow,
        deadlines: "Deadlines[_Link]",
        on_end: Callable[[Outcome], None],
        living: "set[_Link]",
    ) -> None:
        self._living = living
        self.to_upstream = 0
        self.to_client = 0
        self.kept = 0  # bytes that the kernel did not take, TLS aside
        self.begun = self.last_active = trio.current_time()
        self.idle_timeout = flow.terms.idle_timeout
        self._lasts_until = self.last_active + (flow.terms.session_time or float("inf"))
        self.ends_at = self._lasts_until
        self._time_up = CloseReason.SESSION_TIMEOUT
        self.bucket = -1
        self.flow = flow
        self._on_end = on_end
        self._deadlines = deadlines
        self._running = 2
        self._reason: CloseReason | None = None
        self._detail = ""
        self._first_end: CloseReason | None = None  # who sent EOF first
        self.closed = None if flow.terms.bandwidth is None else trio.Event()  # both sockets
        deadlines.file(self)

    async def run(self, copying: Coroutine[Any, Any, None], source: CloseReason) -> None:
        """One direction's task; `source` is the reason that its gentle end stands for."""
        try:
            await copying
        except trio.ClosedResourceError:
            pass  # the other direction, or `kill`, has closed the sockets and knows why
        except Lost as lost:
            self._lost(lost)
        except Broken as broken:
            self._abort(broken.reason, broken.cause)
        except trio.Cancelled:
            self._abort(CloseReason.SHUTDOWN)
            raise
        except Exception:  # a defect of ours ends this session alone, and is logged with it
            self._abort(CloseReason.INTERNAL_ERROR, traceback.format_exc())
        else:
            self._side_ended(source)
        finally:
            self._running -= 1
            if not self._running:
                self._finish()

    def kill(self, reason: CloseReason) -> None:
        self._abort(reason)

    @property
    def held(self) -> int:
        """Bytes of ours; none once it is over."""
        if self._reason is not None:
            return 0
        return self.kept + sum(
            tls.held for tls in (self.flow.tls, self.flow.upstream_tls) if isinstance(tls, TrioTls)
        )

    def shed(self) -> None:
        """It held too much."""
        close(self.flow.client, reset=True)
        close(self.flow.upstream, reset=True)
        self._abort(CloseReason.SHED)

    def drain(self, ends_at: float) -> None:
        """It must end by then."""
        if ends_at < self.ends_at:
            self.ends_at, self._time_up = ends_at, CloseReason.SHUTDOWN
            self._deadlines.file(self)

    def undrain(self) -> None:
        """It may last as long as ever. It is looked at when it would have ended, and filed anew."""
        self.ends_at, self._time_up = self._lasts_until, CloseReason.SESSION_TIMEOUT

    def expire(self) -> None:
        """Nothing has moved for too long, or the session has lasted too long."""
        if self.ends_at <= trio.current_time():
            self._abort(self._time_up)
        elif self._first_end is None:
            self._abort(CloseReason.IDLE_TIMEOUT)
        else:
            self._abort(self._first_end, NEVER_CLOSED)

    def _side_ended(self, source: CloseReason) -> None:
        if self._first_end is None:
            tls = self.flow.tls if source is CloseReason.CLIENT_CLOSED else self.flow.upstream_tls
            truncated = isinstance(tls, TrioTls) and tls.truncated
            self._first_end = _TRUNCATED[source] if truncated else source
            self.last_active = trio.current_time()
            self.idle_timeout = min(self.idle_timeout, self.flow.terms.half_close_timeout)
            self._deadlines.file(self)

    def _lost(self, lost: Lost) -> None:
        """A socket failed. A side that had sent EOF before has closed, not reset."""
        client = lost.sock is self.flow.client
        closed = CloseReason.CLIENT_CLOSED if client else CloseReason.UPSTREAM_CLOSED
        if self._first_end is _TRUNCATED[closed]:
            closed = self._first_end
        reset = CloseReason.CLIENT_RESET if client else CloseReason.UPSTREAM_RESET
        if self._reason is None:
            close(self.flow.upstream if client else self.flow.client, reset=True)
        self._abort(closed if self._first_end is closed else reset, lost.cause)

    def _abort(self, reason: CloseReason, detail: str = "") -> None:
        if self._reason is None:
            self._reason, self._detail = reason, detail
        close(self.flow.client)
        close(self.flow.upstream)
        if self.closed is not None:
            self.closed.set()

    def _finish(self) -> None:
        self._deadlines.discard(self)
        self._living.discard(self)
        self._abort(self._first_end or CloseReason.INTERNAL_ERROR)
        assert self._reason is not None
        self._on_end(Outcome(self._reason, self._detail, self.to_upstream, self.to_client))


def _held(link: _Link) -> int:
    return link.held


def _open_pace(flow: Flow) -> Pace | None:
    bandwidth = flow.terms.bandwidth
    return None if bandwidth is None else Pace(bandwidth)


async def _allowed(link: _Link, pace: Pace | None, most: int) -> int:
    """How many bytes may move now, one at least; waits for them."""
    if pace is None:
        return most
    now = trio.current_time()
    if now < pace.ready_at:
        assert link.closed is not None
        with trio.move_on_at(pace.ready_at):
            await link.closed.wait()
            raise trio.ClosedResourceError
        now = max(trio.current_time(), pace.ready_at)  # not a rounding error too soon
    return min(pace.allowance(now), most)


def _moved(link: _Link, pace: Pace | None, count: int, *, inbound: bool) -> None:
    """Counts, dates and charges what has gone."""
    link.last_active = trio.current_time()
    terms = link.flow.terms
    if inbound:
        link.to_upstream += count
    else:
        if terms.answered is not None and not link.to_client:
            terms.answered(link.last_active - link.begun)
        link.to_client += count
    if terms.meter is not None:
        terms.meter.add(*((count, 0) if inbound else (0, count)))
    if pace is not None:
        pace.spend(count, link.last_active)


def _sink(link: _Link, sock: socket.socket, tls: object) -> Sink:
    return Encrypted(sock, tls) if isinstance(tls, TrioTls) else Plain(sock, link)


def _inbound(link: _Link, buffer: memoryview) -> Coroutine[Any, Any, None]:
    """The client's bytes to the upstream, and their end."""
    flow = link.flow
    sink = _sink(link, flow.upstream, flow.upstream_tls)
    if isinstance(flow.tls, AcceptedTls):
        return _decrypt(link, flow.tls, sink, buffer, inbound=True)
    return _copy(link, flow.client, sink, buffer, flow.first, inbound=True)


def _outbound(link: _Link, buffer: memoryview) -> Coroutine[Any, Any, None]:
    """The upstream's bytes to the client, and their end."""
    flow = link.flow
    sink = _sink(link, flow.client, flow.tls)
    if isinstance(flow.upstream_tls, TrioTls):
        return _decrypt(link, flow.upstream_tls, sink, buffer, inbound=False)
    return _copy(link, flow.upstream, sink, buffer, b"", inbound=False)


async def _copy(
    link: _Link,
    source: socket.socket,
    sink: Sink,
    buffer: memoryview,
    first: bytes,
    *,
    inbound: bool,
) -> None:
    """From a socket, as bytes come; `first` goes before them."""
    pace = _open_pace(link.flow)
    if first:
        await sink.send(first)
        _moved(link, pace, len(first), inbound=inbound)
    while count := await receive_into(
        source, buffer[: await _allowed(link, pace, sink.most(len(buffer)))]
    ):
        await sink.send(buffer[:count])
        _moved(link, pace, count, inbound=inbound)
    await sink.end()


async def _decrypt(
    link: _Link, tls: TrioTls, sink: Sink, buffer: memoryview, *, inbound: bool
) -> None:
    """From TLS, in clear."""
    pace = _open_pace(link.flow)
    while (data := tls.read(await _allowed(link, pace, sink.most(CHUNK)))) != b"":
        if data is None:
            await tls.answer()
            await tls.fetch(buffer)
        else:
            await sink.send(data)
            _moved(link, pace, len(data), inbound=inbound)
    await sink.end()
