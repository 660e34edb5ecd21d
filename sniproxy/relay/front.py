"""The native relay's front: it accepts by itself, and plays by plans what can be played by plans, without Python.

Everybody else arrives here, as far as they have come: those for whom there is no plan, whose hello is not plain, or whom a
game server did not take.
"""

import os
import socket
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

import trio

from sniproxy.accounting import alpn_of
from sniproxy.balancer import Target
from sniproxy.errors import CloseReason
from sniproxy.networks import parse_network
from sniproxy.plan import Agreed, Plan
from sniproxy.relay import Accepted, Attempt, Host, Played, Terms
from sniproxy.relay.native_tls import Handshakes
from sniproxy.settings import Listener, Proxy

with suppress(ImportError):  # installed where there was no Rust toolchain
    from sniproxy import _relay

if TYPE_CHECKING:
    from sniproxy._relay import ArrivalReport, TriedReport

REST = (
    0.005  # seconds between two looks at sessions that are over: they are accounted for in batches
)


LONGEST = 100 * 365 * 24 * 3600.0  # seconds: what is meant by more fits into no machine's number
FASTEST = 1 << 60  # bytes per second, likewise


def milliseconds(seconds: float) -> int:
    """For the engine."""
    return round(min(seconds, LONGEST) * 1000)


def as_numbers(terms: Terms) -> tuple[int, int, int | None, int | None]:
    """For the engine."""
    session, bandwidth = terms.session_time, terms.bandwidth
    return (
        milliseconds(terms.idle_timeout),
        milliseconds(terms.half_close_timeout),
        None if session is None else milliseconds(session),
        None if bandwidth is None else min(bandwidth, FASTEST),
    )


@runtime_checkable
class Mindful(Protocol):
    """A host that wants to know of those who were lost."""

    def failed(self, trace: str, route: str | None) -> None:
        """Somebody who came was closed for a defect of ours. `trace`: the traceback; `route`: the id, where it is known."""
        ...


