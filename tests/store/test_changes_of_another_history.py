"""What was written since a list, after the store was given another history: each prefix is told, not the first that asks."""

import os
import sqlite3
from pathlib import Path

import pytest

from sniproxy.errors import Compacted
from sniproxy.store import Store
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from tests.support.simulated_etcd import SimulatedEtcd
from tests.support.stores import opened_sqlite as opened

pytestmark = pytest.mark.anyio


async def assert_both_are_told(store: Store, after: int) -> None:
    """A list of one prefix says nothing of what was listed of the other."""
    for prefix in ("/a/", "/b/"):
        with pytest.raises(Compacted):
            await store.changes(prefix, after=after)
        listing = await store.list(prefix)
        assert [entry.value for entry in listing.entries] == [b"restored"]
        assert (await store.changes(prefix, after=listing.revision)).count == 1


def replace(path: Path, by: Path) -> None:
    for tail in ("-wal", "-shm"):
        Path(f"{path}{tail}").unlink(missing_ok=True)
    os.replace(by, path)


async def test_another_lineage_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "config.db"
    async with opened(path) as store:
        after = 0
        for prefix in ("/a/", "/b/"):
            await store.put(prefix + "1", b"restored")
            after = (await store.list(prefix)).revision
        other = sqlite3.connect(path)
        with other:
            other.execute("INSERT OR REPLACE INTO meta VALUES ('lineage', 1)")
        other.close()
        await assert_both_are_told(store, after)


async def test_another_file(tmp_path: Path) -> None:
    """It may be further than the one before."""
    async with opened(tmp_path / "backup.db") as backup:
        for _ in range(5):
            await backup.put("/a/1", b"restored")
            await backup.put("/b/1", b"restored")
    path = tmp_path / "config.db"
    async with opened(path) as store:
        await store.put("/a/1", b"lost")
        await store.put("/b/1", b"lost")
        after = max([(await store.list(prefix)).revision for prefix in ("/a/", "/b/")])
        replace(path, tmp_path / "backup.db")
        await assert_both_are_told(store, after)


@pytest.mark.parametrize("sign", ["cluster", "term"])
async def test_etcd_from_a_backup(sign: str) -> None:
    """By the time that somebody asks it has reached our revision again."""
    etcd = SimulatedEtcd(term=9)
    store = EtcdStore(EtcdConfig(endpoints=("http://127.0.0.1:2379",)), transport=etcd)
    for prefix in ("/a/", "/b/"):
        etcd.put(prefix + "1", b"lost")
    after = max([(await store.list(prefix)).revision for prefix in ("/a/", "/b/")])
    etcd.keys.clear()
    etcd.history.clear()
    etcd.revision = 1
    setattr(etcd, sign, 8)
    for prefix in ("/a/", "/b/"):
        etcd.put(prefix + "1", b"restored")
    for number in range(5):
        etcd.put(f"/elsewhere/{number}", b"x")
    await assert_both_are_told(store, after)
    await store.aclose()
