"""Following a store through its outages, on virtual time: what is asked when, and what is in force meanwhile."""

import io
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.config import InForce
from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.following import Freshness, OutOfStep, follow
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.settings import Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.store import Batch, Deleted, Entry, Event, Listing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio on virtual time: it jumps when every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


AWAY = StoreUnavailable("away")
BOUND = 10.0  # seconds without a sign of life
SETTINGS = Proxy(store_retry=1, store_retry_max=8)

# What a store does, in order: waits so many seconds, gives this, fails like that. At the end it waits for ever.
Outcome = float | Listing | Batch | Exception
Script = Sequence[Outcome]


@dataclass
class ScriptedStore:
    """A store whose outcomes are data. Obeys the contract: a watch gives nothing that is not after its start."""

    lists: list[Script]
    watches: list[Script] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)  # when, and what
    watching: int = 0

    async def list(self, prefix: str) -> Listing:
        self._ask(prefix, "list")
        listing = await _outcome(iter(self.lists.pop(0)))
        assert isinstance(listing, Listing)
        return listing

    @asynccontextmanager
    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        self._ask(prefix, f"watch {after}")
        self.watching += 1
        try:
            yield _Batches(iter(self.watches.pop(0) if self.watches else ()), after)
        finally:
            self.watching -= 1

    def _ask(self, prefix: str, what: str) -> None:
        assert prefix == "/apisix/"
        self.asked.append((trio.current_time(), what))

    async def get(self, key: str) -> Entry | None:
        raise AssertionError(key)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: int | None = None
    ) -> int:
        raise AssertionError(key)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        raise AssertionError(key)

    async def aclose(self) -> None:
        raise AssertionError("it is not ours to close")


class _Batches:
    def __init__(self, script: Iterator[Outcome], after: int) -> None:
        self._script = script
        self._after = after

    def __aiter__(self) -> "_Batches":
        return self

    async def __anext__(self) -> Batch:
        batch = await _outcome(self._script)
        assert isinstance(batch, Batch)
        if batch.events:
            assert self._after < batch.revision == batch.events[-1].mod_revision
        self._after = batch.revision
        return batch


async def _outcome(script: Iterator[Outcome]) -> Listing | Batch:
    for outcome in script:
        if isinstance(outcome, Exception):
            await trio.lowlevel.checkpoint()
            raise outcome
        if isinstance(outcome, Listing | Batch):
            await trio.lowlevel.checkpoint()
            return outcome
        await trio.sleep(outcome)
    await trio.sleep_forever()


