"""Consistent hashing: the same node for the same key, in every process; shares; and what moves when nodes come and go."""

import os
import subprocess
import sys
from collections.abc import Sequence
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancing import Balancer, balancer_for
from sniproxy.balancing.ring import MOST_POINTS, POINTS, Ring, amounts_of, points_of
from tests.support.balancing import caller, fits, hosts, upstream

KEYS = 20_000


def ring(nodes: Any, **members: Any) -> Balancer:
    """By the client's address, unless members say otherwise."""
    return balancer_for(upstream("chash", nodes, **{"key": "remote_addr", **members}))


def owners(balancer: Balancer, keys: int = KEYS) -> list[str]:
    """The host of each of many clients."""
    picked = [balancer.pick(caller=caller(number)) for number in range(keys)]
    return [node.host for node in picked if node]


def moved(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, str]]:
    """From where to where."""
    pairs = zip(before, after, strict=True)
    return [(old, new) for old, new in pairs if old != new]


def shares(balancer: Balancer) -> dict[str, float]:
    """What of the ring each node has, as its points are."""
    (tier,) = balancer._tiers
    assert isinstance(tier, Ring)
    balancer.pick()  # it is laid out now
    points, found = tier._points, dict.fromkeys((node.host for node in balancer.nodes), 0.0)
    assert points is not None
    for at, point in enumerate(points):
        before = points[at - 1] if at else points[-1] - (1 << 30)
        found[balancer.nodes[tier._owners[at]].host] += point - before
    return {host: share / (1 << 30) for host, share in found.items()}


@pytest.mark.parametrize("weights", [[1] * 10, [3, 2, 1], list(range(1, 21)), [1] * 1000])
def test_keys_are_spread_over_the_ring_by_chance(weights: list[int]) -> None:
    """Addresses that follow each other are as good as any."""
    balancer = ring(weights)
    assert fits(hosts(balancer.pick(caller=caller(at)) for at in range(100_000)), shares(balancer))


@pytest.mark.parametrize("weights", [[1] * 10, [100] * 10, [3, 2, 1], [1] * 100, [1] * 1000])
def test_shares_are_those_of_the_weights_but_for_the_chance_of_points(weights: list[int]) -> None:
    found = shares(ring(weights))
    assert sum(found.values()) == pytest.approx(1)
    for at, (weight, points) in enumerate(zip(weights, amounts_of(weights), strict=True)):
        assert abs(found[f"n{at}"] / (weight / sum(weights)) - 1) < 4 / sqrt(points)


@pytest.mark.parametrize("count", [2, 3, 10, 100, 255])
def test_a_node_that_comes_takes_its_share_and_no_other_key_moves(count: int) -> None:
    before, after = owners(ring([1] * count)), owners(ring([1] * (count + 1)))
    gone = moved(before, after)
    assert {new for _, new in gone} == {f"n{count}"}
    assert len(gone) / KEYS <= (1 + 4 / sqrt(POINTS)) / (count + 1)


@pytest.mark.parametrize("count", [2, 3, 10, 100, 256])
def test_a_node_that_goes_leaves_its_share_and_no_other_key_moves(count: int) -> None:
    """It may be deleted, or have its weight set to 0."""
    before = owners(ring([1] * count))
    for after in (ring([1] * (count - 1)), ring([*[1] * (count - 1), 0])):
        gone = moved(before, owners(after))
        assert {old for old, _ in gone} == {f"n{count - 1}"}
        assert len(gone) / KEYS <= (1 + 4 / sqrt(POINTS)) / count


def test_of_many_nodes_a_key_moves_no_more_often() -> None:
    before, after = owners(ring([1] * 999)), owners(ring([1] * 1000))
    gone = moved(before, after)
    assert {new for _, new in gone} == {"n999"}
    assert len(gone) / KEYS <= 2 / 1000


def test_a_lower_weight_moves_keys_of_that_node_alone() -> None:
    before, after = owners(ring([4, 4, 4, 4])), owners(ring([4, 4, 4, 2]))
    gone = moved(before, after)
    assert {old for old, _ in gone} == {"n3"}
    assert abs(len(gone) / KEYS - (4 / 16 - 2 / 14)) < 0.04


def test_the_order_of_nodes_does_not_matter() -> None:
    nodes = [{"host": f"n{at}", "port": 7777, "weight": 1 + at % 3} for at in range(50)]
    assert owners(ring(nodes)) == owners(ring(nodes[::-1]))


