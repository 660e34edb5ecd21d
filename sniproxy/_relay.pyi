"""The native relay's engine: a thread that owns sockets. Built from relay/, where there is a Rust toolchain."""

from typing import Generic, Literal, TypeAlias, TypeVar

TICK: int  # milliseconds between two calls of Engine.tick

How: TypeAlias = Literal[
    "client_closed",
    "upstream_closed",
    "client_lost",
    "upstream_lost",
    "idle",
    "time_up",
    "client_closed_alone",
    "upstream_closed_alone",
    "killed",
    "stopped",
]

Owner = TypeVar("Owner")

class Engine(Generic[Owner]):
    def __init__(self, buffer_size: int) -> None:
        """Starts the thread; `buffer_size` in bytes. OSError when the kernel has nothing left for it."""

    def fileno(self) -> int:
        """Becomes readable when sessions have ended."""

    def start(
        self,
        client: int,
        upstream: int,
        first: bytes,
        idle: int,
        half_close: int,
        session: int | None,
        owner: Owner,
        /,
    ) -> int:
        """Takes over two descriptors that nobody owns any more; times in milliseconds. The session's token.

        `owner` is given back with the session's end.
        """

    def kill(self, token: int, /) -> None:
        """Ends a session, unless it has ended."""

    def tick(self, now: int, /) -> None:
        """Says what time it is, in milliseconds of any one clock."""

    def counts(self, token: int, /) -> tuple[int, int] | None:
        """Bytes moved so far, to the upstream and to the client; None when it has ended. Waits for the thread's turn."""

    def ended(self) -> list[tuple[Owner, How, int, int, int]]:
        """Sessions that ended since the last call: owner, how, errno, bytes to the upstream, bytes to the client."""

    def stop(self) -> None:
        """Ends every session and the thread; `ended` has the rest."""
