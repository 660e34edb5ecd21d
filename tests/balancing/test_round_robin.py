"""Smooth weighted round robin: sequences, exact shares, even spreading, what was tried, and rounds known beforehand."""

from collections import Counter
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancing import MOST_PICKS, Balancer, Node, balancer_for
from tests.support.balancing import fits, hosts, upstream


def round_robin(**weights: int) -> Balancer:
    """Of nodes by name."""
    nodes = [{"host": name, "weight": weight} for name, weight in weights.items()]
    return balancer_for(upstream("roundrobin", nodes))


def of_weights(weights: list[int]) -> Balancer:
    """Of nodes n0, n1, and so on."""
    return balancer_for(upstream("roundrobin", weights))


def sequence(balancer: Balancer, picks: int) -> str:
    """The hosts of so many picks, "-" for none."""
    return "".join(node.host if (node := balancer.pick()) else "-" for _ in range(picks))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1}, "aaa"),
        ({"a": 7}, "aaa"),
        ({"a": 1, "b": 1}, "abab"),
        ({"a": 5, "b": 1, "c": 1}, "abaaaca" * 2),
        ({"a": 2, "b": 1}, "abaaba"),
        ({"a": 1, "b": 2}, "babbab"),
        ({"a": 3, "b": 0}, "aaa"),
        ({"a": 0, "b": 3}, "bbb"),
        ({"a": 0}, "---"),
        ({}, "---"),
    ],
)
def test_the_sequence(weights: dict[str, int], expected: str) -> None:
    balancer = round_robin(**weights)
    assert sequence(balancer, len(expected)) == expected
    assert len(balancer.nodes) == sum(weight > 0 for weight in weights.values())


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 3))
def test_shares_are_exact_over_the_sum_of_weights(weights: list[int], rounds: int) -> None:
    balancer = of_weights(weights)
    for _ in range(rounds):
        picked = hosts(balancer.pick() for _ in range(sum(weights)))
        assert picked == +Counter({f"n{at}": weight for at, weight in enumerate(weights)})


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=8))
def test_picks_are_spread_evenly(weights: list[int]) -> None:
    """After any number of picks each node has had its share, give or take few: in short rounds and in long ones."""
    balancer, total = of_weights(weights), sum(weights)
    counts = Counter[str]()
    slack = 1 + len(set(weights)) / 2  # a pick is due at the same time for as many groups
    for picks in range(1, 300):
        node = balancer.pick()
        assert node is not None
        counts[node.host] += 1
        for at, weight in enumerate(weights):
            assert abs(counts[f"n{at}"] - picks * weight / total) < slack


@pytest.mark.parametrize("weights", [[1] * 10, [5, 1, 1], [997, 991, 3], list(range(1, 101))])
def test_shares_over_many_picks(weights: list[int]) -> None:
    balancer = of_weights(weights)
    picked = hosts(balancer.pick() for _ in range(100_000))
    assert fits(picked, {f"n{at}": weight for at, weight in enumerate(weights)})


def test_a_round_of_any_length_has_exactly_as_many_of_each_as_its_weight() -> None:
    weights = [997, 991, 3, 997]
    balancer = of_weights(weights)
    assert balancer.round == ()
    for _ in range(3):
        picked = hosts(balancer.pick() for _ in range(sum(weights)))
        assert picked == {f"n{at}": weight for at, weight in enumerate(weights)}


@pytest.mark.parametrize("weights", [[1, 1], [2, 1], [10**9, 1], [997, 991, 3]])
def test_a_node_that_never_answers_costs_the_others_nothing(weights: list[int]) -> None:
    """Each session that fell on it goes on to another one, whatever its weight."""
    balancer = of_weights(weights)
    dead = balancer.nodes[0]
    for _ in range(50):
        node = balancer.pick()
        if node is dead:
            node = balancer.pick({id(dead)})
        assert node is not None
        assert node is not dead


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1], [3, 2, 1], [997, 991, 997]])
def test_a_node_that_never_answers_is_asked_for_its_share_and_the_others_share_the_rest(
    weights: list[int],
) -> None:
    balancer, total = of_weights(weights), sum(weights)
    dead, first, served = balancer.nodes[0], 0, Counter[str]()
    for _ in range(600):
        node = balancer.pick()
        if node is dead:
            first += 1
            node = balancer.pick({id(dead)})
        assert node is not None
        served[node.host] += 1
    assert abs(first - 600 * weights[0] / total) <= 1
    for at, weight in enumerate(weights[1:], 1):
        assert abs(served[f"n{at}"] / (600 * weight / (total - weights[0])) - 1) < 0.15


# A round that is known beforehand


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1}, "a"),
        ({"a": 7}, "a"),  # what repeats, not the sum of the weights
        ({"a": 5, "b": 1, "c": 1}, "abaaaca"),
        ({"a": 2000, "b": 1000}, "aba"),
        ({"a": 3, "b": 0}, "a"),
        ({"a": 10**9, "b": 1}, ""),
        ({"a": 0}, ""),
        ({}, ""),
    ],
)
def test_a_round(weights: dict[str, int], expected: str) -> None:
    assert "".join(node.host for node in round_robin(**weights).round) == expected


@pytest.mark.parametrize(("other", "size"), [(MOST_PICKS - 1, MOST_PICKS), (MOST_PICKS, 0)])
def test_a_round_is_of_so_many_picks_at_most(other: int, size: int) -> None:
    assert len(round_robin(a=1, b=other).round) == size


def test_a_round_is_of_the_highest_priority_alone() -> None:
    nodes = [
        {"host": "spare", "weight": 9},
        {"host": "a", "weight": 2, "priority": 1},
        {"host": "b", "weight": 1, "priority": 1},
        {"host": "off", "weight": 0, "priority": 5},
    ]
    balancer = balancer_for(upstream("roundrobin", nodes))
    assert "".join(node.host for node in balancer.round) == "aba"


WEIGHTED = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=6)


@given(WEIGHTED, st.integers(1, 3))
def test_a_round_is_what_picks_repeat(weighted: list[tuple[int, int]], rounds: int) -> None:
    """The same nodes, not equal ones: whoever has tried one of a round has tried one of the balancer's."""
    nodes = [
        {"host": f"n{at}", "weight": weight, "priority": priority}
        for at, (weight, priority) in enumerate(weighted)
    ]
    balancer = balancer_for(upstream("roundrobin", nodes))
    ahead = balancer.round
    picked = [balancer.pick() for _ in range(rounds * len(ahead))]
    assert list(map(id, picked)) == list(map(id, ahead * rounds))
    assert balancer.round == ahead
    highest = max((priority for weight, priority in weighted if weight), default=0)
    weights = [weight for weight, priority in weighted if weight and priority == highest]
    assert len(ahead) == (sum(weights) // gcd(*weights) if weights else 0)


def test_nodes_without_weight_are_no_nodes() -> None:
    assert [node.host for node in round_robin(a=0, b=1).nodes] == ["b"]
    assert isinstance(round_robin(b=1).pick(), Node)