@dataclass
class Following:
    """What `follow` works on, and what came of it."""

    store: ScriptedStore
    snapshot: Snapshot = field(
        default_factory=lambda: Snapshot("/apisix", Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="]))
    )  # fmt: skip
    metrics: Metrics = field(default_factory=Metrics)
    output: io.StringIO = field(default_factory=io.StringIO)
    started: list[float] = field(default_factory=list)
    changed: list[tuple[float, int]] = field(
        default_factory=list
    )  # when, and the revision in force
    follower: InForce | None = None

    async def run(self, *, until: float) -> None:
        """Follows up to that time of the clock, with the longest pauses that chance may give."""
        log = open_log("t", self.output)
        freshness = Freshness(BOUND)
        self.metrics.show_freshness(freshness)
        with trio.move_on_at(until):
            async with trio.open_nursery() as nursery:
                work = partial(
                    follow, settings=SETTINGS, freshness=freshness, log=log, chance=self.chance
                )
                follower = self.follower or InForce(self.snapshot, self.metrics, log, self._note)
                await nursery.start(work, self.store, "/apisix", follower)
                self.started.append(trio.current_time())

    def _note(self) -> None:
        self.changed.append((trio.current_time(), self.snapshot.revision))

    @staticmethod
    def chance(low: float, high: float) -> float:
        assert (low, high) == (0.5, 1)
        return high

    def metric(self, name: str) -> float | None:
        """A gauge as /metrics shows it."""
        return self.metrics.registry.get_sample_value(f"sniproxy_{name}")

    def log(self) -> list[dict[str, Any]]:
        """The lines without what is the same in all of them."""
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [
            {name: value for name, value in line.items() if name not in ("time", "component", "level")}
            for line in lines
        ]  # fmt: skip

    def upstreams(self) -> set[str]:
        """The ids in force."""
        return {key.removeprefix("/apisix/upstreams/") for key in self.snapshot._loaded}


def put(upstream: str, revision: int, value: bytes = b'{"nodes": {}}') -> Entry:
    """An upstream was written."""
    return Entry(f"/apisix/upstreams/{upstream}", value, revision, revision)


def gone(upstream: str, revision: int) -> Deleted:
    """An upstream was deleted."""
    return Deleted(f"/apisix/upstreams/{upstream}", revision)


def listing(revision: int, *entries: Entry) -> Listing:
    """A full list."""
    return Listing(entries, revision)


def batch(*events: Event) -> Batch:
    """A batch as the contract has it."""
    return Batch(events[-1].mod_revision, events)


async def test_started_once_the_first_list_is_in_force() -> None:
    following = Following(ScriptedStore([[2.5, listing(7, put("a", 3))]]))
    await following.run(until=2)
    assert (following.started, following.snapshot.revision) == ([], 0)


async def test_a_store_that_is_away_at_the_start_is_waited_for() -> None:
    following = Following(ScriptedStore([[AWAY], [AWAY], [0.5, listing(7, put("a", 3))]]))
    await following.run(until=60)
    assert following.started == [3.5]  # pauses of 1 and 2 seconds, then the list
    assert following.upstreams() == {"a"}
    assert following.store.asked == [(0, "list"), (1, "list"), (3, "list"), (3.5, "watch 7")]


async def test_the_pause_doubles_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    store = ScriptedStore(
        lists=[*([AWAY] for _ in range(6)), [listing(7)]],
        watches=[
            *([AWAY] for _ in range(3)),
            [batch(put("a", 8)), AWAY],
            [AWAY],
            [AWAY],
        ],
    )
    await Following(store).run(until=100)
    times, questions = zip(*store.asked, strict=True)
    pauses = [later - before for before, later in pairwise(times)]
    assert pauses == [
        *(1, 2, 4, 8, 8, 8),  # lists
        0,  # a list that came, and its watch
        *(1, 2, 4),  # the pause begins anew after a list
        *(1, 2, 4),  # and after a batch
    ]
    assert questions == (*["list"] * 7, *["watch 7"] * 4, *["watch 8"] * 3)


@pytest.mark.parametrize(
    ("held", "pauses"),
    [(3600.0, [1, 1, 1, 1]), (8.5, [1, 1, 1, 1]), (8.0, [1, 2, 4, 8]), (0.0, [1, 2, 4, 8])],
)
async def test_a_quiet_watch_that_held_counts_as_a_success(
    held: float, pauses: list[float]
) -> None:
    """A store where nothing changes is not punished for losing a connection now and then."""
    store = ScriptedStore([[listing(7)]], [[held, AWAY] for _ in pauses])
    await Following(store).run(until=20_000)
    times = [at for at, _ in store.asked[1:]]
    between = [later - before - held for before, later in pairwise(times)]
    assert between == pauses


async def test_a_lost_watch_goes_on_from_the_last_revision() -> None:
    store = ScriptedStore(
        [[listing(7, put("a", 3))]],
        [
            [batch(put("b", 8)), batch(put("c", 9), put("d", 12)), AWAY],
            [AWAY],
            [batch(gone("a", 20)), 5, AWAY],
        ],
    )
    following = Following(store)
    await following.run(until=60)
    assert [question for _, question in store.asked] == [
        *("list", "watch 7", "watch 12", "watch 12", "watch 20")
    ]
    assert following.upstreams() == {"b", "c", "d"}
    assert following.snapshot.revision == 20


async def test_a_batch_ends_at_its_revision_even_when_nothing_in_it_is_ours() -> None:
    foreign = Entry("/apisix/routes/1", b"{}", 30, 30)
    store = ScriptedStore([[listing(7)]], [[batch(put("b", 8), foreign), AWAY]])
    await Following(store).run(until=60)
    assert store.asked[-1][1] == "watch 30"


async def test_compacted_history_is_listed_anew_at_once_and_the_difference_applied() -> None:
    store = ScriptedStore(
        [
            [listing(7, put("kept", 3), put("changed", 4), put("gone", 5))],
            [listing(40, put("kept", 3), put("changed", 33), put("new", 35))],
        ],
        [[2, Compacted(30)], [batch(put("later", 41))]],
    )
    following = Following(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(following.run, until=60))
        await trio.sleep(1)
        held = dict(following.snapshot._loaded)
    assert store.asked == [(0, "list"), (0, "watch 7"), (2, "list"), (2, "watch 40")]
    assert following.started == [0]  # once
    assert following.upstreams() == {"kept", "changed", "new", "later"}
    loaded = following.snapshot._loaded
    assert loaded["/apisix/upstreams/kept"] is held["/apisix/upstreams/kept"]
    assert loaded["/apisix/upstreams/changed"] is not held["/apisix/upstreams/changed"]
    assert following.log() == [
        {"event": "listing anew", "cause": "history before revision 30 was compacted"}
    ]


async def test_a_store_that_is_lost_while_it_is_listed_anew() -> None:
    store = ScriptedStore(
        [[listing(7, put("a", 3))], [AWAY], [AWAY], [listing(9)]], [[Compacted(8)]]
    )
    following = Following(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(following.run, until=60))
        await trio.sleep(2)
        assert following.upstreams() == {"a"}  # still in force
    assert store.asked[2:] == [(1, "list"), (2, "list"), (4, "list"), (4, "watch 9")]
    assert following.upstreams() == set()


async def test_a_store_that_was_restored_from_a_backup_is_read_from_the_start() -> None:
    """Its revisions begin again where the backup ended, so the same revision may be another value."""
    other = put("b", 8, b'{"nodes": {"other": 1}}')
    store = ScriptedStore(
        [[listing(9, put("a", 3), put("b", 8))], [listing(8, put("a", 3), other)]], [[Compacted(8)]]
    )
    following = Following(store)
    await following.run(until=60)
    assert following.snapshot._loaded["/apisix/upstreams/b"].round[0].host == "other"
    assert store.asked[-1] == (1, "watch 8")


async def test_a_broken_object_is_logged_once() -> None:
    broken = put("b", 8, b'"text"')
    store = ScriptedStore(
        [[listing(8, put("a", 3), broken)], [listing(11, put("a", 10, b"[]"), broken)]],
        [[batch(put("a", 10, b"[]")), Compacted(10)], [batch(put("b", 12)), batch(put("a", 13))]],
    )
    following = Following(store)
    await following.run(until=60)
    skipped = [line for line in following.log() if line["event"] == "object skipped"]
    assert skipped == [
        {
            "event": "object skipped",
            "key": "/apisix/upstreams/b",
            "revision": 8,
            "cause": "expected a JSON object, got str",
            "last_good_version": "none",
        },
        {
            "event": "object skipped",
            "key": "/apisix/upstreams/a",
            "revision": 10,
            "cause": "expected a JSON object, got list",
            "last_good_version": "in force",
        },
    ]
    assert following.metric("config_broken_objects") == 0  # repaired in the end


async def test_metrics_and_log_through_an_outage() -> None:
    store = ScriptedStore(
        [[0.5, listing(7, put("a", 3), put("b", 4, b""))]],
        [[0.5, batch(put("c", 8, b"")), 1, AWAY], [batch(gone("b", 9), gone("c", 10))]],
    )
    following = Following(store)
    seen: dict[float, tuple[float | None, ...]] = {}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(following.run, until=10))
        for at in (0.25, 0.75, 1.25, 2.25, 3.25):
            await trio.sleep_until(at)
            names = ("config_revision", "config_broken_objects", "config_stale")
            seen[at] = tuple(following.metric(name) for name in names)
    assert seen == {
        0.25: (0, 0, 1),  # not listed yet
        0.75: (7, 1, 0),  # listed
        1.25: (8, 2, 0),  # a batch
        2.25: (8, 2, 1),  # lost
        3.25: (10, 0, 0),  # back
    }
    assert {"event": "store lost", "cause": "away", "retry_s": 1, "revision": 8} in following.log()


