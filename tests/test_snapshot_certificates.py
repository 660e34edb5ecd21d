"""Certificates in the configuration in force: checked when they come, opened when first needed, shared from then on."""

import json
import weakref
from typing import Any

import pytest

from sniproxy.keyring import Keyring
from sniproxy.snapshot import Broken, Snapshot
from sniproxy.store import Deleted, Entry, Listing
from sniproxy.tls import Certificate, ServerTls
from tests.support.certificates import authority_pem, pair
from tests.support.reachable import holds

KEYRING = Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="])
FOREIGN = Keyring(["bGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGw="])
CHAIN, KEY = pair()
NOW = 1_800_000_000.0  # Unix seconds; these certificates are valid then
OTHER_CHAIN, OTHER_KEY = pair("other.example.com")
MUTUAL: dict[str, Any] = {"client": {"ca": authority_pem()}}


def sealed(number: int, key: str = KEY, cert: str = CHAIN, **members: Any) -> dict[str, Any]:
    """An ssl object as the store has it."""
    return {"cert": cert, "key": KEYRING.encrypt(key, f"ssls/{number}/key"), **members}


def entry(key: str, value: Any, revision: int = 1) -> Entry:
    """An entry of the store; `value` is written as JSON unless it is bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Entry(f"/apisix/{key}", raw, 1, revision)


def loaded(*entries: Entry) -> Snapshot:
    """A snapshot of these, none of them broken."""
    snapshot = Snapshot("/apisix", KEYRING)
    assert snapshot.load(Listing(entries, 100)) == []
    return snapshot


def chosen(snapshot: Snapshot, name: str) -> Certificate:
    """What a name is served with."""
    found = snapshot.certificates.choose(name, NOW)
    assert found is not None
    return found


def test_nothing_is_kept_in_clear_until_it_is_asked_for() -> None:
    secrets = [
        key.splitlines()[1] for key in (KEY, OTHER_KEY)
    ]  # JSON writes the line ends otherwise
    two: dict[str, Any] = {
        "certs": [OTHER_CHAIN],
        "keys": [KEYRING.encrypt(OTHER_KEY, "ssls/2/keys/0")],
    }
    snapshot = loaded(
        entry("ssls/1", sealed(1, sni="x.com")),
        entry("ssls/2", sealed(2, snis=["y.com", "*.y.com"], **two, **MUTUAL)),
    )
    found = [[holds(snapshot, secret) for secret in secrets]]
    for name in ("x.com", "a.y.com"):
        certificate = chosen(snapshot, name)
        found.append([holds(snapshot, secret) for secret in secrets])
        assert certificate.server_tls.pairs[0] == (CHAIN, KEY)
        found.append([holds(snapshot, secret) for secret in secrets])
    assert found == [[False, False], [False, False], [True, False], [True, False], [True, True]]


def test_one_for_every_session_and_name_as_long_as_the_object_is_the_same() -> None:
    value = sealed(1, snis=["x.com", "*.x.com"])
    beside = entry("ssls/2", sealed(2, sni="y.com"))
    snapshot = loaded(entry("ssls/1", value), beside)
    first = chosen(snapshot, "x.com").server_tls
    assert first.pairs == ((CHAIN, KEY),)
    assert chosen(snapshot, "x.com").server_tls is first
    assert chosen(snapshot, "a.x.com").server_tls is first
    assert chosen(snapshot, "y.com").server_tls is not first
    broken = entry("ssls/1", value | {"cert": "c"}, 102)
    snapshot.apply([entry("ssls/2", sealed(2, sni="z.com"), 101), broken])
    assert chosen(snapshot, "x.com").server_tls is first
    snapshot.load(Listing((broken,), 103))
    assert chosen(snapshot, "x.com").server_tls is first
    snapshot.apply([entry("ssls/1", value, 104)])
    again = chosen(snapshot, "x.com").server_tls
    assert again is not first
    assert again.pairs == first.pairs


@pytest.mark.parametrize(
    "change", [Deleted("/apisix/ssls/1", 101), entry("ssls/1", sealed(1, sni="y.com"), 101)]
)
def test_what_was_opened_goes_with_its_object(change: Entry | Deleted) -> None:
    snapshot = loaded(entry("ssls/1", sealed(1, sni="x.com")))
    opened = weakref.ref[ServerTls](chosen(snapshot, "x.com").server_tls)
    assert opened() is not None
    snapshot.apply([change])
    assert opened() is None
    assert not holds(snapshot, KEY.splitlines()[1])


def _damaged() -> dict[str, Any]:
    value = sealed(1)
    at = len(value["key"]) // 2
    value["key"] = value["key"][:at] + "AAAA" + value["key"][at + 4 :]
    return value


NAMES: dict[str, Any] = {"snis": ["a.x.com", "*.y.com"]}
# What is wrong, why it is skipped, and whether its names can be read all the same.
BROKEN: dict[str, tuple[Any, str, bool]] = {
    "bad JSON": (b'{"snis": ["a.x.com"], "client": {}', "Expecting ',' delimiter", False),
    "not an object": ([sealed(1, **NAMES)], "expected a JSON object, got list", False),
    "unknown member": (sealed(1, **NAMES, prio=1), "additional properties forbidden", True),
    "unknown key id": (
        sealed(1, **NAMES) | {"key": FOREIGN.encrypt(KEY, "ssls/1/key")},
        "ssls/1/key: encrypted under key",
        True,
    ),
    "damaged ciphertext": (_damaged() | NAMES, "ssls/1/key: the encrypted value was damaged", True),
    "moved here": (sealed(2, **NAMES), "ssls/1/key: the encrypted value was damaged or moved", True),
    "mismatch": (sealed(1, OTHER_KEY, **NAMES), "the key does not belong to the", True),
    "no certificate": (sealed(1, cert="c" * 128, **NAMES), "the certificate is not PEM", True),
    "no key": (sealed(1, "k" * 128, **NAMES), "the key is not PEM that can be read", True),
    "second pair": (
        sealed(1, **NAMES, certs=[OTHER_CHAIN], keys=[KEYRING.encrypt(KEY, "ssls/1/keys/0")]),
        "the key does not belong to the certificate",
        True,
    ),
    "no certs for keys": (
        sealed(1, **NAMES, keys=[KEYRING.encrypt(KEY, "ssls/1/keys/0")]),
        "mismatched number of certs and keys",
        True,
    ),
}  # fmt: skip
WIDE = entry("ssls/wide", {"cert": CHAIN, "key": KEY, "snis": ["*.x.com", "*"]})


@pytest.mark.parametrize("members", [{"status": 0}, {"type": "client"}], ids=["off", "a client's"])
def test_what_would_not_be_served_closes_no_name_when_it_is_broken(members: dict[str, Any]) -> None:
    snapshot = loaded(WIDE)
    broken = sealed(1, OTHER_KEY, **NAMES, **MUTUAL, **members)
    (problem,) = snapshot.apply([entry("ssls/1", broken, 101)])
    assert not problem.kept
    assert chosen(snapshot, "a.x.com").id == "wide"


def test_a_closed_object_counts_from_when_it_was_written() -> None:
    sound = entry("ssls/2", sealed(2, sni="a.x.com", update_time=5), 102)
    for update_time, expected in ((4, True), (6, False)):
        broken = sealed(1, OTHER_KEY, **NAMES, **MUTUAL, update_time=update_time)
        snapshot = Snapshot("/apisix", KEYRING)
        snapshot.load(Listing((entry("ssls/1", broken, 999 if expected else 101), sound), 1000))
        found = snapshot.certificates.choose("a.x.com", NOW)
        assert (found is not None) is expected


@pytest.mark.parametrize("mutual", [False, True], ids=["", "mTLS"])
@pytest.mark.parametrize(("value", "why", "readable"), [*BROKEN.values()], ids=[*BROKEN])
def test_a_broken_one_is_found_when_it_comes_and_not_at_a_handshake(
    value: Any, why: str, readable: bool, mutual: bool
) -> None:
    """Its names go to who is wider, unless it wants client certificates: then nobody has them."""
    if mutual and isinstance(value, dict):
        value = value | MUTUAL
    snapshot = Snapshot("/apisix", KEYRING)
    (broken,) = snapshot.load(Listing((entry("ssls/1", value), WIDE), 1))
    assert broken.why.startswith(why)
    assert broken == Broken("/apisix/ssls/1", 1, broken.why, kept=False)
    assert snapshot.broken == {"/apisix/ssls/1": broken}
    for name in ("a.x.com", "b.y.com"):
        found = snapshot.certificates.choose(name, NOW)
        assert (found and found.id) == (None if mutual and readable else "wide")
    assert chosen(snapshot, "b.x.com").server_tls.pairs == ((CHAIN, KEY),)

    good = sealed(1, OTHER_KEY, OTHER_CHAIN, **NAMES)
    snapshot.apply([entry("ssls/1", good, 2)])
    assert snapshot.broken == {}
    (again,) = snapshot.apply([entry("ssls/1", value, 3)])
    assert again == Broken("/apisix/ssls/1", 3, broken.why, kept=True)
    for name in ("a.x.com", "b.y.com"):  # opened only now, when a broken one stands in the store
        assert chosen(snapshot, name).server_tls.pairs == ((OTHER_CHAIN, OTHER_KEY),)


def test_the_revisions_of_all_that_was_looked_at() -> None:
    snapshot = loaded(
        entry("ssls/1", sealed(1, sni="x.com"), 7),
        entry("upstreams/1", {"nodes": {"a": 1}}, 9),
        entry("plugins/1", {}, 8),  # of others
    )
    assert snapshot.revisions() == {"/apisix/ssls/1": 7, "/apisix/upstreams/1": 9}
    before = snapshot.revisions()
    snapshot.apply([entry("ssls/1", b"{", 101), entry("stream_routes/1", b"{", 102)])
    snapshot.apply([Deleted("/apisix/upstreams/1", 103)])
    assert snapshot.revisions() == {"/apisix/ssls/1": 101, "/apisix/stream_routes/1": 102}
    assert before == {"/apisix/ssls/1": 7, "/apisix/upstreams/1": 9}  # nobody's own changes
