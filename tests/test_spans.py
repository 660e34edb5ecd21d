"""A session as spans: which there are by how far it got, their times and names, and what their attributes cannot hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.accounting import Account, Ended
from sniproxy.errors import CloseReason
from sniproxy.relay import Outcome
from sniproxy.tracing.spans import ATTRIBUTE_LIMIT, Span, spans_of, trace_of

SESSION = "0011223344556677"
TIME = 1_795_896_000.0  # when every session here is over, in Unix seconds
OVER = 110.0  # and on the clock on which it began at 100 s


def spans(
    reason: CloseReason = CloseReason.CLIENT_CLOSED, detail: str = "", **known: Any
) -> list[Span]:
    """Those of a session that has moved 7 bytes in and 11 out."""
    account = Account("192.0.2.1:5000", "0.0.0.0:8888", 100.0, id=SESSION, **known)
    return spans_of(account, Ended(OVER, TIME), Outcome(reason, detail, 7, 11))


def shape(found: list[Span]) -> list[tuple[str, float, float, bool]]:
    """Name, seconds from the session's start to the span's and to its end, and whether it has failed."""
    first = found[0].start
    return [
        (one.name, (one.start - first) / 1e9, (one.end - first) / 1e9, one.error is not None)
        for one in found
    ]


ROUTED: dict[str, Any] = {"hello_at": 101.0, "routed_at": 103.0, "route": "r"}
WHOLE = ("session", 0.0, 10.0, False)
FAILED = ("session", 0.0, 10.0, True)
HELLO, ROUTE = ("hello", 0.0, 1.0, False), ("route", 1.0, 3.0, False)


@pytest.mark.parametrize(
    ("reason", "known", "expected"),
    [
        (
            CloseReason.CLIENT_CLOSED,
            {**ROUTED, "connected_at": 104.0},
            [WHOLE, HELLO, ROUTE, ("connect", 3.0, 4.0, False)],
        ),
        (
            CloseReason.IDLE_TIMEOUT,
            {**ROUTED, "handshake_at": 105.0, "connected_at": 106.0},
            [WHOLE, HELLO, ROUTE, ("handshake", 3.0, 5.0, False), ("connect", 5.0, 6.0, False)],
        ),
        (  # plain TCP
            CloseReason.KILLED,
            {"routed_at": 103.0, "connected_at": 104.0, "route": "r"},
            [WHOLE, ("route", 0.0, 3.0, False), ("connect", 3.0, 4.0, False)],
        ),
        (CloseReason.HELLO_BROKEN, {}, [WHOLE, ("hello", 0.0, 10.0, True)]),
        (CloseReason.NO_ROUTE, {"hello_at": 101.0}, [WHOLE, HELLO, ("route", 1.0, 10.0, True)]),
        (CloseReason.ROUTE_LIMIT, {"route": "r"}, [WHOLE, ("route", 0.0, 10.0, True)]),
        (
            CloseReason.HANDSHAKE_FAILED,
            ROUTED,
            [WHOLE, HELLO, ROUTE, ("handshake", 3.0, 10.0, True)],
        ),
        (
            CloseReason.UPSTREAM_REFUSED,
            ROUTED,
            [FAILED, HELLO, ROUTE, ("connect", 3.0, 10.0, True)],
        ),
        (
            CloseReason.UPSTREAM_RESET,  # that it was connected, and failed later, is the session's
            {**ROUTED, "connected_at": 104.0},
            [FAILED, HELLO, ROUTE, ("connect", 3.0, 4.0, False)],
        ),
    ],
)
def test_the_steps_of_a_session(
    reason: CloseReason, known: dict[str, Any], expected: list[tuple[str, float, float, bool]]
) -> None:
    assert shape(spans(reason, "why", **known)) == expected


def test_a_trace_is_found_by_its_sessions_id() -> None:
    session, *children = spans(**ROUTED, connected_at=104.0)
    assert trace_of(Account("", "", 0.0, id=SESSION)) == session.id == 0x0011223344556677
    assert session.parent is None
    assert {child.parent for child in children} == {session.id}
    assert len({one.id for one in (session, *children)}) == 4
    assert session.end == TIME * 1e9
    assert [one.kind for one in (session, *children)] == [
        "server",
        "internal",
        "internal",
        "client",
    ]


def test_zero_is_no_id() -> None:
    assert trace_of(Account("", "", 0.0, id="0" * 16)) == 1


def test_what_a_session_says_of_itself() -> None:
    found = spans(
        **ROUTED,
        connected_at=104.0,
        sni="a.example",
        alpn="h2",
        tls="TLSv1.3",
        cipher="TLS_AES_128_GCM_SHA256",
        resumed=True,
        subject="CN=p",
        node="gs-1:7777",
        node_address="[2001:db8::1]:7777",
        source="[2001:db8::2]:40000",
        node_tls="TLSv1.2",
        attempts=2,
    )
    assert found[0].attributes == {
        "client.address": "192.0.2.1",
        "client.port": 5000,
        "network.transport": "tcp",
        "tls.client.server_name": "a.example",
        "tls.protocol.version": "TLSv1.3",
        "tls.cipher": "TLS_AES_128_GCM_SHA256",
        "tls.resumed": True,
        "tls.client.subject": "CN=p",
        "sniproxy.session": SESSION,
        "sniproxy.listener": "0.0.0.0:8888",
        "sniproxy.alpn": "h2",
        "sniproxy.route": "r",
        "sniproxy.node": "gs-1:7777",
        "sniproxy.attempts": 2,
        "sniproxy.bytes_in": 7,
        "sniproxy.bytes_out": 11,
        "sniproxy.reason": "client_closed",
    }
    assert found[-1].attributes == {
        "server.address": "gs-1",
        "server.port": 7777,
        "network.peer.address": "2001:db8::1",
        "network.peer.port": 7777,
        "network.local.address": "2001:db8::2",
        "network.local.port": 40000,
        "tls.protocol.version": "TLSv1.2",
    }


@given(st.text(), st.text(), st.text(), st.text())
def test_nothing_that_others_say_stands_there_as_it_is(
    sni: str, route: str, node: str, detail: str
) -> None:
    found = spans(
        CloseReason.UPSTREAM_REFUSED, detail, sni=sni, route=route, node=node, routed_at=101.0
    )
    texts = [value for one in found for value in one.attributes.values() if isinstance(value, str)]
    for text in [*texts, *(one.error for one in found if one.error is not None)]:
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= ATTRIBUTE_LIMIT
