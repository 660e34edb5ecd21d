"""The account of one session: filled while it lives, written once when it ends, as a log line and in the counters."""

import random
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from sniproxy.balancing import NodeState
from sniproxy.errors import CloseReason
from sniproxy.health import Circuit
from sniproxy.logs import encode
from sniproxy.stick_table import Key
from sniproxy.tallies import Tally

DETAIL_LIMIT = 2000  # characters of a cause in a log line


_NONE: list[Key] = []  # nobody adds to it: set-up is over where it is used


def session_id(number: int) -> str:
    """Of a number of 64 bits."""
    return f"{number:016x}"


def _new_id() -> str:
    return session_id(
        random.getrandbits(64)
    )  # seeded by the system at start: unique, and no secret


@dataclass(slots=True)
class Account:
    """What is known of a session. Times are seconds of the loop's clock; absent ones were never reached."""

    client: str  # host:port
    listener: str
    started: float
    id: str = field(default_factory=_new_id)
    sni: str | None = None
    route: str | None = None
    tally: Tally | None = None  # of the route, where it counts until its end
    node: str | None = None
    tls: str | None = None  # "passthrough", or the version that was terminated
    attempts: int = 0
    hello_at: float | None = None
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

    def line(
        self, now: float, reason: CloseReason, detail: str, to_upstream: int, to_client: int
    ) -> dict[str, Any]:
        """The members of the log line; durations in milliseconds."""
        members: dict[str, Any] = {
            "session": self.id,
            "reason": reason.value,
            "client": self.client,
            "listener": self.listener,
            "sni": self.sni,
            "route": self.route,
            "node": self.node,
            "tls": self.tls,
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


class Form:
    """The log lines of sessions that differ in numbers only: what is the same in all of them is encoded once."""

    __slots__ = ("_text",)

    def __init__(self, account: Account) -> None:
        """`account`: one of them, with every time up to the connection with the game server."""
        members = account.line(0.0, CloseReason.CLIENT_CLOSED, "", 0, 0)
        same = {name: encode(value).replace("%", "%%") for name, value in members.items()}
        blanks = dict.fromkeys(_NUMBERS, "%s") | dict.fromkeys(_WORDS, '"%s"')
        text = ", ".join(f'"{name}": {blanks.get(name, value)}' for name, value in same.items())
        self._text = text + "}"

    def fill(
        self,
        session: str,
        reason: CloseReason,
        client: str,
        to_upstream: int,
        to_client: int,
        times: tuple[float, float, float],
    ) -> str:
        """The members of a line, as `Log.info_many` takes them. `times`: milliseconds; altogether, hello, connect."""
        return self._text % (session, reason, client, to_upstream, to_client, *times)


# What a form leaves open, in the order of `Account.line`.
_WORDS = ("session", "reason", "client")
_NUMBERS = ("bytes_in", "bytes_out", "duration_ms", "hello_ms", "connect_ms")


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
