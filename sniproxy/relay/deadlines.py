"""Many deadlines that move all the time and are seldom reached: buckets of one second, pure, `now` passed in.

Moving a deadline costs nothing: a session only notes its last byte. It is looked at when the second comes for which it was
filed, and filed again if bytes have moved meanwhile: once per session and timeout, not once per message.
"""

from typing import Generic, Protocol, TypeVar


class Idle(Protocol):
    """Something that is due `idle_timeout` seconds after `last_active`, and at `ends_at` in any case."""

    last_active: float
    idle_timeout: float
    ends_at: float
    bucket: int  # ours: the second for which it is filed


T = TypeVar("T", bound=Idle)


class Deadlines(Generic[T]):
    """Sessions by the second in which they must be looked at."""

    def __init__(self, now: float) -> None:
        self._buckets: dict[int, set[T]] = {}
        self._next = int(now)  # the first second not yet looked at

    def file(self, one: T) -> None:
        """Takes it in, or moves it after its `idle_timeout` changed."""
        self.discard(one)
        one.bucket = max(self._next, int(_due_at(one)) + 1)
        self._buckets.setdefault(one.bucket, set()).add(one)

    def discard(self, one: T) -> None:
        """Forgets it."""
        bucket = self._buckets.get(one.bucket)
        if bucket is not None:
            bucket.discard(one)
            if not bucket:
                del self._buckets[one.bucket]

    def due(self, now: float) -> list[T]:
        """Those whose time has come; they stay filed until they are discarded or filed again."""
        found: list[T] = []
        while self._next <= now:
            bucket = self._buckets.get(self._next, ())
            self._next += 1
            for one in tuple(bucket):
                if _due_at(one) <= now:
                    found.append(one)
                else:
                    self.file(one)
        return found


def _due_at(one: Idle) -> float:
    return min(one.last_active + one.idle_timeout, one.ends_at)
