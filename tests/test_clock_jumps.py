"""The wall clock jumps by an hour: what is counted in its time is put right within seconds, and nothing else looks at it."""

import ast
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.metrics import PodMetrics
from sniproxy.objects.node_record import NodeRecord, records_prefix
from sniproxy.presence import RENEWALS, Presence
from sniproxy.settings import Settings
from sniproxy.store.sqlite import SqliteStore
from tests.support.gateway import open_lines
from tests.support.stores import Clock, opened_sqlite

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
HOUR = 3600.0
SPEED = 4  # of the loop's time: threads take theirs, so it cannot jump
SETTINGS = Settings(store="sqlite:///config.db", node="edge-1")
KEY = records_prefix(SETTINGS.where.prefix) + "edge-1"
BACK = (
    SETTINGS.node_ttl / RENEWALS + 3 * SPEED
)  # seconds, for a record that was taken away or has a wrong end


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio, whose time goes by faster."""
    return "trio", {"clock": trio.testing.MockClock(rate=SPEED)}


def describe() -> NodeRecord:
    return NodeRecord(
        id="edge-1", version="1", revision=1, age=0, stale=False, sessions=0, started=0
    )


async def written_after(store: SqliteStore, revision: int) -> int:
    """The revision of a record that was written later, within the bar."""
    with trio.fail_after(BACK):
        while True:
            entry = await store.get(KEY)
            if entry is not None and entry.mod_revision > revision:
                return entry.mod_revision
            await trio.sleep(0.1)


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forth", "back"])
async def test_a_data_planes_record_in_a_local_store(step: float, tmp_path: Path) -> None:
    clock = Clock()
    log, lines = open_lines()
    path = tmp_path / "config.db"
    async with (
        opened_sqlite(path, clock=clock) as own,
        opened_sqlite(path, clock=clock) as reader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Presence(own, SETTINGS, describe, PodMetrics(), log).run)
        before = await written_after(reader, 0)
        clock.now += step
        assert (await reader.get(KEY) is None) is (step > 0)
        again = await written_after(reader, before)
        clock.now += SETTINGS.node_ttl  # now its end is one of the new time
        assert await reader.get(KEY) is None
        await written_after(reader, again)
        nursery.cancel_scope.cancel()
    assert lines.all == []


# Who reads the wall clock, and what for. Everything else, timeouts and limits and the age of the configuration among it,
# goes by clocks that do not jump.
READERS = {
    "sniproxy/agent.py": "how old the copy is that a later process finds",
    "sniproxy/bookkeeping.py": "the hour that traffic counts for",
    "sniproxy/explain_command.py": "by which certificate one would be served",
    "sniproxy/journal.py": "when a session began, in its line",
    "sniproxy/logs.py": "the time of a line",
    "sniproxy/parent.py": "when the data plane began, in its record",
    "sniproxy/reception.py": "when sessions by plans began, in their lines",
    "sniproxy/references.py": "whether a file was written just now, as file systems say it",
    "sniproxy/session.py": "the time in the list of refusals",
    "sniproxy/store/sqlite.py": "time to live, which outlives processes",
}
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}


def test_nothing_else_reads_the_wall_clock() -> None:
    found = set()
    for file in ROOT.glob("sniproxy/**/*.py"):
        names = {
            ast.unparse(n)
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.Attribute)
        }
        if names & WALL:
            found.add(str(file.relative_to(ROOT)))
    assert found == set(READERS)
    sources = list(ROOT.glob("relay/src/**/*.rs"))
    assert sources
    # The hour of a ticket's key, which all pods have to know.
    reading = {file.name for file in sources if "SystemTime" in file.read_text()}
    assert reading == {"tickets.rs"}
