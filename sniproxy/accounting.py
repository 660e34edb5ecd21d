"""The account of one session: filled while it lives, written once when it ends, as a log line and in the counters."""

import random
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from sniproxy.errors import CloseReason
from sniproxy.stick_table import Key

DETAIL_LIMIT = 2000  # characters of a cause in a log line


_NONE: list[Key] = []  # nobody adds to it: set-up is over where it is used


def _new_id() -> str:
    return f"{random.getrandbits(64):016x}"  # seeded by the system at start: unique, and no secret


@dataclass(slots=True)
class Account:
    """What is known of a session. Times are seconds of the loop's clock; absent ones were never reached."""

    client: str  # host:port
    listener: str
    started: float
    id: str = field(default_factory=_new_id)
    sni: str | None = None
    route: str | None = None
    node: str | None = None
    tls: str | None = None  # "passthrough", or the version that was terminated
    attempts: int = 0
    hello_at: float | None = None
    handshake_at: float | None = None
    connected_at: float | None = None
    claims: list[Key] = field(default_factory=list)  # what it counts for in the limits

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


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