async def test_a_watch_is_closed_whatever_ends_it() -> None:
    store = ScriptedStore([[listing(7)], [listing(8)]], [[AWAY], [Compacted(8)]])
    await Following(store).run(until=60)
    assert store.watching == 0


async def test_a_defect_is_not_taken_for_an_outage() -> None:
    following = Following(ScriptedStore([[listing(7)]], [[ZeroDivisionError("a defect")]]))
    with pytest.RaisesGroup(
        pytest.RaisesExc(ZeroDivisionError, match=re.escape("a defect")), flatten_subgroups=True
    ):
        await following.run(until=60)
    assert following.store.watching == 0


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
async def test_a_pause_is_shortened_by_chance_and_its_doubling_is_not(share: float) -> None:
    """A fleet that has lost its store comes back scattered."""
    following = Following(ScriptedStore([[AWAY], [AWAY], [AWAY], [listing(7)]]))
    following.chance = lambda low, high: share  # type: ignore[method-assign]
    await following.run(until=60)
    times = [at for at, question in following.store.asked if question == "list"]
    pauses = [later - before for before, later in pairwise(times)]
    assert pauses == [share * 1, share * 2, share * 4]


async def test_a_sign_of_life_moves_the_revision_and_is_no_change() -> None:
    store = ScriptedStore([[listing(7, put("a", 3))]], [[5, Batch(30, ()), 5, AWAY], [AWAY]])
    following = Following(store)
    await following.run(until=15)
    assert following.metric("config_revision") == 30
    assert store.asked[-1][1] == "watch 30"
    assert following.changed == [(0, 7)]  # the list


