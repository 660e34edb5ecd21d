"""Which refusals are logged, and which first flights are kept."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.client_hello import HelloClass
from sniproxy.corpus import Row, load
from sniproxy.errors import REFUSALS, CloseReason
from sniproxy.refusals import (
    NOT_TLS_KEPT,
    OVERHEAD,
    PROXY_KEPT,
    Recorder,
    Refused,
    Sampler,
    hello_refusal,
    shortened,
)
from tests.support.hello_rows import outcome

RATE, ROUTE = CloseReason.ADDRESS_RATE, CloseReason.NO_ROUTE


def refused(session: str, size: int = 0) -> Refused:
    """A record with a flight of that size."""
    return Refused(
        session=session,
        time=1_700_000_000.5,
        client="192.0.2.1:50000",
        listener="0.0.0.0:8888",
        reason=CloseReason.NO_ROUTE,
        detail="why",
        sni="play.example.com",
        flight=bytes(size),
    )


@pytest.mark.parametrize(
    ("interval", "notes"),
    [
        (1.0, [(RATE, 5.0, 0)]),
        (1.0, [(RATE, 0.0, 0), (RATE, 0.0, None), (RATE, 0.9, None), (RATE, 1.0, 2)]),
        (1.0, [(RATE, 0.0, 0), (RATE, 0.5, None), (RATE, 9.0, 1), (RATE, 9.5, None)]),
        (1.0, [(RATE, 0.0, 0), (RATE, 2.0, 0), (RATE, 4.0, 0)]),
        # the interval counts from the line, not from what was left out
        (1.0, [(RATE, 0.0, 0), (RATE, 0.9, None), (RATE, 1.5, 1), (RATE, 2.0, None)]),
        # each reason by itself
        (
            1.0,
            [(RATE, 0.0, 0), (ROUTE, 0.1, 0), (RATE, 0.2, None), (ROUTE, 1.1, 0), (RATE, 1.1, 1)],
        ),
        (0.0, [(RATE, 0.0, 0), (RATE, 0.0, 0), (RATE, 0.1, 0)]),
        (60.0, [(RATE, -5.0, 0), (RATE, 54.9, None), (RATE, 55.0, 1)]),
    ],
)
def test_which_are_logged(
    interval: float, notes: list[tuple[CloseReason, float, int | None]]
) -> None:
    sampler = Sampler(interval)
    assert [(why, now, sampler.note(why, now)) for why, now, _ in notes] == notes


@given(
    st.floats(0, 5),
    st.lists(st.tuples(st.sampled_from([RATE, ROUTE]), st.floats(0, 3)), max_size=60),
)
def test_every_refusal_is_in_one_line_or_counted_in_the_next(
    interval: float, steps: list[tuple[CloseReason, float]]
) -> None:
    sampler, now = Sampler(interval), 0.0
    asked = dict.fromkeys((RATE, ROUTE), 0)
    told = dict.fromkeys((RATE, ROUTE), 0)
    lines: dict[CloseReason, list[float]] = {RATE: [], ROUTE: []}
    for reason, pause in steps:
        now += pause
        asked[reason] += 1
        left_out = sampler.note(reason, now)
        if left_out is not None:
            lines[reason].append(now)
            told[reason] += left_out + 1
            assert told[reason] == asked[reason]
    for times in lines.values():
        assert all(later >= earlier + interval for earlier, later in pairwise(times))


def test_the_newest_comes_first() -> None:
    recorder = Recorder(10 * OVERHEAD)
    records = [refused(session) for session in "abc"]
    for record in records:
        recorder.add(record)
    assert list(recorder) == records[::-1]


def test_the_oldest_go_when_there_is_no_room() -> None:
    recorder = Recorder(2 * OVERHEAD + 100)
    for session, size in [("a", 50), ("b", 50), ("c", 51)]:
        recorder.add(refused(session, size))
    assert [record.session for record in recorder] == ["c"]
    recorder.add(refused("d", 49))
    assert [record.session for record in recorder] == ["d", "c"]
    assert recorder.flight("d") == bytes(49)
    assert recorder.flight("a") is None


@pytest.mark.parametrize(
    ("limit", "size", "kept"),
    [
        (0, 0, False),
        (OVERHEAD - 1, 0, False),
        (OVERHEAD, 0, True),
        (OVERHEAD, 1, False),
        (OVERHEAD + 1, 1, True),
    ],
)
def test_one_that_does_not_fit_is_not_kept(limit: int, size: int, kept: bool) -> None:
    recorder = Recorder(limit)
    recorder.add(refused("a", size))
    assert [record.session for record in recorder] == ["a"] * kept
    assert recorder.flight("a") == (bytes(size) if kept else None)


def test_a_limit_of_nothing_keeps_nothing() -> None:
    recorder = Recorder(0)
    for number in range(100):
        recorder.add(refused(str(number), number))
    assert list(recorder) == []


@given(st.integers(0, 6 * OVERHEAD), st.lists(st.integers(0, 3 * OVERHEAD), max_size=30))
def test_as_many_of_the_newest_as_fit(limit: int, sizes: list[int]) -> None:
    recorder = Recorder(limit)
    records = [refused(str(number), size) for number, size in enumerate(sizes)]
    for number, record in enumerate(records):
        recorder.add(record)
        newest_first = records[number::-1]
        counted = accumulate(OVERHEAD + len(one.flight) for one in newest_first)
        fitting = sum(total <= limit for total in counted)
        assert list(recorder) == newest_first[:fitting]
    for record in records:
        expected = record.flight if record in list(recorder) else None
        assert recorder.flight(record.session) == expected


def test_a_summary_has_all_but_the_bytes() -> None:
    assert refused("abc", 70).summary() == {
        "session": "abc",
        "time": 1_700_000_000.5,
        "client": "192.0.2.1:50000",
        "listener": "0.0.0.0:8888",
        "reason": "no_route",
        "detail": "why",
        "sni": "play.example.com",
        "bytes": 70,
    }


BROKEN = CloseReason.PROXY_BROKEN


@pytest.mark.parametrize(
    ("start", "reason", "kept"),
    [
        (b"\x16\x03\x01", None, None),
        (b"\x16\x02", None, None),
        (b"GET / HTTP/1.1\r\n", None, NOT_TLS_KEPT),
        (b"\x15\x03\x01", None, NOT_TLS_KEPT),
        (b"user name and password", BROKEN, NOT_TLS_KEPT),
        (b"PROX", BROKEN, NOT_TLS_KEPT),
        (b"PROXY TCP4 ", BROKEN, PROXY_KEPT),
        (b"PROXY TCP4 ", CloseReason.HELLO_TIMEOUT, NOT_TLS_KEPT),
        (b"\r\n\r\n\0\r\nQUIT\n", BROKEN, PROXY_KEPT),
        (b"\r\n\r\n\0\r\nQUIT\n", CloseReason.HELLO_NOT_TLS, NOT_TLS_KEPT),
        (b"\r\n\r\nuser", BROKEN, NOT_TLS_KEPT),
    ],
)
def test_of_what_is_no_tls_only_the_start_is_kept(
    start: bytes, reason: CloseReason | None, kept: int | None
) -> None:
    """Whatever it was refused for, where no reason is given."""
    flight = start + bytes(2 * PROXY_KEPT)
    for why in REFUSALS if reason is None else [reason]:
        assert shortened(why, flight) == flight[:kept]
        assert shortened(why, start) == start
        assert shortened(why, b"") == b""


@pytest.mark.parametrize("hello_class", HelloClass)
def test_what_a_broken_hello_is_refused_for(hello_class: HelloClass) -> None:
    expected = CloseReason.HELLO_BROKEN
    if hello_class is HelloClass.TOO_LARGE:
        expected = CloseReason.HELLO_TOO_LARGE
    elif "NOT_TLS" in hello_class.name:
        expected = CloseReason.HELLO_NOT_TLS
    assert hello_refusal(hello_class) is expected


NOT_TLS = [row for row in load() if (row.reason or "").startswith("not_tls")]


@pytest.mark.parametrize("row", NOT_TLS, ids=[row.id for row in NOT_TLS])
def test_what_is_left_still_shows_what_it_was(row: Row) -> None:
    left = shortened(CloseReason.HELLO_NOT_TLS, row.sent)
    assert len(left) <= NOT_TLS_KEPT
    answer = outcome([left])
    assert isinstance(answer, HelloClass)
    assert answer.startswith("not_tls")
    assert answer == outcome([row.sent])


def test_the_corpus_has_rows_that_are_shortened() -> None:
    assert any(len(row.sent) > NOT_TLS_KEPT for row in NOT_TLS)
    assert len({row.reason for row in NOT_TLS}) == 6
