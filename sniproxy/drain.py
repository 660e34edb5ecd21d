"""How a data plane is emptied: not ready at once, then closed to new players, then the rest ended one by one.

A load balancer that hears "not ready" sends new players for a while all the same, so they are let in for `accept` seconds
more. It can be taken back until the last session was ended.
"""

from enum import StrEnum
from typing import NamedTuple, Protocol

import trio

from sniproxy.logs import Log

LOOK_EVERY = 0.05  # seconds between two looks whether the last session has ended
GRAIN = 2.0  # seconds by which a relay may end a session late


class Phase(StrEnum):
    """How far it is."""

    SERVING = "serving"
    LEAVING = "leaving"  # not ready any more, and players are let in
    WAITING = "waiting"  # nobody is let in; sessions end by themselves
    ENDING = "ending"  # the rest is ended
    OVER = "over"


class Terms(NamedTuple):
    """Seconds, one after the other."""

    accept: float
    deadline: float | None  # None: nobody is ended
    spread: float


class Emptied(Protocol):
    """What is to be emptied."""

    @property
    def active(self) -> int:
        """Sessions now, set-up included."""
        ...

    def retire(self) -> None:
        """Not ready any more."""
        ...

    async def close(self) -> None:
        """Let nobody in any more, but who waits to be."""
        ...

    def drain(self, after: float, spread: float) -> None:
        """End those who still play then, over so many seconds."""
        ...

    def reopen(self) -> None:
        """As if nothing had been said. SettingsError when an address is not ours any more: then nothing has changed."""
        ...


class Drain:
    """One data plane's. `run` must run."""

    def __init__(self, emptied: Emptied, log: Log) -> None:
        self.phase = Phase.SERVING
        self.over = trio.Event()
        self.final = False  # it is to end: whoever else asks changes nothing about that
        self._emptied = emptied
        self._log = log
        self._asked = trio.Event()
        self._terms: Terms | None = None  # None: it was taken back
        self._scope = trio.CancelScope()  # of what is done by the terms before
        self._ends_at: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Of the phase; None: it has no end of its own."""
        return None if self._ends_at is None else max(0.0, self._ends_at - trio.current_time())

    def begin(self, terms: Terms, *, final: bool = False) -> None:
        """Begins, or goes on by other terms from where it is."""
        self._terms, self.final = terms, self.final or final
        self._scope.cancel()
        self._asked.set()
        if self.phase is Phase.SERVING:
            self._emptied.retire()
            self._set(Phase.LEAVING, terms.accept)

    def take_back(self) -> None:
        """Players are let in again, and nobody is ended. SettingsError when an address is not ours any more: it goes on."""
        if self.phase is not Phase.SERVING:
            self._emptied.reopen()
        self._terms = None
        self._scope.cancel()
        if self.phase is not Phase.SERVING:
            self._log.info("drain taken back", sessions=self._emptied.active)
            self._set(Phase.SERVING, None)
            self.over = trio.Event()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            if self._terms is not None:
                with trio.CancelScope() as self._scope:
                    await self._empty(self._terms)

    async def _empty(self, terms: Terms) -> None:
        if self.phase is Phase.LEAVING:
            if terms.accept:
                self._tell(Phase.LEAVING, terms.accept)
                await trio.sleep(terms.accept)
            await self._emptied.close()
            await trio.lowlevel.checkpoint_if_cancelled()  # it may be taken back by now
        self._tell(Phase.WAITING, terms.deadline)
        if terms.deadline is not None:
            self._emptied.drain(terms.deadline, terms.spread)
        if not await self._is_empty_within(terms.deadline):
            self._tell(Phase.ENDING, terms.spread)
            if terms.deadline or terms.spread:  # else nobody is to be waited for
                await self._is_empty_within(terms.spread + GRAIN)
        self._tell(Phase.OVER, None)
        self.over.set()

    async def _is_empty_within(self, seconds: float | None) -> bool:
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            while self._emptied.active:  # noqa: ASYNC110  # counted in memory that other processes write
                await trio.sleep(LOOK_EVERY)
        return not self._emptied.active

    def _tell(self, phase: Phase, seconds: float | None) -> None:
        self._set(phase, seconds)
        self._log.info(
            "draining", phase=phase.value, sessions=self._emptied.active, seconds=seconds
        )

    def _set(self, phase: Phase, seconds: float | None) -> None:
        self.phase = phase
        self._ends_at = None if seconds is None else trio.current_time() + seconds
