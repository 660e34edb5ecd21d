"""Counts by key that all workers of a pod share without a lock: sessions now, and a token bucket per key. Pure.

The table lies in one piece of shared memory. Each worker writes its own part only and reads all of them, so no write is ever
lost: the sessions of a key are the sum over the parts. A token bucket is kept as the time at which it is full again (GCRA,
ITU-T I.371 annex A), which only moves forward; the bucket of all workers is the latest of their times.

A part is a set-associative table of entries {fingerprint, sessions, full again at}, WAYS to a set. An entry with no
session and a full bucket says nothing and is taken over by the next key. When a set has no room left, its next key is
not counted and not refused: `uncounted` says how often. Whoever counts writes first and looks at the others after, so two
workers that ask for the last place at once may both be refused, and are never both let in.
"""

import hashlib
import math
import os
from enum import Enum, auto
from typing import NamedTuple

WAYS = 8
WORD = 8  # bytes; aligned words are written whole
_HEADER = 2  # words: the secret of the fingerprints
_ROUNDING = 1e-9  # seconds: sums of floats must not cost the last token
_ATTEMPTS = 8  # times to ask for a token that another worker was quicker to take
_SET = 3 * WAYS  # words: fingerprints, sessions, times
_COUNTS = (
    2  # words: sessions of the worker that Python counts, and those that the native relay does
)


class Places(NamedTuple):
    """Where the native relay counts its sessions: words of the table."""

    words: memoryview  # of the whole table, format Q
    own: int  # the word that it writes
    all: list[int]  # those whose sum is all sessions of all workers


class Key(NamedTuple):
    """Where a key's entry may lie, and how it is known there."""

    offset: int  # words from the start of a part
    fingerprint: int  # never 0


class Admission(Enum):
    """What came of asking for one more session."""

    COUNTED = auto()  # to be given back with `release`
    UNCOUNTED = auto()  # let in, but the table has no room for its key
    REFUSED = auto()


def table_size(entries: int, workers: int) -> int:
    """Bytes of memory for `workers` parts of `entries` keys each."""
    return WORD * (_HEADER + workers * _part_words(_sets(entries)))


def prepare(memory: memoryview) -> memoryview:
    """Zeroed memory made ready for its first worker, once, by whoever starts the workers; the same memory."""
    memory[: _HEADER * WORD] = os.urandom(_HEADER * WORD)
    return memory


