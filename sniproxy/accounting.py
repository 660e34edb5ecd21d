"""The account of one session: filled while it lives, written once when it ends, as a log line and in the counters."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from sys import intern
from typing import Any, NamedTuple

from sniproxy.balancing import NodeState
from sniproxy.errors import CloseReason
from sniproxy.health import Circuit
from sniproxy.logs import encode, stamp
from sniproxy.stick_table import Key
from sniproxy.tallies import Tally

DETAIL_LIMIT = 2000  # characters of a cause in a log line
ALPN_LIMIT = 255  # characters of the protocols that a client offers
SUBJECT_LIMIT = 256  # characters of the subject of a client's certificate


_NONE: list[Key] = []  # nobody adds to it: set-up is over where it is used


def session_id(number: int) -> str:
    """Of a number of 64 bits."""
    return f"{number:016x}"


def _new_id() -> str:
    return session_id(
        random.getrandbits(64)
    )  # seeded by the system at start: unique, and no secret


class Ended(NamedTuple):
    """When a session was over."""

    at: float  # seconds of the loop's clock
    time: float  # Unix seconds


@dataclass(slots=True)
class Account:
    """What is known of a session. Times are seconds of the loop's clock; absent ones were never reached."""

    client: str  # host:port
    listener: str
    started: float
    id: str = field(default_factory=_new_id)
    sni: str | None = None
    alpn: str | None = None  # what the client offers, as `alpn_text` has it
    route: str | None = None
    tally: Tally | None = None  # of the route, where it counts until its end
    node: str | None = None
    node_address: str | None = None  # host:port that the node's name led to
    source: str | None = None  # host:port of ours, on the way to it
    tls: str | None = None  # "passthrough", or the version that was terminated
    cipher: str | None = None  # of what was terminated
    resumed: bool = False  # likewise
    subject: str | None = None  # of the client's certificate, where one was asked for
    node_tls: str | None = None  # the version that is spoken with the node
    attempts: int = 0
    hello_at: float | None = None
    routed_at: float | None = None  # it has its route, and its turn to be set up
    handshake_at: float | None = None
    connected_at: float | None = None
    claims: list[Key] = field(default_factory=list)  # what it counts for in the limits
    seat: NodeState | None = None  # the game server where it counts
    circuit: Circuit | None = None  # which is told of an early end

    def settle(self) -> None:
        """Set-up is over: an idle session holds nothing that it can share with others."""
        self.claims = self.claims or _NONE
        self.sni = self.sni and intern(self.sni)
        self.node = self.node and intern(self.node)
        self.node_address = self.node_address and intern(self.node_address)

    def line(
        self, ended: Ended, reason: CloseReason, detail: str, to_upstream: int, to_client: int
    ) -> dict[str, Any]:
        """The members of the log line; durations in milliseconds."""
        now = ended.at
        members: dict[str, Any] = {
            "session": self.id,
            "reason": reason.value,
            "started": stamp(ended.time - (now - self.started)),
            "client": self.client,
            "listener": self.listener,
            "sni": self.sni,
            "alpn": self.alpn,
            "route": self.route,
            "node": self.node,
            "node_address": self.node_address,
            "source": self.source,
            "tls": self.tls,
            **(self._terminated() if self.cipher is not None else {}),
            **({"node_tls": self.node_tls} if self.node_tls is not None else {}),
            "bytes_in": to_upstream,
            "bytes_out": to_client,
            "duration_ms": _milliseconds(self.started, now),
        }
        step = self.started
        for name, at in (
            ("hello_ms", self.hello_at),
            ("handshake_ms", self.handshake_at),
            ("connect_ms", self.connected_at),
        ):
            if at is not None:
                members[name] = _milliseconds(step, at)
                step = at
        if self.attempts > 1:
            members["attempts"] = self.attempts
        if detail:
            members["detail"] = detail[:DETAIL_LIMIT]
        return members

    def _terminated(self) -> dict[str, Any]:
        members: dict[str, Any] = {"cipher": self.cipher, "resumed": self.resumed}
        if self.subject is not None:
            members["client_subject"] = self.subject[:SUBJECT_LIMIT]
        return members


class Form:
    """The log lines of sessions that differ in numbers only: what is the same in all of them is encoded once."""

    __slots__ = ("_text",)

    def __init__(self, account: Account) -> None:
        """`account`: one of them, with every time up to the connection with the game server."""
        members = account.line(Ended(0.0, 0.0), CloseReason.CLIENT_CLOSED, "", 0, 0)
        same = {name: encode(value).replace("%", "%%") for name, value in members.items()}
        blanks = dict.fromkeys(_VALUES, "%s") | dict.fromkeys(_WORDS, '"%s"')
        text = ", ".join(f'"{name}": {blanks.get(name, value)}' for name, value in same.items())
        self._text = text + "}"

    def fill(
        self,
        session: str,
        reason: CloseReason,
        started: float,
        client: str,
        alpn: str | None,
        source: str | None,
        to_upstream: int,
        to_client: int,
        times: Sequence[float],
    ) -> str:
        """The members of a line, as `Log.info_many` takes them.

        `started`: Unix seconds. `times`: milliseconds; altogether, hello, handshake where there is one, connect.
        """
        way = _encoded(alpn), f'"{source}"' if source is not None else "null"
        words = session, reason, stamp(started), client
        return self._text % (*words, *way, to_upstream, to_client, *times)


# What a form leaves open, in the order of `Account.line`.
_WORDS = ("session", "reason", "started", "client")
_VALUES = (
    "alpn",
    "source",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "hello_ms",
    "handshake_ms",
    "connect_ms",
)

_encoded = lru_cache(maxsize=256)(encode)


@lru_cache(maxsize=256)
def alpn_text(offered: tuple[bytes, ...]) -> str | None:
    """Protocols, with commas between them: "h2,http/1.1". ALPN_LIMIT characters of printable ASCII; None: none is offered.

    What else stands in a protocol's name, a comma too, is written as \\x2c.
    """
    text = ",".join(_protocol(one) for one in offered)
    return text[:ALPN_LIMIT] or None


@lru_cache(maxsize=256)
def alpn_of(listed: bytes) -> str | None:
    """The same of a list as it stands in a hello, each protocol behind a byte with its length; the end may be missing."""
    offered, at = [], 0
    while at < len(listed):
        start, at = at + 1, at + 1 + listed[at]
        offered.append(listed[start:at])
    return alpn_text(tuple(offered))


def _protocol(name: bytes) -> str:
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b',"\\' else f"\\x{byte:02x}"
        for byte in name
    )


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
