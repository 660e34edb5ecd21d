"""How often something took how long: plain numbers, for those who count for every session. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import zip_longest

# Seconds, up to which a bucket goes; one more has the rest. What is looked for lies between a tenth of a millisecond, on
# one machine, and the timeouts of the settings.
WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SESSIONS = (1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0)


class Histogram:
    """One, without labels."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = WAITS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)  # of each bucket by itself
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """It took so long once more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def plus(self, counts: Sequence[int], total: float) -> "Histogram":
        """Together with what somebody else has counted by the same bounds; nobody: no counts at all."""
        both = Histogram(self.bounds)
        both.total = self.total + total
        both.counts = [a + b for a, b in zip_longest(self.counts, counts, fillvalue=0)]
        return both

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: up to which bound how many, each with those below it."""
        below, buckets = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(below)))
        return buckets
