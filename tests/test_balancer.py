"""Smooth weighted round robin: sequences, exact shares, what was tried, priorities, and rounds known beforehand."""

from collections import Counter
from math import gcd
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancer import MOST_PICKS, RoundRobin, Target
from sniproxy.objects import InlineUpstream, Node


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
    assert len(balancer.nodes) == sum(weight > 0 for weight in weights.values())


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
    assert len(balancer.nodes) == 4


# A round that is known beforehand

NO_LIMIT = 10**9


@pytest.mark.parametrize(
    ("weights", "most", "expected"),
    [
        ({"a": 1}, 1, "a"),
        ({"a": 7}, 1, "a"),  # what repeats, not the sum of the weights
        ({"a": 5, "b": 1, "c": 1}, 7, "aabacaa"),
        ({"a": 2000, "b": 1000}, 3, "aba"),
        ({"a": 3, "b": 0}, 1, "a"),
        ({"a": 5, "b": 1, "c": 1}, 6, ""),  # over
        ({"a": 10**9, "b": 1}, MOST_PICKS, ""),
        ({"a": 1}, 0, ""),
        ({"a": 0}, NO_LIMIT, ""),
        ({}, NO_LIMIT, ""),
    ],
)
def test_a_round(weights: dict[str, int], most: int, expected: str) -> None:
    assert "".join(node.host for node in RoundRobin(nodes(**weights)).round(most)) == expected


def test_a_round_is_of_the_highest_priority_alone() -> None:
    made = [
        Node(host="spare", weight=9),
        Node(host="a", weight=2, priority=1),
        Node(host="b", weight=1, priority=1),
        Node(host="off", weight=0, priority=5),
    ]
    assert [node.host for node in RoundRobin(made).round(3)] == ["a", "b", "a"]


WEIGHTED = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=6)


def balancer_of(weighted: list[tuple[int, int]]) -> RoundRobin:
    """A balancer of nodes with these weights and priorities."""
    return RoundRobin(
        [
            Node(host=f"n{index}", weight=weight, priority=priority)
            for index, (weight, priority) in enumerate(weighted)
        ]
    )


@given(WEIGHTED, st.integers(1, 3))
def test_a_round_is_what_picks_repeat(weighted: list[tuple[int, int]], rounds: int) -> None:
    """The same nodes, not equal ones: whoever has tried one of a round has tried one of the balancer's."""
    balancer = balancer_of(weighted)
    ahead = balancer.round(NO_LIMIT)
    picked = [balancer.pick() for _ in range(rounds * len(ahead))]
    assert list(map(id, picked)) == list(map(id, ahead * rounds))
    highest = max((priority for weight, priority in weighted if weight), default=0)
    weights = [weight for weight, priority in weighted if weight and priority == highest]
    assert len(ahead) == (sum(weights) // gcd(*weights) if weights else 0)
    assert balancer.round(len(ahead)) == ahead
    assert balancer.round(len(ahead) - 1) == ()


@given(WEIGHTED, st.lists(st.booleans(), max_size=30))
def test_looking_ahead_says_the_next_picks_and_changes_none(
    weighted: list[tuple[int, int]], retried: list[bool]
) -> None:
    """Wherever the balancer stands; the other one has the same history and never looks ahead."""
    looking, other = balancer_of(weighted), balancer_of(weighted)
    for again in retried:
        looking.round(NO_LIMIT)
        for balancer in (looking, other):
            first = balancer.pick()
            if again and first is not None:
                balancer.pick({id(first)})
    ahead = looking.round(NO_LIMIT)
    hosts = "".join(node.host for node in ahead)
    assert sequence(looking, len(ahead)) == sequence(other, len(ahead)) == hosts


@pytest.mark.parametrize(
    ("host", "bare"), [("[::1]", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1"), ("gs", "gs")]
)
def test_bare_host(host: str, bare: str) -> None:
    (node,) = RoundRobin([Node(host=host, weight=1)]).nodes
    assert (node.host, node.bare_host) == (host, bare)


def target(**members: Any) -> Target:
    """An upstream with one node, or with those that are given."""
    return Target(InlineUpstream.model_validate({"nodes": {"127.0.0.1:1": 1}, **members}))


@pytest.mark.parametrize(
    ("members", "plain"),
    [
        ({}, True),
        *[({"scheme": one}, True) for one in ("http", "https", "grpc", "grpcs", "tcp")],
        *[({"scheme": one}, False) for one in ("tls", "udp", "kafka")],
        ({"proxy_protocol": "v1"}, False),
        ({"proxy_protocol": "v2"}, False),
        ({"scheme": "tls", "proxy_protocol": "v2"}, False),
    ],
)
def test_what_game_servers_get_bytes_and_nothing_else(members: dict[str, Any], plain: bool) -> None:
    assert target(**members).is_plain is plain


@pytest.mark.parametrize(
    ("nodes", "size"),
    [
        ({"a": 1, "b": MOST_PICKS - 1}, MOST_PICKS),
        ({"a": 1, "b": MOST_PICKS}, 0),
        ({"a": 0}, 0),
        ([], 0),
    ],
)
def test_an_upstreams_round_is_of_so_many_picks_at_most(nodes: Any, size: int) -> None:
    assert len(target(nodes=nodes).round) == size
