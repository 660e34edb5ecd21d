"""When a drain will be over: how many sessions are left, sample by sample -> seconds until the last has ended. Pure.

Sessions end at random, each as likely in the next second as any other. The rate at which they do is best estimated (maximum
likelihood) by how many ended, over the seconds that all of them lived meanwhile; so a sample counts for as much as it has
sessions, and the jumps of small numbers do not mislead. From the last sample on the count falls by that rate, exponentially.
"""

import math
from dataclasses import dataclass, replace

KEPT = 240  # samples; when there are more, every second one goes, so that they reach back to the beginning
ENOUGH = 400  # sessions that ended in the window: its rate is then known within a twentieth
SPAN = 60.0  # seconds that the window is long at least: they end in bursts, as matches do
REACH = 4  # times as many sessions as now: what was before that is another story, such as a network that failed ...
FEW = 30  # ... but as many more than now always belong to it
LEAST = 5  # sessions that ended in the window, before anything is said

_UNITS = (  # up to how many seconds, of which unit, in steps of how many of it
    (90.0, "s", 1.0, 10),
    (90 * 60.0, "min", 60.0, 1),
    (36 * 3600.0, "h", 3600.0, 1),
    (30 * 86400.0, "days", 86400.0, 1),
)


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    count: int
    lived: float  # seconds of all sessions together, since the first sample


class Forecast:
    """Follows one drain. The clock is the caller's, in seconds, and does not go back."""

    def __init__(self) -> None:
        self._last: _Sample | None = None
        self._most = 0  # sessions, of all samples
        self._before: list[_Sample] = []  # in order, each earlier than `_last`
        self._gap = 0.0  # seconds between two of them, at least

    def note(self, now: float, count: int) -> None:
        """So many sessions there are. Where they are more than ever before, the drain begins only here."""
        last = self._last
        if last is None or count > self._most:
            self._last, self._most = _Sample(now, count, 0.0), count
            self._before, self._gap = [], 0.0
        elif now <= last.at:
            self._last = replace(last, count=count)
        else:
            self._keep(last)
            lived = last.lived + _mean(last.count, count) * (now - last.at)
            self._last = _Sample(now, count, lived)

    def seconds_left(self, now: float) -> float | None:
        """Until fewer than one is expected; 0.0: there is none. None: they do not get fewer, or too few ended so far."""
        last = self._last
        if last is None:
            return None
        if not last.count:
            return 0.0
        begin = self._window(last)
        ended, lived = begin.count - last.count, last.lived - begin.lived
        if ended < LEAST or lived <= 0:
            return None
        rate = ended / lived
        expected = math.log(last.count) - rate * max(0.0, now - last.at)  # its logarithm
        return max(expected, math.log(2)) / rate  # the last one: until it is rather gone than there

    def _keep(self, sample: _Sample) -> None:
        if self._before and sample.at - self._before[-1].at < self._gap:
            return
        self._before.append(sample)
        if len(self._before) > KEPT:
            span = self._before[-1].at - self._before[0].at
            self._before = self._before[::2]
            self._gap = max(2 * self._gap, 2 * span / KEPT)

    def _window(self, last: _Sample) -> _Sample:
        """Where it begins: as late as it can, so that the rate is today's, and as early as it must, to know it well."""
        begin = last
        for one in reversed(self._before):
            if one.count > max(REACH * last.count, last.count + FEW):
                break
            begin = one
            if one.count - last.count >= ENOUGH and last.at - one.at >= SPAN:
                break
        return begin


def _mean(earlier: int, later: int) -> float:
    """How many there were on average, between two samples: exponentially from one to the other."""
    if earlier == later or not earlier or not later:
        return (earlier + later) / 2
    return (earlier - later) / math.log(earlier / later)


def describe(seconds: float | None) -> str:
    """For people: "about 6 min", "about 40 s", "now", "cannot be said yet"."""
    if seconds is None:
        return "cannot be said yet"
    if seconds <= 0:
        return "now"
    for below, unit, length, step in _UNITS:
        if seconds < below:
            return f"about {max(step, step * round(seconds / length / step))} {unit}"
    return "more than 30 days"
