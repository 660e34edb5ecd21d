"""The portable relay: two trio tasks per session, one per direction, in one nursery for the whole worker.

Each task waits until its source is readable, reads into a buffer that all sessions share, and sends at once, before anyone
else can run; only what the kernel did not take is copied and waited for. So an idle session holds no buffer.

A session ends in one of two ways. Gently: a task sees EOF, passes it on as a write shutdown and returns; when both have
returned, the session is over, and whoever ended first is the reason. Hard: a reset, an idle timeout or `kill` closes both
sockets, which wakes the tasks that wait for them, or for their allowance, with ClosedResourceError. No cancel scope per
session is needed.
"""

import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import trio

from sniproxy.errors import CloseReason
from sniproxy.relay import Flow, Outcome, Terminated
from sniproxy.relay.alerts import cause_of
from sniproxy.relay.deadlines import Deadlines
from sniproxy.relay.pace import Pace
from sniproxy.relay.sockets import Lost, close, receive_into, send_all, shut_writing
from sniproxy.relay.trio_tls import CHUNK, TrioTls
from sniproxy.settings import Proxy
from sniproxy.tls import ServerTls

LITTLE = 8 * 1024  # bytes that are encrypted at once for a client that may be slow
KEEPS_UP = 64  # times in a row that the kernel took all at once: more than it takes for one who reads nothing
NEVER_CLOSED = "the other side never closed"
TICK = 1.0  # seconds between two looks at the idle deadlines


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
        self, client: socket.socket, server_tls: ServerTls, received: bytes
    ) -> Terminated:
        tls = TrioTls(client, server_tls, received)
        await tls.handshake()
        return tls

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> "_Link":
        link = _Link(flow, self._deadlines, on_end, self._links)
        self._links.add(link)
        if flow.tls is None:
            inbound = _copy_inbound(link, flow, self._buffer)
            outbound = _copy_outbound(link, flow, self._buffer)
        else:
            assert isinstance(flow.tls, TrioTls)
            inbound = _decrypt(link, flow, flow.tls, self._buffer)
            outbound = _encrypt(link, flow, flow.tls, self._buffer)
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
        "_flow",
        "_lasts_until",
        "_living",
        "_on_end",
        "_reason",
        "_running",
        "_time_up",
        "bucket",
        "closed",
        "ends_at",
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
        self.last_active = trio.current_time()
        self.idle_timeout = flow.terms.idle_timeout
        self._lasts_until = self.last_active + (flow.terms.session_time or float("inf"))
        self.ends_at = self._lasts_until
        self._time_up = CloseReason.SESSION_TIMEOUT
        self.bucket = -1
        self._flow = flow
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
        except ssl.SSLError as error:
            self._abort(CloseReason.TLS_ERROR, cause_of(error))
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
        tls = self._flow.tls
        return self.kept + (tls.held if isinstance(tls, TrioTls) else 0)

    def shed(self) -> None:
        """It held too much."""
        close(self._flow.client, reset=True)
        close(self._flow.upstream, reset=True)
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
            self._first_end = source
            self.last_active = trio.current_time()
            self.idle_timeout = min(self.idle_timeout, self._flow.terms.half_close_timeout)
            self._deadlines.file(self)

    def _lost(self, lost: Lost) -> None:
        """A socket failed. A side that had sent EOF before has closed, not reset."""
        client = lost.sock is self._flow.client
        closed = CloseReason.CLIENT_CLOSED if client else CloseReason.UPSTREAM_CLOSED
        reset = CloseReason.CLIENT_RESET if client else CloseReason.UPSTREAM_RESET
        if self._reason is None:
            close(self._flow.upstream if client else self._flow.client, reset=True)
        self._abort(closed if self._first_end is closed else reset, lost.cause)

    def _abort(self, reason: CloseReason, detail: str = "") -> None:
        if self._reason is None:
            self._reason, self._detail = reason, detail
        close(self._flow.client)
        close(self._flow.upstream)
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


def _moved(link: _Link, pace: Pace | None, count: int) -> None:
    """Dates and charges what has gone."""
    link.last_active = trio.current_time()
    if pace is not None:
        pace.spend(count, link.last_active)


async def _copy_inbound(link: _Link, flow: Flow, buffer: memoryview) -> None:
    """The client's bytes to the upstream, as they are."""
    pace = _open_pace(flow)
    await send_all(flow.upstream, flow.first, link)
    link.to_upstream += len(flow.first)
    _moved(link, pace, len(flow.first))
    while count := await receive_into(
        flow.client, buffer[: await _allowed(link, pace, len(buffer))]
    ):
        await send_all(flow.upstream, buffer[:count], link)
        link.to_upstream += count
        _moved(link, pace, count)
    shut_writing(flow.upstream)


async def _copy_outbound(link: _Link, flow: Flow, buffer: memoryview) -> None:
    """The upstream's bytes to the client, as they are."""
    pace = _open_pace(flow)
    while count := await receive_into(
        flow.upstream, buffer[: await _allowed(link, pace, len(buffer))]
    ):
        await send_all(flow.client, buffer[:count], link)
        link.to_client += count
        _moved(link, pace, count)
    shut_writing(flow.client)


async def _decrypt(link: _Link, flow: Flow, tls: TrioTls, buffer: memoryview) -> None:
    """The client's bytes, in clear, to the upstream; its end as a write shutdown."""
    pace = _open_pace(flow)
    while (data := tls.read(await _allowed(link, pace, CHUNK))) != b"":
        if data is None:
            await tls.answer()
            await tls.fetch(buffer)
        else:
            await send_all(flow.upstream, data, link)
            link.to_upstream += len(data)
            _moved(link, pace, len(data))
    shut_writing(flow.upstream)


async def _encrypt(link: _Link, flow: Flow, tls: TrioTls, buffer: memoryview) -> None:
    """The upstream's bytes to the client; its end as close_notify and a write shutdown.

    A little at a time until the client is known to keep up: what it does not take is kept encrypted, and OpenSSL's buffer
    stays as large as it was once.
    """
    pace, in_a_row = _open_pace(flow), 0
    while True:
        most = len(buffer) if in_a_row >= KEEPS_UP else min(LITTLE, len(buffer))
        count = await receive_into(flow.upstream, buffer[: await _allowed(link, pace, most)])
        if not count:
            break
        in_a_row = in_a_row + 1 if await tls.send(buffer[:count]) else 0
        link.to_client += count
        _moved(link, pace, count)
    await tls.end()
    shut_writing(flow.client)
