"""The account of a session: which members its line has, by how far it got; and lines that are filled in from a form."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sniproxy.accounting import (
    ALPN_LIMIT,
    DETAIL_LIMIT,
    SUBJECT_LIMIT,
    Account,
    Ended,
    Form,
    alpn_of,
    alpn_text,
    session_id,
)
from sniproxy.errors import CloseReason

ALWAYS = {
    "session": "0011223344556677",
    "reason": "client_closed",
    "started": "2026-11-28T20:00:00.000000Z",
    "client": "192.0.2.1:5000",
    "listener": "0.0.0.0:8888",
    "sni": None,
    "alpn": None,
    "route": None,
    "node": None,
    "node_address": None,
    "source": None,
    "tls": None,
    "bytes_in": 0,
    "bytes_out": 0,
    "duration_ms": 0.0,
}


START = 1_795_896_000.0  # 2026-11-28, 20:00 UTC


def ended(now: float) -> Ended:
    """When an account was over, by the clock on which it was opened at 100 s."""
    return Ended(now, START + now - 100)


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
        (
            {"alpn": "h2", "node_address": "10.0.0.1:7777", "source": "10.0.0.2:40000"},
            100.0,
            {"alpn": "h2", "node_address": "10.0.0.1:7777", "source": "10.0.0.2:40000"},
        ),
        (
            {"tls": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"},
            100.0,
            {"tls": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "resumed": False},
        ),
        (
            {"tls": "TLSv1.2", "cipher": "AES", "resumed": True, "subject": "CN=" + "x" * 300},
            100.0,
            {
                "tls": "TLSv1.2",
                "cipher": "AES",
                "resumed": True,
                "client_subject": ("CN=" + "x" * 300)[:SUBJECT_LIMIT],
            },
        ),
        ({"tls": "passthrough", "resumed": True, "subject": "x"}, 100.0, {"tls": "passthrough"}),
        ({"node_tls": "TLSv1.3"}, 100.0, {"node_tls": "TLSv1.3"}),
    ],
)
def test_the_line_of_an_account(known: dict[str, Any], now: float, differs: dict[str, Any]) -> None:
    line = account(**known).line(ended(now), CloseReason.CLIENT_CLOSED, "", 0, 0)
    assert line == ALWAYS | differs
    json.dumps(line)


def test_in_is_towards_the_server_and_out_towards_the_player() -> None:
    line = account().line(ended(100.0), CloseReason.CLIENT_CLOSED, "", 7, 11)
    assert (line["bytes_in"], line["bytes_out"]) == (7, 11)


@pytest.mark.parametrize("reason", CloseReason)
def test_every_reason_is_written_as_its_word(reason: CloseReason) -> None:
    line = account().line(ended(100.0), reason, "", 0, 0)
    assert type(line["reason"]) is str
    assert line["reason"] == reason.value


@pytest.mark.parametrize("size", [1, DETAIL_LIMIT, DETAIL_LIMIT + 1, 100_000])
def test_a_detail_is_bounded(size: int) -> None:
    line = account().line(ended(100.0), CloseReason.HELLO_BROKEN, "x" * size, 0, 0)
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
    st.lists(st.binary(max_size=9), max_size=3),
)
@example(
    ('%s"', "%d", "\\", "%"),
    0,
    CloseReason.KILLED,
    ("::", 1),
    (0, 1),
    (10**13, 333_333, 10**12 + 1),
    [b'"', b"%s"],
)
def test_a_form_that_is_filled_in_says_what_the_account_would(
    texts: tuple[str, str, str, str],
    number: int,
    reason: CloseReason,
    client: tuple[object, int],
    moved: tuple[int, int],
    times: tuple[int, int, int],
    offered: list[bytes],
) -> None:
    """Member by member and in the same order, whatever names are made of."""
    listener, sni, route, node = texts
    who = "[{}]:{}".format(*client)
    altogether, hello, connect = times
    alpn, source = alpn_text(tuple(offered)), who if offered else None

    def one(client: str, session: str, hello_at: float, connected_at: float) -> Account:
        return Account(
            client=client,
            listener=listener,
            started=0.0,
            id=session,
            sni=sni,
            alpn=alpn,
            route=route,
            node=node,
            node_address=node,
            source=source,
            tls="passthrough",
            hello_at=hello_at,
            connected_at=connected_at,
        )

    session = session_id(number)
    milliseconds = (altogether / 1000, hello / 1000, connect / 1000)
    way = (START - altogether / 1e6, who, alpn, source)
    filled = Form(one("", "", 0.0, 0.0)).fill(session, reason, *way, *moved, milliseconds)
    whole = one(who, session, hello / 1e6, (hello + connect) / 1e6)
    line = whole.line(Ended(altogether / 1e6, START), reason, "", *moved)
    assert filled.isascii()
    assert list(json.loads("{" + filled).items()) == list(line.items())


def test_a_form_is_filled_in_again_and_again() -> None:
    form = Form(account(hello_at=100.0, connected_at=100.0, node="100%"))
    lines = []
    for number in range(3):
        times = (number + 0.5, 0.25, 0.125)
        who = (session_id(number), CloseReason.KILLED, START + number, "c", "h2", None)
        lines.append(form.fill(*who, number, 9, times))
    members = [json.loads("{" + line) for line in lines]
    assert [one["session"] for one in members] == [f"{number:016x}" for number in range(3)]
    assert [one["bytes_in"] for one in members] == [0, 1, 2]
    assert [one["duration_ms"] for one in members] == [0.5, 1.5, 2.5]
    assert {one["node"] for one in members} == {"100%"}
    assert [one["started"][-9:] for one in members] == ["0.000000Z", "1.000000Z", "2.000000Z"]


# What a client offers


@pytest.mark.parametrize(
    ("offered", "text"),
    [
        ((), None),
        ((b"h2",), "h2"),
        ((b"h2", b"http/1.1"), "h2,http/1.1"),
        ((b"a,b",), "a\\x2cb"),  # one, and not two
        ((b"\\x2c",), "\\x5cx2c"),
        ((b"a\r\nb\x1b[2J",), "a\\x0d\\x0ab\\x1b[2J"),
        ((b'" \x7f\x9b\xe2\x80\xa8',), "\\x22\\x20\\x7f\\x9b\\xe2\\x80\\xa8"),
        ((b"x" * 200, b"y" * 200), "x" * 200 + "," + "y" * 54),
    ],
)
def test_protocols_are_one_text(offered: tuple[bytes, ...], text: str | None) -> None:
    assert alpn_text(offered) == text


@given(st.lists(st.binary(min_size=1, max_size=255), max_size=6))
def test_a_list_that_was_cut_off_says_the_same(offered: list[bytes]) -> None:
    """The native relay keeps ALPN_LIMIT + 1 bytes of it."""
    listed = b"".join(bytes([len(one)]) + one for one in offered)
    text = alpn_text(tuple(offered))
    assert alpn_of(listed) == alpn_of(listed[: ALPN_LIMIT + 1]) == text
    assert text is None or (len(text) <= ALPN_LIMIT and text.isascii() and text.isprintable())
