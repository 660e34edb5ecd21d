"""Following a store through its outages, on virtual time: what is asked when, and what is in force meanwhile."""

import io
import re
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.config import InForce
from sniproxy.errors import Compacted
from sniproxy.following import LOST_AGAIN, Freshness, OutOfStep
from sniproxy.logs import open_log
from sniproxy.store import Batch, Entry
from tests.support.following import (
    AWAY,
    BOUND,
    Following,
    Script,
    ScriptedStore,
    alive,
    batch,
    gone,
    listing,
    put,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio on virtual time: it jumps when every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


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


async def test_a_new_list_of_a_copy_is_told_by_whoever_fills_it() -> None:
    store = ScriptedStore([[listing(7)], [listing(40)]], [[2, Compacted(30)]])
    following = Following(store)
    await following.run(until=60, of_copy=True)
    assert [what for _, what in store.asked] == ["list", "watch 7", "list", "watch 40"]
    assert following.log() == []


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


async def test_a_sign_of_life_moves_the_revision_and_nothing_else() -> None:
    store = ScriptedStore(
        [[listing(7, put("a", 3))]],
        [[alive(7), alive(30), 1, AWAY], [alive(30), batch(put("b", 31)), alive(31), AWAY]],
    )
    following = Following(store)
    changes: list[int] = []
    following.snapshot.on_change = lambda: changes.append(following.snapshot.revision)
    await following.run(until=60)
    assert [question for _, question in store.asked] == ["list", "watch 7", "watch 30", "watch 31"]
    assert following.upstreams() == {"a", "b"}
    assert len(changes) == 2
    assert following.metric("config_revision") == 31


async def test_a_watch_that_only_shows_life_before_it_is_lost_is_no_success() -> None:
    """Else a store that lets everybody in and then breaks off would be asked as fast as can be."""
    store = ScriptedStore([[listing(7)]], [[alive(7), AWAY]] * 4)
    await Following(store).run(until=100)
    times = [at for at, _ in store.asked[1:]]
    assert [later - before for before, later in pairwise(times)] == [1, 2, 4, 8]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_a_pause_is_left_to_chance_by_half(chance: float, share: float) -> None:
    store = ScriptedStore([*([AWAY] for _ in range(5)), [listing(7)]], [[Compacted(8)], [5.0]])
    store.lists.append([listing(9)])
    following = Following(store, chance=chance)
    await following.run(until=100)
    times = [at for at, _ in store.asked]
    pauses = [later - before for before, later in pairwise(times)]
    assert pauses == [*(share * pause for pause in (1, 2, 4, 8, 8)), 0, share, 0]
    logged = [line["retry_s"] for line in following.log() if line["event"] == "store lost"]
    assert logged == pauses[:1]


@pytest.mark.parametrize("takes", [0.0, 5.0])
async def test_a_history_that_vanishes_again_and_again_is_one_line_and_a_longer_pause_each(
    takes: float,
) -> None:
    """However long a list takes, and the more so: it is what costs the store most."""
    rounds = 5
    store = ScriptedStore(
        [[takes, listing(7)] for _ in range(rounds + 1)], [[Compacted(8)]] * rounds
    )
    following = Following(store)
    await following.run(until=100)
    asked = [at for at, what in store.asked if what == "list"]
    assert [later - before - takes for before, later in pairwise(asked)] == [1, 2, 4, 8, 8]
    assert [line["event"] for line in following.log()] == ["listing anew"] * rounds


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
            counts = ("config_watch_reconnects_total", "config_apply_seconds_count")
            seen[at] = tuple(following.metric(name) for name in (*names, *counts))
    assert seen == {
        0.25: (0, 0, 1, 0, 0),  # not listed yet
        0.75: (7, 1, 0, 0, 1),  # listed
        1.25: (8, 2, 0, 0, 2),  # a batch
        2.25: (8, 2, 1, 0, 2),  # lost
        3.25: (10, 0, 0, 1, 3),  # back
    }
    lost = {"event": "store lost", "cause": "away", "retry_s": 1, "revision": 8, "tries": 1}
    assert lost in following.log()
    assert {"event": "store back", "lost_s": 1, "tries": 1, "revision": 8} in following.log()


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_store_that_is_away_for_hours_does_not_fill_the_log(comes_back: bool) -> None:
    hour = 3600
    watch: Script = [alive(7), AWAY] if comes_back else [AWAY]
    store = ScriptedStore([[listing(7)]], [watch] * hour)
    following = Following(store)
    await following.run(until=hour)
    lost = [line for line in following.log() if line["event"] == "store lost"]
    assert len(store.asked) > hour / 8
    assert hour / LOST_AGAIN / 2 < len(lost) <= hour / LOST_AGAIN + 1
    assert len(following.log()) <= 2 * len(lost)


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


async def test_who_follows_a_copy_is_no_fresher_than_the_copy_and_than_itself() -> None:
    copy = Freshness(BOUND)
    worker = Freshness(BOUND, copy)
    copy.begin_old(3600)
    worker.proven()
    assert (worker.age, worker.stale) == (3600, True)  # in step with a copy that is old
    copy.proven()
    assert (worker.age, worker.stale) == (0, False)
    await trio.sleep(BOUND + 1)
    copy.proven()
    assert (worker.age, worker.stale) == (BOUND + 1, True)  # the copy goes on, and tells us nothing
    worker.proven()
    worker.lost()
    assert worker.stale
