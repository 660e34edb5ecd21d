"""A large change beside players: the loop turns while it is read, and all of it is in force at once."""

import io

import pytest
import trio

from sniproxy.config import READ_AT_ONCE, InForce
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.snapshot import Snapshot
from sniproxy.store import Batch, Entry, Listing
from tests.support.following import gone, put

pytestmark = pytest.mark.anyio

OBJECTS = 20 * READ_AT_ONCE
KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
OLD = tuple(put(f"old{number:04}", number + 1) for number in range(OBJECTS))
NEW = tuple(put(f"new{number:04}", 1000 + number) for number in range(OBJECTS))


@pytest.mark.parametrize(
    "change",
    [
        Listing(NEW, 2000),
        Batch(2000, (*(gone(one.key.rpartition("/")[2], 2000) for one in OLD), *NEW)),
    ],
    ids=["list", "batch"],
)
async def test_the_loop_turns_while_a_large_change_is_read_and_nobody_sees_half_of_it(
    change: Listing | Batch,
) -> None:
    snapshot = Snapshot("/apisix", Keyring([KEY]))
    told: list[int] = []
    follower = InForce(
        snapshot, Metrics(), open_log("t", io.StringIO()), lambda: told.append(snapshot.revision)
    )
    await follower.load(Listing(OLD, 900))
    seen: list[tuple[int, frozenset[str]]] = []

    async def play() -> None:
        while True:
            seen.append((snapshot.revision, frozenset(snapshot.revisions())))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        await trio.lowlevel.checkpoint()
        if isinstance(change, Listing):
            await follower.load(change)
        else:
            await follower.apply(change)
        for _ in range(3):  # turns of the loop, in which everybody has been asked
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert len(seen) > OBJECTS / READ_AT_ONCE
    assert set(seen) == {(900, keys(OLD)), (2000, keys(NEW))}
    assert told == [900, 2000]


def keys(entries: tuple[Entry, ...]) -> frozenset[str]:
    return frozenset(one.key for one in entries)
