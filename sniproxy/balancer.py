"""Which game server a session gets: smooth weighted round robin, pure.

Smooth: a node of weight 5 beside one of weight 1 is picked 5 times in 6, spread evenly, never five times in a row and
then the other. Each pick adds every node's weight to its credit, takes the node with most credit, and takes the sum of
the weights off that node. Nodes of a lower priority are asked only when those of a higher one were all tried.
"""

import math
from collections.abc import Callable, Container, Sequence

from sniproxy.objects import InlineUpstream
from sniproxy.objects import Node as NodeObject
from sniproxy.upstream_tls import UpstreamTls

# But for `tls` the others mean plain TCP for streams, as in APISIX.
UNSPOKEN = frozenset({"udp", "kafka"})
MOST_PICKS = 1024  # in a round that is known beforehand


class Target:
    """An upstream at work: its balancer and its limits in seconds. Made anew when the object changes.

    Of the object it keeps what a session asks for and no more: there may be one for each of many thousand routes.
    """

    __slots__ = (
        "__weakref__",
        "balancer",
        "connect_timeout",
        "idle_timeout",
        "proxy_protocol",
        "retries",
        "retry_timeout",
        "round",
        "scheme",
        "tls",
    )

    def __init__(
        self, upstream: InlineUpstream, open_key: Callable[[str], str] = lambda key: key
    ) -> None:
        """`open_key` gives a private key of it in clear. ValueError and KeyringError for TLS that cannot be spoken."""
        self.scheme = upstream.scheme
        self.tls = UpstreamTls(upstream, open_key) if upstream.scheme == "tls" else None
        self.proxy_protocol = upstream.proxy_protocol
        self.balancer = RoundRobin(upstream.nodes or ())
        self.round = self.balancer.round(MOST_PICKS)
        timeout = upstream.timeout
        self.connect_timeout = timeout.connect if timeout else None
        self.idle_timeout = max(timeout.send, timeout.read) if timeout else None
        self.retries = (
            len(self.balancer.nodes) - 1 if upstream.retries is None else upstream.retries
        )
        self.retry_timeout = upstream.retry_timeout or None  # 0 = no limit, as in APISIX

    @property
    def is_plain(self) -> bool:
        """Whether its game servers get the client's bytes over TCP and nothing else."""
        spoken = self.scheme not in UNSPOKEN and self.tls is None
        return spoken and self.proxy_protocol is None


class Node:
    """One game server of an upstream, and how near its turn is."""

    __slots__ = ("credit", "host", "port", "weight")

    def __init__(self, node: NodeObject) -> None:
        self.host = node.host
        self.port = node.port
        self.weight = node.weight
        self.credit = 0

    @property
    def bare_host(self) -> str:
        """The host without the brackets of an IPv6 literal."""
        return self.host.strip("[]")


class RoundRobin:
    """Picks among nodes; a node of weight 0 gets no new sessions."""

    __slots__ = ("_tiers",)

    def __init__(self, nodes: Sequence[NodeObject]) -> None:
        usable = [node for node in nodes if node.weight > 0]
        priorities = sorted({node.priority for node in usable}, reverse=True)
        self._tiers = tuple(
            tuple(Node(node) for node in usable if node.priority == priority)
            for priority in priorities
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Those that get sessions, by priority."""
        return tuple(node for tier in self._tiers for node in tier)

    def pick(self, tried: Container[int] = ()) -> Node | None:
        """The next node that is not in `tried` (a set of `id(node)`), or None when there is none left."""
        for tier in self._tiers:
            left = [node for node in tier if id(node) not in tried]
            if left:
                return _smooth(left)
        return None

    def round(self, most: int) -> tuple[Node, ...]:
        """The picks that `pick` repeats as long as every first one answers; empty if they are more than `most`."""
        if not self._tiers:
            return ()
        tier = self._tiers[0]
        size = sum(node.weight for node in tier) // math.gcd(*(node.weight for node in tier))
        if size > most:
            return ()
        before = [node.credit for node in tier]
        ahead = tuple(_smooth(tier) for _ in range(size))
        for node, credit in zip(tier, before, strict=True):
            node.credit = credit  # nobody was picked yet
        return ahead


def _smooth(nodes: Sequence[Node]) -> Node:
    total = 0
    best = nodes[0]
    for node in nodes:
        node.credit += node.weight
        total += node.weight
        if node.credit > best.credit:
            best = node
    best.credit -= total
    return best
