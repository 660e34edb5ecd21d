"""What every balancer keeps, whatever its type: priorities, weight 0, and what was tried."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancing import Balancer, balancer_for
from sniproxy.balancing.drawing import WeightedRandom
from sniproxy.balancing.ring import Ring
from sniproxy.balancing.round_robin import InTime, InTurn
from sniproxy.balancing.two_choices import BestOfAll, BetterOfTwo
from tests.support.balancing import caller, upstream

TYPES = ("roundrobin", "random", "least_conn", "ewma", "chash", "another")


@pytest.mark.parametrize(
    ("kind", "nodes", "expected"),
    [
        ("roundrobin", [1, 2], InTurn),
        ("roundrobin", [1, 10**6], InTime),
        ("chash", [1, 2], Ring),
        ("least_conn", [1, 2], BestOfAll),
        ("least_conn", [1] * 33, BetterOfTwo),
        ("ewma", [1, 2], BetterOfTwo),
        ("random", [1, 2], WeightedRandom),
        ("another", [1, 2], InTurn),  # an APISIX has taken it, so its sessions are served
        ("Random", [1, 2], InTurn),
        ("", [1, 2], InTurn),
    ],
)
def test_the_type_of_an_upstream(kind: str, nodes: Any, expected: Callable[..., object]) -> None:
    (tier,) = balancer_for(upstream(kind, nodes))._tiers
    assert type(tier) is expected


@pytest.mark.parametrize("kind", TYPES)
def test_only_round_robin_is_known_beforehand(kind: str) -> None:
    """So nobody else is played by a plan, which would not be seen by those who count."""
    ahead = balancer_for(upstream(kind, [1, 1])).round
    assert len(ahead) == (2 if kind in ("roundrobin", "another") else 0)


@pytest.mark.parametrize("kind", TYPES)
def test_a_lower_priority_is_asked_when_the_higher_ones_were_all_tried(kind: str) -> None:
    nodes = [
        {"host": "spare", "weight": 9, "priority": -1},
        {"host": "a", "weight": 1, "priority": 1},
        {"host": "middle", "weight": 1},
        {"host": "b", "weight": 1, "priority": 1},
        {"host": "off", "weight": 0, "priority": 5},
    ]
    balancer = balancer_for(upstream(kind, nodes))
    assert len(balancer.nodes) == 4
    for number in range(20):
        order, tried = [], set[int]()
        while (node := balancer.pick(tried, caller(number))) is not None:
            order.append(node.host)
            tried.add(id(node))
        assert sorted(order[:2]) == ["a", "b"]
        assert order[2:] == ["middle", "spare"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("nodes", [[], [0], [0, 0]], ids=str)
def test_without_a_node_that_has_weight_nobody_is_picked(kind: str, nodes: list[int]) -> None:
    balancer = balancer_for(upstream(kind, nodes))
    assert balancer.nodes == balancer.round == ()
    assert balancer.pick() is None


@pytest.mark.parametrize("kind", TYPES)
def test_equal_nodes_are_two_nodes(kind: str) -> None:
    balancer = balancer_for(upstream(kind, [{"host": "a", "weight": 1}] * 2))
    first = balancer.pick()
    second = balancer.pick({id(first)})
    assert second is not None
    assert second is not first
    assert balancer.pick({id(first), id(second)}) is None


NODES = st.lists(
    st.tuples(st.sampled_from([0, 1, 1, 1, 2, 7, 1000, 10**9]), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)
STEPS = st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40)


@given(st.sampled_from(TYPES), NODES, STEPS, st.integers(0, 5))
def test_every_usable_node_is_picked_at_last_and_no_other(
    kind: str, nodes: list[tuple[int, int]], steps: list[tuple[int, bool]], number: int
) -> None:
    """Whoever came before, whether they stay, and whichever node did not answer; by priority."""
    made = [
        {"host": f"n{at}", "weight": weight, "priority": priority}
        for at, (weight, priority) in enumerate(nodes)
    ]
    balancer = balancer_for(upstream(kind, made), Random(number).random)
    usable = [at for at, (weight, _) in enumerate(nodes) if weight]
    _play(balancer, steps)
    order, tried = [], set[int]()
    while (node := balancer.pick(tried, caller(number), 1.0)) is not None:
        assert id(node) not in tried
        order.append(int(node.host[1:]))
        tried.add(id(node))
    assert sorted(order) == usable
    priorities = [nodes[at][1] for at in order]
    assert priorities == sorted(priorities, reverse=True)


def _play(balancer: Balancer, steps: list[tuple[int, bool]]) -> None:
    for number, answers in steps:
        node = balancer.pick(frozenset(), caller(number), 0.0)
        if node is None:
            return
        node.state.observe(0.001 * number, 0.0)
        if answers:
            node.state.enter()
        else:
            other = balancer.pick({id(node)}, caller(number), 0.0)
            assert other is not node
