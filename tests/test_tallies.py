"""What sessions have come to, by route."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sniproxy.errors import CloseReason
from sniproxy.relay.meters import Meter
from sniproxy.tallies import GRACE, OTHER, SWEEP_EVERY, Tallies

ENDED = CloseReason.CLIENT_CLOSED


def tallies(most: int = 100) -> Tallies:
    """With meters as relays have them."""
    return Tallies(Meter, most)


def swept(given: Tallies, there: str, now: float) -> list[str]:
    """Who is left, where those routes exist."""
    given.sweep(lambda route: route in there, now)
    return sorted(given.by_route)


def test_sessions_are_active_until_they_are_closed() -> None:
    tally = tallies().of("7")
    tally.opened += 2
    assert tally.active == 2
    tally.close(ENDED)
    tally.close(CloseReason.KILLED)
    assert (tally.active, tally.closed) == (0, {ENDED: 1, CloseReason.KILLED: 1})


def test_a_route_is_told_apart_from_its_first_session_on() -> None:
    one = tallies()
    assert one.by_route == {}
    assert one.of("7") is one.of("7")
    assert one.of("8") is not one.of("7")


def test_those_beyond_the_most_are_one() -> None:
    one = tallies(most=2)
    first, second = one.of("1"), one.of("2")
    other = one.of("3")
    assert one.of("4") is other
    assert (one.of("1"), one.of("2")) == (first, second)
    assert sorted(one.by_route) == [OTHER, "1", "2"]
    one.most = 4
    assert one.of("5") is not other


def test_a_route_that_is_gone_stays_for_a_while_and_its_counts_for_ever() -> None:
    one = tallies()
    for route in "12":
        one.of(route).opened += 1
        one.of(route).close(ENDED)
        one.of(route).meter.add(10, 20)
    assert swept(one, "1", 0) == ["1", "2"]
    assert swept(one, "1", GRACE - 1) == ["1", "2"]
    assert swept(one, "1", GRACE + SWEEP_EVERY) == ["1"]
    assert one.closed() == {ENDED: 2}
    assert one.moved() == (20, 40)


def test_nobody_goes_while_somebody_plays() -> None:
    one = tallies()
    one.of("1").opened += 1
    for now in range(0, int(5 * GRACE), int(SWEEP_EVERY)):
        assert swept(one, "", float(now)) == ["1"]
    one.of("1").close(ENDED)
    assert swept(one, "", 5 * GRACE + SWEEP_EVERY) == ["1"]
    assert swept(one, "", 7 * GRACE) == []


def test_a_route_that_comes_back_stays() -> None:
    one = tallies()
    one.of("1")
    assert swept(one, "", 0) == ["1"]
    assert swept(one, "1", GRACE - SWEEP_EVERY) == ["1"]
    assert swept(one, "", GRACE + SWEEP_EVERY) == ["1"]
    assert swept(one, "", 2 * GRACE) == ["1"]
    assert swept(one, "", 3 * GRACE) == []


def test_looking_is_rare() -> None:
    one = tallies()
    one.of("1")
    assert swept(one, "", 0) == ["1"]
    assert swept(one, "", 2 * GRACE) == []
    one.of("1")
    one.sweep(lambda _: False, 2 * GRACE + SWEEP_EVERY / 2)
    assert one.by_route["1"].gone_at is None  # nobody has looked


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([ENDED, CloseReason.SHED]))),
    st.integers(0, 100),
)
def test_nothing_is_lost_or_counted_twice(
    most: int, sessions: list[tuple[str, CloseReason]], sweeps: int
) -> None:
    one = tallies(most)
    for number, (route, reason) in enumerate(sessions):
        tally = one.of(route)
        tally.opened += 1
        tally.meter.add(1, 2)
        tally.close(reason)
        if sweeps & 1 << number % 7:
            one.sweep(lambda _: False, (number + 1) * GRACE)
    assert one.closed() == Counter(reason for _, reason in sessions)
    assert one.moved() == (len(sessions), 2 * len(sessions))
    assert len(one.by_route) <= most + 1