async def test_age_and_staleness_through_silence_and_an_outage() -> None:
    store = ScriptedStore(
        [[listing(7)]],
        [[6, Batch(7, ()), 12, batch(put("b", 9)), 3, AWAY], [60, AWAY]],
    )
    following = Following(store)
    seen: dict[float, tuple[float | None, float | None]] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(following.run, until=70))
        for at in (5.5, 6.5, 15.5, 16.5, 18.5, 21.5, 22.5, 33.5):
            await trio.sleep_until(at)
            seen[at] = following.metric("config_age_seconds"), following.metric("config_stale")
    assert seen == {
        5.5: (5.5, 0),
        6.5: (0.5, 0),  # a sign of life
        15.5: (9.5, 0),
        16.5: (10.5, 1),  # none for longer than the bound
        18.5: (0.5, 0),  # a change
        21.5: (3.5, 1),  # lost, which is known at once
        22.5: (0.5, 0),  # watched again, which asks the store
        33.5: (11.5, 1),
    }


class Clumsy(InForce):
    """Loses a batch now and then."""

    async def apply(self, batch: Batch) -> None:
        if batch.revision == 9:
            raise OutOfStep("the disk is full")
        await super().apply(batch)


async def test_a_follower_that_missed_something_lists_anew() -> None:
    store = ScriptedStore(
        [[listing(7)], [listing(9, put("b", 9))]],
        [[2, batch(put("a", 8)), batch(put("b", 9)), batch(put("c", 10))], [batch(gone("b", 11))]],
    )
    following = Following(store)
    following.follower = Clumsy(following.snapshot, following.metrics, open_log("t", io.StringIO()))
    await following.run(until=60)
    assert [question for _, question in store.asked] == ["list", "watch 7", "list", "watch 9"]
    assert following.upstreams() == set()
    assert following.log() == [{"event": "listing anew", "cause": "the disk is full"}]


async def test_what_was_kept_of_last_time_is_as_old_as_it_is() -> None:
    freshness = Freshness(BOUND)
    freshness.begin_old(3600)
    await trio.sleep(5)
    assert (freshness.age, freshness.stale) == (3605, True)
    freshness.proven()
    assert (freshness.age, freshness.stale) == (0, False)
