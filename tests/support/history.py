"""What writers did to registers, and whether a state can have come of it, as Jepsen checks registers.

Every value is written once, so the state names the write that it came from. That write may have been the last one unless
an acknowledged one to the same key began after it had ended. A key with one writer, whose writes never overlap, has
therefore its last acknowledged value or one that was tried later; a key of many writers one that nobody replaced for sure.

This is stricter than a linearizable register in one point: a write of unknown outcome may have been done or not by the time
its writer gave up, but must not be done later. For the store is told which version of an object a write replaces. It does
not help where there is none: a member that hung may create late an object that somebody has deleted meanwhile.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

ABSENT = None  # the value of a key that was deleted, or never written
Value = int | None


class Outcome(StrEnum):
    """What a writer knows of its write."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # it has had no effect, for certain
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One write, or a deletion: the value ABSENT. `invoked` and `completed` are moments in the order of all."""

    writer: str
    key: str
    value: Value
    invoked: int
    completed: int | None = None  # None: it has not ended
    outcome: Outcome = Outcome.UNKNOWN

    def replaced_by(self, other: "Operation") -> bool:
        """Whether the other one came later for certain."""
        return (
            other.outcome is Outcome.ACKNOWLEDGED
            and self.completed is not None
            and other.invoked >= self.completed
        )

    def __str__(self) -> str:
        what = "deletion" if self.value is ABSENT else f"write of {self.value}"
        return f"{self.writer}'s {what} ({self.outcome})"


class History:
    """Records operations of several threads."""

    def __init__(self, before: Mapping[str, int] | None = None) -> None:
        """before: the state that it begins with."""
        self._lock = threading.Lock()
        self._moments = count(1)
        self._values = count(max((before or {}).values(), default=0) + 1)
        self._done: list[Operation] = [
            Operation("what was there before", key, value, -1, 0, Outcome.ACKNOWLEDGED)
            for key, value in (before or {}).items()
        ]
        self._running: dict[int, Operation] = {}

    def new_value(self) -> int:
        """One that nobody has written; values increase."""
        with self._lock:
            return next(self._values)

    def begin(self, writer: str, key: str, value: Value) -> int:
        """Before a write is sent; the number to end it by."""
        with self._lock:
            moment = next(self._moments)
            self._running[moment] = Operation(writer, key, value, moment)
            return moment

    def end(self, number: int, outcome: Outcome) -> None:
        """When the writer knows what it will ever know."""
        with self._lock:
            begun = self._running.pop(number)
            self._done.append(
                Operation(
                    begun.writer,
                    begun.key,
                    begun.value,
                    begun.invoked,
                    next(self._moments),
                    outcome,
                )
            )

    @property
    def operations(self) -> list[Operation]:
        """All so far, those that have not ended too."""
        with self._lock:
            return [*self._done, *self._running.values()]


def violations(operations: Iterable[Operation], state: Mapping[str, int]) -> list[str]:
    """Why `state`, read when no write was going on, cannot have come of these operations; empty if it can."""
    by_key: dict[str, list[Operation]] = {key: [] for key in state}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    found = (_violation(key, done, state.get(key)) for key, done in sorted(by_key.items()))
    return [one for one in found if one is not None]


def _violation(key: str, operations: list[Operation], value: Value) -> str | None:
    is_what = "is absent" if value is ABSENT else f"has the value {value}"
    sources = [one for one in operations if one.value == value]
    if value is ABSENT:
        sources.append(Operation("nobody", key, ABSENT, -1, -1))
    if not sources:
        return f"{key} {is_what}, which nobody wrote"
    possible = [one for one in sources if one.outcome is not Outcome.REFUSED]
    if not possible:
        return f"{key} {is_what}, but that was refused: {sources[-1]}"
    later = [[other for other in operations if one.replaced_by(other)] for one in possible]
    if not all(later):
        return None
    may_be_late = any(one.outcome is Outcome.UNKNOWN for one in possible)
    if value is not ABSENT and may_be_late and _may_have_been_absent(operations):
        return None
    last = max(later[-1], key=lambda other: other.invoked)
    return f"{key} {is_what}, but {last} came later"


def _may_have_been_absent(operations: list[Operation]) -> bool:
    """After all that was acknowledged."""
    deletions = [o for o in operations if o.value is ABSENT and o.outcome is not Outcome.REFUSED]
    return any(not any(one.replaced_by(other) for other in operations) for one in deletions)
