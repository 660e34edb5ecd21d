"""When a worker that has died is started again, and when it is given up. Pure."""

from collections import deque

FIRST_PAUSE = 0.1  # seconds before the second start in a row; the first comes at once
LONGEST_PAUSE = 0.8  # seconds, up to which it doubles: a worker is back within a second


class Crashes:
    """One worker's. Times are seconds of any clock that does not jump."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def note(self, now: float, most: int, window: float) -> float | None:
        """It has died: how many seconds to wait before it is started again; None: `most` times in `window` seconds."""
        self._times.append(now)
        while self._times[0] < now - window:
            self._times.popleft()
        count = len(self._times)
        if count >= most:
            return None
        return min(FIRST_PAUSE * 2.0 ** (count - 2), LONGEST_PAUSE) if count > 1 else 0.0
