"""What the contract suite of the relays stands on: an implementation, and one session in its hands."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Literal, get_args

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from sniproxy.errors import SessionEnded
from sniproxy.relay import Flow, Link, Originated, Outcome, Relay, Terminated, Terms
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls
from tests.support.certificates import NAME, client_tls, game_context, player_context, server_tls
from tests.support.peers import Peer, TlsPeer, tcp_pair

# Of the player, and where it is not plain, of the game server.
Transport = Literal[
    "plain",
    "TLSv1.2",
    "TLSv1.3",
    "plain to TLSv1.2",
    "plain to TLSv1.3",
    "TLSv1.3 to TLSv1.2",
]
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

on_every_transport = pytest.mark.parametrize("transport", get_args(Transport))

BUFFER = 64 * 1024
DEADLINE = 20  # seconds for one test, for when something hangs
LONG = 3600.0  # seconds: a timeout that is not what the test is about
LATE = 2.0  # seconds by which a timeout may come later than set


@dataclass(frozen=True)
class Implementation:
    """A relay under test. `virtual`: its timeouts follow the clock of trio, so that a test may wind it."""

    name: str
    open: Callable[[int], AbstractAsyncContextManager[Relay]]  # takes the size of the buffer
    virtual: bool


def in_time(since: float, timeout: float) -> bool:
    """Whether now is when a timeout that ran since then must have struck."""
    return timeout <= trio.current_time() - since <= timeout + LATE


@dataclass
class Session:
    """One session: the player, the game server and, between them, the relay."""

    player: Peer
    server: Peer
    flow: Flow
    outcomes: list[Outcome] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)
    _link: Link | None = None

    @property
    def link(self) -> Link:
        """The relay's handle of it."""
        assert self._link is not None
        return self._link

    def start(self, relay: Relay) -> None:
        """Hands the sockets over."""
        self._link = relay.start(self.flow, self._on_end)

    async def outcome(self) -> Outcome:
        """How it ended, which must be said once."""
        await self.over.wait()
        await trio.testing.wait_all_tasks_blocked()
        (outcome,) = self.outcomes
        return outcome

    def close(self) -> None:
        """Both peers leave."""
        self.player.close()
        self.server.close()

    def _on_end(self, outcome: Outcome) -> None:
        assert self.flow.client.fileno() == self.flow.upstream.fileno() == -1, "not closed yet"
        self.outcomes.append(outcome)
        self.over.set()


async def begin(
    relay: Relay,
    transport: Transport = "plain",
    *,
    first: bytes = b"",
    then: bytes = b"",
    idle_timeout: float = LONG,
    half_close_timeout: float = LONG,
    session_time: float | None = None,
    bandwidth: int | None = None,
    kernel_buffer: int | None = None,
) -> Session:
    """A session in the relay's hands, its TLS handshake done; `then` is what a TLS player sends right behind it."""
    terms = Terms(idle_timeout, half_close_timeout, session_time, bandwidth)
    player_sock, client = tcp_pair(kernel_buffer=kernel_buffer)
    server_sock, upstream = tcp_pair(kernel_buffer=kernel_buffer)
    player, tls = Peer(player_sock), None
    server, upstream_tls = Peer(server_sock), None
    inward, _, outward = transport.partition(" to ")
    if inward != "plain":
        player = TlsPeer(player_sock, player_context(VERSIONS[inward]))
        tls = await shake_hands(relay, player, client, then=then)
    if outward:
        server = TlsPeer(server_sock, game_context(VERSIONS[outward]), serves=True)
        upstream_tls = await greet(relay, server, upstream)
    session = Session(player, server, Flow(client, upstream, first, terms, tls, upstream_tls))
    session.start(relay)
    return session


async def greet(
    relay: Relay,
    server: TlsPeer,
    upstream: socket.socket,
    offered: ClientTls | None = None,
    peer: str = NAME,
    *,
    then: bytes = b"",
) -> Originated:
    """A handshake with a game server, which says `then` right behind it; SessionEnded as the relay raised it."""
    result: Originated | SessionEnded | None = None

    async def server_side() -> None:
        with suppress(ssl.SSLError, OSError):
            await server.handshake(then=then)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_side)
        try:
            with at_a_standstill():
                result = await relay.connect_tls(upstream, offered or client_tls(), peer)
        except SessionEnded as ended:
            result = ended
            upstream.close()
    if isinstance(result, SessionEnded):
        raise result
    assert result is not None
    return result


@contextmanager
def at_a_standstill() -> Iterator[None]:
    """Virtual time does not go by meanwhile: a thread is at work, for which nobody here can be seen to wait."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        yield
        return
    threshold, clock.autojump_threshold = clock.autojump_threshold, inf
    try:
        yield
    finally:
        clock.autojump_threshold = threshold


async def shake_hands(
    relay: Relay,
    player: TlsPeer,
    client: socket.socket,
    offered: ServerTls | None = None,
    *,
    then: bytes = b"",
) -> Terminated:
    """A handshake of which the relay gets the first flight as bytes, as it has in real life.

    SessionEnded as the relay raised it; what the player thinks of it counts only where the relay was content.
    """
    first_flight = player.hello()
    refused: list[Exception] = []
    result: Terminated | SessionEnded | None = None

    async def player_side() -> None:
        try:
            await player.handshake(then=then)
        except (ssl.SSLError, OSError) as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(player_side)
        try:
            with at_a_standstill():
                result = await relay.accept_tls(client, offered or server_tls(), first_flight)
        except SessionEnded as ended:
            result = ended
            client.close()
    if isinstance(result, SessionEnded):
        raise result
    assert result is not None
    assert not refused
    return result
