"""Which nodes of an upstream get no sessions, by what sessions and probes found; and for how long that is known."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from sniproxy.balancer import Target
from sniproxy.balancing import Node
from sniproxy.health import (
    _CIRCUITS,
    EARLY,
    OPEN_FOR,
    Checkup,
    Failure,
    Thresholds,
    circuit_of,
    open_circuits,
    probe_name,
)
from sniproxy.objects import InlineUpstream

TCP = Failure.TCP
RULES = Thresholds(successes=2, tcp=2, timeout=3, http=5)
NEVER = Thresholds(0, 0, 0, 0)
PATIENCE = 3.0  # seconds that an attempt may take


def node(host: str = "127.0.0.1", port: int | None = 7777) -> Node:
    return Node(InlineUpstream(nodes={f"{host}:{port}": 1}).nodes[0])  # type: ignore[arg-type,index]


@pytest.fixture
def _nothing_known() -> Iterator[None]:
    gc.collect()
    assert not _CIRCUITS
    yield
    gc.collect()
    assert not _CIRCUITS


@pytest.mark.usefixtures("_nothing_known")
def test_circuits_are_shared_by_game_server_and_rules_and_then_forgotten() -> None:
    one = circuit_of(node(), RULES)
    assert circuit_of(node(), RULES) is one
    others = [
        circuit_of(node(port=1), RULES),
        circuit_of(node("127.0.0.2"), RULES),
        circuit_of(node(), NEVER),
    ]
    assert one not in others
    one.fail(TCP, 0, 0)
    one.fail(TCP, 0, 0)
    assert open_circuits(0) == 1
    del one
    assert open_circuits(0) == 0
    assert circuit_of(node(), RULES).admits(0)


def target(*ports: int, passive: Any = None, **members: Any) -> Target:
    """An upstream whose nodes are judged by sessions, and by probes if there are `active` ones."""
    nodes = [{"host": "127.0.0.1", "port": port, "weight": 1} for port in ports]
    checks = {"active": {"type": "tcp"}, "passive": passive}
    return Target(InlineUpstream.model_validate({"nodes": nodes, "checks": checks, **members}))


def checkup_of(target: Target) -> Checkup:
    assert target.checkup is not None
    return target.checkup


def open_at(target: Target, *ports: int, now: float = 0.0) -> None:
    """Sessions fail at the nodes of these ports."""
    for one in target.balancer.nodes:
        circuit = checkup_of(target).circuit(one)
        assert circuit is not None
        if one.port in ports:
            circuit.fail(TCP, now, now)
            circuit.fail(TCP, now, now)


def ports_out(target: Target, now: float = 0.0) -> set[int | None]:
    out = checkup_of(target).out(now)
    return {one.port for one in target.balancer.nodes if id(one) in out}


@pytest.mark.parametrize("others", [0, 20])
def test_nodes_where_sessions_fail_are_out_until_one_may_try(others: int) -> None:
    """However many are open elsewhere."""
    elsewhere = target(*range(100, 100 + others), passive={})
    open_at(elsewhere, *range(100, 100 + others))
    here = target(1, 2, 3, passive={})
    assert ports_out(here) == set()
    open_at(here, 2)
    assert ports_out(here) == {2}
    assert ports_out(here, OPEN_FOR) == set()
    checkup_of(here).circuit(here.balancer.nodes[1]).begin(OPEN_FOR, PATIENCE)  # type: ignore[union-attr]
    assert ports_out(here, OPEN_FOR) == {2}
    checkup_of(here).circuit(here.balancer.nodes[1]).connect(OPEN_FOR)  # type: ignore[union-attr]
    assert ports_out(here, OPEN_FOR + EARLY) == set()
    assert here.balancer.nodes[1].port == 2


def test_a_game_server_that_an_object_names_twice_is_out_twice() -> None:
    here = target(1, 1, 2, passive={})
    open_at(here, 1)
    assert len(checkup_of(here).out(0.0)) == 2


def test_an_object_that_is_written_again_goes_on_with_it() -> None:
    first = target(1, 2, passive={})
    open_at(first, 1)
    second = target(1, 3, passive={}, retries=1)
    assert ports_out(second) == {1}
    other_rules = target(1, passive={"unhealthy": {"tcp_failures": 3}})
    assert ports_out(other_rules) == set()
    del first
    assert ports_out(second) == {1}
    del second
    assert ports_out(target(1, 2, passive={})) == set()


@pytest.mark.parametrize(
    ("passive", "watched"),
    [
        (None, False),
        ({}, True),
        ({"unhealthy": {"tcp_failures": 0}}, True),
        ({"unhealthy": {"timeouts": 0}}, True),
        ({"unhealthy": {"tcp_failures": 0, "timeouts": 0}}, False),
    ],
)
def test_sessions_are_watched_where_the_object_says_so(passive: Any, watched: bool) -> None:
    """What is watched has no plans: whoever goes by one is not seen."""
    here = target(1, passive=passive)
    assert (checkup_of(here).circuit(here.balancer.nodes[0]) is not None) is watched
    assert checkup_of(here).steady is not watched


def test_what_probes_found_counts_as_well() -> None:
    here = target(1, 2, 3, passive={})
    active = checkup_of(here).active
    assert active is not None
    names = [probe_name(one, active) for one in here.balancer.nodes]
    open_at(here, 1)
    checkup_of(here).hear(frozenset({names[1], "of another upstream"}))
    assert ports_out(here) == {1, 2}
    checkup_of(here).hear(frozenset())
    assert ports_out(here) == {1}


def test_where_a_probe_found_somebody_unwell_there_are_no_plans() -> None:
    here = target(1, 2)
    active = checkup_of(here).active
    assert active is not None
    assert checkup_of(here).steady
    checkup_of(here).hear(frozenset({probe_name(here.balancer.nodes[0], active)}))
    assert not checkup_of(here).steady
    checkup_of(here).hear(frozenset({"of another upstream"}))
    assert checkup_of(here).steady