def _sets(entries: int) -> int:
    return -(-entries // WAYS)


def _part_words(sets: int) -> int:
    return _COUNTS + sets * _SET


class Overview:
    """The view of whoever starts the workers: it writes only where a worker has died."""

    def __init__(self, memory: memoryview, *, entries: int, workers: int) -> None:
        """As for StickTable."""
        self._part = _part_words(_sets(entries))
        self._workers = workers
        self._words = memory[: table_size(entries, workers)].cast("B").cast("Q")

    @property
    def all_active(self) -> int:
        """Sessions of all workers."""
        return sum(self.active(worker) for worker in range(self._workers))

    def active(self, worker: int) -> int:
        """Sessions of one."""
        start = self._start(worker)
        return sum(self._words[start : start + _COUNTS])

    def wipe(self, worker: int) -> int:
        """It has died, and its sessions with it: what it has counted counts no more. How many they were."""
        lost = self.active(worker)
        start = self._start(worker)
        self._words[start : start + self._part] = memoryview(bytes(self._part * WORD)).cast("Q")
        return lost

    def _start(self, worker: int) -> int:
        return _HEADER + worker * self._part


class StickTable:
    """One worker's view of a table. Times are seconds of a clock that all workers share, such as CLOCK_MONOTONIC."""

    def __init__(
        self, memory: memoryview, *, entries: int, worker: int = 0, workers: int = 1
    ) -> None:
        """`memory`: writable, `table_size(entries, workers)` bytes that went through `prepare`.

        What an earlier process left in this worker's part is wiped: its sessions ended with it.
        """
        self._sets = _sets(entries)
        part = _part_words(self._sets)
        whole = memory[: table_size(entries, workers)]
        self._words = whole.cast("B").cast("Q")
        self._times = whole.cast("B").cast("d")
        self._parts = tuple(_HEADER + number * part for number in range(workers))
        self._own = self._parts[worker]
        self._others = self._parts[:worker] + self._parts[worker + 1 :]
        self._lower = self._parts[:worker]
        self._secret = bytes(whole[: _HEADER * WORD])
        assert any(self._secret), "not prepared"
        self._words[self._own : self._own + part] = memoryview(bytes(part * WORD)).cast("Q")
        self.uncounted = 0

    def release_memory(self) -> None:
        """Lets go of the memory, which cannot be closed before."""
        self._words.release()
        self._times.release()

    @property
    def active(self) -> int:
        """Sessions of this worker."""
        return self._words[self._own] + self._words[self._own + 1]

    def count(self, step: int) -> None:
        """So many sessions of this worker more, beside those that the native relay counts."""
        self._words[self._own] += step

    @property
    def all_active(self) -> int:
        """Sessions of all workers."""
        return sum(self._words[word] for word in self._counts())

    @property
    def places(self) -> Places:
        """Where the native relay counts."""
        return Places(self._words, self._own + 1, self._counts())

    def _counts(self) -> list[int]:
        return [part + word for part in self._parts for word in range(_COUNTS)]

    def key(self, text: bytes) -> Key:
        """The same in every worker; not to be guessed from outside, so that nobody can fill one set on purpose."""
        digest = int.from_bytes(hashlib.blake2b(text, digest_size=16, key=self._secret).digest())
        fingerprint = digest & (2**64 - 1) or 1
        return Key(_COUNTS + (digest >> 64) % self._sets * _SET, fingerprint)

    def sessions(self, key: Key) -> int:
        """Sessions of a key, of all workers."""
        total = 0
        for part in self._parts:
            entry = self._find(part, key)
            if entry is not None:
                count = self._words[entry + WAYS]
                if self._words[entry] == key.fingerprint:  # it may have changed hands meanwhile
                    total += count
        return total

    def acquire(self, key: Key, cap: int, now: float) -> tuple[Admission, int]:
        """One more session of a key, unless there are `cap` already; and how many there are with it."""
        entry = self._find(self._own, key) or self._claim(key, now)
        if entry is None:
            self.uncounted += 1
            others = self.sessions(key)
            return (Admission.UNCOUNTED if others < cap else Admission.REFUSED), others + 1
        self._words[entry + WAYS] += 1
        count = self.sessions(key)
        if count > cap:
            self._words[entry + WAYS] -= 1
            return Admission.REFUSED, count
        return Admission.COUNTED, count

    def release(self, key: Key) -> None:
        """Gives back what was COUNTED."""
        entry = self._find(self._own, key)
        assert entry is not None
        self._words[entry + WAYS] -= 1

    def take(self, key: Key, per_second: float, burst: int, now: float) -> bool:
        """One token of a key's bucket of `burst` tokens, which gains `per_second`; False when it is empty."""
        for _ in range(_ATTEMPTS):
            latest = self._latest(self._parts, key, now)
            full_at = latest + 1 / per_second
            if full_at - now > burst / per_second + burst * math.ulp(now) + _ROUNDING:
                return False
            own = self._find(self._own, key) or self._claim(key, now)
            if own is None:
                self.uncounted += 1
                return True
            time = own + 2 * WAYS
            before, self._times[time] = self._times[time], full_at
            if self._latest(self._others, key, 0.0) <= latest:
                return True
            # Another took one meanwhile, perhaps the same: this one is given back. Of two that do so for each other's
            # sake the one with the lower number asks again, so one of them gets it.
            self._times[time] = before
            if self._latest(self._lower, key, 0.0) > latest:
                return False
        return False

    def _latest(self, parts: tuple[int, ...], key: Key, latest: float) -> float:
        """When a key's bucket is full again, by some parts, or `latest` if that is later."""
        for part in parts:
            entry = self._find(part, key)
            if entry is not None:
                time = self._times[entry + 2 * WAYS]
                if self._words[entry] == key.fingerprint:
                    latest = max(latest, time)
        return latest

    def _find(self, part: int, key: Key) -> int | None:
        """The word of a key's fingerprint in a part."""
        start = part + key.offset
        fingerprints = self._words[start : start + WAYS].tolist()
        return (
            start + fingerprints.index(key.fingerprint) if key.fingerprint in fingerprints else None
        )

    def _claim(self, key: Key, now: float) -> int | None:
        """An entry of this worker's part that says nothing any more, made the key's."""
        start = self._own + key.offset
        for entry in range(start, start + WAYS):
            if not self._words[entry + WAYS] and self._times[entry + 2 * WAYS] <= now:
                self._words[entry] = 0  # nobody finds it while it changes hands
                self._times[entry + 2 * WAYS] = 0.0
                self._words[entry] = key.fingerprint
                return entry
        return None
