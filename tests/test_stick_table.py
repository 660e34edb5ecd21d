"""The shared counts: tables, a plain bucket, and a model of every history of sessions and tokens."""

import mmap
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.stick_table import WAYS, Admission, Key, StickTable, prepare, table_size

COUNTED, UNCOUNTED, REFUSED = Admission.COUNTED, Admission.UNCOUNTED, Admission.REFUSED


def shared(workers: int = 1, entries: int = 1024) -> memoryview:
    """Memory for a table, as a pod has it."""
    return prepare(memoryview(mmap.mmap(-1, table_size(entries, workers))))


def views(
    workers: int = 1, entries: int = 1024, memory: memoryview | None = None
) -> list[StickTable]:
    """What each worker sees of one table."""
    memory = memory or shared(workers, entries)
    return [
        StickTable(memory, entries=entries, worker=worker, workers=workers)
        for worker in range(workers)
    ]


def crowd(table: StickTable, keys: int = WAYS, now: float = 100.0) -> list[Key]:
    """So many keys with a session each: enough to fill a table of one set."""
    made = [table.key(f"crowd {number}".encode()) for number in range(keys)]
    assert [table.acquire(key, 1, now) for key in made] == [(COUNTED, 1)] * keys
    return made


# Sessions


def test_what_is_acquired_is_found_until_it_is_released() -> None:
    (table,) = views()
    keys = [table.key(bytes([number])) for number in range(100)]
    for number, key in enumerate(keys):
        assert table.sessions(key) == 0
        taken = [table.acquire(key, 200, 1.0) for _ in range(number)]
        assert taken == [(COUNTED, nth + 1) for nth in range(number)]
    assert [table.sessions(key) for key in keys] == list(range(100))
    for number, key in enumerate(keys):
        for left in reversed(range(number)):
            table.release(key)
            assert table.sessions(key) == left
    assert table.uncounted == 0


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("cap", [1, 2, 7, 100])
def test_the_cap_is_exact_over_all_workers(workers: int, cap: int) -> None:
    tables = views(workers)
    key = tables[0].key(b"a")
    answers = [tables[nth % workers].acquire(key, cap, 1.0) for nth in range(cap)]
    assert answers == [(COUNTED, nth + 1) for nth in range(cap)]
    for table in tables:
        assert table.acquire(key, cap, 1.0) == (REFUSED, cap + 1)
        assert table.sessions(key) == cap
    tables[0].release(key)
    assert tables[-1].acquire(key, cap, 1.0) == (COUNTED, cap)
    assert tables[0].acquire(key, cap, 1.0) == (REFUSED, cap + 1)


def test_each_worker_counts_its_sessions_and_sees_those_of_all() -> None:
    tables = views(3)
    for worker, table in enumerate(tables):
        table.count(worker + 1)
    tables[2].count(-1)
    assert [table.active for table in tables] == [1, 2, 2]
    assert [table.all_active for table in tables] == [5, 5, 5]


def test_the_native_relay_counts_in_a_word_of_its_own() -> None:
    first, second = views(2)
    words, own, everybody = first.places
    words[own] += 2
    first.count(1)
    second.count(3)
    assert (first.active, second.active) == (3, 3)
    assert first.all_active == second.all_active == 6
    assert sum(words[word] for word in everybody) == 6
    assert second.places.own not in (own, first.places.all[0])


def test_a_worker_that_starts_anew_wipes_its_own_part_alone() -> None:
    memory = shared(3)
    tables = views(3, memory=memory)
    keys = [tables[0].key(b"a"), tables[0].key(b"b")]
    for worker, table in enumerate(tables):
        table.count(10)
        for key in keys:
            for _ in range(worker + 1):
                table.acquire(key, 100, 1.0)
    again = StickTable(memory, entries=1024, worker=1, workers=3)
    assert (again.active, again.all_active) == (0, 20)
    assert [again.key(b"a"), again.key(b"b")] == keys
    for key in keys:
        assert {table.sessions(key) for table in (tables[0], again, tables[2])} == {1 + 3}
        assert again.acquire(key, 100, 1.0) == (COUNTED, 5)


def test_memory_that_was_let_go_of_can_be_closed() -> None:
    mapped = mmap.mmap(-1, table_size(64, 1) + 100)  # more than it needs: a page, say
    table = StickTable(prepare(memoryview(mapped)), entries=64)
    table.acquire(table.key(b"a"), 1, 1.0)
    table.release_memory()
    mapped.close()


# Keys


def test_a_key_is_the_same_in_every_worker_and_in_no_other_table() -> None:
    tables = views(4)
    assert len({table.key(b"address 1") for table in tables}) == 1
    assert tables[0].key(b"address 1") != tables[0].key(b"address 2")
    assert views()[0].key(b"address 1") != tables[0].key(b"address 1")


def test_the_secret_is_the_one_in_the_memory() -> None:
    """Of a table in a file that outlives its processes, say."""
    memory = shared()
    key = StickTable(memory, entries=1024).key(b"a")
    copy = memoryview(bytearray(memory))
    assert StickTable(copy, entries=1024).key(b"a") == key


