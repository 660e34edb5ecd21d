"""A session that is over, as the spans of a trace. Pure.

    session           from accept to the end; SERVER
      hello           until the name is known
      route           until it has its route, its limits allow it, and its turn to be set up has come
      handshake       where TLS is terminated
      connect         until a game server has it; CLIENT

The trace has the session's id, with zeros before it, so that a line of the log leads to its trace. Everything that a client
or an object may have put into an attribute is printable ASCII, and short.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sniproxy.accounting import Account, Ended
from sniproxy.errors import ORDINARY, REFUSALS, CloseReason
from sniproxy.log_text import visible
from sniproxy.relay import Outcome

ATTRIBUTE_LIMIT = 256  # characters

Value = str | int | bool
Kind = Literal["server", "client", "internal"]

_IN_HANDSHAKE = (
    CloseReason.HANDSHAKE_FAILED,
    CloseReason.HANDSHAKE_TIMEOUT,
    CloseReason.NO_CERTIFICATE,
)


@dataclass(frozen=True, slots=True)
class Span:
    """One of a trace. Times are Unix nanoseconds."""

    name: str
    id: int  # 64 bits
    parent: int | None
    start: int
    end: int
    attributes: dict[str, Value]
    kind: Kind = "internal"
    error: str | None = None  # why it has failed


def trace_of(account: Account) -> int:
    """The trace's id, of 128 bits; 0 is none."""
    return int(account.id, 16) or 1


def spans_of(account: Account, ended: Ended, outcome: Outcome) -> list[Span]:
    """All of them, the session's first."""
    root = trace_of(account)
    shift = ended.time - ended.at  # from the loop's clock to Unix time
    why = _why(outcome)
    session = Span(
        name="session",
        id=root,
        parent=None,
        start=_nanoseconds(account.started + shift),
        end=_nanoseconds(ended.time),
        attributes=_without_none(_of_session(account, outcome)),
        kind="server",
        error=why if _is_failure(outcome.reason) else None,
    )
    spans = [session]
    start = account.started
    for number, (name, end, failed) in enumerate(_steps(account, ended.at, outcome.reason), 1):
        spans.append(
            Span(
                name=name,
                id=(root ^ number << 8) or 1,
                parent=root,
                start=_nanoseconds(start + shift),
                end=_nanoseconds(end + shift),
                attributes=_without_none(_of_connect(account)) if name == "connect" else {},
                kind="client" if name == "connect" else "internal",
                error=why if failed else None,
            )
        )
        start = end
    return spans


def _steps(
    account: Account, ended: float, reason: CloseReason
) -> Iterator[tuple[str, float, bool]]:
    """Those that it went through, and the one in which it failed; when each was over."""
    for name, end in (
        ("hello", account.hello_at),
        ("route", account.routed_at),
        ("handshake", account.handshake_at),
        ("connect", account.connected_at),
    ):
        if end is not None:
            yield name, end, False
    if account.connected_at is not None:
        return
    if account.routed_at is not None:
        last = "handshake" if reason in _IN_HANDSHAKE else "connect"
    else:
        last = "hello" if account.hello_at is None and account.route is None else "route"
    yield last, ended, True


def _of_session(account: Account, outcome: Outcome) -> dict[str, Value | None]:
    return {
        **_address("client", account.client),
        "network.transport": "tcp",
        "tls.client.server_name": account.sni,
        "tls.protocol.version": account.tls,
        "tls.cipher": account.cipher,
        "tls.resumed": account.resumed if account.cipher is not None else None,
        "tls.client.subject": account.subject,
        "sniproxy.session": account.id,
        "sniproxy.listener": account.listener,
        "sniproxy.alpn": account.alpn,
        "sniproxy.route": account.route,
        "sniproxy.node": account.node,
        "sniproxy.attempts": account.attempts or None,
        "sniproxy.bytes_in": outcome.to_upstream,
        "sniproxy.bytes_out": outcome.to_client,
        "sniproxy.reason": outcome.reason.value,
        "sniproxy.detail": outcome.detail or None,
    }


def _of_connect(account: Account) -> dict[str, Value | None]:
    return {
        **_address("server", account.node),
        **_address("network.peer", account.node_address),
        **_address("network.local", account.source),
        "tls.protocol.version": account.node_tls,
    }


def _address(whose: str, text: str | None) -> dict[str, Value | None]:
    """Of host:port."""
    host, colon, port = (text or "").rpartition(":")
    if not colon or not port.isdecimal():
        return {f"{whose}.address": text}
    return {f"{whose}.address": host.strip("[]"), f"{whose}.port": int(port)}


def _without_none(attributes: dict[str, Value | None]) -> dict[str, Value]:
    """What is known, in a form that nobody can be hurt by."""
    return {
        name: _safe(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _why(outcome: Outcome) -> str:
    return _safe(f"{outcome.reason}: {outcome.detail}" if outcome.detail else outcome.reason.value)


def _safe(text: str) -> str:
    return visible(text[:ATTRIBUTE_LIMIT])[:ATTRIBUTE_LIMIT]


def _is_failure(reason: CloseReason) -> bool:
    """Ours or a game server's. What a client did wrong is no error of the one who serves it."""
    return reason not in ORDINARY and reason not in REFUSALS and reason is not CloseReason.KILLED


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
