"""A cap on the bytes that one direction of a session may move per second. Pure: `now` is passed in.

A bucket of a tenth of a second is kept as the time at which it is full again (GCRA, ITU-T I.371 annex A), as in the crate.
"""

BURST = 0.1  # seconds' worth of bytes that may go at once
QUANTUM = 0.01  # seconds' worth that is worth waking up for


class Pace:
    """One direction. Times are seconds of any one clock."""

    __slots__ = ("_full_at", "_per_second")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._full_at = 0.0

    def allowance(self, now: float) -> int:
        """Bytes that may go now, 0 before `ready_at`."""
        if now < self.ready_at:
            return 0
        owed = max(0.0, self._full_at - now)
        return max(1, int(self._per_second * (BURST - owed)))

    @property
    def ready_at(self) -> float:
        """When more may go."""
        return self._full_at - (BURST - QUANTUM)

    def spend(self, count: int, now: float) -> None:
        """Those have gone."""
        self._full_at = max(self._full_at, now) + count / self._per_second
