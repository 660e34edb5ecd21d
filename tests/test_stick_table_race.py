"""The shared counts when workers ask at once: one between any two steps of another, and processes that race."""

import mmap
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, count, pairwise
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from time import monotonic, monotonic_ns
from types import FrameType
from typing import Any, NamedTuple

import pytest

from sniproxy import stick_table
from sniproxy.stick_table import WAYS, Admission, Key, StickTable, prepare, table_size

NOW = 100.0


def shared() -> memoryview:
    """Memory for a table of one set and two workers."""
    return prepare(memoryview(mmap.mmap(-1, table_size(WAYS, workers=2))))


def opened(memory: memoryview, worker: int) -> StickTable:
    """What one of the two sees."""
    return StickTable(memory, entries=WAYS, worker=worker, workers=2)


def two(first: int = 0) -> tuple[StickTable, StickTable, Key]:
    """Two workers, the one of that number first, and a key."""
    memory = shared()
    tables = opened(memory, 0), opened(memory, 1)
    return tables[first], tables[1 - first], tables[0].key(b"a")


@contextmanager
def before_step(step: int, interrupt: Callable[[], None]) -> Iterator[None]:
    """Whatever the table is asked meanwhile, the other worker comes before bytecode number `step` of it."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != stick_table.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if left == 0:
                interrupt()
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def each_step(race: Callable[[int], bool]) -> None:
    """Runs a race for each step at which the other may come; it says whether there was such a step."""
    steps = next(step for step in count() if not race(step))
    assert steps > 50


@pytest.mark.parametrize("asks", [0, 1])
def test_two_that_ask_at_once_are_never_both_let_in_beyond_the_cap(asks: int) -> None:
    def race(step: int) -> bool:
        first, second, key = two(asks)
        answers = []
        with before_step(step, lambda: answers.append(second.acquire(key, 1, NOW)[0])):
            answers.append(first.acquire(key, 1, NOW)[0])
        counted = answers.count(Admission.COUNTED)
        assert counted <= 1, step
        assert first.sessions(key) == second.sessions(key) == counted
        return len(answers) == 2

    each_step(race)


def test_one_that_leaves_while_another_asks_is_counted_once() -> None:
    def race(step: int) -> bool:
        first, second, key = two()
        second.acquire(key, 1, NOW)
        left = []

        def leave() -> None:
            second.release(key)
            left.append(True)

        with before_step(step, leave):
            admission, _ = first.acquire(key, 1, NOW)
        held = (admission is Admission.COUNTED) + (not left)
        assert first.sessions(key) == second.sessions(key) == held, step
        assert held <= 1
        return bool(left)

    each_step(race)


@pytest.mark.parametrize("asks", [0, 1])
def test_two_that_ask_at_once_do_not_take_the_same_token(asks: int) -> None:
    def race(step: int) -> bool:
        first, second, key = two(asks)
        taken = []
        with before_step(step, lambda: taken.append(second.take(key, 1.0, 1, NOW))):
            taken.append(first.take(key, 1.0, 1, NOW))
        assert taken.count(True) <= 1, f"both took it, the other before step {step}"
        return len(taken) == 2

    each_step(race)


def test_an_entry_that_changes_hands_is_not_counted_for_its_last_key() -> None:
    def race(step: int) -> bool:
        first, second, key = two()
        second.acquire(key, 2, NOW)
        passed = list[object]()

        def pass_on() -> None:
            second.release(key)
            other = second.key(b"b")
            passed.extend(second.acquire(other, 9, NOW) for _ in range(5))

        with before_step(step, pass_on):
            answer = first.acquire(key, 2, NOW)
        assert answer[0] is Admission.COUNTED, f"{answer}, passed on before step {step}"
        return bool(passed)

    each_step(race)


def test_a_bucket_that_changes_hands_is_not_emptied_for_its_last_key() -> None:
    def race(step: int) -> bool:
        first, second, key = two()
        assert second.take(key, 1.0, 9, NOW)  # full again when the others come
        passed = list[object]()

        def pass_on() -> None:
            other = second.key(b"b")
            passed.extend(second.take(other, 1.0, 9, NOW + 10) for _ in range(9))

        with before_step(step, pass_on):
            taken = first.take(key, 1.0, 5, NOW + 10)
        assert taken, f"refused, passed on before step {step}"
        return bool(passed)

    each_step(race)


# Real processes

PROCESSES, ENTRIES = 4, 1024
CAP, ROUNDS = 100, 8000
RATE, BURST, SECONDS = 5000.0, 500, 0.8


class Report(NamedTuple):
    """What one process did. Times are of the clock that all of them share."""

    changes: list[tuple[int, int]]  # ns, +1 once a session was counted, -1 before it was given back
    most: int  # sessions of the key, when everybody was done
    left: int  # the same, when everybody had given back all
    asked: set[int]  # the milliseconds in which it asked for tokens
    took: int  # tokens


together: Barrier  # of the process


def meet(barrier: Barrier) -> None:
    """Called once in each process."""
    global together
    together = barrier


def take_part(file: Path, worker: int) -> Report:
    """One process: sessions come and go at the cap, then all tokens that are to be had are taken."""
    with file.open("r+b") as opened:
        memory = memoryview(mmap.mmap(opened.fileno(), 0))
    table = StickTable(memory, entries=ENTRIES, worker=worker, workers=PROCESSES)
    together.wait()
    key, choose, changes, held = table.key(b"a"), Random(worker), list[tuple[int, int]](), 0

    def acquire() -> bool:
        if table.acquire(key, CAP, monotonic())[0] is not Admission.COUNTED:
            return False
        changes.append((monotonic_ns(), 1))
        return True

    for _ in range(ROUNDS):
        held += acquire()
        if held and choose.random() < 0.5:
            changes.append((monotonic_ns(), -1))
            table.release(key)
            held -= 1
    while acquire():
        held += 1
    together.wait()
    most = table.sessions(key)
    together.wait()
    for _ in range(held):
        table.release(key)
    together.wait()
    left = table.sessions(key)

    start = now = monotonic()
    asked, took = set[int](), 0
    while now < start + SECONDS:
        took += table.take(key, RATE, BURST, now)
        asked.add(int(now * 1000))
        now = monotonic()
    return Report(changes, most, left, asked, took)


def test_processes_that_race_keep_to_the_cap_and_to_the_rate(tmp_path: Path) -> None:
    """A session is noted after it was counted and struck out before it is given back, so that at any time there were at
    least as many as the notes of all, put in order, say.
    """
    file = tmp_path / "table"
    file.write_bytes(bytes(table_size(ENTRIES, PROCESSES)))
    with file.open("r+b") as opened:  # the secret is there before they start
        prepare(memoryview(mmap.mmap(opened.fileno(), 0)))
    spawn = get_context("spawn")
    pool = ProcessPoolExecutor(
        PROCESSES,
        mp_context=spawn,
        initializer=meet,
        initargs=(spawn.Barrier(PROCESSES, timeout=60),),
    )
    with pool:
        reports = list(pool.map(take_part, [file] * PROCESSES, range(PROCESSES)))

    changes = sorted(change for report in reports for change in report.changes)
    noted = list(accumulate(step for _, step in changes))
    assert max(noted) <= CAP
    # Who was refused last met CAP sessions, or those of others that were refused as well.
    assert {report.most for report in reports} == {noted[-1]}
    assert noted[-1] > CAP - PROCESSES
    assert [report.left for report in reports] == [0] * PROCESSES

    asked = sorted(set[int]().union(*(report.asked for report in reports)))
    gained = (RATE * (later - earlier) / 1000 for earlier, later in pairwise(asked))
    due = BURST + sum(min(BURST, tokens) for tokens in gained)  # where nobody ran for long, less
    assert 0.95 * due <= sum(report.took for report in reports) <= 1.05 * due
