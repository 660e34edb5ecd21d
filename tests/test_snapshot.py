"""The configuration in force: what is read, what is skipped, what a change touches, and what a route refers to."""

import ipaddress
import json
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sniproxy.keyring import Keyring
from sniproxy.objects import KINDS, read
from sniproxy.router import Arrival, Router
from sniproxy.snapshot import Broken, Snapshot
from sniproxy.store import Deleted, Entry, Event, Listing
from tests.support.certificates import pair

KEYRING = Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", "qeddd145sfvddff3"])
FOREIGN = Keyring(["bGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGw="])
CHAIN, KEY = pair()
NOW = 1_800_000_000.0  # Unix seconds; these certificates are valid then
ROUTE, SSL = "stream_routes/1", "ssls/1"


def entry(key: str, value: Any, revision: int = 1) -> Entry:
    """An entry of the store; `value` is written as JSON unless it is bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Entry(f"/apisix/{key}", raw, 1, revision)


def deleted(key: str, revision: int) -> Deleted:
    """A deletion."""
    return Deleted(f"/apisix/{key}", revision)


def loaded(*entries: Entry) -> Snapshot:
    """A snapshot of these, none of them broken."""
    snapshot = Snapshot("/apisix", KEYRING)
    assert snapshot.load(Listing(entries, 100)) == []
    return snapshot


def to(node: str) -> dict[str, Any]:
    """An upstream with one node."""
    return {"nodes": {node: 1}}


def node_for(snapshot: Snapshot, name: str | None) -> str | None:
    """Where a connection goes: the host of the only node, "" without a route, None without an upstream."""
    any_address = ipaddress.ip_address("192.0.2.1")
    match = snapshot.router.match(Arrival(name, any_address, any_address, 8888))
    if match is None:
        return ""
    target = snapshot.target(match.route)
    return None if target is None else ",".join(node.host for node in target.round)


def ssl_id(snapshot: Snapshot, name: str) -> str | None:
    """The ssl object that serves a name."""
    certificate = snapshot.certificates.choose(name, NOW)
    return None if certificate is None else certificate.id


def encrypted(ssl: str, *more: str) -> dict[str, Any]:
    """The members of an ssl object whose keys are encrypted for their places."""
    value: dict[str, Any] = {"cert": CHAIN, "key": KEYRING.encrypt(KEY, f"ssls/{ssl}/key")}
    if more:
        value["certs"] = [CHAIN for _ in more]
        value["keys"] = [
            KEYRING.encrypt(key, f"ssls/{ssl}/keys/{index}") for index, key in enumerate(more)
        ]
    return value


def test_the_four_kinds() -> None:
    snapshot = loaded(
        entry("upstreams/1", to("by-upstream")),
        entry("services/1", {"upstream": to("by-service")}),
        entry("ssls/1", encrypted("1", KEY) | {"snis": ["x.com", "*.x.com"]}),
        entry("stream_routes/1", {"sni": "own", "upstream": to("own")}),
        entry("stream_routes/2", {"sni": "upstream", "upstream_id": 1}),
        entry("stream_routes/3", {"sni": "service", "service_id": "1"}),
        entry("stream_routes/4", {"sni": "nothing"}),
    )
    names = ["own", "upstream", "service", "nothing", "other"]
    assert [node_for(snapshot, name) for name in names] == [
        *("own", "by-upstream", "by-service", None, "")
    ]
    certificate = snapshot.certificates.choose("a.x.com", NOW)
    assert certificate is not None
    assert certificate.server_tls.pairs == ((CHAIN, KEY), (CHAIN, KEY))
    assert (snapshot.revision, snapshot.broken) == (100, {})


def test_the_id_is_that_of_the_key() -> None:
    snapshot = loaded(
        entry("upstreams/a", to("a") | {"id": "b"}),
        entry("stream_routes/r", {"id": 7, "upstream_id": "a"}),
    )
    assert node_for(snapshot, None) == "a"


@pytest.mark.parametrize(
    "key",
    [
        *("/apisix/ssls/", "/apisix/stream_routes/", "/apisix/upstreams/", "/apisix/services/"),
        *("/apisix/routes/1", "/apisix/gen_id", "/apisix/plugins", "/apisix/secrets/vault/1"),
        *("/apisix", "/apisix/", "/apisix/ssls", "/apisix/SSLS/1", "/apisix//ssls/1"),
        *("/apisix2/ssls/1", "/other/ssls/1", "ssls/1", "", "/sniproxy/nodes/1", "\udcff"),
    ],
)
@pytest.mark.parametrize("value", [b"init_dir", b"{}", b"[]", b"\xff"])
def test_what_is_not_ours_is_skipped(key: str, value: bytes) -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    assert snapshot.load(Listing((Entry(key, value, 1, 1),), 5)) == []
    assert snapshot.apply([Entry(key, value, 1, 6), Deleted(key, 7)]) == []
    assert (snapshot.broken, snapshot.revision) == ({}, 7)


X = {"sni": "x"}
SECOND = {"certs": [CHAIN], "keys": [KEYRING.encrypt(pair("y.com")[1], "ssls/1/keys/0")]}
NEEDS = "value should match only one schema, but matches none: needs nodes, or service_name"
# What is wrong, where, and how the message begins.
BROKEN = {
    "not JSON": (ROUTE, b"init_dir", "Expecting value: line 1 column 1 (char 0)"),
    "empty": (ROUTE, b"", "Expecting value: line 1 column 1 (char 0)"),
    "an array": (ROUTE, b"[]", "expected a JSON object, got list"),
    "a text": (ROUTE, b'"{}"', "expected a JSON object, got str"),
    "null": (SSL, b"null", "expected a JSON object, got NoneType"),
    "not UTF-8": (ROUTE, b"\xff", "'utf-8' codec can't decode byte 0xff in position 0"),
    "deep": (ROUTE, b'{"a":' * 100_000, "maximum recursion depth exceeded"),
    "deep array": (SSL, b"[" * 100_000, "maximum recursion depth exceeded"),
    "huge number": (ROUTE, b'{"server_port":' + b"1" * 5000 + b"}", "Exceeds the limit"),
    "schema": (ROUTE, {"sni": ""}, 'property "sni" validation failed: string too short, expected at least 1'),
    "unknown member": (ROUTE, {"prio": 1}, "additional properties forbidden, found prio"),
    "plugin": (ROUTE, {"plugins": {"x": {"_meta": "y"}}}, "unknown plugin [x]"),
    "upstream": ("upstreams/1", {}, NEEDS),
    "service": ("services/1", {"upstream": {}}, f'property "upstream" validation failed: {NEEDS}'),
    "no names": (SSL, encrypted("1"), "a server certificate needs exactly one of sni and snis"),
    "key moved": (SSL, X | encrypted("2"), "ssls/1/key: the encrypted value was damaged or moved here"),
    "key unknown": (SSL, X | {"cert": CHAIN, "key": "QUFB"}, "ssls/1/key: no key of the keyring opens it"),
    "key of others": (SSL, X | {"cert": CHAIN, "key": FOREIGN.encrypt(KEY, "ssls/1/key")}, "ssls/1/key: encrypted under"),
    "key garbage": (SSL, X | {"cert": CHAIN, "key": "ö"}, "ssls/1/key: neither PEM nor an encrypted value"),
    "key no text": (SSL, X | {"cert": CHAIN, "key": 1}, 'property "key" validation failed: wrong type: expected string'),
    "second no text": (SSL, X | encrypted("1") | {"certs": [CHAIN], "keys": [1]}, 'property "keys" validation failed: fail'),
    "keys no list": (SSL, X | encrypted("1") | {"keys": "k"}, 'property "keys" validation failed: wrong type: expected'),
    "mismatch": (SSL, X | {"cert": CHAIN, "key": pair("y.com")[1]}, "the key does not belong to the certificate"),
    "second pair": (SSL, X | encrypted("1") | SECOND, "the key does not belong to the certificate"),
    "client.ca": (SSL, X | encrypted("1") | {"client": {"ca": "c" * 128}}, "client.ca is not PEM that can be read"),
}  # fmt: skip
GOOD = {
    ROUTE: {"sni": "x", "upstream": to("good")},
    SSL: encrypted("1") | {"sni": "x"},
    "upstreams/1": to("good"),
    "services/1": {"upstream": to("good")},
}


@pytest.mark.parametrize(("key", "value", "why"), [*BROKEN.values()], ids=[*BROKEN])
def test_a_broken_object_is_skipped_and_its_last_good_version_stays(
    key: str, value: Any, why: str
) -> None:
    beside = entry("stream_routes/beside", {"sni": "beside", "upstream": to("beside")})
    snapshot = Snapshot("/apisix", KEYRING)
    (broken,) = snapshot.load(Listing((entry(key, value), beside), 1))
    assert broken == Broken(f"/apisix/{key}", 1, broken.why, kept=False)
    assert broken.why.startswith(why)
    assert "PRIVATE" not in broken.why
    assert snapshot.broken == {broken.key: broken}
    assert node_for(snapshot, "beside") == "beside"

    assert snapshot.apply([entry(key, GOOD[key], 2)]) == []  # repaired
    assert snapshot.broken == {}
    in_force = snapshot._loaded[broken.key]
    again = Broken(broken.key, 3, broken.why, kept=True)
    assert snapshot.apply([entry(key, value, 3)]) == [again]
    assert snapshot._loaded[broken.key] is in_force
    assert snapshot.load(Listing((entry(key, value, 3), beside), 4)) == []  # told once
    assert snapshot.broken == {broken.key: again}

    assert snapshot.apply([deleted(key, 5)]) == []
    assert snapshot.broken == {}
    assert broken.key not in snapshot._loaded


def test_in_one_batch_every_other_change_counts() -> None:
    snapshot = loaded(entry(ROUTE, GOOD[ROUTE]))
    broken = snapshot.apply(
        [
            entry("stream_routes/2", {"sni": "y", "upstream": to("y")}, 101),
            entry(ROUTE, b"{", 102),
            deleted("stream_routes/3", 103),  # was never there
            entry("stream_routes/4", {"sni": "z", "upstream": to("old")}, 104),
            entry("stream_routes/4", {"sni": "z", "upstream": to("new")}, 105),
        ]
    )
    assert [one.key for one in broken] == [f"/apisix/{ROUTE}"]
    assert [node_for(snapshot, name) for name in "xyz"] == ["good", "y", "new"]
    assert snapshot.revision == 105


def test_a_deleted_object_is_gone() -> None:
    snapshot = loaded(*(entry(key, value) for key, value in GOOD.items()))
    snapshot.apply([deleted(key, 200 + number) for number, key in enumerate(GOOD)])
    assert (node_for(snapshot, "x"), ssl_id(snapshot, "x"), snapshot.revision) == ("", None, 203)
    assert vars(snapshot.router) == vars(Router())
    held = {name: value for name, value in vars(snapshot).items() if isinstance(value, dict)}
    assert all(value == {} for value in held.values())


@pytest.mark.parametrize(
    "value",
    [
        {"cert": CHAIN, "key": KEY},
        encrypted("1"),
        encrypted("1") | {"validity_start": 1, "validity_end": 2},  # an APISIX before 3.7
        {"cert": CHAIN, "key": KEY, "certs": [CHAIN], "keys": [KEY]},
        encrypted("1") | {"certs": [CHAIN], "keys": [KEY]},  # half of it in clear
        encrypted("1", KEY),
    ],
)
def test_keys_in_clear_and_encrypted(value: dict[str, Any]) -> None:
    certificate = loaded(entry(SSL, value | {"sni": "x"})).certificates.choose("x", NOW)
    assert certificate is not None
    assert {key for _, key in certificate.server_tls.pairs} == {KEY}


# References


def test_where_a_route_has_its_upstream() -> None:
    """Its own, the one it names, its service's own, the one that the service names."""
    service = {"upstream": to("service"), "upstream_id": "of-service"}
    route = {"upstream": to("own"), "upstream_id": "of-route", "service_id": "1"}
    snapshot = loaded(
        entry("upstreams/of-route", to("of-route")),
        entry("upstreams/of-service", to("of-service")),
        entry("services/1", service),
        entry(ROUTE, route),
    )
    found = [node_for(snapshot, None)]
    for revision, (key, value) in enumerate(
        [(ROUTE, route), (ROUTE, route), ("services/1", service), ("services/1", service)], 101
    ):
        del value[next(iter(value))]  # the one that won
        snapshot.apply([entry(key, value, revision)])
        found.append(node_for(snapshot, None))
    assert found == ["own", "of-route", "service", "of-service", None]


