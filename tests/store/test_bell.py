"""The bell of a SQLite file: who hears it, what is left of it, and a watch that wakes by it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sniproxy.store import bell
from sniproxy.store.bell import Bell, ring
from sniproxy.store.sqlite import SqliteStore
from tests.support.stores import PATIENCE, sign_of_life, take, told

pytestmark = pytest.mark.anyio

NEVER = 3600.0  # seconds: a test that waits for this long has failed
DEEP = "x" * 100  # one name that no socket's own has room for

LISTEN_AND_DIE = """
import os, sys
from pathlib import Path
from sniproxy.store.bell import Bell

listener = Bell(Path(sys.argv[1]))
os._exit(9)
"""


@pytest.fixture(params=["short", "long"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store file, which need not be there for its bells to be."""
    folder = tmp_path if request.param == "short" else tmp_path / DEEP / DEEP
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "config.db"


@pytest.fixture
def listener(path: Path) -> Iterator[Bell]:
    """A bell on it."""
    made = Bell(path)
    yield made
    made.close()


def hanging(path: Path) -> list[str]:
    return os.listdir(f"{path}-bells")


async def heard(listener: Bell) -> bool:
    """Whether it has rung: who is kept from running for a while has heard it all the same."""
    with anyio.move_on_after(0.05) as quiet:
        await listener.wait(NEVER)
    return not quiet.cancelled_caught


async def test_it_rings_for_everybody_and_once(path: Path, listener: Bell) -> None:
    other = Bell(path)
    for _ in range(3):
        ring(path)
    assert [await heard(one) for one in (listener, other, listener)] == [True, True, False]
    other.close()
    ring(path)
    assert await heard(listener)


async def test_it_wakes_who_waits(path: Path, listener: Bell) -> None:
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.wait, NEVER)
            await anyio.wait_all_tasks_blocked()
            ring(path)


async def test_a_full_queue_keeps_nobody_waiting(path: Path, listener: Bell) -> None:
    for _ in range(bell.MAX_DRAIN):  # far more than the kernel keeps
        ring(path)
    assert [await heard(listener), await heard(listener)] == [True, False]


async def test_the_folder_is_ours_alone_and_holds_who_listens(path: Path, listener: Bell) -> None:
    assert os.stat(f"{path}-bells").st_mode & 0o777 == 0o700
    assert len(hanging(path)) == 1
    listener.close()
    listener.close()
    assert hanging(path) == []


async def test_what_a_killed_process_left_is_taken_away(path: Path, listener: Bell) -> None:
    await anyio.run_process([sys.executable, "-c", LISTEN_AND_DIE, str(path)], check=False)
    assert len(hanging(path)) == 2
    ring(path)
    assert len(hanging(path)) == 1
    assert await heard(listener)


async def test_what_is_no_bell_is_passed_over(path: Path, listener: Bell) -> None:
    (path.parent / f"{path.name}-bells" / "notes").write_text("kept")
    ring(path)
    assert await heard(listener)
    assert "notes" in hanging(path)


async def test_one_ring_looks_at_so_many(
    path: Path, listener: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [Bell(path) for _ in range(4)]
    monkeypatch.setattr(bell, "MAX_BELLS", 3)
    ring(path)
    assert sum([await heard(one) for one in (listener, *others)]) == 3
    for one in others:
        one.close()


async def test_nobody_listens(path: Path) -> None:
    ring(path)
    assert "config.db-bells" not in os.listdir(path.parent)


async def test_a_link_to_the_file_has_the_same_bells(path: Path, listener: Bell) -> None:
    link = path.parent / "link.db"
    link.symlink_to(path)
    ring(link)
    assert await heard(listener)


async def test_where_no_socket_can_be_had_it_sleeps(tmp_path: Path) -> None:
    (tmp_path / "config.db-bells").touch()  # no folder can be made
    mute = Bell(tmp_path / "config.db")
    ring(tmp_path / "config.db")
    assert not await heard(mute)
    mute.close()


# -- a watch


@pytest.mark.parametrize("write", ["put", "delete", "sweep"])
async def test_a_watch_wakes_without_looking(path: Path, write: str) -> None:
    now = 1000.0
    reader = SqliteStore(path, clock=lambda: 0.0, poll=NEVER)  # its clock never finds a time over
    writer = SqliteStore(path, clock=lambda: now, poll=NEVER)
    await writer.put("/1", b"v", ttl=10)
    async with reader.watch("/", after=0) as watch:
        await take(watch, 1)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, watch, 1)
                await anyio.wait_all_tasks_blocked()
                if write == "put":
                    await writer.put("/2", b"w")
                elif write == "delete":
                    await writer.delete("/1")
                else:
                    now += 10
                    await writer.sweep()
    assert hanging(path) == []
    await reader.aclose()
    await writer.aclose()


@pytest.mark.parametrize("mute", [False, True])
async def test_a_watch_looks_by_itself_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mute: bool
) -> None:
    """For writers that ring no bell, and where there can be none."""
    path = tmp_path / "config.db"
    if mute:
        (tmp_path / "config.db-bells").touch()
    else:
        monkeypatch.setattr("sniproxy.store.sqlite.ring", lambda path: None)
    store = SqliteStore(path, poll=0.01)
    async with store.watch("/", after=0) as watch:
        assert [await sign_of_life(watch) for _ in range(2)] == [0, 0]
        await store.put("/1", b"v")
        assert told(await take(watch, 1)) == [("/1", b"v")]
    await store.aclose()


async def test_a_sign_of_life_tells_how_far_the_watch_is(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "config.db", poll=0.01)
    async with store.watch("/ours/", after=0) as watch:
        await store.put("/ours/1", b"v")
        written = await store.put("/foreign/1", b"v")
        events = await anext(watch)
        assert (events.revision, len(events.events)) == (written - 1, 1)
        assert await sign_of_life(watch) == written
    await store.aclose()
