"""The agent over real files and threads, on real time: what followers have, through every failure of store and disk."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from sniproxy.agent import Agent
from sniproxy.errors import StoreUnavailable
from sniproxy.following import Freshness, follow
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.settings import Etcd, EtcdUrl, Proxy, Settings
from sniproxy.store import Batch, Deleted, Entry, Listing
from sniproxy.store.mirror import Mirror, Origin
from tests.support.gateway import Lines, open_lines
from tests.support.memory_store import MemoryStore
from tests.support.small_disk import NotPermitted, empty, fill, small_disk

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds for anything that must happen
WAIT = 0.2  # seconds that a store which is away is waited for
RETRY = 0.1  # seconds between two tries to have the copy on disk
LONG_AGO = 1_700_000_000.0


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits as long as in earnest."""
    monkeypatch.setattr("sniproxy.agent.DISK_RETRY", RETRY)
    monkeypatch.setattr("sniproxy.store.mirror.BUSY", 0.1)
    monkeypatch.setattr("sniproxy.store.sqlite.REPLACED_CHECK", 0.05)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Where the copy lies that no disk takes."""
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


@pytest.fixture
def pod(tmp_path: Path, memory: Path) -> "Pod":
    """One whose store has two objects, and whose state_dir is not there yet."""
    store = MemoryStore()
    store.write("a")
    store.write("b", b"\0\xff")
    return Pod(tmp_path / "state", memory, store)


@dataclass
class Pod:
    """What outlives the process: the disk, and the store somewhere else."""

    state_dir: Path
    memory: Path
    store: MemoryStore
    time: float = LONG_AGO
    watch_silence: float = 10.0

    @property
    def settings(self) -> Settings:
        return Settings(
            store="etcd://one:2379,two:2379/apisix",
            state_dir=self.state_dir,
            proxy=Proxy(store_wait=WAIT, store_retry=0.01, store_retry_max=0.05),
            etcd=Etcd(watch_silence=self.watch_silence),
        )

    @property
    def file(self) -> Path:
        return self.state_dir / "mirror.db"

    def mirror(self) -> Mirror:
        """The writing side of its file, as another process or the next one would have it."""
        where = self.settings.where
        assert isinstance(where, EtcdUrl)
        return Mirror(self.file, Origin(where.prefix, frozenset(where.endpoints)))

    def agent(self, metrics: Metrics, log: Log) -> Agent:
        agent = Agent(
            self.settings, self.store, metrics, log, memory=self.memory, now=lambda: self.time
        )
        agent.copy._poll = 0.05
        return agent

    def kept_in_memory(self) -> list[Path]:
        return list(self.memory.iterdir())

    async def has_run(self) -> None:
        """Once, in good order, with the store there."""
        async with running(self):
            pass


class Worker:
    """A follower of the copy that keeps what it was given, and how often it was given a list."""

    def __init__(self) -> None:
        self.revision = 0
        self.state: dict[str, Entry] = {}
        self.lists = 0
        self.empty = False  # whether it ever lost everything

    async def load(self, listing: Listing) -> None:
        self.state = {one.key: one for one in listing.entries}
        self.revision = listing.revision
        self.lists += 1
        self.empty |= not self.state

    async def apply(self, batch: Batch) -> None:
        for event in batch.events:
            if isinstance(event, Deleted):
                self.state.pop(event.key, None)
            else:
                self.state[event.key] = event
        self.revision = batch.revision
        self.empty |= not self.state


@dataclass
class Running:
    """One process of a pod."""

    pod: Pod
    agent: Agent
    metrics: Metrics
    lines: Lines
    nursery: trio.Nursery
    worker: Worker = field(default_factory=Worker)
    started: bool = False

    async def start(self) -> None:
        """The agent, and once it has a configuration a worker that follows."""
        await self.nursery.start(self.agent.run)
        self.started = True
        freshness = Freshness(1000)
        log, _ = open_lines()
        await self.nursery.start(
            partial(follow, settings=self.pod.settings.proxy, freshness=freshness, log=log),
            self.agent.copy,
            "/apisix",
            self.worker,
        )

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(f"sniproxy_config_{name}")
        assert value is not None
        return value

    def logged(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines.all if line["event"] == event]

    async def in_step(self) -> None:
        """Until the worker has what the store has."""
        store = self.pod.store
        await until(lambda: self.worker.state == store.entries)
        await until(lambda: self.worker.revision == store.revision)

    async def on_disk(self, yes: bool = True) -> None:
        await until(lambda: self.metric("mirror_on_disk") == yes)


async def until(what: Callable[[], bool]) -> None:
    """Until it is so, or TooSlowError."""
    with trio.fail_after(PATIENCE):
        while not what():  # noqa: ASYNC110  # threads, files and metrics have no event to wait for
            await trio.sleep(0.005)


@asynccontextmanager
async def running(pod: Pod, *, started: bool = True) -> AsyncIterator[Running]:
    """A process of the pod, until the block is left. started: wait until it has a configuration."""
    log, lines = open_lines()
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        agent = pod.agent(metrics, log)
        metrics.show_freshness(agent.freshness)
        process = Running(pod, agent, metrics, lines, nursery)
        nursery.start_soon(process.start)
        if started:
            await until(lambda: process.worker.lists > 0)
        yield process
        nursery.cancel_scope.cancel()


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
    async with running(pod, started=False) as process:
        await trio.sleep(WAIT / 2)
        assert process.worker.lists == 0
        await until(lambda: process.worker.lists > 0)
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


# -- files that cannot be used


def damage(pod: Pod) -> None:
    raw = pod.file.read_bytes()
    where = raw.index(b"/apisix/b") + len("/apisix/b")
    pod.file.write_bytes(raw[:where] + bytes([raw[where] ^ 1]) + raw[where + 1 :])


def cut(pod: Pod) -> None:
    os.truncate(pod.file, 5000)


def of_another_store(pod: Pod) -> None:
    connection = sqlite3.connect(pod.file)
    other = str(Origin("/apisix", frozenset({"http://three:2379"})))
    connection.execute("UPDATE meta SET value = ? WHERE name = 'origin'", (other,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("spoil", [damage, cut, of_another_store])
async def test_a_copy_that_cannot_be_trusted_is_set_aside(
    pod: Pod, spoil: Callable[[Pod], None]
) -> None:
    await pod.has_run()
    await trio.to_thread.run_sync(spoil, pod)
    pod.store.go_away()
    async with running(pod, started=False) as process:
        await until(lambda: bool(process.logged("no configuration yet")))
        assert not process.started
        assert process.metric("mirror_set_aside_total") == 1
        (line,) = process.logged("mirror set aside")
        assert line["file"] == str(pod.file)
        assert line["cause"]
        assert await trio.Path(f"{pod.file}.set-aside").exists()
        pod.store.come_back()
        await process.in_step()
        assert process.metric("mirror_on_disk") == 1
    assert pod.mirror().open()[0] is not None


@contextmanager
def a_file_in_its_place(pod: Pod) -> Iterator[None]:
    pod.state_dir.touch()
    yield
    pod.state_dir.unlink()


@contextmanager
def another_holds_the_lock(pod: Pod) -> Iterator[None]:
    pod.state_dir.mkdir()
    command = [sys.executable, "-c", HOLD, str(pod.file) + ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        other.communicate(b"\n")


HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""
Obstacle = Callable[[Pod], AbstractContextManager[None]]
each_obstacle = pytest.mark.parametrize("obstacle", [a_file_in_its_place, another_holds_the_lock])


@each_obstacle
async def test_a_disk_that_takes_nothing_costs_no_change(pod: Pod, obstacle: Obstacle) -> None:
    with obstacle(pod):
        async with running(pod) as process:
            await process.in_step()
            assert process.metric("mirror_on_disk") == 0
            assert len(pod.kept_in_memory()) == 1
            for number in range(20):
                pod.store.write(f"n{number}")
                pod.store.remove("a" if number == 0 else f"n{number - 1}")
                await trio.sleep(RETRY / 10)  # the disk is tried now and then
            await process.in_step()
            assert not process.worker.empty
            assert process.metric("stale") == 0
            (line,) = process.logged("mirror not on disk")  # once, not with every change or try
            assert "mirror.db" in str(line["cause"])
            assert process.metric("mirror_on_disk") == 0
        assert pod.kept_in_memory() == []


@each_obstacle
async def test_the_copy_goes_back_to_a_disk_that_takes_it(pod: Pod, obstacle: Obstacle) -> None:
    with ExitStack() as in_the_way:
        in_the_way.enter_context(obstacle(pod))
        async with running(pod) as process:
            pod.store.write("c")
            await process.in_step()
            assert process.metric("mirror_on_disk") == 0
            in_the_way.close()
            await process.on_disk()
            pod.store.write("d")
            pod.store.remove("c")
            await process.in_step()
            await until(lambda: pod.kept_in_memory() == [])
            assert len(process.logged("mirror on disk again")) == 1
            assert not process.worker.empty
    kept, why = pod.mirror().open()
    assert kept is not None
    assert (kept.revision, why) == (pod.store.revision, "")


async def test_a_copy_that_another_process_has_is_not_served_from(pod: Pod) -> None:
    """It may be that process's, of another store."""
    await pod.has_run()
    pod.store.go_away()
    other = pod.mirror()
    other.open()
    async with running(pod, started=False) as process:
        await until(lambda: bool(process.logged("no configuration yet")))
        assert not process.started
        assert process.metric("mirror_set_aside_total") == 0
        (line,) = process.logged("mirror not usable")
        assert "state_dir of its own" in str(line["cause"])
        pod.store.come_back()
        await process.in_step()
        other.close()
        await process.on_disk()


