"""The agent and its files: what followers have, whatever the disk does, and what is left at the end."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from sniproxy.store.mirror import Mirror, Origin
from tests.support.mirrors import cut, flip
from tests.support.pods import RETRY, Pod, running, until
from tests.support.small_disk import empty, fill

pytestmark = pytest.mark.anyio

# -- files that cannot be used


def damage(path: Path) -> None:
    flip(path, "/apisix/b")


def of_another_store(path: Path) -> None:
    connection = sqlite3.connect(path)
    other = str(Origin("/apisix", frozenset({"http://three:2379"})))
    connection.execute("UPDATE meta SET value = ? WHERE name = 'origin'", (other,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("spoil", [damage, cut, of_another_store])
async def test_a_copy_that_cannot_be_trusted_is_set_aside(
    pod: Pod, spoil: Callable[[Path], None]
) -> None:
    await pod.has_run()
    await trio.to_thread.run_sync(spoil, pod.file)
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
