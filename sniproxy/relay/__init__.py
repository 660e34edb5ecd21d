"""Moving bytes between a player and a game server: the contract that every relay keeps.

A relay is handed two connected sockets and owns them from then on: it moves bytes both ways, carries half-close, closes
both, and says once how it ended. Deciding anything else is not its business. `tests/relay` holds the contract's tests,
which take the implementation as a parameter.

- Order: bytes leave in the order in which they came, each exactly once.
- Half-close: EOF from one side becomes a write shutdown (with TLS: close_notify first) towards the other, whose bytes go on
  flowing. The session is over when both sides have ended, or when one has and nothing moved for `half_close_timeout`.
- Reset: a reset by one side ends the session and reaches the other as a reset: at once, or, while that side's bytes wait
  because the other takes none or for `bandwidth`, as soon as they have moved.
- Back-pressure: while one side does not read, nothing more is read for it from the other; what is in hand per direction is
  bounded by the relay's buffer (TLS adds one buffer), or for bulk by a pipe, of which there are only so many.
- Idle: with no byte in either direction for `idle_timeout` seconds, or up to two seconds more, the session is over.
  So it is after `session_time` seconds, or up to two seconds more, whatever moves.
- Bandwidth: each direction moves at most `bandwidth` bytes per second, and a tenth of a second's worth at once.
  What was read before the relay had the session goes at once, and counts.
- Counts are payload: bytes handed to the kernel for either side, before encryption where that side speaks TLS. A meter has
  them while the session lives.
- A failure of any kind ends that session alone.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sniproxy.errors import CloseReason
from sniproxy.plan import Agreed, Plan
from sniproxy.settings import Listener, Proxy
from sniproxy.tallies import Meter
from sniproxy.tls import ServerTls
from sniproxy.upstream_tls import ClientTls


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended. Counts are bytes of payload."""

    reason: CloseReason
    detail: str
    to_upstream: int
    to_client: int


class Terminated(Protocol):
    """The client's side of a session after its TLS handshake, in the form that the relay which made it wants back."""

    version: str  # such as TLSv1.3
    cipher: str
    resumed: bool  # the client was known from an earlier session

    @property
    def subject(self) -> str | None:
        """Of the client's certificate, as RFC 4514 writes it; None: it was asked for none."""
        ...