async def test_a_file_that_is_locked_when_a_change_comes(pod: Pod) -> None:
    """The change cannot be written, so a list brings it, in memory; and all goes back when the lock does."""
    async with running(pod) as process:
        lock = sqlite3.connect(pod.file, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        pod.store.write("c")
        await process.in_step()
        (line,) = process.logged("listing anew")
        assert "locked" in str(line["cause"])
        assert process.metric("mirror_on_disk") == 0
        pod.store.write("d")
        await process.in_step()
        lock.execute("ROLLBACK")
        lock.close()
        await process.on_disk()
        pod.store.remove("c")
        await process.in_step()
        assert pod.kept_in_memory() == []
        assert len(process.logged("mirror not on disk")) == 1
        assert not process.worker.empty


async def test_files_that_are_removed_while_it_runs(pod: Pod) -> None:
    """An empty state_dir is no empty configuration, and the copy is there again for the next start."""
    async with running(pod) as process:
        await process.in_step()
        await trio.to_thread.run_sync(shutil.rmtree, pod.state_dir)
        await until(pod.file.exists)  # by the next sign of life
        pod.store.write("c")
        await process.in_step()
        assert not process.worker.empty
    kept, why = pod.mirror().open()
    assert kept is not None
    assert (kept.revision, why) == (pod.store.revision, "")


async def test_neither_disk_nor_memory(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an outage: it is told and tried again, and nothing is said to be fresh."""
    monkeypatch.setattr("tempfile.tempdir", str(pod.memory / "not-there"))
    pod.state_dir.touch()
    async with running(pod, started=False) as process:
        pod.memory.rmdir()  # it was there when the process began
        await until(lambda: bool(process.logged("store lost")))
        assert not process.started
        assert process.metric("stale") == 1
        pod.memory.mkdir()
        await process.in_step()
        assert process.metric("stale") == 0


async def test_without_a_memory_file_system_it_is_the_directory_for_temporary_files(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    pod.memory = tmp_path / "not-there"
    pod.state_dir.touch()
    async with running(pod) as process:
        await process.in_step()
        assert list(scratch.iterdir()) != []
    assert list(scratch.iterdir()) == []


async def test_without_any_directory_for_temporary_files_a_sound_disk_serves(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    pod.memory = pod.memory / "not-there"
    async with running(pod) as process:
        await process.in_step()
        assert process.metric("mirror_on_disk") == 1


async def test_what_a_killed_process_left_in_memory_is_taken_away(pod: Pod) -> None:
    """And nothing that is in use, or that nobody has begun to write."""
    pod.state_dir.touch()
    where = pod.mirror()._origin
    left, used, begun = (pod.memory / f"sniproxy-{name}" for name in ("left", "used", "begun"))
    begun.mkdir()
    for folder in (left, used):
        mirror = Mirror(folder / "mirror.db", where)
        mirror.take_over(pod.store.listing, 0)
        if folder == left:
            mirror.close()
    async with running(pod) as process:
        await process.in_step()
        assert not left.exists()
        assert used.exists()
        assert begun.exists()


# -- a disk that is full


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk with little room."""
    try:
        with small_disk(tmp_path / "small", "512k") as folder:
            yield folder
    except NotPermitted as error:
        pytest.skip(str(error))


async def test_a_disk_that_is_full_costs_no_change(pod: Pod, small: Path) -> None:
    pod.state_dir = small / "state"
    async with running(pod) as process:
        await process.in_step()
        assert process.metric("mirror_on_disk") == 1
        await trio.to_thread.run_sync(fill, small)
        for number in range(40):
            pod.store.write(f"n{number}", b"x" * 2000)
            if number % 3 == 0:
                pod.store.remove(f"n{number}")
            await trio.sleep(0.01)
        await process.in_step()
        assert process.metric("mirror_on_disk") == 0
        assert process.metric("stale") == 0
        assert len(process.logged("mirror not on disk")) == 1
        empty(small)
        await process.on_disk()
        pod.store.write("after")
        await process.in_step()
        await until(lambda: pod.kept_in_memory() == [])
        assert not process.worker.empty
    mirror = pod.mirror()
    kept, why = mirror.open()
    mirror.close()
    assert kept is not None
    assert (kept.revision, why) == (pod.store.revision, "")


# -- its end


@pytest.mark.parametrize("on_disk", [True, False])
async def test_it_may_be_stopped_at_any_time(pod: Pod, on_disk: bool) -> None:
    """The file is sound, has what was written so far, and nobody holds it; nothing is left in memory."""
    pod.store.write("c")
    for turn in range(40):
        if not on_disk and turn % 2 == 0:
            pod.state_dir.touch()
        with trio.move_on_after(turn * 0.004):
            async with running(pod, started=False):
                for number in range(1000):
                    if number == 10 and pod.state_dir.is_file():
                        pod.state_dir.unlink()  # it goes back to the disk
                    pod.store.write(f"n{number % 7}")
                    await trio.sleep(0.001)
        if pod.state_dir.is_file():
            pod.state_dir.unlink()
        assert pod.kept_in_memory() == []
        mirror = pod.mirror()
        kept, why = await trio.to_thread.run_sync(mirror.open)
        mirror.close()
        assert why == ""
        assert kept is None or 1 < kept.revision <= pod.store.revision
    assert kept is not None


async def test_stopped_at_the_moment_when_it_goes_back_to_disk(pod: Pod) -> None:
    pod.state_dir.touch()
    async with running(pod) as process:
        await process.in_step()
        write = process.lines.write

        def stop_then(text: str) -> int:
            if "mirror on disk again" in text:
                process.nursery.cancel_scope.cancel()
            return write(text)

        process.lines.write = stop_then  # type: ignore[method-assign]
        pod.state_dir.unlink()
        await until(lambda: False)
    assert process.logged("mirror on disk again")
    assert pod.kept_in_memory() == []


async def test_a_start_without_the_store_on_a_full_disk(pod: Pod, small: Path) -> None:
    pod.state_dir = small / "state"
    await pod.has_run()
    held = dict(pod.store.entries)
    await trio.to_thread.run_sync(fill, small)
    pod.store.go_away()
    async with running(pod) as process:
        assert process.worker.state == held
        assert process.metric("stale") == 1
        assert process.metric("mirror_on_disk") == 0
        pod.store.come_back()
        pod.store.write("c")
        await process.in_step()
        await trio.to_thread.run_sync(empty, small)
        await process.on_disk()
        pod.store.write("d")
        await process.in_step()
    assert pod.kept_in_memory() == []
