"""What a scenario of `bench.load` has to say, and where it missed its bar."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """Figures for people, and what is not as it must be."""

    lines: list[str]
    missed: list[str] = field(default_factory=list)
    # Bars of time: what else runs on the machine counts for them, so a short form only tells.
    late: list[str] = field(default_factory=list)


def joined(outcomes: list[Outcome]) -> Outcome:
    """Several as one."""
    return Outcome(
        [line for one in outcomes for line in one.lines],
        [missed for one in outcomes for missed in one.missed],
        [late for one in outcomes for late in one.late],
    )


def over(what: str, found: float, most: float, unit: str) -> list[str]:
    """What is missed where a figure is above its bar."""
    return [f"{what}: {found:.2f} {unit}, at most {most:g} are allowed"] if found > most else []
