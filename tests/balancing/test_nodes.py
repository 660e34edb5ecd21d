"""What is known of a game server: sessions, connect times that are forgotten, and for how long it is known."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.balancing import NodeState, balancer_for, state_of
from sniproxy.balancing.nodes import DECAY
from tests.support.balancing import upstream

TYPES = ("roundrobin", "random", "least_conn", "ewma", "chash")
NODES = [{"host": "game.example", "port": 7777, "weight": 1}]


def test_a_slow_answer_counts_at_once_and_a_quick_one_bit_by_bit() -> None:
    state = NodeState()
    assert state.connect_time(0.0) == 0
    state.observe(0.010, 0.0)
    assert state.connect_time(0.0) == pytest.approx(0.010)
    state.observe(1.0, 1.0)
    assert state.connect_time(1.0) == pytest.approx(1.0)
    state.observe(0.010, 1.0)  # at the same moment it says nothing new
    assert state.connect_time(1.0) == pytest.approx(1.0)
    state.observe(0.010, 1.0 + DECAY)
    assert state.connect_time(1.0 + DECAY) == pytest.approx(1 / 2.718281828 + 0.010 * 0.632, 1e-3)


def test_what_was_seen_is_forgotten() -> None:
    state = NodeState()
    state.observe(1.0, 5.0)
    times = [state.connect_time(5.0 + passed * DECAY) for passed in range(10)]
    assert times == sorted(times, reverse=True)
    assert times[1] == pytest.approx(0.3679, 1e-3)
    assert times[9] < 0.001


@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(-1e6, 1e6)), max_size=20), st.floats(-1e6, 1e6)
)
def test_it_is_no_longer_than_the_longest_whatever_the_clock_does(
    seen: list[tuple[float, float]], now: float
) -> None:
    state = NodeState()
    for seconds, at in seen:
        state.observe(seconds, at)
    longest = max((seconds for seconds, _ in seen), default=0.0)
    assert 0 <= state.connect_time(now) <= longest * (1 + 1e-9)


def test_a_host_and_port_has_one_state_in_all_objects() -> None:
    one, other = (balancer_for(upstream(kind, NODES)).nodes[0] for kind in ("ewma", "roundrobin"))
    assert one.state is other.state is state_of("game.example", 7777)
    assert one.state is not state_of("game.example", 7778)
    assert one.state is not state_of("game.example", None)
    assert one.state is not state_of("other.example", 7777)


@pytest.mark.parametrize("kind", ["least_conn", "ewma"])
def test_an_object_that_is_written_again_keeps_it(kind: str) -> None:
    """As it is: the new one is made before the old one goes."""
    balancer = balancer_for(upstream(kind, NODES))
    balancer.nodes[0].state.enter()
    balancer.nodes[0].state.observe(0.5, 0.0)
    balancer = balancer_for(upstream(kind, [*NODES, {"host": "more.example", "weight": 1}]))
    gc.collect()
    state = balancer.nodes[0].state
    assert (state.active, state.connect_time(0.0)) == (1, 0.5)


@pytest.mark.parametrize("kind", TYPES)
def test_a_session_keeps_it_whatever_becomes_of_the_object(kind: str) -> None:
    balancer = balancer_for(upstream(kind, NODES))
    seat = balancer.nodes[0].state
    seat.enter()
    del balancer
    gc.collect()
    assert state_of("game.example", 7777) is seat
    assert balancer_for(upstream(kind, NODES)).nodes[0].state.active == 1


def test_what_nobody_refers_to_is_forgotten() -> None:
    state = state_of("gone.example", 1)
    state.enter()
    del state
    gc.collect()
    assert state_of("gone.example", 1).active == 0


@pytest.mark.parametrize(
    ("host", "bare"), [("[::1]", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1"), ("gs", "gs")]
)
def test_bare_host(host: str, bare: str) -> None:
    (node,) = balancer_for(upstream("roundrobin", [{"host": host, "weight": 1}])).nodes
    assert (node.host, node.bare_host) == (host, bare)
