"""Random schedules for a session in plain, and the two who play them; what any relay must make of them, races and all."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from sniproxy.errors import CloseReason

Side = Literal["player", "server"]
SIDES: tuple[Side, Side] = ("player", "server")
Action = Literal["say", "stall", "heed", "end", "settle", "wait"]
Finish = Literal[
    "gently",  # both end, in one order or the other
    "reset",
    "close",  # everything was heard; what still comes is answered with RST
    "kill",
    "reset and kill",
    "idle",
    "session time",
    "shutdown",
]

CLOSED = {"player": CloseReason.CLIENT_CLOSED, "server": CloseReason.UPSTREAM_CLOSED}
RESET = {"player": CloseReason.CLIENT_RESET, "server": CloseReason.UPSTREAM_RESET}
IDLE, HALF_CLOSE, SESSION_TIME = 5.0, 3.0, 7.0  # seconds
PAUSE = 1.0  # seconds; two of them may follow each other


def other(side: Side) -> Side:
    """Who plays against it."""
    return SIDES[side == "player"]


class Step(NamedTuple):
    """One thing that happens; `size` in bytes where it is said."""

    action: Action
    side: Side = "player"
    size: int = 0

    def __str__(self) -> str:
        if self.action in ("settle", "wait"):
            return self.action
        return f"{self.side} {self.action}" + f" {self.size}" * (self.action == "say")


@dataclass(frozen=True)
class Schedule:
    """All that a session goes through. `leaving`: who resets, closes, or ends first of those that have not."""

    seed: int
    buffer_size: int
    kernel_buffer: int | None
    first: int
    steps: tuple[Step, ...]
    finish: Finish
    leaving: Side

    def __str__(self) -> str:
        sizes = f"buffer {self.buffer_size}, kernel's {self.kernel_buffer}, first {self.first}"
        steps = "; ".join(map(str, self.steps))
        return f"seed {self.seed} ({sizes}): {steps}; {self.finish} ({self.leaving})"

    @property
    def session_time(self) -> float | None:
        """For the flow."""
        return SESSION_TIME if self.finish == "session time" else None


def draw(seed: int) -> Schedule:
    """The same seed, the same schedule."""
    dice = random.Random(seed)
    steps = tuple(_steps(dice))
    finishes: list[Finish] = ["gently"]
    if sum(step.action == "end" for step in steps) < 2:
        finishes += ["gently", "reset", "reset", "close", "kill", "reset and kill"]
        finishes += ["idle", "session time", "shutdown"]
    return Schedule(
        seed,
        buffer_size=dice.choice((4096, 10_000, 65_536)),
        kernel_buffer=dice.choice((None, 4608, 32_768)),
        first=dice.choice((0, 0, 1, 517, 200_000)),
        steps=steps,
        finish=dice.choice(finishes),
        leaving=dice.choice(SIDES),
    )


def _steps(dice: random.Random) -> Iterator[Step]:
    ended, waits = set[Side](), 0
    for _ in range(dice.randrange(2, 14)):
        side = dice.choice(SIDES)
        action: Action = dice.choice(
            ("say", "say", "say", "say", "stall", "heed", "settle", "wait", "end")
        )
        if action == "say" and side not in ended:
            yield Step("say", side, dice.choice((1, 100, 5000, 70_000, 300_000)))
        elif action == "end" and side not in ended and dice.random() < 0.6:
            ended.add(side)
            yield Step("end", side)
        elif action == "wait" and waits < 2:
            waits += 1
            yield Step("wait")
        elif action in ("stall", "heed", "settle"):
            yield Step(action, side)


@dataclass(frozen=True)
class State:
    """Where a session stands when its finish begins."""

    ended: frozenset[Side]  # who has said that it sends no more
    seen: Side | None  # of those the one whose end the other had heard of before it ended itself
    quiet: bool  # every byte that was said has been heard


def allowed(schedule: Schedule, state: State) -> set[CloseReason]:
    """What the session may end with. More than one is a race, between ends that the relay may hear of in either order:

    - both sides end, and neither had heard of the other's end when it ended;
    - a side that has ended resets before the relay has read that end: it may be read before the reset, or not;
    - the timeout when an end may still lie behind bytes that nobody takes;
    - a reset and `kill` at once.
    """
    leaving = schedule.leaving
    both = set(CLOSED.values())
    first = {CLOSED[state.seen]} if state.seen else {CLOSED[side] for side in state.ended}
    match schedule.finish:
        case "gently":
            return first if state.seen else both
        case "reset" if leaving not in state.ended:
            return {RESET[leaving]}
        case "reset":
            return first if state.seen == leaving else {*both, RESET[leaving]}
        case "close":
            return first or {CLOSED[leaving]}
        case "kill":
            return {CloseReason.KILLED}
        case "reset and kill":
            return {CloseReason.KILLED, *allowed(replace(schedule, finish="reset"), state)}
        case "idle":
            return first if state.seen else {CloseReason.IDLE_TIMEOUT, *first}
        case "session time":
            return {CloseReason.SESSION_TIMEOUT}
        case "shutdown":
            return {CloseReason.SHUTDOWN}
