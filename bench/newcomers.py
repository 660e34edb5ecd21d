"""Many come to one route at once: those who come to another do not wait behind them. `python -m bench.load --only newcomers`

No limit is set. Newcomers to a quiet route, some a second, passed through and terminated: how long is it from wanting to
connect to the first byte from the game server? First alone; then while as many as can be are in flight towards another
route, whoever is done being followed by the next.

The cores are busy meanwhile, the flood's own clients among what makes them so: some time is added to every newcomer. What
must not be is that they wait behind the flood, and so as long as those of the flood do themselves.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.outcome import Outcome, joined, over
from bench.pod import Game, Pod, Route, Site, serving
from bench.processes import cpu_seconds
from bench.side_by_side import say

RATE = 10.0  # newcomers a second, of each kind
ADDED = {"p50": 100.0, "p99": 500.0}  # milliseconds more than alone ...
SHARE = 0.25  # ... or this share of what those of the flood wait, whichever is more
LATE = 60.0  # seconds
MOST = 10**9  # sessions of a flood: it ends by the clock


@dataclass(frozen=True)
class Plan:
    """How many come."""

    newcomers: int  # of each kind
    at_once: int  # in flight in the flood

    @property
    def seconds(self) -> float:
        """In which newcomers come, and the flood too."""
        return self.newcomers / RATE


FULL = Plan(newcomers=50, at_once=2_000)
QUICK = Plan(newcomers=10, at_once=200)


def newcomers(plan: Plan, site: Site) -> Outcome:
    """Beside a flood of each kind."""
    with Game(site.generator) as busy, Game(site.generator) as calm:
        floods = [
            Route("flood-terminated.example.com", busy.port, passed=False),
            Route("flood-passed.example.com", busy.port),
        ]
        quiet = [
            Route("quiet-passed.example.com", calm.port),
            Route("quiet-terminated.example.com", calm.port, passed=False),
        ]
        with serving(site, "newcomers", [*floods, *quiet]) as pod:
            alone = _come(plan, site, pod, quiet)
            return joined([_beside(plan, site, pod, quiet, alone, flood) for flood in floods])


def _come(plan: Plan, site: Site, pod: Pod, quiet: Sequence[Route]) -> list[dict[str, Any]]:
    """Those of each kind, at the same time."""
    options = {"count": plan.newcomers, "at_once": plan.newcomers, "rate": RATE, "deadline": LATE}
    with ThreadPoolExecutor(len(quiet)) as pool:
        coming = [
            pool.submit(site.generator.run, "connections", pod.target(route), **options)
            for route in quiet
        ]
        return [one.result() for one in coming]


def _beside(
    plan: Plan,
    site: Site,
    pod: Pod,
    quiet: Sequence[Route],
    alone: list[dict[str, Any]],
    flood: Route,
) -> Outcome:
    kind = "passed through" if flood.passed else "terminated"
    options = {
        "count": MOST,
        "at_once": plan.at_once,
        "lasting": plan.seconds,
        "deadline": plan.seconds + LATE,
    }
    with ThreadPoolExecutor(1) as pool:
        cpu = cpu_seconds(pod.pid)
        flooding = pool.submit(site.generator.run, "connections", pod.target(flood), **options)
        beside = _come(plan, site, pod, quiet)
        flooded = flooding.result()
        used = cpu_seconds(pod.pid) - cpu
    count = flooded["count"]
    say(f"a flood, {kind}: {count / flooded['seconds']:.0f} a second")
    p50, p99 = (flooded["latency_us"][share] / 1000 for share in ("p50", "p99"))
    lines = [
        f"a flood of {count}, {kind}, {plan.at_once} at once, in {flooded['seconds']:.1f} s: "
        f"its own p50 {p50:.1f}, p99 {p99:.1f} ms; CPU of the pod {used:.2f} s"
    ]
    late = []
    for route, before, meanwhile in zip(quiet, alone, beside, strict=True):
        what = f"newcomers, {'passed through' if route.passed else 'terminated'}"
        shares = {
            share: (before["latency_us"][share] / 1000, meanwhile["latency_us"][share] / 1000)
            for share in ("p50", "p99", "max")
        }
        figures = ", ".join(f"{share} {a:.1f} -> {b:.1f}" for share, (a, b) in shares.items())
        lines.append(f"  {plan.newcomers} {what}: {figures} ms")
        late += delayed(f"{what}, beside a flood, {kind}", before, meanwhile, flooded)
    return Outcome(lines, late=late)


def delayed(
    what: str, alone: dict[str, Any], beside: dict[str, Any], flooded: dict[str, Any]
) -> list[str]:
    """Where newcomers have waited for those of a flood; all as the generator reports it."""
    late = []
    for share, added in ADDED.items():
        was, is_now, theirs = (one["latency_us"][share] / 1000 for one in (alone, beside, flooded))
        late += over(f"{what}: {share}", is_now, max(was + added, theirs * SHARE), "ms")
    return late
