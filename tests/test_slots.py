"""Whose slot is whose: of every set of workers that are there, nobody waits in a queue that nobody serves."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sniproxy.slots import assign

SLOTS = st.integers(0, 12)
READY = st.sets(st.integers(0, 15)).map(sorted)


def test_with_all_there_each_has_its_own() -> None:
    assert assign(3, [0, 1, 2]) == {0: [0], 1: [1], 2: [2]}


def test_those_of_whoever_is_away_are_shared_out() -> None:
    assert assign(4, [1, 3]) == {1: [1, 0], 3: [3, 2]}
    assert assign(4, [3]) == {3: [3, 0, 1, 2]}


def test_who_has_no_slot_of_its_own_takes_those_first() -> None:
    """More workers than slots, as after an upgrade, or where the system does not spread."""
    assert assign(1, [0, 1, 2]) == {0: [0], 1: [], 2: []}
    assert assign(2, [1, 2]) == {1: [1], 2: [0]}


def test_nobody_is_there() -> None:
    assert assign(3, []) == {}


@given(SLOTS, READY)
def test_every_slot_is_somebodys_and_nobody_elses(slots: int, ready: list[int]) -> None:
    shares = assign(slots, ready)
    assert list(shares) == ready
    held = sorted(slot for share in shares.values() for slot in share)
    assert held == (list(range(slots)) if ready else [])


@given(SLOTS, READY)
def test_ones_own_comes_first(slots: int, ready: list[int]) -> None:
    """Whoever else comes or goes: those who wait there are not moved."""
    for worker, share in assign(slots, ready).items():
        assert (worker in share) == (worker < slots)
        assert worker not in share[1:]


@given(SLOTS, READY)
def test_shares_are_as_equal_as_can_be(slots: int, ready: list[int]) -> None:
    """Nobody has two more than another: of the two, one could be the other's, own slots being one each."""
    sizes = [len(share) for share in assign(slots, ready).values()]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(SLOTS, READY, st.randoms(use_true_random=False))
def test_the_order_in_which_they_are_named_means_nothing(
    slots: int, ready: list[int], random: Random
) -> None:
    mixed = random.sample(ready, len(ready))
    assert assign(slots, mixed) == assign(slots, ready)