class NativeFront:
    """The listeners in an engine's hands. Implements `sniproxy.relay.Front`."""

    def __init__(
        self,
        engine: "_relay.Engine[Any, Plan]",
        read_end: Callable[[str, int, str | None], tuple[CloseReason, str]],
        keepalive_idle: int,
        handshakes: Handshakes,
    ) -> None:
        """`read_end`: from what the engine says of an end to reason and detail. `keepalive_idle`: seconds, towards nodes."""
        self._read_end = read_end
        self._engine = engine
        self._keepalive_idle = keepalive_idle
        self._handshakes = handshakes
        self._host: Host | None = None
        self._listeners: list[Listener] = []  # by the engine's number
        self._backlogs: list[int] = []  # connections, likewise
        self._open: set[int] = set()  # numbers
        self._nodes: WeakKeyDictionary[Target, dict[int, _relay.Nodes]] = WeakKeyDictionary()

    def settle(self, settings: Proxy) -> None:
        """Goes on by other settings; `forget` follows."""
        self._keepalive_idle = settings.keepalive_idle
        self._nodes.clear()

    @property
    def accepted(self) -> int:
        return self._engine.accepted()

    @property
    def hellos(self) -> Sequence[int]:
        return self._engine.hellos()

    @property
    def waits(self) -> Sequence[tuple[Sequence[int], float]]:
        return self._engine.waits()

    def open(
        self, listening: socket.socket, listener: Listener, host: Host, settings: Proxy
    ) -> int:
        self._host = host
        trusted = None
        if listener.proxy_protocol:
            networks = map(parse_network, settings.trusted)
            trusted = [(str(one.network_address), one.prefixlen) for one in networks]
        number = self._engine.listen(listening.fileno(), settings.accept_batch, trusted)
        assert number == len(self._listeners)
        self._listeners.append(listener)
        self._backlogs.append(settings.backlog)
        self._open.add(number)
        return number

    def close(self, number: int, *, empty: bool = False) -> None:
        self._open.discard(number)
        # The kernel's queue has a place more than the backlog says.
        self._engine.unlisten(number, self._backlogs[number] + 1 if empty else 0)

    @property
    def handshakes(self) -> Sequence[int]:
        return self._engine.handshakes()

    def learn(self, plan: Plan, terms: Terms) -> None:
        server_tls: _relay.ServerTls | None = None
        if plan.server_tls is not None:
            server_tls = self._handshakes.server(plan.server_tls)
            if server_tls is None:
                return  # it is OpenSSL's
        for number in self._open:
            if self._listeners[number] is plan.listener:
                nodes, numbers = self._nodes_of(plan), as_numbers(terms)
                meter = cast("_relay.Meter | None", terms.meter)
                self._engine.learn(number, plan.name, nodes, numbers, plan, meter, server_tls)

    def forget(self) -> None:
        self._engine.forget()

    def playing(self) -> list[tuple[Plan, int, int]]:
        return self._engine.playing()

    async def receive(self, fileno: int) -> None:
        """Hands everybody who arrives to the host, for ever."""
        while True:
            await trio.lowlevel.wait_readable(fileno)
            self.receive_now()

    def receive_now(self) -> None:
        """Those who have arrived by now."""
        if self._host is None:
            return
        now = trio.current_time()
        # Before pauses are asked for: a pause that comes meanwhile is news again.
        for report in self._engine.arrivals():
            try:
                accepted = self._read(report, now)
            except Exception:  # a defect of ours costs this one alone
                if not isinstance(self._host, Mindful):
                    raise
                tried = report[-1]
                route = None if tried is None else tried[0].route.id
                self._host.failed(traceback.format_exc(), route)
            else:
                self._host.arrived(accepted)
        for errno in self._engine.pauses():
            self._host.paused(os.strerror(errno))

    def _read(self, report: "ArrivalReport[Plan]", now: float) -> Accepted:
        """Who has come. If that fails, what the engine gave up is closed."""
        number, descriptor, peer, said, errno, waited, split, begun, tried = report
        since = now - waited / 1e6
        sock: socket.socket | None = None
        attempt: Attempt | None = None
        try:
            sock = _socket(descriptor, peer[0])
            attempt = None if tried is None else _attempt(since, tried)
            return Accepted(
                listener=self._listeners[number],
                sock=sock,
                peer=_as_accepted(*peer),
                said=said,
                failure=OSError(errno, os.strerror(errno)) if errno else None,
                since=since,
                attempt=attempt,
                split=split,
                handshake=begun and partial(self._handshakes.resume, sock, *begun),
            )
        except BaseException:
            _give_up(sock, descriptor)
            if tried is not None and not tried[3]:
                _give_up(None if attempt is None else attempt.outcome, tried[2])
            raise

    async def account(self, fileno: int) -> None:
        """Tells the host of sessions that are over, for ever."""
        while True:
            await trio.lowlevel.wait_readable(fileno)
            self.account_now()
            await trio.sleep(REST)

    def account_now(self) -> None:
        """Those that are over by now."""
        if self._host is None:
            return
        self._host.played([self._read_played(*one) for one in self._engine.played()])

    def _read_played(
        self,
        who: "tuple[Plan, int, int, str, str | None, bytes | None]",
        how: "_relay.End",
        moved: tuple[int, int],
        times: tuple[int, int | None, int],
        sealed: "tuple[str, str, bytes | None, bool, int] | None",
    ) -> Played:
        plan, pick, number, client, source, listed = who
        alpn = None if listed is None else alpn_of(listed)
        reason, detail = self._read_end(*how)
        hello, connect, lasted = times
        session = plan, pick, number, client, reason, detail, *moved
        if sealed is None:
            return Played(*session, hello, connect, lasted, alpn, source)
        version, cipher, _, resumed, handshake = sealed
        agreed = Agreed(version, cipher, resumed)
        return Played(*session, hello, connect, lasted, alpn, source, agreed, handshake)

    def _nodes_of(self, plan: Plan) -> "_relay.Nodes":
        """One for all plans that lead to an upstream, so that they take turns."""
        by_port = self._nodes.setdefault(plan.target, {})
        if plan.port not in by_port:
            addresses = [(node.bare_host, node.port or plan.port) for node in plan.target.round]
            by_port[plan.port] = _relay.Nodes(addresses, self._keepalive_idle)
        return by_port[plan.port]


def _socket(descriptor: int, host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)


def _give_up(made: socket.socket | OSError | None, descriptor: int) -> None:
    """Closes what the engine gave up, whether a socket was made of it by now or not."""
    if isinstance(made, socket.socket):
        made.close()
    else:
        os.close(descriptor)


def _as_accepted(host: str, port: int, flow: int, scope: int) -> Any:
    if ":" not in host:
        return host, port
    return f"{host}%{scope}" if scope else host, port, flow, scope


def _attempt(since: float, tried: "TriedReport[Plan]") -> Attempt:
    plan, pick, descriptor, errno, hello, shook = tried
    host = plan.target.round[pick].bare_host
    outcome = OSError(errno, os.strerror(errno)) if errno else _socket(descriptor, host)
    hello_at = since + hello / 1e6
    return Attempt(plan, pick, outcome, hello_at, None if shook is None else hello_at + shook / 1e6)
