"""A large change beside players: the loop turns while it is read, and all of it is in force at once."""

import io
import json
import time

import pytest
import trio

from sniproxy.config import READ_AT_ONCE, InForce
from sniproxy.following import OutOfStep
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.objects.secrets import map_secrets
from sniproxy.snapshot import Snapshot
from sniproxy.store import Batch, Entry, Listing
from tests.support.certificates import NAME
from tests.support.following import alive, gone, put
from tests.support.gateway import certificate

pytestmark = pytest.mark.anyio

OBJECTS = 20 * READ_AT_ONCE
KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
OTHER_KEY = "bGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGw="
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


# Keys that come while it runs


def ssl(number: int, keyring: Keyring) -> Entry:
    """Certificate of a name, its key under that keyring."""
    value = map_secrets("ssls", str(number), certificate(), keyring.encrypt)
    return Entry(f"/apisix/ssls/{number}", json.dumps(value).encode(), number, number)


async def test_what_did_not_open_is_read_again_once_its_key_is_there() -> None:
    ours, other = Keyring([KEY]), Keyring([OTHER_KEY])
    snapshot = Snapshot("/apisix", Keyring([KEY]))
    lines = io.StringIO()
    follower = InForce(snapshot, Metrics(), open_log("t", lines))
    listing = Listing((ssl(1, ours), ssl(2, other), put("odd", 3, b"no JSON")), 3)
    await follower.load(listing)
    await follower.apply(alive(4))
    assert set(snapshot.broken) == {"/apisix/ssls/2", "/apisix/upstreams/odd"}
    kept = snapshot._loaded["/apisix/ssls/1"]
    snapshot.take_keys(other)
    with pytest.raises(OutOfStep):
        await follower.apply(alive(5))
    await follower.load(listing)
    await follower.apply(alive(6))
    assert set(snapshot.broken) == {"/apisix/upstreams/odd"}
    assert snapshot._loaded["/apisix/ssls/1"] is kept
    assert snapshot.revisions()["/apisix/ssls/2"] == 2
    await follower.apply(Batch(7, (gone("odd", 7), ssl(8, ours), ssl(9, other))))
    assert snapshot.broken == {}
    assert snapshot.certificates.choose(NAME, time.time()) is snapshot._loaded["/apisix/ssls/9"]


async def test_where_nothing_is_broken_other_keys_cost_no_list() -> None:
    snapshot = Snapshot("/apisix", Keyring([KEY]))
    follower = InForce(snapshot, Metrics(), None)
    await follower.load(Listing((ssl(1, Keyring([KEY])),), 3))
    snapshot.take_keys(Keyring([OTHER_KEY]))
    await follower.apply(alive(5))
    assert snapshot.revision == 5
