"""What a data plane says of itself, as bytes: what newer and older versions, and others, make of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.objects.node_record import NodeRecord, Rates, records_prefix

WHOLE: dict[str, Any] = {
    "id": "edge-1:7085",
    "version": "0.1.0",
    "revision": 71,
    "age": 0.25,
    "stale": False,
    "sessions": 12,
    "started": 1_700_000_000,
    "rates": {"sessions": 1.5, "bytes_to_upstream": 10, "bytes_to_client": 20},
}
RECORDS = st.builds(
    NodeRecord,
    id=st.text(st.characters(codec="utf-8")),
    version=st.text(st.characters(codec="utf-8")),
    revision=st.integers(0, 2**63),
    age=st.floats(0, 1e12),
    stale=st.booleans(),
    sessions=st.integers(0, 10**6),
    started=st.integers(0, 2**40),
    rates=st.none()
    | st.builds(
        Rates,
        sessions=st.floats(0, 1e9),
        bytes_to_upstream=st.integers(0, 2**50),
        bytes_to_client=st.integers(0, 2**50),
    ),
)


@given(RECORDS)
def test_a_record_survives_its_bytes(record: NodeRecord) -> None:
    assert NodeRecord.decode(record.encode()) == record


def test_it_is_json_that_anybody_can_read() -> None:
    assert json.loads(NodeRecord(**WHOLE).encode()) == WHOLE


def test_whole_seconds_are_an_age_too() -> None:
    read = NodeRecord.decode(json.dumps(WHOLE | {"age": 3}).encode())
    assert read is not None
    assert read.age == 3.0


def test_a_record_of_an_older_version_has_no_rates() -> None:
    older = {one: value for one, value in WHOLE.items() if one != "rates"}
    read = NodeRecord.decode(json.dumps(older).encode())
    assert read is not None
    assert read.rates is None


def test_members_of_a_newer_version_are_ignored() -> None:
    newer = WHOLE | {"zone": "a", "workers": [{"pid": 1}], "version": "9.0.0"}
    assert NodeRecord.decode(json.dumps(newer).encode()) == NodeRecord(
        **WHOLE | {"version": "9.0.0"}
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"1",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"{",
        b"\xff\xfe",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        *(
            json.dumps({name: value for name, value in WHOLE.items() if name != left_out}).encode()
            for left_out in WHOLE
            if left_out != "rates"
        ),
        *(
            json.dumps(WHOLE | {name: wrong}).encode()
            for name, wrong in (
                ("id", 1),
                ("id", None),
                ("version", []),
                ("revision", "71"),
                ("revision", -1),
                ("revision", 1.5),
                ("revision", True),
                ("age", -0.1),
                ("age", "1"),
                ("age", float("nan")),
                ("age", float("inf")),
                ("stale", "no"),
                ("stale", 0),
                ("sessions", -1),
                ("started", None),
                ("rates", {}),
                ("rates", WHOLE["rates"] | {"sessions": -1}),
            )
        ),
    ],
    ids=lambda raw: raw[:60].decode("latin-1"),
)
def test_what_is_no_record_is_none(raw: bytes) -> None:
    assert NodeRecord.decode(raw) is None


@given(st.binary(max_size=200) | RECORDS.map(NodeRecord.encode).map(lambda raw: raw[:-1]))
def test_no_bytes_are_an_exception(raw: bytes) -> None:
    assert NodeRecord.decode(raw) is None


@pytest.mark.parametrize("prefix", ["/apisix", "/sniproxies", "/a/nodes"])
@pytest.mark.parametrize("followed", ["/apisix", "/sniproxies", "/sn", "/a", "/a/sniproxy"])
def test_records_are_no_changes_that_a_data_plane_follows(prefix: str, followed: str) -> None:
    assert not records_prefix(prefix).startswith(followed + "/")


def test_each_prefix_has_records_of_its_own() -> None:
    prefixes = ("/apisix", "/apisix2", "/apisix/eu", "/a", "/nodes")
    places = [records_prefix(prefix) for prefix in prefixes]
    assert [one for one in places for other in places if one.startswith(other)] == places
