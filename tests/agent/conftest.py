"""A pod whose agent is tested, and small disks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.memory_store import MemoryStore
from tests.support.pods import RETRY, Pod
from tests.support.small_disk import NotPermitted, small_disk


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
def pod(tmp_path: Path, memory: Path) -> Pod:
    """One whose store has two objects, and whose state_dir is not there yet."""
    store = MemoryStore()
    store.write("a")
    store.write("b", b"\0\xff")
    return Pod(tmp_path / "state", memory, store)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk with little room."""
    try:
        with small_disk(tmp_path / "small", "512k") as folder:
            yield folder
    except NotPermitted as error:
        pytest.skip(str(error))
