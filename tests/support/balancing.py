"""Upstreams to balance, and how well what was picked fits what was expected."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import sqrt
from typing import Any

from sniproxy.balancing import Caller, Node
from sniproxy.objects import InlineUpstream

SERVER = ("198.51.100.1", 443)
FAR_OUT = 4.0  # standard deviations: three samples in 100 000 are farther out, and seeds are fixed


def upstream(kind: str, nodes: Any, **members: Any) -> InlineUpstream:
    """An object of that type. `nodes`: as in objects, or weights of nodes n0, n1, and so on."""
    if isinstance(nodes, list) and all(isinstance(node, int) for node in nodes):
        nodes = [{"host": f"n{at}", "weight": weight} for at, weight in enumerate(nodes)]
    return InlineUpstream.model_validate({"type": kind, "nodes": nodes, **members})


def caller(number: int, name: str | None = "gs-1.example") -> Caller:
    """One of many, each with an address of its own."""
    host = f"203.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return Caller((host, 40_000), SERVER, name)


def hosts(picked: Iterable[Node | None]) -> Counter[str]:
    """How often each was picked; all of them were nodes."""
    return Counter(node.host for node in picked if node)


def fits(counts: Mapping[str, int], shares: Mapping[str, float]) -> bool:
    """Pearson's chi-squared test; Wilson and Hilferty's approximation says how far out a sum of squares is."""
    total, whole = sum(counts.values()), sum(shares.values())
    expected = {host: total * share / whole for host, share in shares.items()}
    assert counts.keys() <= expected.keys()
    squares = sum((counts.get(host, 0) - many) ** 2 / many for host, many in expected.items())
    free = len(expected) - 1
    spread = 2 / (9 * free)
    return squares <= free * (1 - spread + FAR_OUT * sqrt(spread)) ** 3
