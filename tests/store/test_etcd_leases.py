"""Time to live on etcd: one lease for a key that is put again and again, and what becomes of one that has ended."""

from collections.abc import AsyncIterator

import anyio
import pytest

from sniproxy.errors import Conflict
from sniproxy.store.etcd import FRESH, EtcdStore
from tests.support.etcd import EtcdServer
from tests.support.etcd_store import opened

pytestmark = pytest.mark.anyio

TTL = 60


@pytest.fixture
async def store(anyio_backend: str, etcd: EtcdServer) -> AsyncIterator[EtcdStore]:
    async with opened(etcd.url) as store:
        yield store


def leases(etcd: EtcdServer) -> list[str]:
    return [one["ID"] for one in etcd.call("/v3/lease/leases", {}).get("leases", [])]


def left(etcd: EtcdServer, lease: str) -> int:
    """Seconds that a lease will live, as etcd rounds them; -1 for one that has ended."""
    return int(etcd.call("/v3/lease/timetolive", {"ID": lease}).get("TTL", -1))


@pytest.fixture
def before(etcd: EtcdServer) -> list[str]:
    """The leases of other tests."""
    return leases(etcd)


async def test_a_key_that_is_put_again_and_again_has_one_lease(
    store: EtcdStore, etcd: EtcdServer, before: list[str]
) -> None:
    for number in range(5):
        await store.put("/leases/a", b"%d" % number, ttl=TTL)
    revision = await store.put("/leases/a", b"5", ttl=TTL)
    await store.put("/leases/a", b"6", ttl=TTL, expect=revision)
    assert len(leases(etcd)) == len(before) + 1
    await store.put("/leases/b", b"", ttl=TTL)  # a lease ends for its key alone
    assert len(leases(etcd)) == len(before) + 2


async def test_another_time_to_live_is_another_lease(
    store: EtcdStore, etcd: EtcdServer, before: list[str]
) -> None:
    await store.put("/leases/a", b"", ttl=TTL)
    await store.put("/leases/a", b"", ttl=2 * TTL)
    assert len(leases(etcd)) == len(before) + 2


async def test_it_is_renewed_before_a_third_of_it_is_gone(
    store: EtcdStore, etcd: EtcdServer, before: list[str]
) -> None:
    ttl = 6
    await store.put("/leases/a", b"", ttl=ttl)
    (lease,) = set(leases(etcd)) - set(before)
    for _ in range(4):  # longer than it would have lived
        await anyio.sleep(ttl * FRESH + 0.1)
        asked = anyio.current_time()
        await store.put("/leases/a", b"", ttl=ttl)
        assert left(etcd, lease) >= ttl - 1 - (anyio.current_time() - asked)
    assert set(leases(etcd)) - set(before) == {lease}


async def test_one_that_has_ended_is_replaced(
    store: EtcdStore, etcd: EtcdServer, before: list[str]
) -> None:
    """Whether that is known when it is renewed, or only when it is used."""
    for ttl in (TTL, 3):
        await store.put("/leases/a", b"1", ttl=ttl)
        (lease,) = set(leases(etcd)) - set(before)
        etcd.call("/v3/lease/revoke", {"ID": lease})
        assert await store.get("/leases/a") is None
        if ttl == 3:
            await anyio.sleep(ttl * FRESH + 0.1)
        asked = anyio.current_time()
        await store.put("/leases/a", b"2", ttl=ttl)
        found = await store.get("/leases/a")
        assert found is not None
        assert found.value == b"2"
        (lease,) = set(leases(etcd)) - set(before)
        assert left(etcd, lease) >= ttl - 1 - (anyio.current_time() - asked)
        etcd.call("/v3/lease/revoke", {"ID": lease})


async def test_a_conflict_leaves_the_lease_of_the_key_alone(
    store: EtcdStore, etcd: EtcdServer, before: list[str]
) -> None:
    await store.put("/leases/a", b"1", ttl=TTL)
    with pytest.raises(Conflict):
        await store.put("/leases/a", b"2", ttl=TTL, expect=1)
    found = await store.get("/leases/a")
    assert found is not None
    assert found.value == b"1"
    assert len(leases(etcd)) == len(before) + 1


async def test_so_many_are_remembered_and_no_more(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sniproxy.store.etcd.MAX_LEASES", 5)
    for number in range(8):
        await store.put(f"/leases/{number}", b"", ttl=TTL)
    assert list(store._leases) == [f"/leases/{number}" for number in range(3, 8)]