def test_a_reference_follows_what_it_names() -> None:
    named = entry("stream_routes/2", {"sni": "s", "service_id": 1})
    snapshot = loaded(named, entry(ROUTE, {"upstream_id": 1}))
    steps: list[tuple[Event, str | None, str | None]] = [
        (entry("upstreams/1", to("first"), 101), "first", None),
        (entry("services/1", {"upstream_id": "1"}, 102), "first", "first"),
        (entry("upstreams/1", to("changed"), 103), "changed", "changed"),
        (entry("upstreams/1", b"broken", 104), "changed", "changed"),
        (entry("services/1", {"upstream": to("its-own")}, 105), "changed", "its-own"),
        (deleted("upstreams/1", 106), None, "its-own"),
        (deleted("services/1", 107), None, None),
        (entry("upstreams/1", to("back"), 108), "back", None),
    ]  # fmt: skip
    for event, of_route, of_service in steps:
        snapshot.apply([event])
        assert (node_for(snapshot, None), node_for(snapshot, "s")) == (of_route, of_service)


def test_a_session_keeps_the_route_it_was_given_while_it_shakes_hands() -> None:
    snapshot = loaded(entry(ROUTE, {"upstream": to("old")}))
    address = ipaddress.ip_address("192.0.2.1")
    match = snapshot.router.match(Arrival(None, address, address, 1))
    assert match is not None
    for change in (entry(ROUTE, {"upstream": to("new")}, 101), deleted(ROUTE, 102)):
        snapshot.apply([change])
        target = snapshot.target(match.route)
        assert target is not None
        assert target.round[0].host == "old"


