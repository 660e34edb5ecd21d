"""A node by chance, as often as its weight says; pure but for the numbers that it is given.

The weights are summed up once, and a number below their sum is looked up among the sums: the logarithm of how many nodes.
Where all weights are equal there is nothing to look up.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate

from sniproxy.balancing.callers import Caller
from sniproxy.balancing.nodes import Node, untried

Chance = Callable[[], float]  # numbers from 0 to below 1, such as random.random
REDRAWS = 8  # before all nodes are looked at for those that were not tried


class Urn:
    """Draws places in a list of nodes."""

    __slots__ = ("_chance", "_last", "_sums", "_total")

    def __init__(self, nodes: Sequence[Node], chance: Chance) -> None:
        alike = len({node.weight for node in nodes}) == 1
        self._chance = chance
        self._last = len(nodes) - 1
        # What is below each sum and not below the one before it is that node's.
        self._sums = () if alike else tuple(map(float, accumulate(node.weight for node in nodes)))
        self._total = float(len(nodes)) if alike else self._sums[-1]

    def draw(self) -> int:
        """Any place."""
        number = self._chance() * self._total
        return bisect_right(self._sums, number, 0, self._last) if self._sums else int(number)

    def draw_other(self, first: int) -> int:
        """Another place, as if that one were not there."""
        if not self._sums:
            place = int(self._chance() * (self._total - 1))
            return place + (place >= first)
        start = self._sums[first - 1] if first else 0.0
        width = self._sums[first] - start
        number = self._chance() * (self._total - width)
        return bisect_right(self._sums, number + width * (number >= start), 0, self._last)


class WeightedRandom:
    """Each pick by itself, whatever was picked before."""

    __slots__ = ("_chance", "_nodes", "_urn")

    def __init__(self, nodes: Sequence[Node], chance: Chance) -> None:
        self._nodes = tuple(nodes)
        self._chance = chance
        self._urn = Urn(nodes, chance)

    def pick(self, tried: AbstractSet[int], _caller: Caller, _now: float) -> Node | None:
        """As `Tier` says."""
        if not tried:
            return self._nodes[self._urn.draw()]
        for _ in range(REDRAWS):
            node = self._nodes[self._urn.draw()]
            if id(node) not in tried:
                return node
        left = untried(self._nodes, tried)
        return left[Urn(left, self._chance).draw()] if left else None
