"""Smooth weighted round robin: sequences, exact shares, what was tried, priorities."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancer import RoundRobin
from sniproxy.objects import Node


def nodes(**weights: int) -> list[Node]:
    """Nodes by name."""
    return [Node(host=name, weight=weight) for name, weight in weights.items()]


def sequence(balancer: RoundRobin, picks: int) -> str:
    """The hosts of so many picks, "-" for none."""
    return "".join(node.host if (node := balancer.pick()) else "-" for _ in range(picks))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1}, "aaa"),
        ({"a": 7}, "aaa"),
        ({"a": 1, "b": 1}, "abab"),
        ({"a": 5, "b": 1, "c": 1}, "aabacaa" * 2),  # nginx's example
        ({"a": 2, "b": 1}, "abaaba"),
        ({"a": 1, "b": 2}, "babbab"),
        ({"a": 3, "b": 0}, "aaa"),
        ({"a": 0, "b": 3}, "bbb"),
        ({"a": 0}, "---"),
        ({}, "---"),
    ],
)
def test_the_sequence(weights: dict[str, int], expected: str) -> None:
    balancer = RoundRobin(nodes(**weights))
    assert sequence(balancer, len(expected)) == expected
    assert balancer.size == sum(weight > 0 for weight in weights.values())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 3))
def test_shares_are_exact_over_the_sum_of_weights(weights: list[int], rounds: int) -> None:
    made = [Node(host=f"n{index}", weight=weight) for index, weight in enumerate(weights)]
    balancer = RoundRobin(made)
    total = sum(weights)
    for _ in range(rounds):
        picked = Counter(node.host for _ in range(total) if (node := balancer.pick()))
        assert picked == +Counter({node.host: node.weight for node in made})


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.lists(st.booleans(), max_size=60))
def test_every_node_is_tried_once_and_no_more(weights: list[int], retried: list[bool]) -> None:
    """Whatever sessions came before and whether their first node answered."""
    balancer = RoundRobin([Node(host=f"n{i}", weight=weight) for i, weight in enumerate(weights)])
    for again in retried:
        first = balancer.pick()
        assert first is not None
        if again:
            assert balancer.pick({id(first)}) is not first
    tried: set[int] = set()
    while (node := balancer.pick(tried)) is not None:
        assert id(node) not in tried
        tried.add(id(node))
    assert len(tried) == len(weights)


def test_equal_nodes_are_two_nodes() -> None:
    balancer = RoundRobin([Node(host="a", weight=1), Node(host="a", weight=1)])
    first = balancer.pick()
    second = balancer.pick({id(first)})
    assert second is not None
    assert second is not first
    assert balancer.pick({id(first), id(second)}) is None


def test_a_lower_priority_is_asked_when_the_higher_ones_were_all_tried() -> None:
    made = [
        Node(host="spare", weight=9, priority=-1),
        Node(host="a", weight=1, priority=1),
        Node(host="middle", weight=1),
        Node(host="b", weight=1, priority=1),
        Node(host="off", weight=0, priority=5),
    ]
    balancer = RoundRobin(made)
    order, tried = [], set[int]()
    while (node := balancer.pick(tried)) is not None:
        order.append(node.host)
        tried.add(id(node))
    assert order == ["a", "b", "middle", "spare"]
    assert sequence(balancer, 4) == "baba"
    assert balancer.size == 4
