"""Opinions of game servers, and the circuits that sessions open and close: tables, and a model of whole histories."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.health import (
    EARLY,
    OPEN_AT_MOST,
    OPEN_FOR,
    Circuit,
    Failure,
    Health,
    Thresholds,
    open_circuits,
)

TCP, TIMEOUT, HTTP = Failure.TCP, Failure.TIMEOUT, Failure.HTTP
RULES = Thresholds(successes=2, tcp=2, timeout=3, http=5)
NEVER = Thresholds(0, 0, 0, 0)
PATIENCE = 3.0  # seconds that an attempt may take


def health(history: str, thresholds: Thresholds = RULES) -> Health:
    """After that: S for a success, else the first letter of a failure (T for a timeout, C for TCP, H)."""
    found = Health(thresholds)
    for what in history:
        if what == "S":
            found.succeed()
        else:
            found.fail({"C": TCP, "T": TIMEOUT, "H": HTTP}[what])
    return found


@pytest.mark.parametrize(
    ("history", "healthy"),
    [
        ("", True),
        ("C", True),
        ("CC", False),
        ("CSC", True),  # in a row
        ("TT", True),
        ("TTT", False),
        ("TCT", True),  # each kind by itself,
        ("TCTT", False),  # and one does not end the row of another
        ("HHHH", True),
        ("HHHHH", False),
        ("CCS", False),
        ("CCSS", True),
        ("CCSCS", False),
        ("CCSSC", True),  # anew
        ("CCSSCC", False),
    ],
)
def test_so_many_in_a_row_change_the_opinion(history: str, healthy: bool) -> None:
    assert health(history).healthy is healthy


@pytest.mark.parametrize(("history", "last"), [("C", "C"), ("TT", "T"), ("CC", "S"), ("CCS", "S")])
def test_whoever_tells_hears_whether_that_changed_anything(history: str, last: str) -> None:
    found = health(history)
    before = found.healthy
    changed = found.succeed() if last == "S" else found.fail(TCP if last == "C" else TIMEOUT)
    assert changed is (found.healthy is not before)


@given(st.text("SCTH"))
def test_thresholds_of_0_are_off(history: str) -> None:
    assert health(history, NEVER).healthy
    if history.endswith("CC"):
        assert not health(history, replace(NEVER, tcp=2)).healthy
    assert health("CC" + history, replace(RULES, successes=0)).healthy is False  # for ever


@given(st.text("SCTH"))
def test_an_opinion_is_what_the_last_row_says(history: str) -> None:
    """By a model that reads the whole history anew for each step."""
    healthy = True
    for end in range(1, len(history) + 1):
        row = history[:end].rpartition("S")[2]  # since the last success
        if healthy:
            healthy = not (row.count("C") >= 2 or row.count("T") >= 3 or row.count("H") >= 5)
        elif history[:end].endswith("SS"):
            healthy = True
    assert health(history).healthy is healthy


def opened(at: float = 0.0, thresholds: Thresholds = RULES) -> Circuit:
    """One that has opened at that time."""
    circuit = Circuit(thresholds)
    assert circuit.fail(TCP, at, at) is False
    assert circuit.fail(TCP, at, at) is True
    return circuit


def test_a_closed_one_admits_everybody() -> None:
    circuit = Circuit(RULES)
    for now in (0.0, 1.0, 1.0):
        assert circuit.admits(now)
        circuit.begin(now, PATIENCE)
        assert circuit.admits(now)


@pytest.mark.parametrize(
    ("failures", "opens"),
    [
        ([TCP], False),
        ([TCP, TCP], True),
        ([TIMEOUT] * 2, False),
        ([TIMEOUT] * 3, True),
        ([TIMEOUT, TCP, TIMEOUT], False),
        ([TIMEOUT, TCP, TIMEOUT, TCP], True),
    ],
)
def test_failures_to_connect_open_it(failures: list[Failure], opens: bool) -> None:
    circuit = Circuit(RULES)
    told = [circuit.fail(one, 0.0, 0.0) for one in failures]
    assert told == [False] * (len(failures) - 1) + [opens]
    assert circuit.admits(0.0) is not opens


def test_one_that_connects_ends_the_row() -> None:
    circuit = Circuit(RULES)
    for now in range(10):
        assert not circuit.fail(TCP, now, now)
        circuit.connect(now)
    assert circuit.admits(10)


def test_it_admits_nobody_for_a_while_and_then_one() -> None:
    circuit = opened(at=10.0)
    assert not circuit.admits(10.0)
    assert not circuit.admits(10.0 + OPEN_FOR - 0.001)
    assert circuit.admits(10.0 + OPEN_FOR)
    circuit.begin(10.0 + OPEN_FOR, PATIENCE)
    assert not circuit.admits(10.0 + OPEN_FOR)


def test_the_one_who_tries_may_never_tell() -> None:
    circuit = opened()
    circuit.begin(OPEN_FOR, PATIENCE)
    assert not circuit.admits(OPEN_FOR + PATIENCE - 0.001)
    assert circuit.admits(OPEN_FOR + PATIENCE)


def test_the_one_who_tries_may_find_out_nothing() -> None:
    circuit = opened()
    circuit.begin(OPEN_FOR, PATIENCE)
    circuit.withdraw()
    assert circuit.admits(OPEN_FOR)


def test_one_that_is_sent_there_before_anybody_may_try_is_not_the_one_who_tries() -> None:
    """Everybody is sent where all are out."""
    circuit = opened()
    circuit.begin(OPEN_FOR / 2, PATIENCE)
    assert circuit.admits(OPEN_FOR)


def test_it_closes_once_the_one_who_tries_was_kept() -> None:
    circuit = opened()
    circuit.begin(OPEN_FOR, PATIENCE)
    circuit.connect(OPEN_FOR + 2.0)
    assert not circuit.admits(OPEN_FOR + 2.0 + EARLY - 0.001)
    for _ in range(3):
        assert circuit.admits(OPEN_FOR + 2.0 + EARLY)
        circuit.begin(OPEN_FOR + 2.0 + EARLY, PATIENCE)
    assert circuit.until is None


def test_each_who_fails_doubles_the_time_up_to_a_cap() -> None:
    circuit, now, wait, waits = opened(), 0.0, OPEN_FOR, []
    for _ in range(10):
        now += wait
        assert circuit.admits(now)
        circuit.begin(now, PATIENCE)
        assert not circuit.fail(TIMEOUT, now, now + PATIENCE)  # whatever it failed by
        now += PATIENCE
        assert circuit.until is not None
        wait = circuit.until - now
        waits.append(wait)
        assert not circuit.admits(circuit.until - 0.001)
    assert waits == [2, 4, 8, 16, 32, *[OPEN_AT_MOST] * 5]


def test_the_time_begins_anew_once_it_was_closed() -> None:
    circuit = opened()
    circuit.begin(1.0, PATIENCE)
    circuit.fail(TCP, 1.0, 1.0)
    circuit.begin(3.0, PATIENCE)
    circuit.connect(3.0)
    assert circuit.admits(4.0)
    assert not circuit.fail(TCP, 4.0, 4.0)  # and so do the rows
    assert circuit.fail(TCP, 4.0, 4.0)
    assert circuit.until == 4.0 + OPEN_FOR


@pytest.mark.parametrize("began", [-2.0, 0.0, OPEN_FOR - 0.001])
@pytest.mark.parametrize("ended", [0.0, OPEN_FOR / 2, OPEN_FOR, OPEN_FOR + PATIENCE])
def test_failures_that_were_on_their_way_when_it_opened_change_nothing(
    began: float, ended: float
) -> None:
    circuit = opened()
    assert not circuit.fail(TIMEOUT, began, ended)
    assert not circuit.lose(began, ended)
    assert circuit.until == OPEN_FOR
    assert circuit.admits(OPEN_FOR + PATIENCE)


def test_who_connected_before_it_opened_does_not_close_it() -> None:
    """A crash: those who are there hang, new ones are refused."""
    circuit = Circuit(RULES)
    circuit.connect(0.0)
    circuit.fail(TCP, 0.5, 0.5)
    assert circuit.fail(TCP, 0.5, 0.5)
    assert not circuit.admits(EARLY)
    assert circuit.until is not None


def test_early_ends_open_it_though_everybody_connects() -> None:
    circuit = Circuit(RULES)
    circuit.connect(0.0)
    assert not circuit.lose(0.0, 0.1)
    circuit.connect(10.0)
    assert circuit.lose(10.0, 10.1)
    assert not circuit.admits(10.1)


def test_an_end_that_is_not_early_says_nothing() -> None:
    circuit = Circuit(RULES)
    for now in (0.0, 10.0, 20.0):
        circuit.connect(now)
        assert not circuit.lose(now, now + EARLY)
    assert circuit.admits(30.0)


def test_an_early_end_of_the_one_who_tries_keeps_it_open_for_longer() -> None:
    circuit = opened()
    circuit.begin(OPEN_FOR, PATIENCE)
    circuit.connect(OPEN_FOR)
    assert not circuit.lose(OPEN_FOR, OPEN_FOR + 0.5)
    assert circuit.until == OPEN_FOR + 0.5 + 2 * OPEN_FOR
    assert not circuit.admits(OPEN_FOR + EARLY)


def test_one_that_was_kept_ends_the_row_of_early_ends() -> None:
    """Whoever is turned away without a word, again and again, does not take the game server from all others."""
    circuit, now = Circuit(RULES), 0.0
    for _ in range(10):
        circuit.connect(now)
        circuit.connect(now + 0.25)
        assert not circuit.lose(now + 0.25, now + 0.5)
        now += EARLY  # the first one was kept
    assert circuit.admits(now)


def test_with_a_threshold_of_0_early_ends_count_nothing() -> None:
    circuit = Circuit(replace(RULES, tcp=0))
    for now in range(100):
        circuit.connect(now)
        assert not circuit.lose(now, now)
        assert not circuit.fail(TCP, now, now)
    assert circuit.admits(100)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["refused", "silent", "connects", "lost", "nothing"]),
        st.floats(0, 5),  # seconds since the step before
        st.booleans(),  # whether it goes there though it is not admitted
    )
)


@given(STEPS)
def test_whatever_happens_it_is_tried_again_in_time(steps: list[tuple[str, float, bool]]) -> None:
    """Never more than one who tries, never a wait above the cap, nothing kept of those who connected long ago."""
    circuit, now, trying = Circuit(RULES), 0.0, -1.0
    for what, pause, all_out in steps:
        now += pause
        was_open = circuit.until is not None and now >= circuit.until
        admitted = circuit.admits(now)
        if not admitted and not all_out:
            continue
        if admitted and circuit.until is not None and was_open:
            assert now >= trying
        circuit.begin(now, PATIENCE)
        trying = -1.0
        match what:
            case "refused":
                circuit.fail(TCP, now, now)
            case "silent":
                circuit.fail(TIMEOUT, now, now + PATIENCE)
                now += PATIENCE
            case "connects":
                circuit.connect(now)
            case "lost":
                circuit.connect(now)
                circuit.lose(now, now)
            case _:
                trying = now + PATIENCE if circuit.until is not None and was_open else -1.0
        if circuit.until is not None:
            assert circuit.until - now <= OPEN_AT_MOST
            assert circuit.admits(now + OPEN_AT_MOST + PATIENCE)
    circuit.admits(now + EARLY)
    assert circuit._unproven == []


def test_how_many_are_open_is_known_without_a_session() -> None:
    circuit = opened()
    assert open_circuits(0) == 1
    circuit.connect(OPEN_FOR)
    assert open_circuits(OPEN_FOR) == 1
    assert open_circuits(OPEN_FOR + EARLY) == 0
