"""Game servers, and what this process knows of each: sessions now, and how long connecting takes.

What is known belongs to a host and port, not to an object: routes that share a game server see one count, and an object that
is written again finds it. It is forgotten when no node and no session refers to it any more.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import exp
from typing import Protocol
from weakref import WeakValueDictionary

from sniproxy.balancing.callers import Caller
from sniproxy.objects import Node as NodeObject

DECAY = 10.0  # seconds after which a connect time that was seen counts for a third


class NodeState:
    """What this process knows of a game server. Sessions that a relay plays by plans are not seen."""

    __slots__ = ("__weakref__", "_average", "_seen_at", "active")

    def __init__(self) -> None:
        self.active = 0  # sessions, from pick to end
        self._average = 0.0
        self._seen_at = 0.0

    def enter(self) -> None:
        """A session was sent there; `leave` when it is over, or went elsewhere."""
        self.active += 1

    def leave(self) -> None:
        """Takes back one `enter`."""
        self.active -= 1

    def observe(self, seconds: float, now: float) -> None:
        """Connecting took so long. A slow answer counts at once, a quick one bit by bit."""
        kept = self._kept(now)
        if seconds < self._average * kept:
            seconds = self._average * kept + seconds * (1 - kept)
        self._average, self._seen_at = seconds, now

    def connect_time(self, now: float) -> float:
        """Seconds, on average; less the longer nobody has tried, so that a slow node has its next chance. 0: not known."""
        return self._average * self._kept(now)

    def _kept(self, now: float) -> float:
        """What of the average still counts."""
        return exp(min(0.0, self._seen_at - now) / DECAY)


_STATES: WeakValueDictionary[tuple[str, int | None], NodeState] = WeakValueDictionary()


def state_of(host: str, port: int | None) -> NodeState:
    """The one of a game server as objects name it; made where nobody has asked before."""
    state = _STATES.get((host, port))
    if state is None:
        state = _STATES[host, port] = NodeState()
    return state


class Node:
    """One game server of an upstream."""

    __slots__ = ("_state", "host", "port", "weight")

    def __init__(self, node: NodeObject) -> None:
        self.host = node.host
        self.port = node.port
        self.weight = node.weight
        self._state: NodeState | None = None  # most of many thousand are never asked for it

    @property
    def bare_host(self) -> str:
        """The host without the brackets of an IPv6 literal."""
        return self.host.strip("[]")

    @property
    def state(self) -> NodeState:
        """What is known of it."""
        if self._state is None:
            self._state = state_of(self.host, self.port)
        return self._state


class Tier(Protocol):
    """Nodes of one priority, at least one, and the way to choose among them."""

    def pick(self, tried: AbstractSet[int], caller: Caller, now: float) -> Node | None:
        """One whose `id` is not in `tried`; None: they all are."""
        ...


def untried(nodes: Sequence[Node], tried: AbstractSet[int]) -> list[Node]:
    """Those that are left."""
    return [node for node in nodes if id(node) not in tried]
