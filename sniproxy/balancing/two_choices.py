"""The node with fewest sessions, or the one that answers soonest, each for its weight.

Few nodes are all looked at. Of many, two are drawn by weight and the better one is taken: nearly as even as the best of
all, and no herd runs for the one that looked best a moment ago. A heap would give the very best, but any session that ends,
of any route that leads to the same game server, would have to find its place in each heap that the node is in.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from sniproxy.balancing.callers import Caller
from sniproxy.balancing.drawing import REDRAWS, Chance, Urn
from sniproxy.balancing.nodes import Node, Tier, untried

LOOKED_AT = 32  # nodes of which all are asked for their sessions
QUICKEST = 0.0001  # seconds; whoever connects sooner, or is not known yet, is as good as that

Cost = Callable[[Node, float], float]  # of a node, now


def sessions(node: Node, _now: float) -> float:
    """How many it would have for its weight, with one more."""
    return (node.state.active + 1) / node.weight


def patience(node: Node, now: float) -> float:
    """How long whoever goes there waits, times how many are there already."""
    return max(node.state.connect_time(now), QUICKEST) * sessions(node, now)


def least_sessions(nodes: Sequence[Node], chance: Chance) -> Tier:
    """The best of all where they are few."""
    return BestOfAll(nodes) if len(nodes) <= LOOKED_AT else BetterOfTwo(nodes, sessions, chance)


def quickest(nodes: Sequence[Node], chance: Chance) -> Tier:
    """The better of two, however few there are: or all would run for one until it is slow."""
    return BetterOfTwo(nodes, patience, chance)


class BestOfAll:
    """Fewest sessions for their weight; those that are equal take turns."""

    __slots__ = ("_nodes", "_start", "_turns")

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = tuple(nodes)
        self._turns = [(node, node.state, node.weight) for node in nodes] * 2
        self._start = 0

    def pick(self, tried: AbstractSet[int], _caller: Caller, _now: float) -> Node | None:
        """As `Tier` says."""
        best, least, at, start = None, 0.0, 0, self._start
        count = len(self._nodes)
        for place, (node, state, weight) in enumerate(self._turns[start : start + count], start):
            load = (state.active + 1) / weight
            if (best is None or load < least) and id(node) not in tried:
                best, least, at = node, load, place
        if best is not None:
            self._start = (at + 1) % count
        return best


class BetterOfTwo:
    """Of two that were drawn by weight, the one that costs less."""

    __slots__ = ("_chance", "_cost", "_nodes", "_urn")

    def __init__(self, nodes: Sequence[Node], cost: Cost, chance: Chance) -> None:
        self._nodes = tuple(nodes)
        self._cost = cost
        self._chance = chance
        self._urn = Urn(nodes, chance)
        for node in nodes:
            _ = node.state  # kept from now on, also while nobody plays there

    def pick(self, tried: AbstractSet[int], caller: Caller, now: float) -> Node | None:
        """As `Tier` says."""
        if tried:
            return self._pick_other(tried, caller, now)
        if len(self._nodes) == 1:
            return self._nodes[0]
        urn = self._urn
        place = urn.draw()
        first, second = self._nodes[place], self._nodes[urn.draw_other(place)]
        return second if self._cost(second, now) < self._cost(first, now) else first

    def _pick_other(self, tried: AbstractSet[int], caller: Caller, now: float) -> Node | None:
        for _ in range(REDRAWS):
            node = self.pick(frozenset(), caller, now)
            if node is not None and id(node) not in tried:
                return node
        left = untried(self._nodes, tried)
        if not left:
            return None
        return BetterOfTwo(left, self._cost, self._chance).pick(frozenset(), caller, now)
