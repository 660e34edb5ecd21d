"""Whoever keeps answers of a snapshot is told when they may have changed: with every change, once it is in force."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from sniproxy.keyring import Keyring
from sniproxy.router import Arrival
from sniproxy.snapshot import Snapshot
from sniproxy.store import Deleted, Entry, Event, Listing
from tests.support.gateway import KEY, PREFIX, certificate, fill

ANYBODY = ip_address("192.0.2.1")


def entry(key: str, value: Any, revision: int) -> Entry:
    """An entry of the store; `value` is written as JSON unless it is bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Entry(f"{PREFIX}/{key}", raw, 1, revision)


def deleted(key: str, revision: int) -> Deleted:
    """A deletion."""
    return Deleted(f"{PREFIX}/{key}", revision)


def to(node: str) -> dict[str, Any]:
    """An upstream with one node."""
    return {"nodes": {node: 1}}


def leads(snapshot: Snapshot, name: str) -> str:
    """Where a name leads: the host of the only node, "no upstream", "no route"; "denied" for who is."""
    match = snapshot.router.match(Arrival(name, ANYBODY, ANYBODY, 8888))
    if match is None:
        return "no route"
    if snapshot.plugins(match.route):
        return "denied"
    target = snapshot.target(match.route)
    return "no upstream" if target is None else target.round[0].host


DENY = {"plugins": {"ip-restriction": {"blacklist": ["192.0.2.1"]}}}
CERTIFICATE = certificate("x")

# Each change, and where "x" and "s" lead after it.
CHANGES: list[tuple[Event, str, str]] = [
    (entry("stream_routes/1", {"sni": "x", "upstream_id": 1}, 101), "no upstream", "no route"),
    (entry("upstreams/1", to("first"), 102), "first", "no route"),
    (entry("stream_routes/2", {"sni": "s", "service_id": 1}, 103), "first", "no upstream"),
    (entry("services/1", {"upstream_id": 1}, 104), "first", "first"),
    (entry("upstreams/1", to("second"), 105), "second", "second"),
    (entry("services/1", {"upstream": to("own")}, 106), "second", "own"),
    (entry("services/1", {"upstream": to("own"), **DENY}, 107), "second", "denied"),
    (entry("ssls/1", CERTIFICATE, 108), "second", "denied"),
    (entry("stream_routes/1", {"sni": "x", "upstream": to("third")}, 109), "third", "denied"),
    (deleted("services/1", 110), "third", "no upstream"),
    (deleted("stream_routes/1", 111), "no route", "no upstream"),
    (deleted("upstreams/1", 112), "no route", "no upstream"),
    (deleted("ssls/1", 113), "no route", "no upstream"),
    (deleted("stream_routes/2", 114), "no route", "no route"),
]


@pytest.mark.parametrize("batch", [1, 2, len(CHANGES)])
def test_every_change_is_told_once_it_is_in_force(batch: int) -> None:
    """One by one also where many come at once, so that nobody sees half of them as the last word."""
    snapshot = fill({})
    told: list[tuple[str, str]] = []
    snapshot.on_change = lambda: told.append((leads(snapshot, "x"), leads(snapshot, "s")))
    for start in range(0, len(CHANGES), batch):
        snapshot.apply(event for event, _, _ in CHANGES[start : start + batch])
        assert told == [(x, s) for _, x, s in CHANGES[: start + batch]]


SOUND: dict[str, Any] = {
    "stream_routes/1": {"sni": "x", "upstream": to("good")},
    "upstreams/1": to("good"),
    "services/1": {"upstream": to("good")},
    "ssls/1": CERTIFICATE,
}
BROKEN: dict[str, tuple[str, Any]] = {
    "not JSON": ("stream_routes/1", b"{"),
    "an array": ("upstreams/1", b"[]"),
    "a route without a name": ("stream_routes/1", {"sni": ""}),
    "a plugin that nobody knows": ("services/1", {"plugins": {"x": {}}}),
    "an upstream without nodes": ("upstreams/1", {}),
    "a key that is none": ("ssls/1", CERTIFICATE | {"key": "QUFB"}),
}


@pytest.mark.parametrize(("key", "value"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_changes_nothing_and_is_not_told(key: str, value: Any) -> None:
    snapshot = fill(SOUND)
    told: list[str] = []
    snapshot.on_change = lambda: told.append(leads(snapshot, "x"))
    (broken,) = snapshot.apply([entry(key, value, 101)])
    assert broken.kept
    snapshot.apply([entry("routes/1", {}, 102), deleted("plugins/1", 103)])  # of others
    assert told == []
    (broken,) = snapshot.apply([entry("upstreams/2", to("x"), 104), entry(key, value, 105)])
    assert told == ["good"]


def test_a_new_list_is_told_as_the_changes_in_it() -> None:
    before = tuple(entry(key, value, 10) for key, value in SOUND.items())
    snapshot, told = Snapshot(PREFIX, Keyring([KEY])), list[str]()
    snapshot.load(Listing(before, 100))
    snapshot.on_change = lambda: told.append(leads(snapshot, "x"))
    snapshot.load(Listing(before, 101))  # nothing new in it
    assert told == []
    snapshot.load(Listing((*before[1:], entry("upstreams/2", to("new"), 102)), 103))
    assert told == ["no route"] * 2


@pytest.mark.parametrize("revision", [90, 100, 130])
def test_a_restored_store_may_have_another_value_under_a_revision_that_is_known(
    revision: int,
) -> None:
    """Whether its revisions have passed ours by now or not; and what is the same is not read anew."""
    same = entry("stream_routes/1", {"sni": "x", "upstream_id": 1}, 50)
    snapshot = fill({})
    snapshot.load(Listing((same, entry("upstreams/1", to("first"), 51)), 100))
    kept = snapshot.router.match(Arrival("x", ANYBODY, ANYBODY, 8888))
    snapshot.load(Listing((same, entry("upstreams/1", to("other"), 51)), revision))
    assert leads(snapshot, "x") == "other"
    again = snapshot.router.match(Arrival("x", ANYBODY, ANYBODY, 8888))
    assert kept is not None
    assert again is not None
    assert again.route is kept.route
    assert snapshot.revision == revision
    assert snapshot.revisions() == {f"{PREFIX}/stream_routes/1": 50, f"{PREFIX}/upstreams/1": 51}
