"""Lines on their way to a descriptor: a queue with a bound, and a thread that writes it, so that who logs never waits.

A reader that has stopped costs lines, which are counted, and no player's time. Once the queue was full, nothing is taken
until half of it is written; then one line says how many this has cost. So does one when a full disk has room again.

Several processes may share a pipe. A write of at most PIPE_BUF bytes is never mixed with another's (POSIX), so whole lines
are written, as many as that takes; only a line that is longer goes by itself, and may be mixed with somebody else's. The
descriptor is never made non-blocking: whoever shares the pipe, such as the shell, would find it so.
"""

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from select import PIPE_BUF, POLLOUT, poll

LIMIT = 16 * 1024 * 1024  # bytes that wait: a line for each of 20 000 sessions is half of it
TAKE = 64 * 1024  # bytes that the thread takes at a time, by whole items
LINGER = 0.005  # seconds between two turns of the thread while little comes: not a switch of threads for each line
END_WAIT = 1.0  # seconds that the end of a process waits for the queue to be written

_GAP = b""  # in the queue: here a line is to say what was lost


class Losses:
    """Lines of this process that nobody will read; counted by any thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Starts at 0: a forked child has lost nothing yet."""
        self._lock = threading.Lock()
        self.count = 0

    def add(self, lines: int) -> None:
        """More are lost."""
        with self._lock:
            self.count += lines


LOSSES = Losses()


class LineQueue:
    """What waits for one descriptor. `put` never waits; the thread starts with the first line."""

    def __init__(self, descriptor: int, about: Callable[[int], str], limit: int = LIMIT) -> None:
        """about: the line that says how many were lost. limit: bytes. OSError: the descriptor is not open.

        The queue writes to a copy, which nobody else can close and give to a socket.
        """
        self._descriptor = os.dup(descriptor)
        self._about = about
        self._limit = limit
        self._torn = False  # the last that was written is half a line
        self._ended = False
        self._begin()
        _open.add(self)

    def _begin(self) -> None:
        """Nothing waits and nobody writes: as made, and as a forked child has to see it."""
        self._lock = threading.RLock()  # of all below; held for an instant, and never while writing
        self._work = threading.Condition(self._lock)
        self._written = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._items: deque[bytes] = deque()
        self._queued = 0  # bytes, of `_items` and of what the thread has taken and not yet written
        self._busy = False  # the thread will look for more without being woken
        self._full = False  # since when nothing is taken, until half is written
        self._lost = 0  # lines, that no line has told of yet
        self._telling = False  # a _GAP is in the queue

    def put(self, data: bytes, lines: int) -> None:
        """Whole lines, each with its end. From the first one on for which there is no room they are lost."""
        with self._lock:
            if not self._ended:
                self._end_gap()
            room = 0 if self._full or self._ended else self._limit - self._queued
            if len(data) > room:
                self._full = True
                data = data[: data.rfind(b"\n", 0, room) + 1]
                self._lose(lines - data.count(b"\n"))
            if data:
                self._items.append(data)
                self._queued += len(data)
            self._wake()

    def flush(self, seconds: float) -> bool:
        """Waits until all that was put is written, or lost; False: it took longer than that."""
        with self._lock:
            self._wake()
            return self._written.wait_for(lambda: not self._items and not self._busy, seconds)

    def close(self, seconds: float) -> bool:
        """`flush`, and the end: what is put from now on is lost. The thread ends once it has written what is there."""
        with self._lock:
            if not self._ended:
                self._ended = True
                _open.discard(self)
                if self._thread is None and not self._items:
                    os.close(self._descriptor)
                else:
                    self._work.notify()
        return self.flush(seconds)

    def after_fork(self) -> None:
        """In the child: what waits is the parent's to write, and the thread is the parent's."""
        self._begin()

    def _wake(self) -> None:
        """Whoever calls this, `_lose` or `_end_gap` has the lock."""
        if self._busy or not self._items:
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: the next line may find one
                return
            self._thread = thread
        self._busy = True
        self._work.notify()

    def _lose(self, lines: int) -> None:
        self._lost += lines
        LOSSES.add(lines)

    def _end_gap(self) -> None:
        """Where there is room enough, lines are taken again, behind one that tells how many were lost."""
        if self._queued <= self._limit // 2:
            self._full = False
            if self._lost and not self._telling:
                self._telling = True
                self._items.append(_GAP)

    def _run(self) -> None:
        """The thread."""
        while self._wait():
            self._write_some()
            if self._queued < PIPE_BUF and not self._ended:
                time.sleep(LINGER)
        os.close(self._descriptor)

    def _wait(self) -> bool:
        """Until there is something to write; False: never again."""
        with self._lock:
            while not self._items:
                self._busy = False
                self._written.notify_all()
                if self._ended:
                    return False
                self._work.wait()
            self._busy = True
            return True

    def _write_some(self) -> None:
        taken, size = [], 0
        with self._lock:
            while self._items and self._items[0] and size < TAKE:
                taken.append(self._items.popleft())
                size += len(taken[-1])
            if not taken:
                self._items.popleft()
                told = self._lost
        if not taken:
            failed = self._write(f"{self._about(told)}\n".encode())
            with self._lock:
                self._telling = False
                self._lost -= 0 if failed else told
            return
        for piece in pieces(b"".join(taken)):
            failed = self._write(piece)
            with self._lock:
                self._queued -= len(piece)
                if failed:
                    self._lose(failed)
                else:
                    self._end_gap()

    def _write(self, piece: bytes) -> int:
        """How many lines of it were not written."""
        if self._torn and self._push(b"\n"):
            self._torn = (
                False  # half a line is one that nobody can read; it must not take the next with it
            )
        if self._torn:
            return piece.count(b"\n")
        taken = self._push(piece)
        self._torn = taken > 0 and not piece.endswith(b"\n", 0, taken)
        return piece.count(b"\n", taken)

    def _push(self, data: bytes) -> int:
        """How many bytes the descriptor took before an error, if there was one. Waits for as long as it takes none."""
        taken = 0
        while taken < len(data):
            try:
                taken += os.write(self._descriptor, data[taken:])
            except BlockingIOError:  # somebody who shares it has made it so
                waiting = poll()
                waiting.register(self._descriptor, POLLOUT)
                waiting.poll()
            except OSError:
                break
        return taken


def pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, as many as PIPE_BUF takes, or one that is longer. `data` ends where a line does."""
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + PIPE_BUF) + 1
        if not end:
            end = data.index(b"\n", start + PIPE_BUF) + 1
        yield data[start:end]
        start = end


_open: set[LineQueue] = set()  # those of this process


def _close_all() -> None:
    """What was logged last is written before the process ends, unless nobody reads it for END_WAIT."""
    deadline = time.monotonic() + END_WAIT
    for queue in list(_open):
        queue.close(max(0.0, deadline - time.monotonic()))


def _forked() -> None:
    LOSSES.forget()
    for queue in _open:
        queue.after_fork()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forked)
