"""The local copy of a remote store: which files are served from, and which are set aside."""

import json
import re
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from sniproxy.errors import StoreUnavailable
from sniproxy.store.mirror import Kept, Mirror, Origin
from sniproxy.store.sqlite import SqliteStore
from tests.support.mirrors import NOW, ORIGIN, batch, cut, flip, gone, held, listing, put

pytestmark = pytest.mark.anyio


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
    "flipped_bit": (partial(flip, key="/apisix/b"), "damaged: /apisix/b"),
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
