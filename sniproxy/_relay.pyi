"""The native relay's engine: a thread that owns sockets. Built from relay/, where there is a Rust toolchain."""

from collections.abc import Sequence
from typing import Generic, Literal, TypeAlias, TypeVar

TICK: int  # milliseconds between two calls of Engine.tick
BOUNDS: list[int]  # microseconds, of Engine.waits

How: TypeAlias = Literal[
    "client_closed",
    "upstream_closed",
    "client_lost",
    "upstream_lost",
    "idle",
    "time_up",
    "drained",
    "client_closed_alone",
    "upstream_closed_alone",
    "killed",
    "shed",
    "stopped",
    "broken",
]
# A word, an errno or 0, and what has broken.
End: TypeAlias = tuple[How, int, str | None]

# Milliseconds: without a byte, the same once one side has ended, altogether; and bytes per second in each direction.
Terms: TypeAlias = tuple[int, int, int | None, int | None]

# Why a handshake has failed: a word, the number of the alert or an errno, the cause, whether the certificate was at fault.
Unshaken: TypeAlias = tuple[
    Literal["received", "sent", "sent_encrypted", "silent", "lost", "closed", "broken"],
    int,
    str,
    bool,
]
# Whoever waits for a handshake, TLS to go on with, or why there is none.
ShakeReport: TypeAlias = tuple[object, Tls | None, Unshaken | None]

Owner = TypeVar("Owner")
Plan = TypeVar("Plan")

# A plan and which of its nodes was tried, a socket that is still on its way there (or -1), why there is none (or 0), and
# microseconds from accept to the whole hello, and from there to the end of the TLS handshake, if there was one.
TriedReport: TypeAlias = tuple[Plan, int, int, int, int, int | None]
# TLS as far as it has come, or why it came to nothing.
TlsReport: TypeAlias = tuple[Tls | None, Unshaken | None]
# A listener, a socket that nobody owns any more, (host, port, flow information, scope), what was read, why no more can be
# read (or 0), microseconds since accept, whether the hello came in several pieces, the handshake that was begun, and
# what was tried.
ArrivalReport: TypeAlias = tuple[
    int,
    int,
    tuple[str, int, int, int],
    bytes,
    int,
    int,
    bool,
    TlsReport | None,
    TriedReport[Plan] | None,
]
# (plan, which of its nodes, token, host:port of the client, of ours towards the node, protocols as a hello lists them),
# end, bytes (to the upstream, to the client), microseconds (from accept to the hello, from there to the connection with the
# node, from accept to the end), and of the TLS handshake version, cipher, application protocol, whether it was resumed, and
# microseconds.
PlayReport: TypeAlias = tuple[
    tuple[Plan, int, int, str, str | None, bytes | None],
    End,
    tuple[int, int],
    tuple[int, int | None, int],
    tuple[str, str, bytes | None, bool, int] | None,
]

def read_hello(said: bytes, /) -> str | None:
    """The name in a ClientHello; None: not whole yet; "": this reader is not sure, Python's must look."""

def read_header(said: bytes, /) -> tuple[str, int, int] | None:
    """Host and port of a PROXY header's client, and its size; None: not whole yet; size 0: as above."""

class Meter:
    """Counts what whoever is given it moves, at once. See `sniproxy.tallies.Meter`."""

    @property
    def begun(self) -> int:
        """Sessions by plans that have set out."""

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes so far, to the upstream and to the client."""

    def add(self, to_upstream: int, to_client: int, /) -> None:
        """So many more."""

class Nodes:
    def __init__(self, addresses: Sequence[tuple[str, int]], keepalive_idle: int) -> None:
        """Game servers, picked in that order, again and again; seconds until an idle connection is asked if it lives."""

class ServerTls:
    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        versions: tuple[bool, bool],
        client_ca: tuple[str, int] | None,
        alpn: Sequence[bytes],
        secrets: Sequence[bytes],
    ) -> None:
        """What handshakes with players are made with. ValueError where rustls does not take it.

        `pairs`: chains and keys in PEM; `versions`: TLS 1.2 and 1.3; `client_ca`: PEM, and how many authorities there may be
        below it; `alpn`: the best one first; `secrets`: of 32 bytes, which open tickets, and the first of which seals them.
        """

class ClientTls:
    def __init__(self, trusted: Sequence[str] | None, shown: tuple[str, str] | None = None) -> None:
        """What handshakes with game servers are made with. ValueError where rustls does not take it.

        `trusted`: authorities in PEM, none: the system's; None: whoever answers. `shown`: chain and key in PEM.
        """

class Tls:
    """A handshake, to be gone on with (`Engine.go_on_tls`), or to be given to one session: once."""

    @property
    def is_over(self) -> bool: ...
    @property
    def version(self) -> str: ...
    @property
    def cipher(self) -> str: ...
    @property
    def alpn(self) -> bytes | None: ...
    @property
    def resumed(self) -> bool: ...
    @property
    def certificate(self) -> bytes | None:
        """The peer's, in DER."""

