"""Of several ssl objects for one name: the one written last whose certificate is valid, if it asks of clients the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.objects import Ssl
from sniproxy.tls import Certificate, Certificates, Closed
from tests.support.certificates import authority_pem, dated

NAME = "x.com"
NOW = 1_800_000_000  # Unix seconds
DAY = 24 * 60 * 60

Times = tuple[int, int]  # from, until: in days from NOW
LONG, EXPIRED, EARLY = (-9, 9), (-9, -1), (1, 9)
OURS: dict[str, Any] = {"client": {"ca": authority_pem("ours"), "depth": 1}}
DEEP: dict[str, Any] = {"client": {"ca": authority_pem("ours"), "depth": 2}}
THEIRS: dict[str, Any] = {"client": {"ca": authority_pem("theirs"), "depth": 1}}
OPEN: dict[str, Any] = {}


def certificate(
    ssl_id: str, times: Times, revision: int, *names: str, **members: Any
) -> Certificate:
    """An ssl object for NAME, or these names."""
    pair = dated(NAME, *(NOW + days * DAY for days in times))
    value = Ssl.model_validate({**pair, "snis": list(names or (NAME,)), **members})
    return Certificate(ssl_id, revision, lambda: value)


def index(*certificates: Certificate | Closed) -> Certificates:
    """An index of these, added in this order."""
    made = Certificates()
    for one in certificates:
        made.add(one)
    return made


def chosen(certificates: Certificates, now: float = NOW, name: str = NAME) -> str | None:
    """The id of what a name gets."""
    found = certificates.choose(name, now)
    return None if found is None else found.id


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([("only", EXPIRED, OPEN)], "only"),
        ([("only", EARLY, OPEN)], "only"),
        ([("old", LONG, OPEN), ("new", LONG, OPEN)], "new"),
        ([("old", LONG, OPEN), ("new", EXPIRED, OPEN)], "old"),
        ([("old", LONG, OPEN), ("new", EARLY, OPEN)], "old"),
        ([("old", EXPIRED, OPEN), ("new", EXPIRED, OPEN)], "new"),
        ([("old", EXPIRED, OPEN), ("new", EARLY, OPEN)], "new"),
        ([("a", LONG, OPEN), ("b", LONG, OPEN), ("c", EARLY, OPEN)], "b"),
        ([("a", LONG, OPEN), ("b", EXPIRED, OPEN), ("c", EARLY, OPEN)], "a"),
        # what clients are asked for is never less than the one written last asks for, nor anything else
        ([("old", LONG, OPEN), ("new", EXPIRED, OURS)], "new"),
        ([("old", LONG, THEIRS), ("new", EXPIRED, OURS)], "new"),
        ([("old", LONG, DEEP), ("new", EXPIRED, OURS)], "new"),
        ([("old", LONG, OURS), ("new", EXPIRED, OPEN)], "new"),
        ([("old", LONG, OURS), ("new", EXPIRED, OURS)], "old"),
        ([("a", LONG, OURS), ("b", LONG, OPEN), ("c", EXPIRED, OURS)], "a"),
        ([("a", EXPIRED, OURS), ("b", LONG, OPEN), ("c", EXPIRED, OURS)], "c"),
        ([("a", LONG, OPEN), ("b", LONG, OURS), ("c", EARLY, OPEN)], "a"),
    ],
)
def test_the_last_valid_one(
    objects: list[tuple[str, Times, dict[str, Any]]], expected: str
) -> None:
    """Each written after the one before it."""
    made = [
        certificate(ssl_id, times, revision, **asks)
        for revision, (ssl_id, times, asks) in enumerate(objects)
    ]
    assert chosen(index(*made)) == chosen(index(*reversed(made))) == expected


@pytest.mark.parametrize(
    ("now", "expected", "flaw"),
    [
        (NOW - DAY - 0.001, "old", "not valid yet"),
        (NOW - DAY, "new", None),
        (NOW + DAY - 0.001, "new", None),
        (NOW + DAY, "old", "expired"),
        (NOW + 9 * DAY, "new", "expired"),  # none is valid: the last one, for all to see
        (0, "new", "not valid yet"),
        (float("inf"), "new", "expired"),
    ],
)
def test_at_the_instants(now: float, expected: str, flaw: str | None) -> None:
    new = certificate("new", (-1, 1), 2)
    assert chosen(index(certificate("old", LONG, 1), new), now) == expected
    assert new.flaw(now) == flaw


def test_no_time_can_open_what_is_closed() -> None:
    closed = Closed("closed", 2, (NAME,))
    made = index(certificate("old", LONG, 1), closed)
    assert chosen(made) is None
    made.add(certificate("new", EXPIRED, 3))
    assert chosen(made) == "old"  # as it would be without the closed one
    made.add(certificate("mutual", EXPIRED, 4, **OURS))
    assert chosen(made) == "mutual"


def test_a_new_revision_does_not_put_an_old_object_in_front() -> None:
    """Who encrypts keys anew or restores a dump writes every object, in an order of its own."""
    last = certificate("last", LONG, 7, update_time=NOW + 1, **OURS)
    first = certificate("first", LONG, 8, update_time=NOW)
    assert chosen(index(first, last)) == chosen(index(last, first)) == "last"
    later = certificate("same second", LONG, 9, update_time=NOW + 1)
    assert chosen(index(later, first, last)) == "same second"
    assert chosen(index(certificate("untimed", LONG, 10), first)) == "first"
    assert chosen(index(Closed("closed", 1, (NAME,), NOW + 2), last)) is None
    assert chosen(index(Closed("closed", 99, (NAME,), NOW), last)) == "last"


def test_only_among_those_of_a_name() -> None:
    """A narrower name counts before validity: what stands under it was meant for it."""
    made = index(
        certificate("exact", EXPIRED, 1),
        certificate("wide", LONG, 2, "*.com", "*"),
    )
    assert (chosen(made), chosen(made, name="y.com"), chosen(made, name="a.b")) == (
        *("exact", "wide", "wide"),
    )


def test_a_pair_is_judged_by_its_main_certificate() -> None:
    second = dated(NAME, NOW - DAY, NOW + DAY)
    more = {"certs": [second["cert"]], "keys": [second["key"]]}
    made = index(certificate("old", LONG, 1), certificate("new", EXPIRED, 2, **more))
    assert chosen(made) == "old"


def test_candidates_are_all_of_a_pattern_from_the_last_one_on() -> None:
    made = index(certificate("a", LONG, 1), certificate("b", LONG, 3), certificate("c", EXPIRED, 2))
    assert [one.id for one in made.candidates(NAME)] == ["b", "c", "a"]
    assert list(made.candidates("other.com")) == list(made.candidates(None)) == []


KINDS = [
    certificate(f"{revision}{name}", times, revision, **asks)
    for revision in (1, 2, 3)
    for name, times, asks in (
        ("a", LONG, OPEN),
        ("b", EXPIRED, OPEN),
        ("c", EARLY, OURS),
        ("d", (-1, 1), OURS),
    )
]


@given(
    st.lists(st.sampled_from(KINDS), unique=True).flatmap(
        lambda some: st.tuples(st.permutations(some), st.permutations(some))
    ),
    st.lists(st.sampled_from(KINDS), unique=True),
    st.integers(NOW - 10 * DAY, NOW + 10 * DAY),
)
def test_the_order_of_arrival_never_matters(
    orders: tuple[list[Certificate], list[Certificate]], passing: list[Certificate], now: int
) -> None:
    """Nor what came and went. What is chosen is what the rule says, put in other words."""
    first, second = index(*orders[0]), index(*passing)
    for one in passing:
        second.remove(one)
    for one in orders[1]:
        second.add(one)
    assert chosen(first, now) == chosen(second, now)
    newest_first = sorted(orders[0], key=lambda one: one.rank)
    same = [one for one in newest_first if one.asks == newest_first[0].asks]
    sound = [one for one in same if one.begins <= now < one.ends]
    assert chosen(first, now) == (next((one.id for one in (*sound, *same)), None))
