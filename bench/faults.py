"""Faults of etcd and of the network to it, made one after the other under a site that works; nothing may come of them.

    python -m bench.faults [--each [--times N] | --minutes 30] [--every 10] [--last SECONDS] [--planes 3] [--sessions 20]
                           [--only NAME] [--seed N]
    python -m bench.faults --each --only kill-leader --times 50
    python -m bench.faults --each --only kill-all --only pause-all --last 600

A site (`site.py`) has players and writers (`traffic.py`). After each fault the writers are silent for a moment, and then:

- every data plane has in force exactly what etcd has, key by key and revision by revision, within seconds
- etcd has what the writers were told (`tests/support/history.py`)
- no session was lost, and every new connection for a route that never changed was served
- where nobody could follow etcd: each data plane said so in time, and had the first change after it in force in time

Logs of all processes are kept if it fails.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import httpx

from bench.fault_kinds import FAULTS, Fault, Scene
from bench.machine import describe_machine
from bench.side_by_side import say
from bench.site import Site
from bench.traffic import Players, Writers, playing
from tests.support.history import Outcome, violations

CATCH_UP = (
    5.0  # seconds after a fault and the last write until a data plane must have what etcd has
)
NOTICED = 15.0  # seconds that a data plane may take to say that it cannot follow etcd
LOOK = 0.02  # seconds between two looks at a data plane
SHOWN = 3  # keys that are named where states differ


@dataclass
class Report:
    """What has come of it so far."""

    faults: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)  # seconds until all planes had it all
    noticed: dict[str, float] = field(default_factory=dict)  # most seconds until all said: stale
    wrong: list[str] = field(default_factory=list)

    def note(self, name: str, seconds: float) -> None:
        """A fault is over."""
        self.faults[name] += 1
        self.slowest[name] = max(seconds, self.slowest.get(name, 0))

    def lines(self, writers: Writers, players: list[Players]) -> list[str]:
        """The summary."""
        told = ", ".join(f"{writers.counts[outcome]} {outcome}" for outcome in Outcome)
        sums = [
            sum(getattr(one, name) for one in players)
            for name in ("held", "round_trips", "newcomers")
        ]
        return [
            f"writes: {told} (deletions of what is not there are refused)",
            f"sessions held: {sums[0]}; round trips: {sums[1]}; new connections: {sums[2]}",
            *(
                f"{name}: {count} times, slowest catch-up {1000 * self.slowest[name]:.0f} ms"
                for name, count in sorted(self.faults.items())
            ),
            *(f"{name}: stale after {took:.1f} s" for name, took in sorted(self.noticed.items())),
        ]


def difference(has: dict[str, int], wanted: dict[str, int]) -> list[str]:
    """Where a data plane and etcd differ, in words; some keys of each kind."""
    kinds = {
        "lacks": sorted(wanted.keys() - has.keys()),
        "still has": sorted(has.keys() - wanted.keys()),
        "has another revision of": sorted(
            key for key in has.keys() & wanted.keys() if has[key] != wanted[key]
        ),
    }
    return [
        f"{what} {', '.join(keys[:SHOWN])}{f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''}"
        for what, keys in kinds.items()
        if keys
    ]


def differences(site: Site) -> list[str]:
    """Where data planes and etcd differ now, in words."""
    wanted = site.objects()
    found = []
    for plane in site.planes:
        try:
            config = plane.config()
        except httpx.HTTPError as error:
            found.append(f"{plane.name} does not answer: {error!r}")
            continue
        unlike = difference(config["objects"], wanted)
        unlike += ["says that it is stale"] if config["stale"] else []
        unlike += [f"holds {config['broken']} to be broken"] if config["broken"] else []
        found += [f"{plane.name} {one}" for one in unlike]
    return found


def endure(fault: Fault, site: Site, report: Report) -> None:
    """As long as it lasts; where it lasts long enough, data planes that cannot follow etcd must say so."""
    begun = time.monotonic()
    if fault.blinds:
        while lasted(begun) < min(fault.seconds, NOTICED):
            if all(plane.stale for plane in site.planes):
                report.noticed[fault.name] = max(lasted(begun), report.noticed.get(fault.name, 0))
                break
            time.sleep(LOOK)
        else:
            if fault.seconds >= NOTICED:
                report.wrong.append(f"{fault.name}: not stale after {NOTICED:g} s")
    time.sleep(max(0.0, fault.seconds - lasted(begun)))
    if fault.name in report.noticed and not all(plane.stale for plane in site.planes):
        report.wrong.append(f"{fault.name}: not stale any more, and it was not over")


def lasted(begun: float) -> float:
    """Seconds since then."""
    return time.monotonic() - begun


def make(fault: Fault, scene: Scene, players: list[Players], report: Report) -> None:
    """One fault, and what has come of it."""
    with fault.begin(scene):
        endure(fault, scene.site, report)
    ended = time.monotonic()
    with scene.writers.paused():
        if fault.blinds:  # nobody may have written since
            scene.site.admin.wait_admin()
            scene.site.admin.put("/upstreams/first-after-it", {"nodes": {}})
        deadline = time.monotonic() + CATCH_UP
        while (unlike := differences(scene.site)) and time.monotonic() < deadline:
            time.sleep(LOOK)
        report.note(fault.name, time.monotonic() - ended)
        lost = violations(scene.writers.history.operations, scene.site.registers())
        late = f"not in {CATCH_UP:g} s: "
        report.wrong += [f"{fault.name}: {one}" for one in [*(late + u for u in unlike), *lost]]
    for them in players:
        report.wrong += [f"{fault.name}: {trouble}" for trouble in them.troubles]
        them.troubles.clear()
    report.wrong += [f"{fault.name}: unexpected answer: {one}" for one in scene.writers.unexpected]
    scene.writers.unexpected.clear()
    scene.site.etcd.wait_healthy()


@dataclass(frozen=True)
class Plan:
    """Which faults, how often and how long. minutes: None for each of them so many times."""

    names: tuple[str, ...] = tuple(FAULTS)
    minutes: float | None = None
    times: int = 1  # without minutes
    last: float | None = None  # seconds, instead of each fault's own
    every: float = 10.0
    planes: int = 3
    sessions: int = 20  # on each data plane
    seed: int = 0

    def faults(self, choice: random.Random, now: Callable[[], float]) -> Iterator[Fault]:
        """All equally often. With minutes in random order, and no more once the time is up."""
        if self.minutes is None:
            yield from map(self._fault, self.names * self.times)
            return
        end = now() + 60 * self.minutes
        order = list(self.names)
        while True:
            choice.shuffle(order)
            for name in order:
                if now() >= end:
                    return
                yield self._fault(name)

    def _fault(self, name: str) -> Fault:
        fault = FAULTS[name]
        return fault if self.last is None else replace(fault, seconds=self.last)


def run(plan: Plan, folder: Path) -> Report:
    """All of it; prints its progress and its figures."""
    choice = random.Random(plan.seed)
    report = Report()
    folder.mkdir(parents=True, exist_ok=True)
    with Site(folder, plan.planes) as site, playing(site, plan.sessions) as players:
        writers = Writers(site, plan.seed)
        scene = Scene(site, writers, folder, choice)
        with writers.at_work():
            due = time.monotonic()
            for fault in plan.faults(choice, time.monotonic):
                if plan.minutes is not None:
                    time.sleep(max(0.0, due - time.monotonic()))
                    due = time.monotonic() + plan.every
                before, known = time.monotonic(), len(report.wrong)
                make(fault, scene, players, report)
                took = time.monotonic() - before
                wrong = report.wrong[known:]
                say(f"  {fault.name}: {took:.1f} s, {f'{len(wrong)} wrong' if wrong else 'sound'}")
                for one in wrong:
                    say(f"    {one}")
        lines = report.lines(writers, players)
    click.echo("\n".join(lines))
    return report


@click.command()
@click.option("--each", is_flag=True, help="Each fault, in order.")
@click.option("--times", type=click.IntRange(1), default=1, show_default=True, help="With --each.")
@click.option("--last", type=click.FloatRange(0), help="Seconds of each fault. [default: its own]")
@click.option("--minutes", type=click.FloatRange(0.05), default=30.0, show_default=True)
@click.option("--every", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds.")
@click.option("--planes", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--sessions", type=click.IntRange(1), default=20, show_default=True, help="On each data plane."
)
@click.option("--only", type=click.Choice(tuple(FAULTS)), multiple=True)
@click.option("--seed", type=int, help="Of the order. [default: a random one]")
def main(
    each: bool,
    times: int,
    last: float | None,
    minutes: float,
    every: float,
    planes: int,
    sessions: int,
    only: tuple[str, ...],
    seed: int | None,
) -> None:
    """Faults of etcd and of the network to it, under a site that works."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and what was started with it
    plan = Plan(
        names=only or tuple(FAULTS),
        minutes=None if each else minutes,
        times=times,
        last=last,
        every=every,
        planes=planes,
        sessions=sessions,
        seed=random.randrange(1_000_000) if seed is None else seed,
    )
    click.echo(f"{describe_machine()}; {planes} data planes, seed {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="sniproxy-faults-"))
    wrong: list[str] | None = None
    try:
        wrong = run(plan, folder).wrong
    finally:
        if wrong == []:
            shutil.rmtree(folder)
        else:
            click.echo(f"logs are in {folder}", err=True)
    for one in wrong:
        click.echo(f"FAILED: {one}", err=True)
    if wrong:
        sys.exit(1)
    click.echo("nothing lost, and the same state everywhere")


if __name__ == "__main__":
    main()
