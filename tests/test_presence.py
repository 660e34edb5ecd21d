"""The record of a data plane, on virtual time: when it is written, how often, and that it goes with its process."""

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.errors import StoreUnavailable
from sniproxy.metrics import PodMetrics
from sniproxy.objects.node_record import NodeRecord
from sniproxy.presence import FAREWELL, INTRODUCTION, LEAST_GAP, MOST_GAP, Presence, node_id
from sniproxy.settings import Settings, Status
from sniproxy.store import Batch, Changes, Entry, Listing, Ttl
from tests.support.gateway import Lines, open_lines

pytestmark = pytest.mark.anyio

TTL = 15
KEY = "/sniproxy/apisix/nodes/edge-1"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """trio on virtual time: it jumps when every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@dataclass
class Recording:
    """A store that notes what it is asked, takes `lasts` seconds for it, and fails in between these times."""

    fails: tuple[float, float] = (-1, -1)
    lasts: float = 0.0
    puts: list[tuple[float, int]] = field(
        default_factory=list
    )  # when it was done, and the revision
    tries: int = 0
    deletes: list[float] = field(default_factory=list)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        assert (key, expect, ttl) == (KEY, None, TTL)
        self.tries += 1
        await self._answer()
        record = NodeRecord.decode(value)
        assert record is not None
        self.puts.append((round(trio.current_time(), 6), record.revision))
        return len(self.puts)

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        assert (key, expect) == (KEY, None)
        await self._answer()
        self.deletes.append(trio.current_time())
        return 1

    async def _answer(self) -> None:
        await trio.sleep(self.lasts)
        if self.fails[0] <= trio.current_time() < self.fails[1]:
            raise StoreUnavailable("away")

    async def get(self, key: str) -> Entry | None:
        raise AssertionError(key)

    async def list(self, prefix: str) -> Listing:
        raise AssertionError(prefix)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        raise AssertionError(prefix)

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        raise AssertionError(prefix)

    async def aclose(self) -> None:
        raise AssertionError("it is not ours to close")


class Plane:
    """A data plane that has that revision in force."""

    def __init__(self, store: Recording) -> None:
        settings = Settings(store="etcd://h:2379/apisix", node="edge-1", node_ttl=TTL)
        log, self.lines = open_lines()
        self.metrics = PodMetrics()
        self.revision = 1
        self.presence = Presence(store, settings, self._describe, self.metrics, log)

    def _describe(self) -> NodeRecord:
        return NodeRecord(
            id="edge-1",
            version="1",
            revision=self.revision,
            age=0,
            stale=False,
            sessions=0,
            started=0,
        )

    def change(self) -> None:
        self.revision += 1
        self.presence.changed()

    @property
    def failures(self) -> float | None:
        return self.metrics.registry.get_sample_value("sniproxy_node_record_failures_total")


@asynccontextmanager
async def present(store: Recording) -> AsyncIterator[Plane]:
    """Until the block is left."""
    plane = Plane(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plane.presence.run)
        yield plane
        nursery.cancel_scope.cancel()


def events(lines: Lines) -> list[str]:
    return [line["event"] for line in lines.all]


async def test_it_is_there_at_once_renewed_in_time_and_gone_at_the_end() -> None:
    store = Recording()
    async with present(store):
        await trio.sleep(16)
    assert store.puts == [(0, 1), (5.02, 1), (10.04, 1), (15.06, 1)]
    assert store.deletes == [16]


@pytest.mark.parametrize(
    ("store", "at"),
    [
        (Recording(), 0),
        (Recording(lasts=0.4), 0.4),
        (Recording(lasts=0.4, fails=(0, 1)), 0.4),
        (Recording(lasts=1000), INTRODUCTION),
    ],
)
async def test_players_wait_for_the_first_record_and_not_for_long(
    store: Recording, at: float
) -> None:
    async with present(store) as plane:
        await plane.presence.introduced()
        assert trio.current_time() == at


async def test_a_change_is_told_at_once() -> None:
    store = Recording()
    async with present(store) as plane:
        await trio.sleep(1)
        plane.change()
        await trio.sleep(2)
    assert store.puts == [(0, 1), (1, 2)]


async def test_a_burst_is_a_few_records_and_the_last_of_them_is_true() -> None:
    store = Recording()
    async with present(store) as plane:
        await trio.sleep(1)
        for _ in range(1000):
            plane.change()
            await trio.sleep(LEAST_GAP / 1000)
        await trio.sleep(1)
    assert 2 <= len(store.puts) - 1 <= 3
    assert store.puts[-1][1] == 1001
    assert store.puts[-1][0] <= 1 + 3 * LEAST_GAP


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        (0.5, LEAST_GAP),  # one now and then, as by somebody who waits for each
        (1, LEAST_GAP),
        (10, MOST_GAP),  # more than one in each gap: it grows
    ],
)
async def test_changes_that_never_end_are_told_no_oftener_than_the_gap(
    changes: float, gap: float
) -> None:
    store = Recording()
    step = LEAST_GAP / changes
    async with present(store) as plane:
        for _ in range(1000):
            plane.change()
            await trio.sleep(step)
    took = 1000 * step
    assert took / max(gap, step) * 0.8 <= len(store.puts) <= took / gap + 5
    assert store.puts[-1][0] >= took - MOST_GAP - step


async def test_a_change_while_a_record_is_being_written_is_not_lost() -> None:
    store = Recording(lasts=2)
    async with present(store) as plane:
        await trio.sleep(1)
        plane.change()
        await trio.sleep(5)
    assert store.puts == [(2, 1), (4.02, 2)]


async def test_a_change_before_it_began_is_in_the_first_record() -> None:
    store = Recording()
    plane = Plane(store)
    plane.change()
    with trio.move_on_after(1):
        await plane.presence.run()
    assert store.puts == [(0, 2)]


async def test_an_outage_is_counted_by_tries_and_told_once() -> None:
    store = Recording(fails=(1, 22))
    async with present(store) as plane:
        await trio.sleep(31)
        assert plane.failures == 17  # one a second, from the first renewal on
        assert events(plane.lines) == ["node record not written"]
        assert plane.lines.all[0]["cause"] == "away"
        assert plane.lines.all[0]["key"] == KEY
        store.fails = (31, 33)
        await trio.sleep(10)
        assert plane.failures == 18
        assert events(plane.lines) == ["node record not written"] * 2
    assert [round(at) for at, _ in store.puts] == [0, 22, 27, 33, 38]


async def test_a_store_that_did_not_answer_in_time_once_costs_no_record() -> None:
    """Who waits for all data planes would not wait for this one."""
    store = Recording(fails=(6, 11))
    async with present(store):
        await trio.sleep(1)
        store.lasts = 5  # etcd.timeout
        await trio.sleep(10)
        store.lasts = 0
        await trio.sleep(10)
    written = [at for at, _ in store.puts]
    assert max(later - before for before, later in pairwise(written)) < TTL - 2


async def test_a_store_that_hangs_does_not_hold_up_the_end() -> None:
    store = Recording(lasts=1000)
    async with present(store):
        await trio.sleep(7)
        assert store.tries == 1
    assert trio.current_time() == 7 + FAREWELL
    assert (store.puts, store.deletes) == ([], [])


async def test_a_store_that_is_away_at_the_end_is_told() -> None:
    store = Recording(fails=(5, 100))
    async with present(store) as plane:
        await trio.sleep(5)
    assert events(plane.lines) == ["node record not removed"]
    assert trio.current_time() == 5


async def test_a_record_cut_off_in_its_writing_is_taken_away_too() -> None:
    """It may have come there."""
    store = Recording(lasts=0.5)
    async with present(store):
        await trio.sleep(0.25)
    assert (store.puts, store.deletes) == ([], [0.75])


async def test_a_defect_is_not_taken_for_an_outage() -> None:
    class Defective(Recording):
        async def put(self, *_: Any, **__: Any) -> int:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with present(Defective()):
            await trio.sleep(1)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(node="edge-1"), "edge-1"),
        (Settings(), f"{socket.gethostname()}:7085"),
        (Settings(status=Status(address="[::]:9")), f"{socket.gethostname()}:9"),
    ],
)
def test_what_it_is_called(settings: Settings, name: str) -> None:
    assert node_id(settings) == name


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a" * 129, "é", "a\n", "a\0"])
def test_what_it_may_not_be_called(name: str) -> None:
    with pytest.raises(ValueError, match="node"):
        Settings(node=name)
