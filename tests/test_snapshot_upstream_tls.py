"""Upstreams with TLS in the configuration in force: keys that are sealed at their place, and what cannot be used."""

import json
from typing import Any

import pytest

from sniproxy.keyring import Keyring
from sniproxy.router import Route
from sniproxy.snapshot import Snapshot
from sniproxy.store import Deleted, Entry
from sniproxy.upstream_tls import ClientTls
from tests.support.certificates import PLAYER, authority_pem, pair
from tests.support.reachable import holds

KEYRING = Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="])
FOREIGN = Keyring(["bGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGw="])
CHAIN, KEY = pair(PLAYER)
PLACES = ["upstreams/1", "services/1/upstream", "stream_routes/1/upstream"]


def upstream(**tls: Any) -> dict[str, Any]:
    """One that speaks TLS."""
    return {"nodes": {"127.0.0.1:1": 1}, "scheme": "tls", "tls": tls}


def sealed(place: str, keyring: Keyring = KEYRING) -> dict[str, Any]:
    """The same with a client certificate whose key is sealed there."""
    text = keyring.encrypt(KEY, f"{place}/tls/client_key")
    return upstream(client_cert=CHAIN, client_key=text)


def objects(place: str, value: dict[str, Any]) -> dict[str, Any]:
    """Those that make route 1 use an upstream that stands there."""
    collection = place.partition("/")[0]
    if collection == "stream_routes":
        return {"stream_routes/1": {"upstream": value}}
    if collection == "services":
        return {"services/1": {"upstream": value}, "stream_routes/1": {"service_id": 1}}
    return {"upstreams/1": value, "stream_routes/1": {"upstream_id": 1}}


def put(snapshot: Snapshot, values: dict[str, Any]) -> list[str]:
    """Why which objects cannot be used."""
    revision = snapshot.revision
    entries = [
        Entry(f"/apisix/{key}", json.dumps(value).encode(), turn, turn)
        for turn, (key, value) in enumerate(values.items(), revision + 1)
    ]
    return [f"{one.key}: {one.why}" for one in snapshot.apply(entries)]


def spoken(snapshot: Snapshot) -> ClientTls | None:
    """How TLS is spoken by route 1."""
    route = snapshot._loaded["/apisix/stream_routes/1"]
    assert isinstance(route, Route)
    target = snapshot.target(route)
    assert target is not None
    return snapshot.client_tls(target)


@pytest.mark.parametrize("place", PLACES)
def test_a_key_is_sealed_at_its_place_and_in_clear_once_it_is_needed(place: str) -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    assert put(snapshot, objects(place, sealed(place))) == []
    secret = KEY.splitlines()[1]
    assert not holds(snapshot, secret)
    told = spoken(snapshot)
    assert told is not None
    assert told.pair == (CHAIN, KEY)
    assert holds(snapshot, secret)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (sealed("upstreams/another"), "damaged or moved here"),
        (sealed("upstreams/1", FOREIGN), "key"),
        (upstream(client_cert=CHAIN, client_key=pair("x.example")[1]), "does not belong"),
        (upstream(ca_certs=["x" * 128]), "tls.ca_certs is not PEM that can be read"),
    ],
    ids=["moved", "foreign key", "does not fit", "no authorities"],
)
def test_what_cannot_be_used_is_told_and_leaves_the_last_good_version(
    place: str, value: dict[str, Any], words: str
) -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    good = upstream(verify=True, ca_certs=[authority_pem()])
    put(snapshot, objects(place, good))
    before = spoken(snapshot)
    (why,) = put(snapshot, objects(place, value))
    assert words in why
    assert KEY.splitlines()[1] not in why
    assert spoken(snapshot) is before


def test_a_key_that_arrives_opens_what_did_not() -> None:
    snapshot = Snapshot("/apisix", Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="]))
    assert len(put(snapshot, objects("upstreams/1", sealed("upstreams/1", FOREIGN)))) == 1
    snapshot.take_keys(FOREIGN)
    assert put(snapshot, objects("upstreams/1", sealed("upstreams/1", FOREIGN))) == []
    told = spoken(snapshot)
    assert told is not None
    assert told.pair == (CHAIN, KEY)


def test_where_no_tls_is_spoken_nothing_of_it_is_looked_at() -> None:
    """An APISIX has taken it."""
    snapshot = Snapshot("/apisix", KEYRING)
    value = upstream(client_cert="c" * 128, client_key="k" * 64, ca_certs=["x" * 128])
    assert put(snapshot, objects("upstreams/1", value | {"scheme": "tcp"})) == []
    assert spoken(snapshot) is None


def test_a_client_certificate_follows_its_object() -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    put(snapshot, objects("upstreams/1", upstream(client_cert_id="7")))
    told = []
    for name in (PLAYER, "x.example"):
        chain, key = pair(name)
        assert put(snapshot, {"ssls/7": {"cert": chain, "key": key, "type": "client"}}) == []
        told.append(spoken(snapshot))
    assert [one and one.pair for one in told] == [pair(PLAYER), pair("x.example")]
    (why,) = put(snapshot, {"ssls/7": {"cert": "c" * 128, "key": KEY, "type": "client"}})
    assert "not PEM" in why
    assert spoken(snapshot) is told[1]  # its last good version
    snapshot.apply([Deleted("/apisix/ssls/7", snapshot.revision + 1)])
    with pytest.raises(Exception, match="ssl 7, its client certificate, is not there"):
        spoken(snapshot)


def test_an_object_by_the_name_of_none_is_not_taken_for_one() -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    put(snapshot, objects("upstreams/1", upstream()))
    put(snapshot, {"ssls/None": {"cert": CHAIN, "key": KEY, "type": "client"}})
    told = spoken(snapshot)
    assert told is not None
    assert told.pair is None
