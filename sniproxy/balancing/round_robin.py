"""Weighted round robin, smooth: a node of weight 5 beside one of weight 1 is picked 5 times in 6, spread evenly.

Nodes of one weight take turns as one group. A group that is picked M times in a round has its k-th pick at (k + 1/2) / M of
it, so the picks of each are as far apart as they can be, and a round holds exactly as many of each node as its weight says.

Most rounds are short, and known beforehand: a pick is one step in a list. Where weights have no common measure a round may
be of millions of picks: then the groups stand in a heap by when their next pick is due, and a pick costs the logarithm of
how many different weights there are.

Who was sent on by a node that did not answer takes no turn of the others: else the next session would begin at that node
again. Second attempts have turns of their own.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from heapq import heapify, heapreplace
from math import gcd

from sniproxy.balancing.callers import Caller
from sniproxy.balancing.nodes import Node, Tier, untried

MOST_PICKS = 1024  # in a round that is known beforehand
RETRIES = 16  # picks that may fall on nodes that were tried, before all are looked at


class Group:
    """Nodes of one weight, and how far they are in their rounds."""

    __slots__ = ("_nodes", "_picks", "_size")

    def __init__(self, nodes: Sequence[Node], weight: int) -> None:
        self._nodes = tuple(nodes)
        self._size = len(nodes) * weight  # picks in a round
        self._picks = 0  # so far

    @property
    def due(self) -> float:
        """When its next pick is, in rounds."""
        return (self._picks + 0.5) / self._size

    def next(self) -> Node:
        """Whose turn it is."""
        node = self._nodes[self._picks % len(self._nodes)]
        self._picks += 1
        return node


def groups_of(nodes: Sequence[Node]) -> tuple[list[Group], int]:
    """By weight, in the order of their first nodes; and how many picks are in a round."""
    measure = gcd(*(node.weight for node in nodes))
    members: dict[int, list[Node]] = {}
    for node in nodes:
        members.setdefault(node.weight // measure, []).append(node)
    size = sum(weight * len(alike) for weight, alike in members.items())
    return [Group(alike, weight) for weight, alike in members.items()], size


def round_robin(nodes: Sequence[Node]) -> Tier:
    """By a round that is known beforehand where that is short."""
    groups, size = groups_of(nodes)
    if size > MOST_PICKS:
        return InTime(nodes, groups)
    if len(groups) == 1:
        return InTurn(tuple(nodes))
    timetable = InTime(nodes, groups)
    return InTurn(tuple(timetable.next() for _ in range(size)))


class InTurn:
    """A round that is known beforehand, over and over."""

    __slots__ = ("_again", "_at", "round")

    def __init__(self, ahead: tuple[Node, ...]) -> None:
        self.round = ahead
        self._at = 0
        self._again = 0

    def pick(self, tried: AbstractSet[int], _caller: Caller, _now: float) -> Node | None:
        """As `Tier` says."""
        if tried:
            return self._pick_again(tried)
        ahead, at = self.round, self._at
        self._at = at + 1 if at + 1 < len(ahead) else 0
        return ahead[at]

    def _pick_again(self, tried: AbstractSet[int]) -> Node | None:
        count = len(self.round)
        for at in range(self._again, self._again + count):
            node = self.round[at % count]
            if id(node) not in tried:
                self._again = (at + 1) % count
                return node
        return None


class InTime:
    """A round of any length, as it comes."""

    __slots__ = ("_again", "_groups", "_heap", "_nodes")

    def __init__(self, nodes: Sequence[Node], groups: Sequence[Group]) -> None:
        self._nodes = tuple(nodes)
        self._again: InTime | None = None
        self._groups = tuple(groups)
        self._heap = [(group.due, place) for place, group in enumerate(groups)]
        heapify(self._heap)

    def next(self) -> Node:
        """Whose turn it is."""
        place = self._heap[0][1]
        group = self._groups[place]
        node = group.next()
        heapreplace(self._heap, (group.due, place))
        return node

    def pick(self, tried: AbstractSet[int], _caller: Caller, _now: float) -> Node | None:
        """As `Tier` says."""
        if not tried:
            return self.next()
        if self._again is None:
            self._again = InTime(self._nodes, groups_of(self._nodes)[0])
        for _ in range(RETRIES):
            node = self._again.next()
            if id(node) not in tried:
                return node
        left = untried(self._nodes, tried)
        return max(left, key=lambda node: node.weight) if left else None
