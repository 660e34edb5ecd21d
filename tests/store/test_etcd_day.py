"""A day in the life of a watch on etcd, in virtual time: it goes on for ever, misses nothing and lists next to never."""

import io
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.config import InForce
from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.following import Freshness, follow
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.settings import Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.store import Listing
from sniproxy.store.etcd import EtcdConfig, EtcdStore
from sniproxy.store.etcd_gateway import Gateway
from sniproxy.store.etcd_history import Lineage
from sniproxy.store.etcd_watch import PROVE_EVERY, PROVE_SPREAD, EtcdWatch
from tests.support.simulated_etcd import SimulatedEtcd
from tests.support.stores import next_batch, sign_of_life

pytestmark = pytest.mark.anyio

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SILENCE = 120.0  # seconds: reopens less often than the default, and so takes a day in seconds
UPSTREAMS = "/apisix/upstreams/"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio on virtual time: it jumps when every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class CountingStore(EtcdStore):
    """Counts the full lists."""

    lists = 0

    async def list(self, prefix: str) -> Listing:
        self.lists += 1
        return await super().list(prefix)


@asynccontextmanager
async def counting(etcd: SimulatedEtcd, silence: float = SILENCE) -> AsyncIterator[CountingStore]:
    store = CountingStore(
        EtcdConfig(endpoints=("http://simulated",), watch_silence=silence), transport=etcd
    )
    try:
        yield store
    finally:
        await store.aclose()


class World:
    """What goes on around a data plane that follows: others write and compact, and now and then something is ours."""

    def __init__(self, etcd: SimulatedEtcd, seed: int) -> None:
        self.etcd = etcd
        self.chance = random.Random(seed)
        self.snapshot = Snapshot(
            "/apisix", Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="])
        )
        self.output = io.StringIO()
        self.expected: set[str] = set()
        self.changes = self.compactions = 0

    async def others_write(self) -> None:
        """A write every few seconds, under another prefix."""
        while True:
            await trio.sleep(self.chance.uniform(2, 10))
            self.etcd.put("/registry/leases/1")

    async def history_is_kept_for_minutes(self) -> None:
        """Compaction as Kubernetes does it: every five minutes, to where it was five minutes before."""
        before = self.etcd.revision
        while True:
            await trio.sleep(5 * MINUTE)
            self.etcd.compact(before)
            before = self.etcd.revision

    async def history_is_thrown_away(self) -> None:
        """Compaction to the newest revision, at any time."""
        while True:
            await trio.sleep(self.chance.uniform(0.5, 1.5) * HOUR)
            self.compactions += 1
            self.etcd.compact(self.etcd.revision)

    async def we_write(self, pause: float) -> None:
        """A change, and a look whether it is in force at once."""
        while True:
            await trio.sleep(self.chance.expovariate(1 / pause))
            name = str(self.chance.randrange(20))
            if name in self.expected:
                self.etcd.delete(UPSTREAMS + name)
                self.expected.remove(name)
            else:
                self.etcd.put(UPSTREAMS + name, b'{"nodes": {}}')
                self.expected.add(name)
            await trio.testing.wait_all_tasks_blocked()
            assert self.in_force() == self.expected, trio.current_time()
            self.changes += 1

    def in_force(self) -> set[str]:
        return {key.removeprefix(UPSTREAMS) for key in self.snapshot._loaded}

    def log(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.output.getvalue().splitlines()]

    async def live(self, store: CountingStore, *tasks: Callable[[], Awaitable[None]]) -> None:
        """Follow for a day."""
        log = open_log("t", self.output)
        freshness = Freshness(bound=2 * SILENCE)
        work = partial(follow, settings=Proxy(), freshness=freshness, log=log)
        in_force = InForce(self.snapshot, Metrics(), log)
        with trio.move_on_after(DAY):
            async with trio.open_nursery() as nursery:
                await nursery.start(work, store, "/apisix", in_force)
                for task in (self.others_write, *tasks):
                    nursery.start_soon(task)


async def test_an_idle_prefix_for_a_day() -> None:
    etcd = SimulatedEtcd()
    etcd.put(UPSTREAMS + "1", b'{"nodes": {}}')
    world = World(etcd, seed=1)
    async with counting(etcd) as store:
        await world.live(store, world.history_is_kept_for_minutes)
    assert (store.lists, world.log()) == (1, [])
    assert world.in_force() == {"1"}
    # each proof costs etcd a look at all keys
    assert etcd.asked["/v3/kv/txn"] <= DAY / PROVE_EVERY / PROVE_SPREAD
    assert etcd.watching == 0
    assert etcd.revision - world.snapshot.revision < 100  # and it is nearly up to date


async def test_a_change_now_and_then_for_a_day() -> None:
    etcd = SimulatedEtcd()
    world = World(etcd, seed=2)
    async with counting(etcd) as store:
        await world.live(
            store, world.history_is_kept_for_minutes, partial(world.we_write, 10 * MINUTE)
        )
    assert (store.lists, world.log()) == (1, [])
    assert world.changes > 100


async def test_history_is_thrown_away_at_unlucky_times() -> None:
    etcd = SimulatedEtcd()
    world = World(etcd, seed=3)
    async with counting(etcd) as store:
        await world.live(store, world.history_is_thrown_away, partial(world.we_write, 10 * MINUTE))
    assert world.compactions > 15
    assert 1 < store.lists <= 1 + world.compactions
    assert world.log() == ["listing anew"] * (store.lists - 1)


