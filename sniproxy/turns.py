"""At most so many connections are set up at once; more wait for their turn, fairly, or are refused.

A handshake costs thousands of times what a message does, and connecting holds a socket. When everybody comes back at once,
those who play must not feel it: only `overload.setups` are set up at a time, so each of them is soon done. No route and no
address has more than its share of them: a game server that does not answer, or a client that is slow, holds up its own.
"""

from collections import Counter
from collections.abc import Hashable
from types import TracebackType

import trio

from sniproxy.deadline import Deadline
from sniproxy.errors import CloseReason, Limit, SessionEnded
from sniproxy.fair_queue import FairQueue
from sniproxy.settings import Overload


class Turns:
    """One worker's."""

    def __init__(self, settings: Overload) -> None:
        self._settings = settings
        self._inside = 0
        self._shares: Counter[Hashable] = (
            Counter()
        )  # of those inside: how many by route, and by address
        # Nobody waits here whom there is room for inside: whoever leaves, or makes room, lets in at once.
        self._queue: FairQueue[_Waiter] = FairQueue(settings.queue)

    @property
    def settings(self) -> Overload:
        """How many are set up at once, how many wait, and how long: for those to come, and those who wait in vain."""
        return self._settings

    @settings.setter
    def settings(self, settings: Overload) -> None:
        """Who had a turn keeps it. Whoever began to wait before waits as long as was said then."""
        self._settings = settings
        self._queue.limit = settings.queue
        self._let_in()
        while (waiter := self._queue.give_way()) is not None:
            waiter.decide(admitted=False)

    @property
    def inside(self) -> int:
        """How many are being set up."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def take(self, route: str, address: bytes) -> "_Turn":
        """`async with turns.take(...)`: one turn, which may be waited for. `address`: of the client, as it is counted.

        SessionEnded SETUP_LIMIT when there is no room to wait, or no turn in time. Where there is room inside nobody else
        runs before the block does.
        """
        return _Turn(self, route, address)

    def enter(self, route: str, address: bytes) -> bool:
        """Takes a turn without waiting, if there is one for them; `leave` must follow."""
        if self._inside < self._settings.setups and self._may(route) and self._may(address):
            self._take(route, address)
            return True
        return False

    def leave(self, route: str, address: bytes) -> None:
        """A turn is over."""
        self._inside -= 1
        for key in (route, address):
            self._shares[key] -= 1
            if not self._shares[key]:
                del self._shares[key]
        self._let_in()

    def _take(self, route: str, address: bytes) -> None:
        self._inside += 1
        self._shares[route] += 1
        self._shares[address] += 1

    def _may(self, key: Hashable) -> bool:
        """Whether a route (str) or an address (bytes) has less than its share. One turn is everybody's."""
        settings = self._settings
        share = settings.route_share if isinstance(key, str) else settings.address_share
        return self._shares[key] < max(1, share * settings.setups)

    async def wait(self, route: str, address: bytes) -> None:
        """Until there is a turn, which is taken. Otherwise SessionEnded, or Cancelled, and nothing is taken."""
        settings, waiter = self._settings, _Waiter(route, address)
        pushed_out = self._queue.push(route, address, waiter)
        if pushed_out is not None:
            pushed_out.decide(admitted=False)
        try:
            late = "overload.queue_timeout: no turn in {:g} s"
            with Deadline(settings.queue_timeout, CloseReason.SETUP_LIMIT, late):
                await waiter.decided.wait()
        except BaseException:
            # Time was up, or the task was cancelled; the decision may have come just then.
            if waiter.admitted is None:
                self._queue.remove(route, address, waiter)
            elif waiter.admitted:
                self.leave(route, address)
            raise
        if not waiter.admitted:
            full = f"overload.queue: {self._settings.queue} wait"
            raise SessionEnded(CloseReason.SETUP_LIMIT, full, Limit.QUEUE)

    def _let_in(self) -> None:
        while self._inside < self._settings.setups:
            waiter = self._queue.pop(self._may)
            if waiter is None:
                break
            self._take(waiter.route, waiter.address)
            waiter.decide(admitted=True)


class _Waiter:
    """Somebody who waits, and what becomes of it."""

    __slots__ = ("address", "admitted", "decided", "route")

    def __init__(self, route: str, address: bytes) -> None:
        self.route = route
        self.address = address
        self.admitted: bool | None = None  # None: it waits
        self.decided = trio.Event()

    def decide(self, *, admitted: bool) -> None:
        """It is in the queue no more."""
        self.admitted = admitted
        self.decided.set()


class _Turn:
    """What `take` gives. A class: every connection comes through here, and a generator costs several times as much."""

    __slots__ = ("_address", "_route", "_turns")

    def __init__(self, turns: Turns, route: str, address: bytes) -> None:
        self._turns = turns
        self._route = route
        self._address = address

    async def __aenter__(self) -> None:
        if not self._turns.enter(self._route, self._address):
            await self._turns.wait(self._route, self._address)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._turns.leave(self._route, self._address)
