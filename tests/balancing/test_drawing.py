"""Weighted random: shares over many picks, and that a second draw is as if the first node were not there."""

from random import Random

import pytest

from sniproxy.balancing import Balancer, balancer_for
from sniproxy.balancing.drawing import Urn
from tests.support.balancing import fits, hosts, upstream

PICKS = 100_000
WEIGHTS = [[1] * 10, [5, 1, 1], [1, 1000], list(range(1, 101)), [1] * 1000, [7, 0, 3]]


def random(weights: list[int]) -> Balancer:
    """Of nodes n0, n1, and so on, with chances that are the same each time."""
    return balancer_for(upstream("random", weights), Random(20261128).random)


def shares(weights: list[int]) -> dict[str, float]:
    """By host; one of weight 0 has none."""
    return {f"n{at}": weight for at, weight in enumerate(weights) if weight}


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_shares_over_many_picks(weights: list[int]) -> None:
    balancer = random(weights)
    assert fits(hosts(balancer.pick() for _ in range(PICKS)), shares(weights))


def test_the_test_of_shares_tells() -> None:
    balancer = random([10, 10, 10])
    assert not fits(hosts(balancer.pick() for _ in range(PICKS)), shares([10, 10, 11]))


@pytest.mark.parametrize("weights", [[5, 1, 1], [1, 1, 1], [3, 2, 1, 7]])
def test_where_one_was_tried_the_others_share_as_their_weights_say(weights: list[int]) -> None:
    balancer = random(weights)
    tried = {id(balancer.nodes[0])}
    picked = hosts(balancer.pick(tried) for _ in range(PICKS))
    assert fits(picked, shares([0, *weights[1:]]))


@pytest.mark.parametrize("weights", [[1, 10**9], [2**53 - 1, 1, 2**53 - 1]])
def test_a_node_is_found_beside_the_heaviest(weights: list[int]) -> None:
    balancer = random(weights)
    tried = {id(node) for node in balancer.nodes if node.weight > 1}
    node = balancer.pick(tried)
    assert node is not None
    assert node.weight == 1
    assert balancer.pick(tried | {id(node)}) is None


@pytest.mark.parametrize("weights", [[1, 1], [5, 1, 1], [1, 1, 5], [1, 5, 1], [2, 2, 2, 2]])
def test_a_second_draw_is_another_node(weights: list[int]) -> None:
    nodes = balancer_for(upstream("random", weights)).nodes
    for first in range(len(weights)):
        urn = Urn(nodes, Random(first).random)
        picked = hosts(nodes[urn.draw_other(first)] for _ in range(10_000))
        others = [0 if at == first else weight for at, weight in enumerate(weights)]
        if sum(map(bool, others)) > 1:
            assert fits(picked, shares(others))
        assert f"n{first}" not in picked


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("weights", [[1], [1, 1], [5, 1], [2**53 - 1, 2**53 - 1, 2**53 - 1]])
def test_chances_at_the_edge_find_a_node(weights: list[int], chance: float) -> None:
    nodes = balancer_for(upstream("random", weights)).nodes
    urn = Urn(nodes, lambda: chance)
    assert 0 <= urn.draw() < len(weights)
    if len(weights) > 1:
        assert all(0 <= urn.draw_other(at) < len(weights) for at in range(len(weights)))