@pytest.mark.parametrize("entries", [1, WAYS, WAYS + 1, 1000])
def test_keys_are_spread_over_a_part_and_stay_within_it(entries: int) -> None:
    sets = -(-entries // WAYS)
    first, last = views(2, entries)
    keys = [first.key(str(number).encode()) for number in range(40 * sets)]
    assert len({key.offset for key in keys}) == sets
    for key in keys:  # a part of the other worker, or the end of the memory, would show
        first.acquire(key, 1, 1.0)
        last.acquire(key, 2, 1.0)
    assert (first.active, last.active) == (0, 0)
    assert first.key(b"0") == last.key(b"0") == keys[0]


# A set that is full


def test_a_key_without_room_is_let_in_and_not_counted() -> None:
    (table,) = views(entries=WAYS)
    held = crowd(table)
    late = table.key(b"late")
    assert [table.acquire(late, 1, 100.0) for _ in range(3)] == [(UNCOUNTED, 1)] * 3
    assert (table.sessions(late), table.uncounted) == (0, 3)
    assert all(table.take(late, 1.0, 1, 100.0) for _ in range(3))
    assert table.uncounted == 6
    assert [table.sessions(key) for key in held] == [1] * WAYS
    table.release(held[3])
    assert [table.acquire(late, 1, 100.0) for _ in range(2)] == [(COUNTED, 1), (REFUSED, 2)]
    assert table.uncounted == 6


def test_a_key_without_room_is_refused_when_the_others_are_at_the_cap() -> None:
    full, other = views(2, entries=WAYS)
    crowd(full)
    late = full.key(b"late")
    assert other.acquire(late, 2, 100.0) == (COUNTED, 1)
    assert full.acquire(late, 2, 100.0) == (UNCOUNTED, 2)
    assert other.acquire(late, 2, 100.0) == (COUNTED, 2)
    assert full.acquire(late, 2, 100.0) == (REFUSED, 3)
    assert other.take(late, 1.0, 1, 100.0)
    assert not full.take(late, 1.0, 1, 100.0)  # nor is the bucket of the others forgotten


def test_an_entry_is_taken_over_once_it_says_nothing() -> None:
    (table,) = views(entries=WAYS)
    for number in range(WAYS):  # full again at 102
        assert table.take(table.key(bytes([number])), 0.5, 1, 100.0)
    held = table.key(bytes([0]))
    assert table.acquire(held, 1, 100.0) == (COUNTED, 1)
    late = [table.key(b"late %d" % number) for number in range(WAYS)]
    assert table.acquire(late[0], 1, 101.99) == (UNCOUNTED, 1)
    taken = [table.acquire(key, 1, 102.0) for key in late]
    assert taken == [(COUNTED, 1)] * (WAYS - 1) + [(UNCOUNTED, 1)]
    assert table.sessions(held) == 1


def test_a_key_that_takes_an_entry_over_inherits_nothing() -> None:
    (table,) = views(entries=WAYS)
    for key in crowd(table):
        assert table.take(key, 1.0, 3, 100.0)
        table.release(key)
    late = table.key(b"late")
    assert [table.take(late, 1.0, 3, 101.0) for _ in range(4)] == [True] * 3 + [False]
    assert table.sessions(late) == 0


# Token buckets


@pytest.mark.parametrize(
    ("per_second", "burst", "asked", "expected"),
    [
        (1.0, 1, [0, 0, 0.5, 1, 1, 2], "+--+-+"),
        (1.0, 3, [0] * 5, "+++--"),
        (1.0, 3, [0, 0, 0, 1, 1, 2.5, 3, 3], "++++-++-"),
        (1.0, 3, [0, 0, 0, 3, 3, 3, 3], "++++++-"),
        (1.0, 3, [0, 0, 0, 1000, 1000, 1000, 1000], "++++++-"),  # never more than burst
        (0.5, 2, [0, 0, 0, 1.9, 2, 2, 4], "++--+-+"),
        (4.0, 2, [0, 0, 0, 0.25, 0.25, 0.5, 0.75], "++-+-++"),
        (1000.0, 1, [0, 0, 0.001, 0.002], "+-++"),
        (0.001, 1, [0, 999, 1000], "+-+"),
        (3.0, 1, [0, 1 / 3, 2 / 3, 1], "++++"),  # sums of thirds
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_bucket(
    workers: int, per_second: float, burst: int, asked: list[float], expected: str
) -> None:
    """Whichever worker asks."""
    tables = views(workers)
    key = tables[0].key(b"a")
    taken = [
        tables[nth % workers].take(key, per_second, burst, 100 + at) for nth, at in enumerate(asked)
    ]
    assert "".join("-+"[one] for one in taken) == expected


@pytest.mark.parametrize("days", [0, 1, 12, 100, 1000])
@pytest.mark.parametrize(
    ("per_second", "burst"), [(3.0, 5), (10.0, 20), (10.0, 1000), (1000.0, 100), (1000.0, 1000)]
)
def test_a_full_bucket_gives_all_its_tokens_however_long_the_machine_is_up(
    days: int, per_second: float, burst: int
) -> None:
    (table,) = views()
    key, now = table.key(b"a"), 86_400.0 * days + 0.1
    assert sum(table.take(key, per_second, burst, now) for _ in range(burst + 5)) == burst


def test_each_key_has_a_bucket_of_its_own_and_sessions_beside_it() -> None:
    (table,) = views()
    one, other = table.key(b"a"), table.key(b"b")
    assert table.acquire(one, 1, 1.0) == (COUNTED, 1)
    assert [table.take(one, 1.0, 1, 1.0) for _ in range(2)] == [True, False]
    assert [table.take(other, 1.0, 1, 1.0) for _ in range(2)] == [True, False]
    assert (table.sessions(one), table.sessions(other)) == (1, 0)
    table.release(one)
    assert not table.take(one, 1.0, 1, 1.0)


TAKES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3000)), max_size=80)


