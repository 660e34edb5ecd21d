"""Consistent hashing: the same client goes to the same node, in every process of every pod.

A ring, as ketama's: each node has points on it, places that follow from its name alone, as many as its weight says; a key
belongs to the first point after its own place. A node that comes takes keys only from those there, one that goes leaves its
keys to the next points, and all others stay: what moves is the share of that node. (Maglev's table spreads keys more evenly,
but moves others, too.) The price is that shares are uneven by about 1 / sqrt(points of a node).

How many points a weight is worth does not follow from the sum of weights, or every change would move keys everywhere. It is
the power of two with which the heaviest node has POINTS to 2 * POINTS, and less where all would have more than MOST_POINTS:
keys move when the heaviest weight passes a power of two, or nodes become so many, and at no other time.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b

from sniproxy.balancing.callers import Caller, KeyOf
from sniproxy.balancing.nodes import Node, untried

POINTS = 256  # of the heaviest node, at least: shares are uneven by 6 %
MOST_POINTS = 1 << 16  # of a ring: of hundreds of nodes each has fewer than POINTS; one at least
_PLACES = 30  # bits of a place: as Python compares fastest
_DIGEST = 64  # bytes, 4 of them for a point


class Ring:
    """Laid out when first asked: of many thousand upstreams few hash, and few of these are used by each process."""

    __slots__ = ("_key_of", "_nodes", "_owners", "_points")

    def __init__(self, nodes: Sequence[Node], key_of: KeyOf) -> None:
        self._nodes = tuple(nodes)
        self._key_of = key_of
        self._points: array[int] | None = None
        self._owners: array[int] = array("I")  # places in `_nodes`, by point

    def pick(self, tried: AbstractSet[int], caller: Caller, _now: float) -> Node | None:
        """As `Tier` says: where the node of the key was tried, the next one on the ring."""
        points = self._points or self._lay()
        digest = blake2b(self._key_of(caller).encode()).digest()  # quicker than a shorter one
        at = bisect_left(points, int.from_bytes(digest[:4], "little") >> (32 - _PLACES))
        nodes, owners = self._nodes, self._owners
        if at == len(points):
            at = 0
        node = nodes[owners[at]]
        if id(node) in tried and not untried(nodes, tried):
            return None
        while id(node) in tried:
            at += 1
            node = nodes[owners[at % len(owners)]]
        return node

    def _lay(self) -> "array[int]":
        names = _names(self._nodes)
        amounts = amounts_of([node.weight for node in self._nodes])
        # By name, so that the order of an object's nodes does not matter where two points fall on one place.
        order = sorted(range(len(names)), key=names.__getitem__)
        places: list[int] = []
        owners: list[int] = []
        for owner in order:
            places += points_of(names[owner], amounts[owner])
            owners += [owner] * amounts[owner]
        by_place = sorted(range(len(places)), key=places.__getitem__)
        self._owners = array("I", [owners[point] for point in by_place])
        self._points = array("I", [places[point] for point in by_place])
        return self._points


def points_of(name: str, amount: int) -> list[int]:
    """The places of a node: those of a lesser amount are the first of a greater one's."""
    found = array("I")  # on all that we run on: 4 bytes
    for number in range(-(-amount * found.itemsize // _DIGEST)):
        found.frombytes(blake2b(f"{name} {number}".encode(), digest_size=_DIGEST).digest())
    return [point >> (32 - _PLACES) for point in found[:amount]]


def amounts_of(weights: Sequence[int]) -> list[int]:
    """How many points each has; one at least."""
    scale = POINTS / (1 << (max(weights).bit_length() - 1))
    while True:
        amounts = [max(1, round(weight * scale)) for weight in weights]
        if sum(amounts) <= MOST_POINTS or max(amounts) == 1:
            return amounts
        scale /= 2


def _names(nodes: Sequence[Node]) -> list[str]:
    """Each another one, also of nodes that an object names twice."""
    found: Counter[str] = Counter()
    names = []
    for node in nodes:
        name = f"{node.host}:{node.port or ''}"
        found[name] += 1
        names.append(f"{name} {found[name]}")
    return names
