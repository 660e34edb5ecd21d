"""Fewest sessions and quickest answer: who is picked, for what weight, and how even that is."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancing import Balancer, Node, balancer_for
from sniproxy.balancing.nodes import DECAY
from sniproxy.balancing.two_choices import LOOKED_AT, QUICKEST
from tests.support.balancing import fits, hosts, upstream


def balancer(kind: str, weights: list[int], seed: int = 1) -> Balancer:
    """Of nodes n0, n1, and so on, with chances that are the same each time."""
    return balancer_for(upstream(kind, weights), Random(seed).random)


def seat(balancer: Balancer, count: int, now: float = 0.0) -> Counter[str]:
    """So many sessions come and stay; how many each node has then."""
    for _ in range(count):
        node = balancer.pick(now=now)
        assert node is not None
        node.state.enter()
    return Counter({node.host: node.state.active for node in balancer.nodes})


# Fewest sessions


def test_those_that_are_equal_take_turns() -> None:
    """Whoever comes leaves before the next one does."""
    three = balancer("least_conn", [1, 1, 1])
    assert hosts(three.pick() for _ in range(300)) == {"n0": 100, "n1": 100, "n2": 100}


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 2, 1], [1, 5], [2, 0, 4], [1] * LOOKED_AT])
def test_few_nodes_have_exactly_what_their_weights_say(weights: list[int]) -> None:
    seated = seat(balancer("least_conn", weights), 10 * sum(weights))
    assert seated == {f"n{at}": 10 * weight for at, weight in enumerate(weights) if weight}


@pytest.mark.parametrize("weights", [[1] * 100, [1, 2, 3, 4] * 25, [100, *[1] * 100]])
def test_many_nodes_have_nearly_what_their_weights_say(weights: list[int]) -> None:
    """Within two sessions for each of its weight, where chance alone would be off by ten."""
    seated = seat(balancer("least_conn", weights), 100 * sum(weights))
    for at, weight in enumerate(weights):
        assert abs(seated[f"n{at}"] / weight - 100) <= 4, at


@pytest.mark.parametrize("count", [2, LOOKED_AT, LOOKED_AT + 1])
def test_a_node_that_is_full_is_left_alone_until_the_others_are_as_full(count: int) -> None:
    nodes = balancer("least_conn", [1] * count)
    full = nodes.nodes[0]
    full.state.active = 20
    picked = [nodes.pick() for _ in range(50)]
    assert full not in picked
    seated = seat(nodes, 20 * (count - 1))
    assert max(seated.values()) <= 22


def test_a_session_that_ends_makes_room() -> None:
    nodes = balancer("least_conn", [1, 1, 1])
    seat(nodes, 30)
    nodes.nodes[1].state.leave()
    assert nodes.pick() is nodes.nodes[1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_the_best_that_is_left(active: list[int], tries: int) -> None:
    nodes = balancer("least_conn", [1] * len(active))
    for each, count in zip(nodes.nodes, active, strict=True):
        each.state.active = count
    order, tried = [], set[int]()
    while (node := nodes.pick(tried)) is not None:
        order.append(node.state.active)
        tried.add(id(node))
    assert order == sorted(active)


# Quickest answer


def answering(balancer: Balancer, *seconds: float, now: float = 0.0) -> list[Node]:
    """The nodes, of which connecting to each takes so long."""
    for node, each in zip(balancer.nodes, seconds, strict=True):
        node.state.observe(each, now)
    return list(balancer.nodes)


def test_of_two_the_quicker_one_is_taken() -> None:
    two = balancer("ewma", [1, 1])
    _, quick = answering(two, 0.050, 0.010)
    assert {two.pick(now=0.0) for _ in range(50)} == {quick}


def test_a_node_that_is_ten_times_slower_has_a_tenth_of_the_sessions() -> None:
    two = balancer("ewma", [1, 1])
    answering(two, 0.100, 0.010)
    seated = seat(two, 110)
    assert abs(seated["n0"] - 10) <= 1


def test_weights_count_where_answers_are_alike() -> None:
    three = balancer("ewma", [3, 2, 1])
    answering(three, 0.010, 0.010, 0.010)
    seated = seat(three, 600)
    assert all(abs(seated[f"n{at}"] - 100 * weight) <= 5 for at, weight in enumerate((3, 2, 1)))


def test_who_is_not_known_is_tried_before_who_is_slow() -> None:
    two = balancer("ewma", [1, 1])
    two.nodes[0].state.observe(0.010, 0.0)
    assert {two.pick(now=0.0) for _ in range(20)} == {two.nodes[1]}


def test_a_slow_node_is_tried_again_when_time_has_passed() -> None:
    two = balancer("ewma", [1, 1])
    slow, quick = answering(two, 3.0, 0.001)
    later = 12 * DECAY
    quick.state.observe(0.001, later)
    assert {two.pick(now=0.0) for _ in range(20)} == {quick}
    assert {two.pick(now=later) for _ in range(20)} == {slow}


def test_sooner_than_the_quickest_makes_no_difference() -> None:
    two = balancer("ewma", [1, 1])
    answering(two, QUICKEST / 10, QUICKEST / 2)
    assert fits(hosts(two.pick(now=0.0) for _ in range(10_000)), {"n0": 1, "n1": 1})


def test_of_many_the_slow_ones_are_passed_over() -> None:
    """Two of ten are slow: only who draws both of them goes to one."""
    ten = balancer("ewma", [1] * 10)
    answering(ten, 1.0, 1.0, *[0.010] * 8)
    picked = hosts(ten.pick(now=0.0) for _ in range(90_000))
    assert fits(
        {"slow": picked["n0"] + picked["n1"], "quick": 90_000 - picked["n0"] - picked["n1"]},
        {"slow": 1, "quick": 44},
    )


@pytest.mark.parametrize("kind", ["least_conn", "ewma"])
def test_a_node_that_is_alone(kind: str) -> None:
    one = balancer(kind, [3])
    assert one.pick() is one.nodes[0]
    assert one.pick({id(one.nodes[0])}) is None