class Engine(Generic[Owner, Plan]):
    def __init__(
        self,
        buffer_size: int,
        pipes: int = 0,
        words: memoryview | None = None,
        own: int = 0,
        all: Sequence[int] = (),  # noqa: A002
        most: int = ...,
    ) -> None:
        """Starts the thread; `buffer_size` in bytes, `pipes` of 1 MiB for bulk. OSError when the kernel has nothing left.

        Sessions that it accepts itself are counted in the word `own` of `words`; beyond `most` in `all` words nobody plays
        without Python.
        """

    def filenos(self) -> tuple[int, int, int, int]:
        """Readable when there is something in `ended` or `mishap`, `played`, `arrivals` or `pauses`, and `shaken`."""

    def start(
        self,
        client: int,
        upstream: int,
        first: bytes,
        terms: Terms,
        owner: Owner,
        meter: Meter | None = None,
        client_tls: Tls | None = None,
        upstream_tls: Tls | None = None,
        /,
    ) -> int:
        """Takes over two descriptors that nobody owns any more. The session's token.

        `owner` is given back with the session's end. ValueError for TLS that has a session already.
        """

    def accept_tls(self, client: int, server_tls: ServerTls, said: bytes, owner: object, /) -> int:
        """Begins a handshake with a player of whom `said` was read; its token. The descriptor stays the caller's, who does
        nothing with it until `shaken` has `owner`.
        """

    def connect_tls(self, upstream: int, client_tls: ClientTls, peer: str, owner: object, /) -> int:
        """The same with a game server, who is `peer`: a name or an address; ValueError where it is neither."""

    def go_on_tls(self, client: int, tls: Tls, owner: object, /) -> int:
        """Goes on with one as `accept_tls`. ValueError for TLS that somebody has already."""

    def abandon(self, token: int, /) -> None:
        """Nobody waits for a handshake any more."""

    def shaken(self) -> list[ShakeReport]:
        """The handshakes that were over since the last call."""

    def listen(
        self, listening: int, batch: int, trusted: Sequence[tuple[str, int]] | None = None, /
    ) -> int:
        """Accepts from a listening socket, of which it keeps a copy; the listener's number, counted from 0.

        `trusted`: networks (address and bits) of those who say a PROXY header first; None: nobody does.
        """

    def unlisten(self, listener: int, most: int = 0, /) -> None:
        """Accepts `most` of those who wait there by now, and no more, and closes the copy; has done so when it returns."""

    def learn(
        self,
        listener: int,
        name: str,
        nodes: Nodes,
        terms: Terms,
        plan: Plan,
        meter: Meter | None = None,
        server_tls: ServerTls | None = None,
        /,
    ) -> None:
        """Who asks a listener for a name is connected to one of those nodes; `server_tls`: once his TLS is terminated."""

    def limit(self, most: int, /) -> None:
        """How many sessions there may be from now on, with all others that are counted in `words`."""

    def forget(self) -> None:
        """Takes all of that back."""

    def drain(self, after: int, spread: int, /) -> None:
        """Ends those who play now and still do in `after` milliseconds, one by one over `spread` milliseconds."""

    def undrain(self) -> None:
        """Takes back every end that `drain` has set."""

    def kill(self, token: int, /) -> None:
        """Ends a session, unless it has ended."""

    def tick(self, now: int, /) -> None:
        """Says what time it is, in milliseconds of any one clock."""

    def counts(self, token: int, /) -> tuple[int, int] | None:
        """Bytes moved so far, to the upstream and to the client; None when it has ended. Waits for the thread's turn."""

    def playing(self) -> list[tuple[Plan, int, int]]:
        """Plan, which of its nodes, and how many sessions play there. Waits for the thread's turn, and lets others go on."""

    def held(self) -> int:
        """Bytes that are kept for all sessions, since those whom they are for did not take them yet. Waits as `playing`."""

    def shed(self, than: int, /) -> int:
        """Ends the session for which the most bytes are kept, if they are more than `than`; how many, 0 if nobody ended.

        Waits as `playing`.
        """

    def accepted(self) -> int:
        """Connections so far, whoever serves them."""

    def hellos(self) -> list[int]:
        """Of those who went by plans: plain ones, with post-quantum groups, with ECH, in several pieces."""

    def waits(self) -> list[tuple[list[int], float]]:
        """How long hello, handshake and connection took of those who went by plans, and the answer of anybody's game server:
        of each bucket by itself, and seconds in all.
        """

    def handshakes(self) -> list[int]:
        """Of those who went by plans: of TLS 1.2, those that were resumed, and the same of TLS 1.3."""

    def ended(self) -> list[tuple[Owner, End, int, int]]:
        """Sessions that ended since the last call: owner, end, bytes to the upstream, bytes to the client."""

    def mishap(self) -> str | None:
        """Why the thread has ended unasked, and with it everything that it had; None: it has not."""

    def played(self) -> list[PlayReport[Plan]]:
        """Sessions that ended since the last call, of those that went by a plan."""

    def arrivals(self) -> list[ArrivalReport[Plan]]:
        """Those who have come since the last call and are Python's to serve."""

    def pauses(self) -> list[int]:
        """Why accepting has paused since the last call: an errno for each time. It goes on by itself, in a tick."""

    def stop(self) -> None:
        """Ends every session and the thread; the lists have the rest."""
