"""What sessions have come to, by route: plain numbers, since every session moves them. Pure.

A route has a tally from its first session on. One that is not in the configuration any more goes when its last session has
ended and a while has passed, in which whoever scrapes has seen the end of it. There are at most so many: the sessions of
all routes beyond them are counted together, so that no configuration makes a scrape too large.
"""

from collections.abc import Callable
from typing import Protocol

from sniproxy.errors import CloseReason

GRACE = 600.0  # seconds that a tally outlives its route
SWEEP_EVERY = 10.0  # seconds between two looks for those that may go
MOST = 2_000  # routes that are told apart, where nothing else is set
OTHER = "(other)"  # in place of a route: no id of one has parentheses


class Meter(Protocol):
    """What a relay counts of a route while its sessions live."""

    @property
    def begun(self) -> int:
        """Sessions that a relay has begun by itself, by a plan."""
        ...

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes of payload so far: to the upstream, to the client."""
        ...

    def add(self, to_upstream: int, to_client: int, /) -> None:
        """So many bytes more have moved."""
        ...


class Tally:
    """One route's."""

    __slots__ = ("closed", "errors", "gone_at", "meter", "opened")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.opened = 0  # those aside that the meter has begun
        self.closed: dict[CloseReason, int] = {}
        self.errors = 0  # defects of ours
        self.gone_at: float | None = None  # since when it may go

    def close(self, reason: CloseReason) -> None:
        """One of its sessions has ended."""
        self.closed[reason] = self.closed.get(reason, 0) + 1

    @property
    def active(self) -> int:
        """Its sessions now."""
        return self.opened + self.meter.begun - sum(self.closed.values())


class Tallies:
    """One worker's. Times are seconds of any one clock."""

    def __init__(self, make_meter: Callable[[], Meter], most: int = MOST) -> None:
        """most: routes that are told apart at once; may be set anew."""
        self.most = most
        self.by_route: dict[str, Tally] = {}
        self.retired: dict[CloseReason, int] = {}  # sessions of routes that are gone
        self.retired_bytes = 0, 0
        self._make_meter = make_meter
        self._sweep_at = 0.0

    def of(self, route: str) -> Tally:
        """A route's; beyond the most that of all others. Whoever counts with it keeps it until the session's end."""
        tally = self.by_route.get(route)
        if tally is None:
            if len(self.by_route) >= self.most and route != OTHER:
                return self.of(OTHER)
            tally = self.by_route[route] = Tally(self._make_meter())
        return tally

    def closed(self) -> dict[CloseReason, int]:
        """Sessions that have ended, of all routes there have been."""
        closed = dict(self.retired)
        for tally in self.by_route.values():
            for reason, count in tally.closed.items():
                closed[reason] = closed.get(reason, 0) + count
        return closed

    def moved(self) -> tuple[int, int]:
        """Bytes of all routes there have been: to the upstream, to the client."""
        to_upstream, to_client = self.retired_bytes
        for tally in self.by_route.values():
            up, down = tally.meter.moved
            to_upstream, to_client = to_upstream + up, to_client + down
        return to_upstream, to_client

    def sweep(self, exists: Callable[[str], bool], now: float) -> None:
        """Lets those go whose time has come. exists: whether a route is in the configuration."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_EVERY
        for route, tally in list(self.by_route.items()):
            if route == OTHER or exists(route) or tally.active:
                tally.gone_at = None
            elif tally.gone_at is None:
                tally.gone_at = now
            elif now - tally.gone_at >= GRACE:
                self._retire(route, tally)

    def _retire(self, route: str, tally: Tally) -> None:
        del self.by_route[route]
        for reason, count in tally.closed.items():
            self.retired[reason] = self.retired.get(reason, 0) + count
        (up, down), (more_up, more_down) = self.retired_bytes, tally.meter.moved
        self.retired_bytes = up + more_up, down + more_down