class Originated(Protocol):
    """The game server's side of a session after our TLS handshake with it, in the same way."""

    version: str
    cipher: str


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a session may last, how much it may move, and where that is counted. Times are seconds."""

    idle_timeout: float
    half_close_timeout: float
    session_time: float | None = None  # None: no limit
    bandwidth: int | None = None  # bytes per second, each direction by itself; None: no limit
    meter: Meter | None = None  # where what it moves is counted at once; None: nowhere
    # Told once how many seconds the first byte for the client took, by a relay that has no `Front.waits` of it.
    answered: Callable[[float], None] | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """What a relay takes over: two connected, non-blocking sockets and what was read before."""

    client: socket.socket
    upstream: socket.socket
    first: bytes  # already read from the client, in clear, not yet sent to the upstream
    terms: Terms
    tls: Terminated | None = None
    upstream_tls: Originated | None = None


class Link(Protocol):
    """A session in a relay's hands."""

    @property
    def to_upstream(self) -> int:
        """Bytes so far."""
        ...

    @property
    def to_client(self) -> int:
        """Bytes so far."""
        ...

    def kill(self, reason: CloseReason) -> None:
        """Ends it now, with that reason, unless it has ended. `on_end` follows."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """A game server that was tried by a plan: a socket that is still on its way there, or why there is none."""

    plan: Plan
    pick: int  # in the target's round
    outcome: socket.socket | OSError
    hello_at: float  # seconds of trio's clock
    shaken_at: float | None = None  # when the TLS handshake was over, if there is one


@dataclass(frozen=True, slots=True)
class Accepted:
    """A connection that was accepted, as far as it has come. Whoever takes it closes its sockets."""

    listener: Listener
    sock: socket.socket
    peer: Any  # as accept() gives it; with an attempt: the client, which may be the PROXY header's
    since: float  # when it was accepted, in seconds of trio's clock
    said: bytes = b""  # what was read, of the PROXY header on; with an attempt: of the hello on
    failure: OSError | None = None  # why no more can be read
    attempt: Attempt | None = None
    split: bool = False  # of the hello several pieces were read, whatever `said` looks like
    # The TLS handshake that was begun with it, to be gone on with: as `Relay.accept_tls`.
    handshake: Callable[[], Awaitable[Terminated]] | None = None


class Played(NamedTuple):
    """A session that went by a plan, and is over."""

    plan: Plan
    pick: int  # in the target's round
    number: int  # the session's own
    client: str  # host:port
    reason: CloseReason
    detail: str
    to_upstream: int  # bytes
    to_client: int
    hello: int  # microseconds from accept to the whole hello
    connect: (
        int | None
    )  # from there, or from the handshake's end, to the connection with the game server; None: it never stood
    lasted: int  # from accept to the end
    alpn: str | None = None  # what the client offered, as `accounting.alpn_text` has it
    source: str | None = None  # host:port of ours, on the way to the node
    agreed: Agreed | None = (
        None  # in the TLS handshake; None: there was none, it was passed through
    )
    handshake: int | None = None  # from the hello to its end


class Host(Protocol):
    """Whoever serves those who come. Nothing here waits."""

    def arrived(self, accepted: Accepted) -> None:
        """Somebody to serve."""
        ...

    def played(self, sessions: list[Played]) -> None:
        """Sessions to account for."""
        ...

    def paused(self, cause: str) -> None:
        """Accepting pauses: descriptors or memory ran out."""
        ...


class Front(Protocol):
    """What of a relay accepts by itself, and plays by plans without asking. Everybody else arrives at its host."""

    @property
    def accepted(self) -> int:
        """Connections so far."""
        ...

    @property
    def hellos(self) -> Sequence[int]:
        """Of those who went by plans, so far: plain ones, with post-quantum groups, with ECH, in several pieces."""
        ...

    @property
    def waits(self) -> Sequence[tuple[Sequence[int], float]]:
        """How long hello, handshake and connection took of those who went by plans, and the answer of anybody's game server.

        Each as in `sniproxy.histogram` with the bounds WAITS: counts and seconds in all.
        """
        ...

    @property
    def handshakes(self) -> Sequence[int]:
        """Of those who went by plans, so far: of TLS 1.2, those that were resumed, and the same of TLS 1.3."""
        ...

    def open(
        self, listening: socket.socket, listener: Listener, host: Host, settings: Proxy
    ) -> int:
        """Accepts for the host, who is one for all; the number for `close`."""
        ...

    def close(self, number: int, *, empty: bool = False) -> None:
        """Accepts no more there. Those who have been accepted may still arrive.

        Whoever waits in the kernel's queue is left to those who share the socket, or reset where nobody does. With `empty`
        they are accepted first, and served as everybody: one backlog of them, as far as there are descriptors for them.
        Who is not in that queue yet (where `defer_accept` is set: who has said nothing) is reset all the same.
        """
        ...

    def learn(self, plan: Plan, terms: Terms) -> None:
        """From now on connections go by that plan, until `forget`."""
        ...

    def forget(self) -> None:
        """No plan is good any more."""
        ...

    def playing(self) -> list[tuple[Plan, int, int]]:
        """How many sessions go by plans now: plan, pick in the target's round, sessions; 0 is left out.

        Who is on his way to his game server counts. A plan that was learned twice may stand there twice. Everything else
        of the process waits until a thread has answered, which takes no longer than one of its turns.
        """
        ...


class Relay(Protocol):
    """One per worker."""

    @property
    def name(self) -> str:
        """Of the implementation."""
        ...

    @property
    def front(self) -> Front | None:
        """None: it is handed connected sockets only."""
        ...

    def settle(self, settings: Proxy) -> None:
        """Goes on by other settings, for sessions that begin from now on."""
        ...

    async def accept_tls(
        self,
        client: socket.socket,
        server_tls: ServerTls,
        received: bytes,
        name: str | None = None,
    ) -> Terminated:
        """The server's side of a TLS handshake on a socket of which `received` was already read, with the hello for `name`.

        The caller bounds its time and keeps the socket. SessionEnded HANDSHAKE_FAILED, with the cause as detail, after
        the alert went out.
        """
        ...

    async def connect_tls(
        self, upstream: socket.socket, client_tls: ClientTls, peer: str
    ) -> Originated:
        """The client's side of a TLS handshake, on a socket on which the game server has said nothing yet.

        `peer`: whom it must be, a name, which is asked for, or an address, which is not.
        The caller bounds its time and keeps the socket. SessionEnded UPSTREAM_CERTIFICATE when it is somebody else,
        UPSTREAM_TLS for any other failure, with the cause as detail, after the alert went out.
        """
        ...

    def drain(self, after: float, spread: float) -> None:
        """Those who play now and still do in `after` seconds are ended then, one by one over `spread` seconds.

        Their reason is `shutdown`; up to two seconds more, as with other times. Those who begin later are left alone.
        Asked for again, each ends at the soonest of its times.
        """
        ...

    def undrain(self) -> None:
        """Takes back every end that `drain` has set: those who still play go on as if it had never been asked for."""
        ...

    def held(self) -> int:
        """Bytes that are kept for all sessions: they were read from one side, and the other did not take them yet.

        A copy counts whole until all of it has gone. What lies in the kernel's buffers does not count.
        """
        ...

    def shed(self) -> int:
        """Ends the session that holds the most bytes, with the reason `shed`; how many it held.

        0, and nobody ends, where none holds any. Both sides hear of it as a reset, since bytes are missing.
        """
        ...

    def start(self, flow: Flow, on_end: Callable[[Outcome], None]) -> Link:
        """Takes the flow over and returns at once. `on_end` is called exactly once, when both sockets are closed."""
        ...
