"""The local copy of a remote store: what it becomes, and who is told."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.errors import Compacted
from sniproxy.store import Batch, Entry, Event, Listing
from sniproxy.store.mirror import HISTORY, MAX_LOG, Kept, Mirror
from sniproxy.store.sqlite import SqliteStore
from tests.support.mirrors import NOW, ORIGIN, batch, gone, held, listing, put
from tests.support.stores import next_batch, take

pytestmark = pytest.mark.anyio


# -- what it becomes


async def test_a_list_is_taken_over_with_its_revisions(mirror: Mirror, path: Path) -> None:
    wanted = listing(70, put("a", 9, created=3), put("b", 12, b"\0\xff"))
    assert mirror.take_over(wanted, NOW) == 2
    assert await held(path) == wanted


def test_a_large_list_does_not_keep_its_room_in_the_log(mirror: Mirror, path: Path) -> None:
    log = path.with_name("mirror.db-wal")
    many = [put(f"n{number:04}", 9, b"x" * 4000) for number in range(MAX_LOG // 2000)]
    mirror.take_over(listing(70, *many), NOW)
    assert log.stat().st_size > MAX_LOG
    for revision in (71, 72):  # the first begins the log anew
        mirror.apply(Batch(revision, ()), NOW)
    assert log.stat().st_size <= MAX_LOG


async def test_a_later_list_is_taken_over_as_a_difference(mirror: Mirror, path: Path) -> None:
    mirror.take_over(listing(70, put("kept", 9), put("changed", 12), put("gone", 13)), NOW)
    wanted = listing(90, put("kept", 9), put("changed", 80), put("new", 81))
    assert mirror.take_over(wanted, NOW) == 3
    assert await held(path) == wanted


async def test_the_same_revision_may_be_another_value_after_a_restore(
    mirror: Mirror, path: Path
) -> None:
    mirror.take_over(listing(70, put("a", 9, b"before")), NOW)
    wanted = listing(95, put("a", 9, b"after"))
    assert mirror.take_over(wanted, NOW) == 1
    assert await held(path) == wanted


async def test_changes_are_followed_and_a_revision_is_never_split(
    mirror: Mirror, path: Path
) -> None:
    mirror.take_over(listing(70, put("a", 9)), NOW)
    many = [put(f"k{number:04}", 80) for number in range(HISTORY + 500)]
    store = SqliteStore(path, poll=0.01)
    try:
        assert (await store.list("/apisix/")).revision == 70
        async with store.watch("/apisix/", after=70) as watch:
            mirror.apply(batch(put("b", 75, created=75), gone("a", 76)), NOW)
            assert await take(watch, 2) == [put("b", 75), gone("a", 76)]
            mirror.apply(batch(*many, put("c", 81)), NOW)
            first = await next_batch(watch)
            while not first.events:
                first = await next_batch(watch)
            eighty = [one for one in first.events if one.mod_revision == 80]
            assert len(eighty) in (0, len(many))
    except Compacted:  # it was late: one revision is more than is kept
        pass
    finally:
        await store.aclose()
    assert len((await held(path)).entries) == len(many) + 2


async def test_a_batch_without_events_moves_the_revision_alone(mirror: Mirror, path: Path) -> None:
    mirror.take_over(listing(70, put("a", 9)), NOW)
    mirror.apply(Batch(88, ()), NOW + 10)
    assert await held(path) == listing(88, put("a", 9))
    assert mirror.open() == (Kept(88, NOW + 10), "")


@pytest.mark.parametrize(
    ("later", "lists"),
    [
        (listing(90, put("a", 9)), False),  # nothing was missed
        (listing(90, put("a", 80)), True),
        (listing(90), True),
        (listing(60, put("a", 9)), True),  # restored from a backup
        (listing(60, put("a", 9, b"other")), True),
    ],
)
async def test_whoever_follows_lists_too_if_anything_was_missed(
    mirror: Mirror, path: Path, later: Listing, lists: bool
) -> None:
    mirror.take_over(listing(70, put("a", 9)), NOW)
    mirror.apply(batch(put("b", 71), gone("b", 72)), NOW)
    store = SqliteStore(path, poll=0.01)
    try:
        await store.list("/apisix/")
        async with store.watch("/apisix/", after=72) as watch:
            mirror.take_over(later, NOW)
            mirror.apply(batch(put("c", 99)), NOW)
            if lists:
                with pytest.raises(Compacted):
                    await take(watch, 1)
            else:
                assert await take(watch, 1) == [put("c", 99)]
        assert (await store.list("/apisix/")).revision == 99
        async with store.watch("/apisix/", after=99) as watch:
            mirror.apply(batch(put("d", 100)), NOW)
            assert await take(watch, 1) == [put("d", 100)]
    finally:
        await store.aclose()


async def test_history_is_bounded(mirror: Mirror, path: Path) -> None:
    mirror.take_over(listing(1), NOW)
    for revision in range(2, HISTORY + 20):
        mirror.apply(batch(put("a", revision)), NOW)
    connection = sqlite3.connect(path)
    (rows,) = connection.execute("SELECT count(*) FROM history").fetchone()
    connection.close()
    assert rows == HISTORY
    store = SqliteStore(path)
    try:
        with pytest.raises(Compacted):
            async with store.watch("/apisix/", after=5):
                pass
    finally:
        await store.aclose()


KEYS = ("a", "b", "c", "d")
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.binary(max_size=3) | st.none()), max_size=8)


@settings(max_examples=40)  # each is a file with its commits
@given(st.lists(st.tuples(st.booleans(), CHANGES), max_size=5))
async def test_whatever_comes_it_is_the_store_and_sound(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[bool, list[tuple[str, bytes | None]]]],
) -> None:
    """Lists and batches in any order: the copy has what the model has, and passes its own check."""
    path = tmp_path_factory.mktemp("mirror") / "mirror.db"
    mirror = Mirror(path, ORIGIN)
    state: dict[str, Entry] = {}
    revision = told = 1
    mirror.take_over(listing(revision), NOW)
    for by_list, changes in steps:
        events: list[Event] = []
        for key, value in changes:
            revision += 1
            if value is not None:
                before = state.get(key)
                created = before.create_revision if before else revision
                state[key] = put(key, revision, value, created)
                events.append(state[key])
            elif state.pop(key, None) is not None:
                events.append(gone(key, revision))
        if by_list:
            told = revision
            mirror.take_over(listing(told, *state.values()), NOW)
        elif events:
            told = events[-1].mod_revision
            mirror.apply(batch(*events), NOW)
    assert await held(path) == listing(told, *state.values())
    assert mirror.open() == (Kept(told, NOW), "")
    mirror.close()
