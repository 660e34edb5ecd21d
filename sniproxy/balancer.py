"""Which game server a session gets: smooth weighted round robin, pure.

Smooth: a node of weight 5 beside one of weight 1 is picked 5 times in 6, spread evenly, never five times in a row and
then the other. Each pick adds every node's weight to its credit, takes the node with most credit, and takes the sum of
the weights off that node. Nodes of a lower priority are asked only when those of a higher one were all tried.
"""

import math
from collections.abc import Container, Sequence

from sniproxy.objects import InlineUpstream, Node

# The others mean plain TCP for streams, as in APISIX. Who asks for TLS must never get plain TCP instead.
UNSPOKEN = frozenset({"tls", "udp", "kafka"})
MOST_PICKS = 1024  # in a round that is known beforehand


class Target:
    """An upstream object at work: its balancer and its limits in seconds. Made anew when the object changes."""

    __slots__ = (
        "__weakref__",
        "balancer",
        "connect_timeout",
        "idle_timeout",
        "object",
        "retries",
        "retry_timeout",
        "round",
    )

    def __init__(self, upstream: InlineUpstream) -> None:
        self.object = upstream
        self.balancer = RoundRobin(upstream.nodes or ())
        self.round = self.balancer.round(MOST_PICKS)
        timeout = upstream.timeout
        self.connect_timeout = timeout.connect if timeout else None
        self.idle_timeout = max(timeout.send, timeout.read) if timeout else None
        self.retries = self.balancer.size - 1 if upstream.retries is None else upstream.retries
        self.retry_timeout = upstream.retry_timeout or None  # 0 = no limit, as in APISIX

    @property
    def is_plain(self) -> bool:
        """Whether its game servers get the client's bytes over TCP and nothing else."""
        return self.object.scheme not in UNSPOKEN and self.object.proxy_protocol is None


class RoundRobin:
    """Picks among nodes; a node of weight 0 gets no new sessions."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        usable = [node for node in nodes if node.weight > 0]
        priorities = sorted({node.priority for node in usable}, reverse=True)
        self._tiers = [
            [_Candidate(node) for node in usable if node.priority == priority]
            for priority in priorities
        ]
        self.size = len(usable)

    def pick(self, tried: Container[int] = ()) -> Node | None:
        """The next node that is not in `tried` (a set of `id(node)`), or None when there is none left."""
        for tier in self._tiers:
            left = [one for one in tier if id(one.node) not in tried]
            if left:
                return _smooth(left)
        return None

    def round(self, most: int) -> tuple[Node, ...]:
        """The picks that `pick` repeats as long as every first one answers; empty if they are more than `most`."""
        if not self._tiers:
            return ()
        tier = self._tiers[0]
        size = sum(one.node.weight for one in tier) // math.gcd(*(one.node.weight for one in tier))
        if size > most:
            return ()
        ahead = [one.copy() for one in tier]
        return tuple(_smooth(ahead) for _ in range(size))


class _Candidate:
    __slots__ = ("credit", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.credit = 0

    def copy(self) -> "_Candidate":
        """One that goes its own way."""
        copied = _Candidate(self.node)
        copied.credit = self.credit
        return copied


def _smooth(candidates: list[_Candidate]) -> Node:
    total = 0
    best = candidates[0]
    for one in candidates:
        one.credit += one.node.weight
        total += one.node.weight
        if one.credit > best.credit:
            best = one
    best.credit -= total
    return best.node
