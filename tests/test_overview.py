"""The view that the parent has of the table of counts: sessions of each worker, and what is left of one that died."""

import mmap
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.stick_table import Admission, Overview, StickTable, prepare, table_size

WORKERS, ENTRIES = 3, 16


@dataclass
class Pod:
    """A table, as its workers see it and as their parent does."""

    workers: int = WORKERS
    entries: int = ENTRIES
    memory: memoryview = field(init=False)
    overview: Overview = field(init=False)
    tables: list[StickTable] = field(init=False)

    def __post_init__(self) -> None:
        size = table_size(self.entries, self.workers)
        self.memory = prepare(memoryview(mmap.mmap(-1, size)))
        self.overview = Overview(self.memory, entries=self.entries, workers=self.workers)
        self.tables = [self.table(worker) for worker in range(self.workers)]

    def table(self, worker: int) -> StickTable:
        """As a worker that starts sees it."""
        return StickTable(self.memory, entries=self.entries, worker=worker, workers=self.workers)

    def active(self) -> list[int]:
        """Of each."""
        return [self.overview.active(worker) for worker in range(self.workers)]


@pytest.mark.parametrize(("workers", "entries"), [(1, 1), (1, 1024), (2, 9), (5, 65_536)])
def test_it_sees_what_each_worker_counts(workers: int, entries: int) -> None:
    pod = Pod(workers, entries)
    assert pod.active() == [0] * workers
    for worker, table in enumerate(pod.tables):
        table.count(worker + 1)
        places = table.places
        places.words[places.own] += 10  # as the native relay does
    assert pod.active() == [worker + 11 for worker in range(workers)]
    assert pod.active() == [table.active for table in pod.tables]
    assert pod.overview.all_active == sum(pod.active()) == pod.tables[0].all_active


def test_what_a_worker_had_that_died_counts_no_more_and_the_others_stays() -> None:
    pod = Pod()
    key = pod.tables[0].key(b"192.0.2.7")
    for table in pod.tables:
        table.count(2)
        assert table.acquire(key, 10, 1.0)[0] is Admission.COUNTED
    pod.tables[1].places.words[pod.tables[1].places.own] += 5
    assert pod.overview.wipe(1) == 7
    assert pod.active() == [2, 0, 2]
    assert pod.tables[0].sessions(key) == 2
    assert pod.overview.wipe(1) == 0


def test_a_key_is_known_to_the_worker_that_comes_after_one_that_died() -> None:
    """The secret stays, and so do the tokens that others took; those of the dead are there again."""
    pod = Pod()
    key = pod.tables[1].key(b"192.0.2.7")
    for table in pod.tables:
        assert table.take(key, 0.001, 3, 100.0)
    pod.overview.wipe(2)
    new = pod.table(2)
    assert new.key(b"192.0.2.7") == key
    assert [new.take(key, 0.001, 3, 100.0) for _ in range(3)] == [True, False, False]


STEPS = st.lists(
    st.tuples(st.integers(0, WORKERS - 1), st.sampled_from(["enter", "leave", "die"])), max_size=60
)


@given(STEPS)
def test_any_history_of_sessions_and_deaths(steps: list[tuple[int, str]]) -> None:
    pod = Pod()
    model = [0] * WORKERS
    key = pod.tables[0].key(b"route 7")
    for worker, step in steps:
        if step == "die":
            assert pod.overview.wipe(worker) == model[worker]
            pod.tables[worker] = pod.table(worker)
            model[worker] = 0
        elif step == "enter":
            pod.tables[worker].count(1)
            assert pod.tables[worker].acquire(key, 100, 1.0)[0] is Admission.COUNTED
            model[worker] += 1
        elif model[worker]:
            pod.tables[worker].count(-1)
            pod.tables[worker].release(key)
            model[worker] -= 1
        assert pod.active() == model
        assert pod.overview.all_active == sum(model) == pod.tables[0].all_active
        assert pod.tables[0].sessions(key) == sum(model)
