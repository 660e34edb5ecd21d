"""What is kept of connections that were refused: a log line now and then, and the bytes of the latest. Pure.

A flood of refusals must not become a flood of lines: each reason is logged at most once in an interval, and the line says
how many were left out. The recorder keeps each one, first flight included, until newer ones push it out.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from sniproxy.client_hello import HelloClass
from sniproxy.errors import CloseReason

OVERHEAD = 512  # bytes that a record counts for beside its flight
# Of what is no TLS only as much as shows what it is: the rest may be a password in clear.
NOT_TLS_KEPT = 64  # bytes
PROXY_KEPT = 512  # bytes
PROXY_STARTS = (b"PROXY", b"\r\n\r\n\0")
HANDSHAKE = b"\x16"  # the type of a TLS record


class Sampler:
    """Says which refusals are logged. Times are seconds of any one clock."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._quiet_until: dict[CloseReason, float] = {}
        self._left_out: dict[CloseReason, int] = {}

    def note(self, reason: CloseReason, now: float) -> int | None:
        """How many of that reason were left out since its last line, if this one is to be logged; else None."""
        if now < self._quiet_until.get(reason, now):
            self._left_out[reason] = self._left_out.get(reason, 0) + 1
            return None
        self._quiet_until[reason] = now + self.interval
        return self._left_out.pop(reason, 0)


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused connection."""

    session: str
    time: float  # Unix seconds
    client: str  # host:port
    listener: str
    reason: CloseReason
    detail: str
    sni: str | None
    flight: bytes  # what the client sent, as far as it was read; shortened where it is no TLS

    def summary(self) -> dict[str, object]:
        """All but the bytes, for JSON."""
        return {
            "session": self.session,
            "time": self.time,
            "client": self.client,
            "listener": self.listener,
            "reason": self.reason.value,
            "detail": self.detail,
            "sni": self.sni,
            "bytes": len(self.flight),
        }


class Recorder:
    """The latest refused connections that sent something, `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, Refused] = OrderedDict()

    def add(self, refused: Refused) -> None:
        """Takes one in; the oldest go when there is no room."""
        self._kept[refused.session] = refused
        self._size += OVERHEAD + len(refused.flight)
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= OVERHEAD + len(oldest.flight)

    def __iter__(self) -> Iterator[Refused]:
        """Newest first."""
        return iter(reversed(self._kept.values()))

    def flight(self, session: str) -> bytes | None:
        """The bytes of one of them."""
        found = self._kept.get(session)
        return None if found is None else found.flight


def shortened(reason: CloseReason, flight: bytes) -> bytes:
    """What of a first flight is kept."""
    if flight.startswith(PROXY_STARTS) and reason is CloseReason.PROXY_BROKEN:
        return flight[:PROXY_KEPT]
    return flight if flight.startswith(HANDSHAKE) else flight[:NOT_TLS_KEPT]


def hello_refusal(hello_class: HelloClass) -> CloseReason:
    """Why a connection with such a hello is closed."""
    if hello_class is HelloClass.TOO_LARGE:
        return CloseReason.HELLO_TOO_LARGE
    if hello_class.startswith("not_tls"):
        return CloseReason.HELLO_NOT_TLS
    return CloseReason.HELLO_BROKEN
