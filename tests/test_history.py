"""The checker of histories: what it must let pass, what it must notice, and that it agrees with trying all orders."""

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.history import ABSENT, History, Operation, Outcome, Value, violations

ACK, REFUSED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.REFUSED, Outcome.UNKNOWN


def one(
    value: Value, invoked: int, completed: int | None, outcome: Outcome = ACK, writer: str = "a"
) -> Operation:
    return Operation(writer, "k", value, invoked, completed, outcome)


def judge(operations: list[Operation], value: Value) -> list[str]:
    return violations(operations, {} if value is None else {"k": value})


@pytest.mark.parametrize(
    ("operations", "value"),
    [
        ([], ABSENT),
        ([one(1, 1, 2)], 1),
        ([one(1, 1, 2), one(2, 3, 4)], 2),
        ([one(1, 1, 2), one(2, 3, 4, UNKNOWN)], 1),
        ([one(1, 1, 2), one(2, 3, 4, UNKNOWN)], 2),
        ([one(1, 1, 2), one(2, 3, 4, UNKNOWN), one(3, 5, 6, UNKNOWN)], 2),
        ([one(1, 1, 2), one(2, 3, 4, REFUSED)], 1),
        ([one(1, 1, 2), one(2, 3, None, UNKNOWN)], 2),
        ([one(1, 1, 2), one(ABSENT, 3, 4)], ABSENT),
        ([one(1, 1, 2), one(ABSENT, 3, 4, UNKNOWN)], ABSENT),
        ([one(1, 1, 2), one(ABSENT, 3, 4, UNKNOWN)], 1),
        ([one(1, 1, 2, UNKNOWN)], ABSENT),
        ([one(1, 1, 4), one(2, 2, 3, writer="b")], 1),  # at once: either may be the last
        ([one(1, 1, 4), one(2, 2, 3, writer="b")], 2),
        ([one(1, 1, 2), one(ABSENT, 3, 6), one(3, 4, 5, writer="b")], ABSENT),
        ([one(1, 1, None, UNKNOWN), one(2, 2, 3, writer="b")], 1),
        ([one(1, 1, 2, UNKNOWN), one(2, 3, 4), one(ABSENT, 5, 6, UNKNOWN)], 1),  # created late
        ([one(1, 1, 2, UNKNOWN), one(2, 3, 6), one(ABSENT, 4, 5)], 1),
    ],
)
def test_what_can_have_happened(operations: list[Operation], value: Value) -> None:
    assert judge(operations, value) == []


@pytest.mark.parametrize(
    ("operations", "value", "violation"),
    [
        ([], 7, "k has the value 7, which nobody wrote"),
        ([one(1, 1, 2)], ABSENT, "k is absent, but a's write of 1 (acknowledged) came later"),
        (
            [one(1, 1, 2), one(2, 3, 4)],
            1,
            "k has the value 1, but a's write of 2 (acknowledged) came later",
        ),
        (
            [one(1, 1, 2), one(2, 3, 4, UNKNOWN), one(3, 5, 6)],
            2,
            "k has the value 2, but a's write of 3 (acknowledged) came later",
        ),
        (
            [one(ABSENT, 1, 2), one(1, 3, 4, UNKNOWN), one(2, 5, 6)],
            1,
            "k has the value 1, but a's write of 2 (acknowledged) came later",
        ),
        (
            [one(1, 1, 2), one(2, 3, 4, REFUSED)],
            2,
            "k has the value 2, but that was refused: a's write of 2 (refused)",
        ),
        (
            [one(1, 1, 2), one(ABSENT, 3, 4)],
            1,
            "k has the value 1, but a's deletion (acknowledged) came later",
        ),
        (
            [one(1, 1, 2), one(ABSENT, 3, 4, REFUSED)],
            ABSENT,
            "k is absent, but a's write of 1 (acknowledged) came later",
        ),
        (
            [one(ABSENT, 1, 2), one(1, 3, 4)],
            ABSENT,
            "k is absent, but a's write of 1 (acknowledged) came later",
        ),
        (
            [one(1, 1, 2), one(2, 3, 6, writer="b"), one(3, 4, 5, writer="c")],
            1,
            "k has the value 1, but c's write of 3 (acknowledged) came later",
        ),
    ],
)
def test_what_cannot(operations: list[Operation], value: Value, violation: str) -> None:
    assert judge(operations, value) == [violation]


def test_keys_are_judged_by_themselves() -> None:
    lost = Operation("a", "lost", 1, 1, 2, ACK)
    kept = Operation("a", "kept", 2, 3, 4, ACK)
    (violation,) = violations([lost, kept], {"kept": 2})
    assert violation.startswith("lost is absent")


def test_a_history_knows_what_was_there_and_what_goes_on() -> None:
    history = History({"k": 5})
    value = history.new_value()
    number = history.begin("a", "k", value)
    assert value == 6
    assert violations(history.operations, {"k": 5}) == []
    assert violations(history.operations, {"k": 6}) == []
    history.end(number, ACK)
    assert violations(history.operations, {"k": 6}) == []
    assert violations(history.operations, {"k": 5}) != []


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to five operations of any overlap; one value in three is a deletion."""
    number = draw(st.integers(0, 5))
    moments = draw(st.permutations(range(1, 2 * number + 1)))
    found = []
    for at in range(number):
        begin, end = sorted(moments[2 * at : 2 * at + 2])
        value = draw(st.sampled_from((ABSENT, at, at)))
        outcome = draw(st.sampled_from((ACK, REFUSED, UNKNOWN)))
        found.append(one(value, begin, end, outcome, f"w{at}"))
    return found


def final_values(operations: list[Operation]) -> set[Value]:
    """The values that some order leaves behind: those of unknown outcome done or not, none before one that had ended.

    But for what is created late, where there is nothing.
    """
    certain = [each for each in operations if each.outcome is ACK]
    unknown = [each for each in operations if each.outcome is UNKNOWN]
    return {
        order[-1].value if order else ABSENT
        for size in range(len(unknown) + 1)
        for also in combinations(unknown, size)
        for order in permutations([*certain, *also])
        if not any(
            later.completed is not None and later.completed < earlier.invoked
            for at, later in enumerate(order)
            if not (
                later.outcome is UNKNOWN
                and later.value is not ABSENT
                and (not at or order[at - 1].value is ABSENT)
            )
            for earlier in order[:at]
        )
    }


@given(histories())
def test_it_agrees_with_trying_all_orders(operations: list[Operation]) -> None:
    possible = final_values(operations)
    for value in (ABSENT, *range(len(operations) + 1)):
        assert (judge(operations, value) == []) is (value in possible)
