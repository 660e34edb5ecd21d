"""One version up and one down with a living configuration: what 0.1.0 left is served, and what is left it can read.

The store's tables are those of schema 1, and its objects are APISIX's, which carry no version; both are held here to what
0.1.0 wrote. Whoever changes them makes schema 2 and a way back.
"""

import json
import sqlite3
from pathlib import Path

import pytest

from sniproxy.objects.node_record import NodeRecord
from tests.support.crowds import NAME, ROUTE, crowd_at
from tests.support.echo import echo_process
from tests.support.stack import Stack

pytestmark = pytest.mark.anyio

WRITTEN_BY_0_1_0 = (
    "PRAGMA application_id = 1397639504",
    "PRAGMA journal_mode = wal",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('schema', 1), ('revision', 2), ('compacted', 0)",
    "CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,"
    " mod_revision INTEGER NOT NULL, expires_at REAL) WITHOUT ROWID",
    "CREATE INDEX kv_expires_at ON kv (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE TABLE history (revision INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB, create_revision INTEGER NOT NULL)",
)
TIMES = '"create_time":1764000000,"update_time":1764000000}'
UPSTREAM = '{"id":"game","nodes":{"127.0.0.1:%d":1},"type":"roundrobin",' + TIMES
STREAM_ROUTE = '{"id":"%s","sni":"%s","tls_passthrough":true,"upstream_id":"game",' + TIMES


def left_by_0_1_0(file: Path, game: int) -> None:
    """A store with an upstream and a route."""
    conn = sqlite3.connect(file)
    for statement in WRITTEN_BY_0_1_0:
        conn.execute(statement)
    objects = [
        (b"/apisix/upstreams/game", UPSTREAM % game),
        (f"/apisix/stream_routes/{ROUTE}".encode(), STREAM_ROUTE % (ROUTE, NAME)),
    ]
    for revision, (key, text) in enumerate(objects, 1):
        value = text.encode()
        conn.execute("INSERT INTO kv VALUES (?, ?, ?, ?, NULL)", (key, value, revision, revision))
        conn.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (revision, key, value, revision))
    conn.commit()
    conn.close()
    file.chmod(0o600)


def shape(file: Path) -> tuple[list[object], object]:
    """Tables and indexes, and the schema's number."""
    conn = sqlite3.connect(file)
    tables = list(conn.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name"))
    (number,) = conn.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    conn.close()
    return tables, number


async def test_a_configuration_of_0_1_0_is_served_and_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "config.db"
    with echo_process() as game:
        left_by_0_1_0(file, game)
        before = shape(file)
        with Stack(tmp_path / "stack", f"sqlite://{file}", workers=2) as stack:
            async with crowd_at(stack, 10) as crowd:
                await crowd.play()
                assert not crowd.lost
            written = {"nodes": {f"127.0.0.1:{game}": 1}, "type": "roundrobin"}
            stack.put("/upstreams/game?wait=all&timeout=60s", written)
            async with crowd_at(stack, 10) as crowd:
                await crowd.play()
                assert not crowd.lost
        assert shape(file) == before
        conn = sqlite3.connect(file)
        ((value,),) = conn.execute(
            "SELECT value FROM kv WHERE key = ?", (b"/apisix/upstreams/game",)
        )
        conn.close()
        assert json.loads(value).keys() == json.loads(UPSTREAM % game).keys()


def test_a_node_record_of_another_version_is_read() -> None:
    """With members that this one does not know; what an older one does not know, it leaves out likewise."""
    record = NodeRecord(
        id="a", version="0.1.0", revision=7, age=0.5, stale=False, sessions=3, started=1_764_000_000
    )
    newer = json.loads(record.encode()) | {"version": "0.2.0", "drained": True}
    read = NodeRecord.decode(json.dumps(newer).encode())
    assert read is not None
    assert (read.id, read.version, read.revision) == ("a", "0.2.0", 7)
    assert set(json.loads(record.encode())) == {
        *("id", "version", "revision", "age", "stale", "sessions", "started", "rates")
    }
