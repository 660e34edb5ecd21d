"""From an upstream object to a balancer: its `type`, and the priorities of its nodes."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from random import random

from sniproxy.balancing.callers import NOBODY, Caller, key_of
from sniproxy.balancing.drawing import Chance, WeightedRandom
from sniproxy.balancing.nodes import Node, Tier
from sniproxy.balancing.ring import Ring
from sniproxy.balancing.round_robin import InTurn, round_robin
from sniproxy.balancing.two_choices import least_sessions, quickest
from sniproxy.objects import InlineUpstream

NOTHING: AbstractSet[int] = frozenset()

MakeTier = Callable[[Sequence[Node]], Tier]


class Balancer:
    """Picks among the nodes of an upstream."""

    __slots__ = ("_tiers", "by", "nodes")

    def __init__(self, upstream: InlineUpstream, make_tier: MakeTier, by: str = "") -> None:
        """by: what a node is chosen by, for people; nothing for whose turn it is."""
        self.by = by
        tiers: dict[int, list[Node]] = {}
        for node in upstream.nodes or ():
            if node.weight > 0:
                tiers.setdefault(node.priority, []).append(Node(node))
        ordered = [tiers[priority] for priority in sorted(tiers, reverse=True)]
        self.nodes = tuple(node for tier in ordered for node in tier)  # those that get sessions
        self._tiers = tuple(make_tier(tier) for tier in ordered)

    def pick(
        self, tried: AbstractSet[int] = NOTHING, caller: Caller = NOBODY, now: float = 0.0
    ) -> Node | None:
        """A node whose `id` is not in `tried`, or None when there is none left. `now`: seconds of any one clock."""
        for tier in self._tiers:
            node = tier.pick(tried, caller, now)
            if node is not None:
                return node
        return None

    @property
    def round(self) -> tuple[Node, ...]:
        """The picks that are repeated as long as every first one answers, whoever comes; empty where that is not known."""
        first = self._tiers[0] if self._tiers else None
        return first.round if isinstance(first, InTurn) else ()


def balancer_for(upstream: InlineUpstream, chance: Chance = random) -> Balancer:
    """As its `type` says; round robin for one that is not known here, which an APISIX would have taken, too."""
    match upstream.type:
        case "chash":
            key = key_of(upstream.hash_on, upstream.key)
            return Balancer(upstream, partial(Ring, key_of=key), "hash")
        case "least_conn":
            return Balancer(upstream, partial(least_sessions, chance=chance), "fewest sessions")
        case "ewma":
            return Balancer(upstream, partial(quickest, chance=chance), "connect time")
        case "random":
            return Balancer(upstream, partial(WeightedRandom, chance=chance), "chance")
        case "roundrobin":
            return Balancer(upstream, round_robin)
        case unknown:
            return Balancer(upstream, round_robin, f"turn, as type {unknown} is not known")
