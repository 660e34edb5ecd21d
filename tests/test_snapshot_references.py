"""ssl objects that refer to files and variables: read when they come, read anew when a file changes, held in between."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.keyring import Keyring
from sniproxy.objects.references import parse
from sniproxy.snapshot import Broken, Change, Snapshot
from sniproxy.store import Deleted, Entry, Listing
from tests.support.certificates import authority_pem, pair
from tests.support.reachable import holds

KEYRING = Keyring(["a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="])
NOW = 1_800_000_000.0  # Unix seconds; these certificates are valid then
CHAIN, KEY = pair()
OTHER_CHAIN, OTHER_KEY = pair("other.example.com")
REFERRING = {"cert": "$file:///crt", "key": "$file:///key", "sni": "x"}
SSL = "/apisix/ssls/1"
MISMATCH = "the key does not belong to the certificate"


class Files(dict[str, str]):
    """Files by path, and variables by name."""

    def resolve(self, text: str) -> str:
        """As `sniproxy.references.References` does it."""
        reference = parse(text)
        if reference is None:
            return text
        if reference.name not in self:
            raise ValueError(f"{text}: absent")
        return self[reference.name]


def first_pair() -> Files:
    return Files({"/crt": CHAIN, "/key": KEY})


def entry(value: Any, revision: int = 1, key: str = SSL) -> Entry:
    """An entry of the store."""
    return Entry(key, json.dumps(value).encode(), 1, revision)


def snapshot_on(files: Files, *entries: Entry) -> Snapshot:
    """A snapshot of these, sound or not."""
    snapshot = Snapshot("/apisix", KEYRING, files.resolve)
    snapshot.load(Listing(entries, 100))
    return snapshot


def reread(snapshot: Snapshot, *changed: str) -> list[Broken]:
    """What a worker does when files have changed."""
    return snapshot.enforce(changes(snapshot, *changed), snapshot.revision)


def changes(snapshot: Snapshot, *changed: str) -> list[Change]:
    """What is other than it was of the objects that name one of these files."""
    read = snapshot.read(snapshot.naming(changed))
    return [change for change in read if not snapshot.is_known(change)]


def served(snapshot: Snapshot, name: str = "x") -> tuple[tuple[str, str], ...] | None:
    """The pairs that a name is served with."""
    found = snapshot.certificates.choose(name, NOW)
    return None if found is None else found.server_tls.pairs


def test_what_each_text_refers_to_is_served() -> None:
    files = first_pair() | {"OTHER_CERT": OTHER_CHAIN, "OTHER_KEY": OTHER_KEY, "/ca": authority_pem()}  # fmt: skip
    more = {"certs": ["$env://OTHER_CERT", CHAIN], "keys": ["$ENV://OTHER_KEY", KEY]}
    value = REFERRING | more | {"client": {"ca": "$file:///ca"}}
    snapshot = snapshot_on(Files(files), entry(value))
    assert snapshot.broken == {}
    assert snapshot.files == {"/crt", "/key", "/ca"}
    assert served(snapshot) == ((CHAIN, KEY), (OTHER_CHAIN, OTHER_KEY), (CHAIN, KEY))
    found = snapshot.certificates.choose("x", NOW)
    assert found is not None
    assert found.server_tls.client_ca == authority_pem()


@pytest.mark.parametrize("key", [KEY, KEYRING.encrypt(KEY, "ssls/1/key")])
def test_a_key_inside_beside_a_certificate_in_a_file(key: str) -> None:
    assert served(snapshot_on(first_pair(), entry(REFERRING | {"key": key}))) == ((CHAIN, KEY),)


def test_keys_of_other_places_are_kept_encrypted_too() -> None:
    snapshot = snapshot_on(first_pair(), entry(REFERRING))
    snapshot._resolve = str
    secret = KEY.splitlines()[1]
    assert not holds(snapshot, secret)
    assert served(snapshot) == ((CHAIN, KEY),)
    assert holds(snapshot, secret)


def test_what_is_opened_at_the_first_handshake_is_what_was_checked() -> None:
    files = first_pair()
    snapshot = snapshot_on(files, entry(REFERRING))
    files["/crt"] = OTHER_CHAIN  # half of a change
    assert served(snapshot) == ((CHAIN, KEY),)
    files.clear()
    assert served(snapshot_on(files, entry(REFERRING))) is None
    assert served(snapshot) == ((CHAIN, KEY),)


def test_without_a_resolver_no_reference_is_read() -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    (broken,) = snapshot.apply([entry(REFERRING)])
    assert broken == Broken(SSL, 1, "$file:///crt: no references are resolved here", kept=False)


@pytest.mark.parametrize(
    ("value", "files", "why"),
    [
        ({}, {"/crt": CHAIN}, "$file:///key: absent"),
        ({}, {"/key": KEY}, "$file:///crt: absent"),
        ({}, {"/crt": CHAIN, "/key": OTHER_KEY}, MISMATCH),
        ({}, {"/crt": CHAIN[:100], "/key": KEY}, 'property "cert" validation failed: '),
        ({}, {"/crt": CHAIN, "/key": ""}, 'property "key" validation failed: '),
        ({}, {"/crt": CHAIN[:-100], "/key": KEY}, "the certificate is not PEM that can be read"),
        ({}, {"/crt": "$file:///crt", "/key": KEY}, "the certificate is not PEM that can be read"),
        ({}, {"/crt": CHAIN, "/key": "$file:///key"}, "the key is not PEM that can be read"),
        ({"cert": "$env://"}, {}, "a reference $env:// needs a name"),
        ({"cert": "$file://crt"}, {"/key": KEY}, "a reference $file:// needs an absolute path"),
        ({"key": "$env://" + KEY}, {}, "$file:///crt: absent"),
        ({"key": "$secret://vault/1/k"}, {"/crt": CHAIN}, "$secret://vault/1/k: absent"),
        ({"client": {"ca": "$env://CA"}}, {"/crt": CHAIN, "/key": KEY}, "$env://CA: absent"),
        ({"client": {"ca": "$env://CA"}}, {"/crt": CHAIN, "/key": KEY, "CA": "c" * 128}, "client.ca is not PEM"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_when_it_comes(
    value: dict[str, Any], files: dict[str, str], why: str
) -> None:
    snapshot = snapshot_on(Files(files), entry(REFERRING | value))
    (broken,) = snapshot.broken.values()
    assert broken.why.startswith(why)
    assert (broken.revision, broken.kept) == (1, False)
    assert not any(line in broken.why for line in KEY.splitlines()[1:])
    assert served(snapshot) is None


def test_a_new_pair_is_served_from_then_on_and_nothing_else_changes() -> None:
    files = first_pair()
    beside = entry({"cert": CHAIN, "key": KEY, "sni": "y", "desc": "$5"}, 2, "/apisix/ssls/2")
    snapshot = snapshot_on(files, entry(REFERRING), beside)
    before = snapshot.certificates.choose("x", NOW), snapshot.certificates.choose("y", NOW)
    revisions, told = snapshot.revisions(), list[object]()
    snapshot.on_change = lambda: told.append(served(snapshot))
    files |= {"/crt": OTHER_CHAIN, "/key": OTHER_KEY}
    assert reread(snapshot, "/elsewhere") == []
    assert (served(snapshot), told) == (((CHAIN, KEY),), [])
    assert reread(snapshot, "/crt") == []
    assert (served(snapshot), told) == (((OTHER_CHAIN, OTHER_KEY),), [((OTHER_CHAIN, OTHER_KEY),)])
    assert snapshot.certificates.choose("y", NOW) is before[1]
    assert before[0] is not None
    assert before[0].server_tls.pairs == ((CHAIN, KEY),)  # of who has it in hand
    assert (snapshot.revision, snapshot.revisions()) == (100, revisions)
    assert snapshot.difference(Listing((entry(REFERRING), beside), 101)) == []


def test_the_same_content_is_no_change() -> None:
    snapshot = snapshot_on(first_pair(), entry(REFERRING))
    found = snapshot.certificates.choose("x", NOW)
    assert changes(snapshot, "/crt", "/key") == []
    assert snapshot.certificates.choose("x", NOW) is found


def test_the_old_pair_is_served_until_the_new_one_fits() -> None:
    files = first_pair()
    snapshot = snapshot_on(files, entry(REFERRING))
    files["/crt"] = OTHER_CHAIN
    torn = Broken(SSL, 1, MISMATCH, kept=True)
    assert reread(snapshot, "/crt") == [torn]
    assert reread(snapshot, "/crt", "/key") == []  # told once
    assert snapshot.broken == {SSL: torn}
    assert snapshot.load(Listing((entry(REFERRING),), 101)) == []
    assert served(snapshot) == ((CHAIN, KEY),)
    files["/key"] = OTHER_KEY[:100]
    (worse,) = reread(snapshot, "/key")
    assert worse == Broken(SSL, 1, "the key is not PEM that can be read", kept=True)
    files["/key"] = OTHER_KEY
    assert reread(snapshot, "/key") == []
    assert (snapshot.broken, served(snapshot)) == ({}, ((OTHER_CHAIN, OTHER_KEY),))


def test_back_to_what_it_was_is_sound_again() -> None:
    files = first_pair()
    snapshot = snapshot_on(files, entry(REFERRING))
    del files["/key"]
    (broken,) = reread(snapshot, "/key")
    assert broken.why == "$file:///key: absent"
    files["/key"] = KEY
    reread(snapshot, "/key")
    assert (snapshot.broken, served(snapshot)) == ({}, ((CHAIN, KEY),))


@pytest.mark.parametrize("mutual", [False, True])
def test_a_file_that_appears_brings_its_object_into_force(mutual: bool) -> None:
    """Until then who is wider has its name, unless it wants client certificates."""
    wide = entry({"cert": OTHER_CHAIN, "key": OTHER_KEY, "sni": "*"}, 2, "/apisix/ssls/2")
    client = {"client": {"ca": "$file:///ca"}} if mutual else {}
    files = Files()
    snapshot = snapshot_on(files, entry(REFERRING | client), wide)
    assert served(snapshot) == (None if mutual else ((OTHER_CHAIN, OTHER_KEY),))
    files |= {"/crt": CHAIN, "/ca": authority_pem()}
    assert reread(snapshot, "/crt") == [Broken(SSL, 1, "$file:///key: absent", kept=False)]
    assert reread(snapshot, "/ca") == []  # for the same reason
    assert served(snapshot) == (None if mutual else ((OTHER_CHAIN, OTHER_KEY),))
    files["/key"] = KEY
    assert reread(snapshot, "/key") == []
    assert (snapshot.broken, served(snapshot)) == ({}, ((CHAIN, KEY),))


CHANGES: dict[str, Callable[[int], Entry | Deleted]] = {
    "deleted": lambda revision: Deleted(SSL, revision),
    "inside": lambda revision: entry({"cert": CHAIN, "key": KEY, "sni": "x"}, revision),
    "variables": lambda revision: entry(
        REFERRING | {"cert": "$env://CRT", "key": "$env://KEY"}, revision
    ),
    "not JSON": lambda revision: Entry(SSL, b'{"cert": "$file:///crt"', 1, revision),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_files_that_no_object_names_any_more_are_not_looked_after(
    change: Callable[[int], Entry | Deleted],
) -> None:
    files = Files(first_pair() | {"CRT": CHAIN, "KEY": KEY})
    snapshot = snapshot_on(files, entry(REFERRING))
    snapshot.apply([change(101)])
    assert (snapshot.files, changes(snapshot, "/crt", "/key")) == (frozenset(), [])
    snapshot.apply([entry(REFERRING, 102)])
    assert snapshot.files == {"/crt", "/key"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (SSL, REFERRING, True),
        (SSL, {"cert": "$env://A"}, False),
        (SSL, {"cert": CHAIN, "desc": "$file:///a"}, False),
        ("/apisix/stream_routes/1", {"cert": "$file:///a"}, False),
        ("/other/ssls/1", REFERRING, False),
        (SSL, [REFERRING], False),
    ],
)
def test_what_may_have_to_wait_for_a_disk(key: str, value: Any, expected: bool) -> None:
    snapshot = Snapshot("/apisix", KEYRING)
    assert snapshot.names_files(entry(value, 1, key)) is expected
    escaped = entry(value, 1, key).value.replace(b"$", b"\\u0024").replace(b"/", b"\\/")
    assert snapshot.names_files(Entry(key, escaped, 1, 1)) is expected
    assert not snapshot.names_files(Deleted(key, 1))


CONTENTS = st.dictionaries(
    st.sampled_from(["/crt", "/key"]),
    st.sampled_from([CHAIN, KEY, OTHER_CHAIN, OTHER_KEY, "half-written", ""]),
    min_size=1,
)


@given(st.lists(st.one_of(CONTENTS, st.just("again")), max_size=8))
def test_any_history_of_files_ends_in_the_last_pair_that_was_sound(steps: list[Any]) -> None:
    files = Files()
    snapshot, last = snapshot_on(files, entry(REFERRING)), None
    for revision, step in enumerate(steps, 101):
        if step == "again":
            snapshot.apply([entry(REFERRING, revision)])
            changed = set[str]()
        else:
            files |= step
            changed = set(step)
        reread(snapshot, *changed)
        now = (files.get("/crt"), files.get("/key"))
        sound = now in ((CHAIN, KEY), (OTHER_CHAIN, OTHER_KEY))
        last = (now,) if sound else last
        assert served(snapshot) == last
        assert (snapshot.broken == {}) is sound
