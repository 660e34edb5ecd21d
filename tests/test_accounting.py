"""The account of a session: which members its line has, by how far it got; and lines that are filled in from a form."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sniproxy.accounting import DETAIL_LIMIT, Account, Form, session_id
from sniproxy.errors import CloseReason

ALWAYS = {
    "session": "0011223344556677",
    "reason": "client_closed",
    "client": "192.0.2.1:5000",
    "listener": "0.0.0.0:8888",
    "sni": None,
    "route": None,
    "node": None,
    "tls": None,
    "bytes_in": 0,
    "bytes_out": 0,
    "duration_ms": 0.0,
}


def account(**members: Any) -> Account:
    """An account that was opened at 100 s."""
    return Account("192.0.2.1:5000", "0.0.0.0:8888", 100.0, id="0011223344556677", **members)


@pytest.mark.parametrize(
    ("known", "now", "differs"),
    [
        ({}, 100.0, {}),
        ({}, 101.5, {"duration_ms": 1500.0}),
        ({"hello_at": 100.25}, 100.5, {"hello_ms": 250.0, "duration_ms": 500.0}),
        (
            {"hello_at": 100.25, "handshake_at": 100.5, "connected_at": 101.0},
            102.0,
            {"hello_ms": 250.0, "handshake_ms": 250.0, "connect_ms": 500.0, "duration_ms": 2000.0},
        ),
        (  # passthrough: each step counts from the one that was there before it
            {"hello_at": 100.25, "connected_at": 101.0, "tls": "passthrough"},
            101.0,
            {"hello_ms": 250.0, "connect_ms": 750.0, "duration_ms": 1000.0, "tls": "passthrough"},
        ),
        ({"connected_at": 100.0000004}, 100.0, {"connect_ms": 0.0}),
        ({"attempts": 1}, 100.0, {}),
        ({"attempts": 3}, 100.0, {"attempts": 3}),
        (
            {"sni": "play.example.com", "route": "r1", "node": "gs-1:7777"},
            100.0,
            {"sni": "play.example.com", "route": "r1", "node": "gs-1:7777"},
        ),
    ],
)
def test_the_line_of_an_account(known: dict[str, Any], now: float, differs: dict[str, Any]) -> None:
    line = account(**known).line(now, CloseReason.CLIENT_CLOSED, "", 0, 0)
    assert line == ALWAYS | differs
    json.dumps(line)


def test_in_is_towards_the_server_and_out_towards_the_player() -> None:
    line = account().line(100.0, CloseReason.CLIENT_CLOSED, "", 7, 11)
    assert (line["bytes_in"], line["bytes_out"]) == (7, 11)


@pytest.mark.parametrize("reason", CloseReason)
def test_every_reason_is_written_as_its_word(reason: CloseReason) -> None:
    line = account().line(100.0, reason, "", 0, 0)
    assert type(line["reason"]) is str
    assert line["reason"] == reason.value


@pytest.mark.parametrize("size", [1, DETAIL_LIMIT, DETAIL_LIMIT + 1, 100_000])
def test_a_detail_is_bounded(size: int) -> None:
    line = account().line(100.0, CloseReason.HELLO_BROKEN, "x" * size, 0, 0)
    assert line["detail"] == "x" * min(size, DETAIL_LIMIT)


def test_every_session_has_a_name_of_its_own() -> None:
    ids = {Account("", "", 0.0).id for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {16}


# Forms

HOSTILE = [
    "%",
    "%s",
    "%%",
    "%(session)s",
    '"',
    "\\",
    '"}',
    "{}",
    "ä",
    "\n",
    "\u2028",
    "\ud800",
    "\0",
]
TEXTS = st.text(max_size=8) | st.lists(st.sampled_from(HOSTILE)).map("".join)
COUNTS = st.integers(0, 2**64 - 1)
MICROSECONDS = st.integers(0, 10**13)  # a session of four months


@given(
    st.tuples(TEXTS, TEXTS, TEXTS, TEXTS),
    COUNTS,
    st.sampled_from(CloseReason),
    st.tuples(st.ip_addresses(), st.integers(0, 65535)),
    st.tuples(COUNTS, COUNTS),
    st.tuples(MICROSECONDS, MICROSECONDS, MICROSECONDS),
)
@example(
    ('%s"', "%d", "\\", "%"),
    0,
    CloseReason.KILLED,
    ("::", 1),
    (0, 1),
    (10**13, 333_333, 10**12 + 1),
)
def test_a_form_that_is_filled_in_says_what_the_account_would(
    texts: tuple[str, str, str, str],
    number: int,
    reason: CloseReason,
    client: tuple[object, int],
    moved: tuple[int, int],
    times: tuple[int, int, int],
) -> None:
    """Member by member and in the same order, whatever names are made of."""
    listener, sni, route, node = texts
    who = "[{}]:{}".format(*client)
    altogether, hello, connect = times

    def one(client: str, session: str, hello_at: float, connected_at: float) -> Account:
        return Account(
            client=client,
            listener=listener,
            started=0.0,
            id=session,
            sni=sni,
            route=route,
            node=node,
            tls="passthrough",
            hello_at=hello_at,
            connected_at=connected_at,
        )

    session = session_id(number)
    milliseconds = (altogether / 1000, hello / 1000, connect / 1000)
    filled = Form(one("", "", 0.0, 0.0)).fill(session, reason, who, *moved, milliseconds)
    whole = one(who, session, hello / 1e6, (hello + connect) / 1e6)
    line = whole.line(altogether / 1e6, reason, "", *moved)
    assert filled.isascii()
    assert list(json.loads("{" + filled).items()) == list(line.items())


def test_a_form_is_filled_in_again_and_again() -> None:
    form = Form(account(hello_at=100.0, connected_at=100.0, node="100%"))
    lines = []
    for number in range(3):
        times = (number + 0.5, 0.25, 0.125)
        lines.append(form.fill(session_id(number), CloseReason.KILLED, "c", number, 9, times))
    members = [json.loads("{" + line) for line in lines]
    assert [one["session"] for one in members] == [f"{number:016x}" for number in range(3)]
    assert [one["bytes_in"] for one in members] == [0, 1, 2]
    assert [one["duration_ms"] for one in members] == [0.5, 1.5, 2.5]
    assert {one["node"] for one in members} == {"100%"}