def test_a_node_that_was_tried_leaves_its_keys_where_they_go_when_it_is_gone() -> None:
    balancer, without = ring([1] * 10), ring([*[1] * 9, 0])
    tried = {id(balancer.nodes[9])}
    for number in range(2000):
        left = balancer.pick(tried, caller(number))
        gone = without.pick(caller=caller(number))
        assert left is not None
        assert gone is not None
        assert left.host == gone.host


def test_one_who_comes_again_goes_to_the_same_nodes_in_the_same_order() -> None:
    balancer = ring([1, 2, 3, 4])
    for number in range(100):
        orders = []
        for _ in range(2):
            order, tried = [], set[int]()
            while (node := balancer.pick(tried, caller(number))) is not None:
                order.append(node.host)
                tried.add(id(node))
            orders.append(order)
        assert orders[0] == orders[1]
        assert sorted(orders[0]) == ["n0", "n1", "n2", "n3"]


def test_what_is_no_part_of_the_key_does_not_matter() -> None:
    by_name = ring([1] * 10, key="server_name")
    assert len({by_name.pick(caller=caller(number, "one.example")) for number in range(100)}) == 1
    names = [by_name.pick(caller=caller(1, f"{number}.example")) for number in range(100)]
    assert len(set(names)) == 10


def test_a_node_that_is_there_twice_is_two_nodes() -> None:
    balancer = ring([{"host": "a", "weight": 1}, {"host": "a", "weight": 1}])
    picked = [balancer.pick(caller=caller(number)) for number in range(1000)]
    counts = [picked.count(node) for node in balancer.nodes]
    assert min(counts) > 300


# Known for ever: where an upgrade moved keys, every player would lose the server that has what he built.
KNOWN = "n2 n0 n1 n5 n1 n7 n5 n3 n8 n4 n4 n8"


def test_the_node_of_a_key_never_changes() -> None:
    assert " ".join(owners(ring([1] * 10), 12)) == KNOWN


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_another_process_picks_the_same_nodes(seed: str) -> None:
    """Whatever its hashes are seeded with."""
    script = (
        "from sniproxy.balancing import Caller, balancer_for\n"
        "from sniproxy.objects import InlineUpstream\n"
        "nodes = [{'host': f'n{at}', 'weight': 1 + at % 3} for at in range(20)]\n"
        "of = InlineUpstream.model_validate({'type': 'chash', 'key': 'remote_addr', 'nodes': nodes})\n"
        "balancer = balancer_for(of)\n"
        "for number in range(500):\n"
        "    client = (f'203.0.{number >> 8}.{number & 255}', 40000)\n"
        "    print(balancer.pick(caller=Caller(client, ('198.51.100.1', 443), None)).host)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == owners(ring([1 + at % 3 for at in range(20)]), 500)


@pytest.mark.parametrize(
    ("weights", "amounts"),
    [
        ([1], [POINTS]),
        ([100], [POINTS * 100 // 64]),
        ([2, 1], [POINTS, POINTS // 2]),
        ([3, 2, 1], [POINTS * 3 // 2, POINTS, POINTS // 2]),
        ([1_000_000, 1], [488, 1]),  # one at least
        ([2**53 - 1, 2**53 - 1], [2 * POINTS, 2 * POINTS]),
        ([1] * 256, [POINTS] * 256),
        ([1] * 257, [POINTS // 2] * 257),
        ([1] * (MOST_POINTS + 1), [1] * (MOST_POINTS + 1)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_how_many_points(weights: list[int], amounts: list[int]) -> None:
    assert amounts_of(weights) == amounts


@given(st.lists(st.integers(1, 2**53 - 1), min_size=1, max_size=50))
def test_points_are_bounded(weights: list[int]) -> None:
    amounts = amounts_of(weights)
    assert min(amounts) >= 1
    assert POINTS <= max(amounts) <= 2 * POINTS
    assert sum(amounts) <= MOST_POINTS


@given(st.text(max_size=20), st.integers(0, 300), st.integers(0, 300))
def test_fewer_points_are_the_first_of_more(name: str, few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert points_of(name, few) == points_of(name, more)[:few]
    assert all(0 <= point < 1 << 30 for point in points_of(name, few))
    assert len(points_of(name, few)) == few
