"""Books of several data planes on one store: whatever fails, stops or jumps, each session is counted once."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.traffic import TrafficReader
from sniproxy.bookkeeping import FAREWELL
from sniproxy.errors import StoreUnavailable
from sniproxy.folding import fold
from sniproxy.objects.traffic import DAY, Places, Row, Stored, hour_of
from sniproxy.settings import Statistics
from tests.support.bookkeepers import Clock, Failing, InMemory, Pod

pytestmark = pytest.mark.anyio
PREFIX = "/apisix"
PLACES = Places(PREFIX)
FIRST, END = 990, 1200  # hours, around those of the tests' clocks


async def told(store: Any, limit: int = 1000) -> tuple[Counter[str], Counter[str]]:
    """Sessions by route, out of the hours and out of the days."""
    reader = TrafficReader(store, PREFIX, limit)
    days = await reader.days(FIRST // DAY, END // DAY + 1, dict)
    hours = await reader.hours(FIRST // DAY * DAY, (END // DAY + 1) * DAY, dict)
    found = []
    for traffics in (hours, days):
        sessions: Counter[str] = Counter()
        for one in traffics.values():
            sessions.update({route: row.sessions for route, row in one.routes.items()})
            sessions["all"] += one.site.sessions
        found.append(+sessions)
    return found[0], found[1]


# What may happen: to which data plane, and how often or how far.
pods = st.integers(0, 1)
fails = st.sampled_from([None, None, "before", "after"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("play"), pods, st.sampled_from("ab")),
        st.tuples(st.just("play"), pods, st.sampled_from("ab")),
        st.tuples(st.just("write"), pods, st.none()),
        st.tuples(st.just("write"), pods, st.none()),
        st.tuples(st.just("restart"), pods, st.none()),
        st.tuples(st.just("upgrade"), pods, st.none()),
        st.tuples(st.just("clock"), pods, st.sampled_from([600, 3600, 5000, 90_000, -4000])),
        st.tuples(st.just("fold"), st.none(), fails),
        st.tuples(st.just("fail"), st.none(), st.lists(fails, max_size=4)),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(EVENTS)
def test_each_session_is_counted_once_whatever_happens(events: list[tuple[Any, ...]]) -> None:
    """A data plane is killed when all was written; what is lost otherwise has a test of its own."""

    async def live() -> None:
        played: Counter[str] = Counter()
        latest = Clock().now  # that any clock has shown: what was counted then is folded after it
        real = InMemory()
        store = Failing(real)
        clocks = [Clock(), Clock()]  # which need not agree
        planes = [Pod(store, clock, f"n{place}") for place, clock in enumerate(clocks)]
        for event, which, how in events:
            match event:
                case "play":
                    planes[which].play(how)
                    played.update([how, "all"])
                case "write":
                    await planes[which].books.write()
                case "restart":
                    store.fails = []
                    await planes[which].books.write()
                    planes[which].restart()
                case "upgrade":
                    planes[which].upgrade()
                case "clock":
                    clocks[which].now += how
                    latest = max(latest, clocks[which].now)
                case "fail":
                    store.fails = how
                case "fold":
                    await folded(store, clocks[0].now + 5000, [None, None, how])
            by_hour, by_day = await told(real)
            assert by_hour == by_day
            assert by_hour <= played
        store.fails = []
        for plane in planes:
            await plane.books.write()
        assert await told(real) == (+played, +played)
        await folded(store, latest + 7200, [])
        assert (await real.list(PLACES.parts)).entries == ()
        assert await told(real) == (+played, +played)

    trio.run(live)


async def folded(store: Failing, now: float, fails: list[Any]) -> None:
    """By a data plane that may die half way."""
    store.fails = fails
    with suppress(StoreUnavailable):
        await fold(store, PLACES, Statistics(), now)
    store.fails = []


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio on virtual time: it jumps when every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def store() -> Failing:
    return Failing(InMemory())


async def test_who_is_killed_loses_what_came_since_the_last_writing(store: Failing) -> None:
    pod = Pod(store, Clock())
    pod.play("a")
    await pod.books.write()
    pod.play("a")
    pod.restart()
    pod.play("a")
    await pod.books.write()
    assert (await told(store))[0] == {"a": 2, "all": 2}


async def test_where_nothing_comes_nothing_is_written(store: Failing) -> None:
    pod = Pod(store, Clock())
    await pod.books.write()
    assert store.puts == 0
    pod.play("a")
    for _ in range(3):
        await pod.books.write()
    assert store.puts == 1


async def test_a_store_that_is_away_is_told_once_and_counted(store: Failing) -> None:
    pod = Pod(store, Clock())
    for _ in range(2):
        pod.play("a")
        store.fails = ["before"]
        await pod.books.write()
    await pod.books.write()
    assert pod.lines.getvalue().count("statistics not written") == 1
    assert pod.lines.getvalue().count("statistics written again") == 1
    failures = pod.metrics.registry.get_sample_value("sniproxy_statistics_failures_total")
    assert failures == 2
    assert (await told(store))[0] == {"a": 2, "all": 2}


async def test_what_comes_while_the_store_is_away_is_of_its_own_hour(store: Failing) -> None:
    clock = Clock()
    pod = Pod(store, clock)
    for _ in range(3):
        pod.play("a")
        store.fails = ["before"]
        await pod.books.write()
        clock.now += 3600
    clock.now -= 3600
    await pod.books.write()
    found = await TrafficReader(store, PREFIX, 9).hours(FIRST, END, dict)
    assert {hour: one.site for hour, one in found.items()} == {
        hour: Row(1, 1, 2, 0, 1) for hour in (1000, 1001, 1002)
    }


async def test_what_somebody_else_wrote_under_our_key_is_not_ours(store: Failing) -> None:
    pod = Pod(store, Clock())
    pod.play("a")
    await pod.books.write()
    (entry,) = (await store.list(PLACES.parts)).entries
    await store.put(entry.key, b"garbage")
    pod.play("a")
    await pod.books.write()
    entries = (await store.list(PLACES.parts)).entries
    assert sorted(len(one.value) > 10 for one in entries) == [False, True]
    assert (await told(store))[0] == {"a": 1, "all": 1}


async def test_it_writes_by_itself_and_at_the_end(store: Failing) -> None:
    pod = Pod(store, Clock(), interval=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pod.books.run)
        for _ in range(3):
            pod.play("a")
            await trio.sleep(61)
            assert (await told(store))[0]["a"] == pod.counts["a"][0]
        pod.play("a")
        await pod.books.finish()
        assert (await told(store))[0]["a"] == 4
        nursery.cancel_scope.cancel()
    assert pod.books.rates is not None


async def test_a_defect_of_ours_costs_figures_and_nothing_else(
    store: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(store, Clock(), interval=60)

    def fails(*_: object) -> None:
        raise RuntimeError("a defect")

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr("sniproxy.bookkeeping.look_at", fails)
        monkeypatch.setattr("sniproxy.bookkeeping.fold", fails)
        nursery.start_soon(pod.books.run)
        pod.play("a")
        await trio.sleep(4000)
        await pod.books.finish()
        monkeypatch.undo()
        await trio.sleep(120)
        assert (await told(store))[0] == {"a": 1, "all": 1}
        nursery.cancel_scope.cancel()
    assert "a defect" in pod.lines.getvalue()


async def test_the_end_does_not_wait_for_a_store_that_hangs(
    store: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(store, Clock())
    pod.play("a")

    async def hang(*_: object, **__: object) -> int:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(store, "put", hang)
    with trio.fail_after(FAREWELL + 1):
        await pod.books.finish()
    assert "not done in 2 s" in pod.lines.getvalue()
    monkeypatch.undo()
    pod.upgrade()
    await pod.books.write()
    assert (await told(store))[0] == {"a": 1, "all": 1}


async def test_a_version_before_that_kept_no_books_has_counted_for_itself(store: Failing) -> None:
    pod = Pod(store, Clock())
    pod.play("a")
    pod.books = pod._open({})
    await pod.books.write()
    pod.play("a")
    await pod.books.write()
    assert (await told(store))[0] == {"a": 1, "all": 1}


async def test_what_the_version_before_left_and_nobody_can_read_is_told(store: Failing) -> None:
    pod = Pod(store, Clock())
    pod.books = pod._open({"seen": {}, "parts": [{"hour": "x"}]})
    assert "statistics not taken over" in pod.lines.getvalue()
    pod.play("a")
    await pod.books.write()
    assert (await told(store))[0] == {"a": 1, "all": 1}


async def test_a_writing_that_came_through_unheard_and_was_folded_counts_once(
    store: Failing,
) -> None:
    clock = Clock()
    pod = Pod(store, clock)
    for fails in ("before", "after"):  # the first is not there, the second is
        pod.play("a")
        store.fails = [fails]
        await pod.books.write()
        await fold(store, PLACES, Statistics(), clock.now + 5000)
        pod.play("a")
        await pod.books.write()
    assert await told(store) == ({"a": 4, "all": 4}, {"a": 4, "all": 4})


# -- folding


@pytest.mark.parametrize("at", [PLACES.hour(1000), PLACES.day(1000 // DAY)])
async def test_who_is_overtaken_by_another_takes_nothing_back(store: Failing, at: str) -> None:
    clock = Clock()
    pod, late = Pod(store, clock), Pod(store.real, clock, "n2")
    pod.play("a")
    await pod.books.write()
    late.play("a")
    overtaken = []

    async def overtake(key: str) -> None:
        if key == at:
            overtaken.append(key)
            store.before_put = None
            await late.books.write()
            await fold(store.real, PLACES, Statistics(), clock.now + 5000)

    store.before_put = overtake
    await fold(store, PLACES, Statistics(), clock.now + 5000)
    assert overtaken
    assert await told(store) == ({"a": 2, "all": 2}, {"a": 2, "all": 2})


async def test_an_hour_is_left_alone_until_it_is_over_for_a_while(store: Failing) -> None:
    clock = Clock()
    pod = Pod(store, clock)
    pod.play("a")
    await pod.books.write()
    await fold(store, PLACES, Statistics(), clock.now + 3600 + 599)
    assert len((await store.list(PLACES.parts)).entries) == 1
    await fold(store, PLACES, Statistics(), clock.now + 3600 + 600)
    assert (await store.list(PLACES.parts)).entries == ()
    for key in (PLACES.hour(1000), PLACES.day(1000 // DAY)):
        entry = await store.get(key)
        assert entry is not None
        stored = Stored.decode(entry.value)
        assert stored is not None
        assert stored.traffic.site == Row(1, 1, 2, 0, 1)


async def test_what_is_too_old_is_removed_and_nothing_else(store: Failing) -> None:
    kept = Statistics(keep_hours=48, keep_days=10)
    now = 20_000 * 3600.0
    for hour in (0, 15_000, 19_951, 19_952, 20_000):
        await store.put(PLACES.hour(hour), Stored().encode())
        await store.put(PLACES.day(hour // DAY), Stored().encode())
    garbage = [PLACES.part(hour, "n", "t") for hour in (15_000, 19_990)]
    for key in garbage:
        await store.put(key, b"garbage")
    await store.put("/sniproxy/apisix/nodes/n", b"r")
    await fold(store, PLACES, kept, now)
    keys = [one.key for one in (await store.list("")).entries]
    assert keys == sorted(
        [
            "/sniproxy/apisix/nodes/n",
            garbage[1],
            *(PLACES.hour(hour) for hour in (19_952, 20_000)),
            *{PLACES.day(hour // DAY) for hour in (19_951, 20_000)},
        ]
    )


async def test_a_clock_that_is_wrong_takes_a_part_of_all_that_is_kept(store: Failing) -> None:
    for hour in range(1000, 1100):
        await store.put(PLACES.hour(hour), Stored().encode())
    await fold(store, PLACES, Statistics(), 10**9)
    assert len((await store.list(PLACES.hours)).entries) == 52


async def test_many_at_once_do_no_harm(store: Failing) -> None:
    clock = Clock()
    for node in ("n1", "n2", "n3"):
        pod = Pod(store, clock, node)
        pod.play("a")
        await pod.books.write()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(fold, store, PLACES, Statistics(), clock.now + 5000)
    await fold(store, PLACES, Statistics(), clock.now + 5000)
    assert (await store.list(PLACES.parts)).entries == ()
    assert await told(store) == ({"a": 3, "all": 3}, {"a": 3, "all": 3})
    assert hour_of(clock.now) == 1000
