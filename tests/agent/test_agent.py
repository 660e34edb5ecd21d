"""The agent and its store, over real files and threads, on real time: what followers have, whatever the store does."""

import sqlite3
from pathlib import Path

import pytest
import trio

from sniproxy.errors import StoreUnavailable
from tests.support.memory_store import MemoryStore
from tests.support.pods import LONG_AGO, PATIENCE, WAIT, Pod, running, until

pytestmark = pytest.mark.anyio

# -- a store that answers, is away, comes back


async def test_a_store_that_answers_is_followed(pod: Pod) -> None:
    async with running(pod) as process:
        await process.in_step()
        assert await process.agent.copy.list("/apisix/") == pod.store.listing
        pod.store.write("c")
        pod.store.remove("a")
        pod.store.write("b", b"changed")
        await process.in_step()
        assert (process.metric("stale"), process.metric("mirror_on_disk")) == (0, 1)
        assert process.metric("lists_total") == process.worker.lists == 1  # the rest were changes
        assert process.lines.all == []
    kept, why = pod.mirror().open()
    assert kept is not None
    assert (kept.revision, kept.proven_at, why) == (pod.store.revision, LONG_AGO, "")


async def test_without_the_store_last_times_copy_is_served_from(pod: Pod) -> None:
    await pod.has_run()
    pod.store.go_away()
    pod.time += 3600
    begun = trio.current_time()
    async with running(pod) as process:
        assert trio.current_time() - begun > WAIT
        assert process.worker.state == pod.store.entries
        assert process.worker.revision == pod.store.revision
        assert process.metric("stale") == 1
        assert 3600 <= process.metric("age_seconds") < 3600 + PATIENCE
        assert process.metric("mirror_on_disk") == 1
        (line,) = process.logged("serving from the mirror")
        assert line["revision"] == pod.store.revision
        assert 3600 <= float(str(line["age_s"])) < 3600 + PATIENCE

        pod.store.write("c")  # what nobody was told of
        pod.store.remove("a")
        pod.store.come_back()
        await process.in_step()
        await until(lambda: not process.metric("stale"))
        assert process.metric("age_seconds") < PATIENCE
    assert pod.kept_in_memory() == []


async def test_a_store_that_is_lost_while_it_is_followed(pod: Pod) -> None:
    async with running(pod) as process:
        pod.store.go_away()
        await until(lambda: process.metric("stale") == 1)
        pod.store.write("c")
        pod.store.come_back()
        await process.in_step()
        await until(lambda: not process.metric("stale"))
        assert process.metric("lists_total") == 1  # it went on from where it was


@pytest.mark.parametrize("step", [-7200.0, -1.0, 0.0])
async def test_a_clock_that_went_back_makes_no_copy_of_the_future(pod: Pod, step: float) -> None:
    await pod.has_run()
    pod.store.go_away()
    pod.time += step
    async with running(pod) as process:
        assert process.metric("stale") == 1
        assert 0 <= process.metric("age_seconds") < PATIENCE


async def test_age_counts_from_the_last_sign_of_life(pod: Pod) -> None:
    async with running(pod) as process:
        pod.time += 500
        revision = process.agent.revision
        await until(lambda: kept_at(pod.file) == pod.time)
        assert process.agent.revision == revision  # nothing was written meanwhile
    pod.store.go_away()
    pod.time += 60
    async with running(pod) as process:
        assert 60 <= process.metric("age_seconds") < 60 + PATIENCE


def kept_at(file: Path) -> float:
    """When the copy was last proven, as it stands in the file."""
    connection = sqlite3.connect(file)
    (at,) = connection.execute("SELECT value FROM meta WHERE name = 'proven_at'").fetchone()
    connection.close()
    return float(at)


async def test_without_store_and_copy_it_waits_and_says_so(pod: Pod) -> None:
    pod.store.go_away()
    async with running(pod, started=False) as process:
        await until(lambda: bool(process.logged("no configuration yet")))
        await trio.sleep(WAIT)
        assert not process.started
        assert process.metric("stale") == 1
        with pytest.raises(StoreUnavailable):  # never "there are no objects"
            await process.agent.copy.list("/apisix/")
        pod.store.come_back()
        await process.in_step()
        assert len(process.logged("no configuration yet")) == 1


async def test_a_history_that_is_gone_is_listed_and_missed_by_nobody(pod: Pod) -> None:
    async with running(pod) as process:
        pod.store.go_away()
        await until(lambda: process.metric("stale") == 1)
        pod.store.write("c")
        pod.store.remove("b")
        pod.store.compact()
        pod.store.come_back()
        await process.in_step()
        assert process.metric("lists_total") == 2
        pod.store.write("d")
        await process.in_step()


async def test_a_store_restored_from_a_backup(pod: Pod) -> None:
    """Revisions begin again below, and may say other things."""
    for number in range(5):
        pod.store.write(f"n{number}")
    async with running(pod) as process:
        await process.in_step()
        pod.store.go_away()
        await until(lambda: process.metric("stale") == 1)
        backup = MemoryStore()
        backup.write("a", b"another value")
        pod.store.entries, pod.store.revision = backup.entries, backup.revision
        pod.store._history = backup._history
        pod.store.come_back()
        await process.in_step()
        pod.store.write("z")
        await process.in_step()
    kept, _ = pod.mirror().open()
    assert kept is not None
    assert kept.revision == pod.store.revision


async def test_a_defect_in_the_store_ends_it(pod: Pod) -> None:
    pod.store.defect = ZeroDivisionError("a defect")
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        async with running(pod):
            pass
    assert pod.kept_in_memory() == []
