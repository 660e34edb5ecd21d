"""The local copy of a remote store: what it becomes, who is told, and which files are not served from."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import Batch, Deleted, Entry, Event, Listing
from sniproxy.store.mirror import HISTORY, MAX_LOG, Kept, Mirror, Origin
from sniproxy.store.sqlite import SqliteStore
from tests.support.stores import next_batch, take

pytestmark = pytest.mark.anyio

ORIGIN = Origin("/apisix", frozenset({"http://a:2379", "http://b:2379"}))
NOW = 1_700_000_000.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db"


@pytest.fixture
def mirror(path: Path) -> Iterator[Mirror]:
    mirror = Mirror(path, ORIGIN)
    yield mirror
    mirror.close()


def put(key: str, revision: int, value: bytes = b"v", created: int | None = None) -> Entry:
    return Entry(f"/apisix/{key}", value, created or revision, revision)


def gone(key: str, revision: int) -> Deleted:
    return Deleted(f"/apisix/{key}", revision)


def listing(revision: int, *entries: Entry) -> Listing:
    return Listing(tuple(sorted(entries, key=lambda one: one.key)), revision)


def batch(*events: Event) -> Batch:
    return Batch(events[-1].mod_revision, events)


async def held(path: Path) -> Listing:
    store = SqliteStore(path)
    try:
        return await store.list("/apisix/")
    finally:
        await store.aclose()


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


# -- which files are served from


def filled(path: Path, origin: Origin = ORIGIN) -> None:
    mirror = Mirror(path, origin)
    mirror.take_over(listing(70, put("a", 9), put("b", 12)), NOW)
    mirror.apply(batch(put("c", 71), gone("a", 72)), NOW + 5)
    mirror.close()


def test_there_is_none(mirror: Mirror, path: Path) -> None:
    assert mirror.open() == (None, "")
    assert not path.exists()


def test_one_of_last_time_is_served_from(mirror: Mirror, path: Path) -> None:
    filled(path)
    assert mirror.open() == (Kept(72, NOW + 5), "")


@pytest.mark.parametrize(
    "origin",
    [
        ORIGIN,
        Origin("/apisix", frozenset({"http://a:2379"})),
        Origin("/apisix", frozenset({"http://b:2379", "http://c:2379"})),  # a member was replaced
    ],
)
def test_a_cluster_whose_members_change_is_the_same(path: Path, origin: Origin) -> None:
    filled(path)
    mirror = Mirror(path, origin)
    assert mirror.open() == (Kept(72, NOW + 5), "")
    mirror.close()


def statement(*statements: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        connection = sqlite3.connect(path)
        for one in statements:
            connection.execute(one)
        connection.commit()
        connection.close()

    return spoil


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip(path: Path) -> None:
    raw = path.read_bytes()
    where = raw.index(b"/apisix/b") + len("/apisix/b")
    path.write_bytes(raw[:where] + bytes([raw[where] ^ 1]) + raw[where + 1 :])


def text(path: Path) -> None:
    path.write_text("not a database at all, but long enough to be read as one" * 99)


def another_program(path: Path) -> None:
    path.unlink()
    statement("CREATE TABLE t (x)")(path)


def another_cluster(path: Path) -> None:
    path.unlink()
    filled(path, Origin("/apisix", frozenset({"http://c:2379"})))


def another_prefix(path: Path) -> None:
    path.unlink()
    filled(path, Origin("/other", ORIGIN.endpoints))


def a_store(path: Path) -> None:
    async def write() -> None:
        store = SqliteStore(path)
        await store.put("/apisix/a", b"v")
        await store.aclose()

    path.unlink()
    anyio.run(write)


SPOILERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "malformed|damaged"),
    "flipped_bit": (flip, "damaged: /apisix/b"),
    "text": (text, "not a database"),
    "another_program": (another_program, "another program"),
    "another_cluster": (another_cluster, "copy of another store"),
    "another_prefix": (another_prefix, "copy of another store"),
    "a_store": (a_store, "not a copy"),
    "newer_schema": (
        statement("UPDATE meta SET value = 99 WHERE name = 'schema'"),
        "schema version 99",
    ),
    "row_gone": (statement("DELETE FROM kv WHERE key = CAST('/apisix/b' AS BLOB)"), "missing"),
    "row_more": (
        statement(
            "INSERT INTO kv SELECT CAST('/apisix/z' AS BLOB), value, 1, 1, NULL, 1 FROM kv LIMIT 1"
        ),
        "damaged",
    ),
    "no_digest": (statement("DELETE FROM meta WHERE name = 'digest'"), ""),
    "no_tables": (statement("DROP TABLE kv"), "no such table"),
    "origin_is_no_text": (
        statement("UPDATE meta SET value = CAST(x'7bff7d' AS TEXT) WHERE name = 'origin'"),
        "decode",
    ),
    "origin_is_a_number": (
        statement("UPDATE meta SET value = 7 WHERE name = 'origin'"),
        "copy of another store",
    ),
}


@pytest.mark.parametrize(("spoil", "match"), SPOILERS.values(), ids=SPOILERS)
async def test_what_cannot_be_trusted_is_set_aside(
    path: Path, spoil: Callable[[Path], None], match: str
) -> None:
    filled(path)
    await anyio.to_thread.run_sync(spoil, path)
    before = await anyio.Path(path).read_bytes()
    mirror = Mirror(path, ORIGIN)
    kept, why = mirror.open()
    assert kept is None
    assert why
    assert re.search(match, why), why
    aside = await anyio.Path(path.with_name("mirror.db.set-aside")).read_bytes()
    assert aside[:4000] == before[:4000]
    mirror.take_over(listing(90, put("n", 80)), NOW)  # a new one takes its place
    assert await held(path) == listing(90, put("n", 80))
    mirror.close()


def test_one_that_was_never_whole_is_not_served_from(mirror: Mirror, path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no list"):
        mirror.apply(batch(put("a", 9)), NOW)
    assert mirror.open() == (None, "")  # as if it had been killed before the first list ended


def test_an_origin_moves_on_with_the_members_of_the_cluster(path: Path) -> None:
    """a and b, then b and c, then c and d: each knows the one before, so it is one cluster all the time."""
    filled(path)
    for members in ("bc", "cd", "de"):
        origin = Origin("/apisix", frozenset(f"http://{name}:2379" for name in members))
        mirror = Mirror(path, origin)
        kept, why = mirror.open()
        assert (kept is not None, why) == (True, "")
        mirror.take_over(listing(72, put("b", 12), put("c", 71)), NOW)
        mirror.close()


def test_what_is_taken_over_is_of_this_store_whatever_it_was_before(path: Path) -> None:
    """Where the file could not be looked at first, because another data plane had it."""
    filled(path, Origin("/apisix", frozenset({"http://c:2379"})))
    mirror = Mirror(path, ORIGIN)
    mirror.take_over(listing(72, put("b", 12)), NOW)
    mirror.close()
    assert mirror.open() == (Kept(72, NOW), "")
    mirror.close()
    _, why = Mirror(path, Origin("/apisix", frozenset({"http://c:2379"}))).open()
    assert "copy of another store" in why


def test_an_empty_file_is_as_none(mirror: Mirror, path: Path) -> None:
    path.touch()
    assert mirror.open() == (None, "")
    assert mirror.take_over(listing(3, put("a", 2)), NOW) == 1


def test_one_that_is_locked_is_not_set_aside(path: Path) -> None:
    filled(path)
    mine, other = Mirror(path, ORIGIN), Mirror(path, ORIGIN)
    assert mine.open()[0] is not None
    with pytest.raises(StoreUnavailable, match="state_dir of its own"):
        other.open()
    with pytest.raises(StoreUnavailable, match="state_dir of its own"):
        other.take_over(listing(1), NOW)
    mine.close()
    assert other.open() == (Kept(72, NOW + 5), "")
    other.close()


def test_one_that_may_not_be_read_is_not_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "not-a-folder"
    folder.touch()
    mirror = Mirror(folder / "mirror.db", ORIGIN)
    with pytest.raises(StoreUnavailable, match=r"mirror\.db"):
        mirror.take_over(listing(1), NOW)
    assert folder.exists()


def test_the_file_is_for_us_alone(mirror: Mirror, path: Path) -> None:
    mirror.take_over(listing(1), NOW)
    for file in path.parent.glob("mirror.db*"):
        assert not file.stat().st_mode & 0o077, file


def test_an_origin_survives_its_text() -> None:
    assert json.loads(str(ORIGIN)) == {
        "prefix": "/apisix",
        "endpoints": ["http://a:2379", "http://b:2379"],
    }