# -- its parts


async def test_signs_of_life_come_within_the_silence_and_end_with_etcd() -> None:
    etcd = SimulatedEtcd()
    async with (
        counting(etcd, silence=10) as store,
        store.watch("/apisix/", after=etcd.revision) as watch,
    ):
        for _ in range(10):
            before = trio.current_time()
            assert await sign_of_life(watch) == 1
            assert trio.current_time() - before <= 5
        etcd.hangs = True
        before = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await next_batch(watch, patience=HOUR)
        assert trio.current_time() - before <= 10


async def test_many_watches_do_not_stay_in_step() -> None:
    """They heard the same event at the same time; a minute later they ask at different times."""
    etcd = SimulatedEtcd()
    times: list[float] = []

    async def listen(store: CountingStore) -> None:
        async with store.watch("/", after=1) as watch:
            await next_batch(watch)
            while True:
                await sign_of_life(watch)
                times.append(trio.current_time())

    async with counting(etcd, silence=10) as store:
        with trio.move_on_after(2 * MINUTE):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(listen, store)
                await trio.testing.wait_all_tasks_blocked()
                etcd.put("/1")
    late = [time for time in times if time > MINUTE]
    for second in range(60, 120):
        assert sum(second <= time < second + 1 for time in late) < 30


Change = Callable[[SimulatedEtcd], object]


def put_foreign(etcd: SimulatedEtcd) -> None:
    etcd.put("/b/1")


# What happens to /a/ and /b/ between revision 4 and a proof while the watch hears nothing of it; is it quiet?
PROOFS: dict[str, tuple[tuple[Change, ...], bool]] = {
    "foreign": ((put_foreign, put_foreign), True),
    "put": ((put_foreign, lambda etcd: etcd.put("/a/1")), False),
    "new": ((lambda etcd: etcd.put("/a/3"),), False),
    "deleted": ((lambda etcd: etcd.delete("/a/1"),), False),
    "one_for_one": ((lambda etcd: etcd.delete("/a/1"), lambda etcd: etcd.put("/a/3")), False),
    "again": ((lambda etcd: etcd.delete("/a/1"), lambda etcd: etcd.put("/a/1")), False),
    "came_and_went": ((lambda etcd: etcd.put("/a/3"), lambda etcd: etcd.delete("/a/3")), True),
}


@pytest.mark.parametrize(("changes", "quiet"), PROOFS.values(), ids=PROOFS)
async def test_what_is_proven(changes: tuple[Change, ...], quiet: bool) -> None:
    etcd = SimulatedEtcd()
    for key in ("/a/1", "/a/2", "/b/1"):
        etcd.put(key)
    gateway = Gateway(EtcdConfig(endpoints=("http://simulated",)), etcd)
    watch = EtcdWatch(gateway, b"/a/", 4, SILENCE, Lineage(), None)
    await trio.sleep(PROVE_EVERY)
    for change in changes:
        change(etcd)
    await watch.begin()
    if quiet:
        assert await sign_of_life(watch) == etcd.revision
    else:
        assert await sign_of_life(watch) == 4
        assert (await next_batch(watch)).revision > 4
    await watch.aclose()
    await gateway.aclose()


async def test_a_compacted_revision_cannot_be_proven() -> None:
    etcd = SimulatedEtcd()
    async with counting(etcd) as store, store.watch("/a/", after=1) as watch:
        assert await sign_of_life(watch) == 1
        etcd.put("/b/1")
        etcd.compact(2)
        with pytest.raises(Compacted) as caught:
            await next_batch(watch, patience=HOUR)
        assert caught.value.revision == 2


# What an etcd is like that was restored from a backup, and whether that shows. Before: cluster 7, term 5, revision 4.
RESTORED = {
    "itself": (7, 5, 4, True),
    "later_term": (7, 6, 4, True),
    "more": (7, 5, 9, True),
    "less": (7, 5, 3, False),
    "cluster": (8, 5, 4, False),
    "cluster_and_more": (8, 9, 9, False),
    "term": (7, 4, 4, False),
    "term_and_more": (7, 4, 9, False),
}


@pytest.mark.parametrize(("cluster", "term", "revision", "same"), RESTORED.values(), ids=RESTORED)
@pytest.mark.parametrize("begun", [True, False], ids=["at a reopening", "at the next watch"])
async def test_a_restored_etcd_is_another_history(
    cluster: int, term: int, revision: int, same: bool, begun: bool
) -> None:
    etcd = SimulatedEtcd(term=5, revision=4)
    async with counting(etcd) as store:
        after = (await store.list("/")).revision

        def restore() -> None:
            etcd.cluster, etcd.term, etcd.revision = cluster, term, revision

        if not begun:
            restore()
        with nullcontext() if same else pytest.raises(Compacted):
            async with store.watch("/", after=after) as watch:
                for _ in range(3):
                    await anext(watch)
                    restore()
        # a list takes it over
        async with store.watch("/", after=(await store.list("/")).revision) as watch:
            await sign_of_life(watch)


async def test_a_list_hides_no_restored_etcd_from_a_watch() -> None:
    etcd = SimulatedEtcd(term=5, revision=4)
    async with counting(etcd) as store, store.watch("/", after=4) as watch:
        await sign_of_life(watch)
        etcd.term, etcd.revision = 2, 9
        await store.list("/")
        with pytest.raises(Compacted):
            await sign_of_life(watch, patience=HOUR)