# What a change costs


def test_a_new_list_applies_the_difference() -> None:
    before = [entry(key, value, 10 + number) for number, (key, value) in enumerate(GOOD.items())]
    snapshot = loaded(*before, entry("stream_routes/gone", {"sni": "gone", "upstream": to("x")}))
    held = dict(snapshot._loaded)
    after = [*before[:-1], entry("services/1", {}, 101), entry("upstreams/2", to("new"), 102)]
    assert snapshot.load(Listing(tuple(after), 103)) == []
    assert node_for(snapshot, "gone") == ""
    assert set(snapshot._loaded) == {one.key for one in after}
    for kept in before[:-1]:
        assert snapshot._loaded[kept.key] is held[kept.key]
    assert snapshot._loaded["/apisix/services/1"] is not held["/apisix/services/1"]
    assert snapshot.revision == 103


def test_one_change_among_ten_thousand_touches_its_own_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [
        entry(f"stream_routes/{number}", {"sni": f"gs-{number}.com", "upstream": to("a:1")})
        for number in range(10_000)
    ]
    snapshot = loaded(*entries)
    held = dict(snapshot._loaded)
    spies = [Mock(wraps=read), Mock(wraps=snapshot.router.add), Mock(wraps=snapshot.router.remove)]
    monkeypatch.setattr("sniproxy.snapshot.read", spies[0])
    monkeypatch.setattr(snapshot.router, "add", spies[1])
    monkeypatch.setattr(snapshot.router, "remove", spies[2])
    changed = entry("stream_routes/77", {"sni": "gs-77.com", "upstream": to("new")}, 101)
    snapshot.apply([changed])
    snapshot.load(Listing((*entries[:77], changed, *entries[78:]), 101))  # nothing new in it
    assert [spy.call_count for spy in spies] == [1, 1, 1]
    assert node_for(snapshot, "gs-77.com") == "new"
    assert [key for key, one in snapshot._loaded.items() if one is not held[key]] == [changed.key]