@given(st.integers(-4, 10), st.integers(1, 20), TAKES)
def test_a_bucket_is_the_plain_one(exponent: int, burst: int, takes: list[tuple[int, int]]) -> None:
    """Which holds a level. Rates are powers of two, so that the seconds in the table are exact."""
    tables, rate = views(3), Fraction(2) ** exponent
    key = tables[0].key(b"a")
    level, now = Fraction(burst), Fraction(1000)
    for worker, pause in takes:
        now += Fraction(pause, 1024)
        level = min(Fraction(burst), level + rate * Fraction(pause, 1024))
        assert tables[worker].take(key, float(rate), burst, float(now)) is (level >= 1)
        level -= level >= 1


@given(
    st.floats(0.01, 10_000),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 3)), max_size=60),
)
def test_no_window_sees_more_than_burst_and_what_was_gained_in_it(
    per_second: float, burst: int, takes: list[tuple[int, float]]
) -> None:
    tables, now = views(3), 1000.0
    key = tables[0].key(b"a")
    taken = []
    for worker, pause in takes:
        now += pause / per_second
        if tables[worker].take(key, per_second, burst, now):
            taken.append(now)
    for nth, start in enumerate(taken):
        for many, end in enumerate(taken[nth:], start=1):
            assert many <= burst + per_second * (end - start) + 0.05


# Any history, against counts in dictionaries


@dataclass
class Part:
    """What one worker's part of a table says, without a table."""

    sessions: Counter[Key] = field(default_factory=Counter)
    full_at: dict[Key, float] = field(default_factory=dict)
    uncounted: int = 0

    def room(self, key: Key, now: float) -> bool:
        """Whether its set has an entry for a key: its own, or one that says nothing."""
        busy = {one for one, sessions in self.sessions.items() if sessions}
        busy |= {one for one, full_at in self.full_at.items() if full_at > now}
        return key in busy or sum(one.offset == key.offset for one in busy) < WAYS


KEYS, CAP, RATE, BURST = 13, 3, 0.5, 2
WORKERS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire all", "take", "take all", "release", "wait", "anew"]),
        st.integers(0, WORKERS - 1),
        st.integers(0, KEYS - 1),
    ),
    max_size=40,
)


@given(st.sampled_from([1, WAYS, 2 * WAYS, 1024]), STEPS)
def test_any_history_gives_the_counts_of_a_dictionary(
    entries: int, steps: list[tuple[str, int, int]]
) -> None:
    memory, now = shared(WORKERS, entries), 1000.0
    tables = views(WORKERS, entries, memory)
    keys = [tables[0].key(bytes([number])) for number in range(KEYS)]
    parts = [Part() for _ in tables]
    for step, worker, number in steps:
        table, part = tables[worker], parts[worker]
        for key in keys if step.endswith("all") else [keys[number]]:
            total = sum(one.sessions[key] for one in parts)
            if step.startswith("acquire"):
                room = part.room(key, now)
                part.uncounted += not room
                verdict = REFUSED if total >= CAP else COUNTED if room else UNCOUNTED
                assert table.acquire(key, CAP, now) == (verdict, total + 1)
                part.sessions[key] += verdict is COUNTED
            elif step.startswith("take"):
                full_at = max(now, *(one.full_at.get(key, 0) for one in parts)) + 1 / RATE
                granted = full_at - now <= BURST / RATE
                assert table.take(key, RATE, BURST, now) is granted
                if granted and part.room(key, now):
                    part.full_at[key] = full_at
                elif granted:
                    part.uncounted += 1
            elif step == "release" and part.sessions[key]:
                table.release(key)
                part.sessions[key] -= 1
        if step == "wait":
            now += number / 4
        elif step == "anew":
            parts[worker] = Part()
            tables[worker] = StickTable(memory, entries=entries, worker=worker, workers=WORKERS)
        for key in keys:
            assert {one.sessions(key) for one in tables} == {
                sum(one.sessions[key] for one in parts)
            }
        assert [one.uncounted for one in tables] == [one.uncounted for one in parts]