# Any history

CHOICES: dict[str, list[Any]] = {
    "upstreams/1": [to("one"), to("two"), {}],
    "services/1": [{"upstream_id": "1"}, {"upstream": to("three")}, b"{"],
    "stream_routes/1": [X | {"upstream_id": "1"}, {"sni": "*"}, {"sni": ""}, {"service_id": 1}],
    "stream_routes/2": [X | {"service_id": "1"}, X | {"upstream": to("four")}, b"[]"],
    "ssls/1": [X | encrypted("1"), {"snis": ["*", "y"]} | encrypted("1"), X | encrypted("2")],
    "ssls/2": [X | encrypted("2"), {"sni": "y", "status": 0} | encrypted("2"), {"sni": "y"}],
}
WRITES = st.sampled_from(
    [(key, value) for key, choice in CHOICES.items() for value in [*choice, None]]
)


def answers(snapshot: Snapshot) -> list[str | None]:
    """What connections get."""
    names = ["x", "y", "a.x"]
    routes = [node_for(snapshot, name) for name in (*names, None)]
    return routes + [ssl_id(snapshot, name) for name in names]


@settings(max_examples=300)
@given(st.lists(st.tuples(WRITES, st.sampled_from(["seen", "missed", "listed"])), max_size=25))
def test_any_history_gives_the_answers_of_a_fresh_snapshot(
    steps: list[tuple[tuple[str, Any], str]],
) -> None:
    """Each write is seen by the watch, or missed until the next list; the model: last good versions by key."""
    snapshot = Snapshot("/apisix", KEYRING)
    stored, looked_at, good = dict[str, Entry](), dict[str, Entry](), dict[str, Entry]()

    def look(key: str) -> None:
        now = stored.get(key)
        if now is None:
            looked_at.pop(key, None)
            good.pop(key, None)
        elif looked_at.get(key) != now:
            looked_at[key] = now
            if Snapshot("/apisix", KEYRING).apply([now]) == []:
                good[key] = now

    for revision, ((written, value), how) in enumerate(steps, 1):
        event = deleted(written, revision) if value is None else entry(written, value, revision)
        stored.pop(event.key, None)
        if isinstance(event, Entry):
            stored[event.key] = event
        if how == "seen":
            snapshot.apply([event])
            look(event.key)
        elif how == "listed":
            snapshot.load(Listing(tuple(stored.values()), revision))
            for key in looked_at.keys() | stored.keys():
                look(key)
    fresh = Snapshot("/apisix", KEYRING)
    assert fresh.load(Listing(tuple(good.values()), 99)) == []
    assert answers(snapshot) == answers(fresh)
    assert snapshot.broken.keys() == {key for key, one in looked_at.items() if good.get(key) != one}


MEMBERS = sorted({member for kind in KINDS.values() for member in kind.model.model_fields})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*MEMBERS, "_meta"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.sampled_from([*KINDS]),
    st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4),
    st.binary(),
)
def test_no_value_of_the_store_raises(kind: str, value: dict[str, Any], raw: bytes) -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    snapshot.apply([entry(f"{kind}/1", value, 1), entry(f"{kind}/2", raw, 2)])
    assert snapshot.revision == 2
