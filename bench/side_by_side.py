"""Us and the peers that are installed, side by side in one run: CPU, memory, latency, and cost against work.

    python -m bench.side_by_side [--quick] [--only connections --only idle] [--curve sessions] [--no-write]

Each proxy has one worker on one core; the load generator and the game server have another. Rounds are interleaved (each
proxy once, then each again), figures are medians. Writes docs/benchmarks/ and its part of docs/benchmarks.md.
"""

import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.generator import Failed, Generator, Missing, build
from bench.machine import describe_machine
from bench.peers import Contestant, Setup, contestants, make_certificate
from bench.processes import busy_seconds, cores, descriptors, own_seconds
from bench.report import write_report
from bench.works import (
    COST,
    FULL,
    LATENCY,
    MEMORY,
    QUICK,
    Plan,
    Ready,
    Running,
    Sample,
    Unit,
    connect,
    get_ready,
    trips,
)
from tests.support.ports import free_ports

SPARE = 300  # descriptors that are not sessions'
MUCH = 400_000_000  # bytes that a point of the curve over sizes moves at most
FEW = 5_000  # round trips of a point at least


def medians(samples: Sequence[Sample]) -> Sample:
    """Of each member by itself."""
    return {name: median(one[name] for one in samples) for name in samples[0]}


def most_sessions(limit: int) -> int:
    """That one process can hold with so many descriptors, two for each."""
    return (limit - SPARE) // 2


@dataclass
class Run:
    """One run, and what has come of it so far."""

    plan: Plan
    folder: Path
    generator: Generator
    game: int  # process id
    games: dict[str, int]  # ports, by contestant
    here: list[Contestant]
    core: int
    failures: list[str] = field(default_factory=list)
    _setups: int = 0

    def ready(self, contestant: Contestant, routes: int = 1) -> Ready:
        """Its configuration in a folder of its own."""
        self._setups += 1
        passed, terminated = free_ports(2)
        setup = Setup(
            folder=self.folder / f"{self._setups}",
            passed=passed,
            terminated=terminated,
            game=self.games[contestant.name],
            routes=routes,
            certificate=self.folder / "chain.pem",
            key=self.folder / "key.pem",
        )
        return get_ready(contestant, setup)

    @contextmanager
    def serving(self, ready: list[Ready]) -> Iterator[list[Running]]:
        """All of them at once; idle ones cost next to nothing."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(one.serve(self.core, self.generator, self.game))
                for one in ready
            ]

    def rounds(
        self, what: str, proxies: list[Running], count: int, do: Callable[[Running], Sample]
    ) -> dict[str, Any]:
        """Every proxy once, then every one again; medians and all samples, by name."""
        samples: dict[str, list[Sample]] = {one.contestant.name: [] for one in proxies}
        for _ in range(count):
            for proxy in proxies:
                name = proxy.contestant.name
                try:
                    samples[name].append(do(proxy))
                except Failed as error:
                    self.failures.append(f"{what}: {name}: {error}")
                    say(f"  FAILED {self.failures[-1]}")
        return {
            name: medians(found) | {"samples": found} for name, found in samples.items() if found
        }

    def doing(self, unit: Unit) -> Callable[[Running], Sample]:
        """A unit of work, as much of it as the plan says."""
        return lambda proxy: unit.do(proxy, self.plan)

    def fresh_rounds(self, unit: Unit, ready: list[Ready]) -> dict[str, Any]:
        """The same with a new process for each sample."""
        samples: dict[str, list[Sample]] = {one.contestant.name: [] for one in ready}
        for _ in range(self.plan.curve_rounds):
            for one in ready:
                with self.serving([one]) as (proxy,):
                    done = self.rounds(unit.key, [proxy], 1, self.doing(unit))
                    for name, found in done.items():
                        samples[name] += found["samples"]
        return {
            name: medians(found) | {"samples": found} for name, found in samples.items() if found
        }


def say(text: str) -> None:
    """Progress."""
    click.echo(text, err=True)


def tables(run: Run, ready: list[Ready], only: Sequence[str]) -> dict[str, Any]:
    """The units of work."""
    found = {}
    wanted = [unit for unit in (*COST, *LATENCY, *MEMORY) if not only or unit.key in only]
    with run.serving(ready) as proxies:
        for unit in wanted:
            if not unit.fresh:
                found[unit.key] = run.rounds(unit.key, proxies, run.plan.rounds, run.doing(unit))
                tell(unit.label, found[unit.key], unit.field)
    for unit in wanted:
        if unit.fresh:
            found[unit.key] = run.fresh_rounds(unit, ready)
            tell(unit.label, found[unit.key], unit.field)
    return found


def tell(what: str, results: dict[str, Any], member: str = "cpu") -> None:
    """One line."""
    row = ", ".join(f"{name} {one[member]:.4g}" for name, one in results.items())
    say(f"{what}: {row}")


Points = dict[int, dict[str, Any]]  # what every contestant needed, by point of a curve


def by_sessions(run: Run, ready: list[Ready]) -> Points:
    """Cost of a round trip beside others."""
    most = most_sessions(descriptors())
    points = {}
    with run.serving(ready) as proxies:
        for sessions in sorted({min(point, most) for point in run.plan.sessions}):

            def do(proxy: Running, sessions: int = sessions) -> Sample:
                count = max(run.plan.curve_trips, sessions)
                return trips(proxy, proxy.passed, count, sessions=sessions)

            points[sessions] = run.rounds("sessions", proxies, run.plan.curve_rounds, do)
            tell(f"sessions {sessions}", points[sessions])
    return points


def by_sizes(run: Run, ready: list[Ready]) -> Points:
    """Cost of a round trip by its message."""
    points = {}
    with run.serving(ready) as proxies:
        for size in run.plan.sizes:

            def do(proxy: Running, size: int = size) -> Sample:
                count = min(run.plan.curve_trips, max(FEW, MUCH // size))
                return trips(proxy, proxy.passed, count, size=size)

            points[size] = run.rounds("sizes", proxies, run.plan.curve_rounds, do)
            tell(f"bytes {size}", points[size])
    return points


def by_routes(run: Run, _: list[Ready]) -> Points:
    """Cost of a new connection beside routes that it does not take."""

    def do(proxy: Running) -> Sample:
        return connect(proxy, proxy.passed, run.plan.curve_connections)

    points = {}
    for routes in run.plan.routes:
        with run.serving([run.ready(one, routes) for one in run.here]) as proxies:
            points[routes] = run.rounds("routes", proxies, run.plan.curve_rounds, do)
        tell(f"routes {routes}", points[routes])
    return points


CURVES = {"sessions": by_sessions, "sizes": by_sizes, "routes": by_routes}


def anonymous(text: str, folder: Path) -> str:
    """A configuration without the place where it lay."""
    return text.replace(str(folder), "FOLDER")


def measure(
    plan: Plan, folder: Path, *, only: Sequence[str] = (), curves: Sequence[str] = tuple(CURVES)
) -> dict[str, Any]:
    """All of it, as it goes into the JSON file. Missing where there is no load generator."""
    binary = build()
    everybody = contestants()
    here = [one for one in everybody if not one.absent]
    proxy_core, load_core = cores()
    generator = Generator(binary, load_core)
    games = dict(zip((one.name for one in here), free_ports(len(here)), strict=True))
    folder.mkdir(exist_ok=True)
    make_certificate(folder)
    began, worked = time.time(), busy_seconds() - own_seconds()
    with generator.echo(list(games.values())) as game:
        run = Run(plan, folder, generator, game, games, here, proxy_core)
        ready = [run.ready(one) for one in here]
        units = tables(run, ready, only)
        found = {name: CURVES[name](run, ready) for name in curves}
    took = time.time() - began
    return {
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seconds": round(took),
        "others": max(0.0, busy_seconds() - own_seconds() - worked) / took,  # cores
        "cores": {"proxy": proxy_core, "load": load_core},
        "descriptors": descriptors(),
        "plan": plan.__dict__,
        "contestants": {one.name: {"version": one.version, "ours": one.ours} for one in here},
        "absent": {one.name: one.absent for one in everybody if one.absent},
        "configs": {one.contestant.name: anonymous(one.launch.config, folder) for one in ready},
        "units": units,
        "curves": found,
        "failures": run.failures,
    }


@click.command()
@click.option("--quick", is_flag=True, help="A small form, in less than a minute.")
@click.option("--rounds", type=int, help="Of the tables.")
@click.option("--only", multiple=True, help="This unit of work; again for more.")
@click.option("--curve", "curves", multiple=True, type=click.Choice((*CURVES, "none")))
@click.option("--write/--no-write", default=True, help="Into docs/.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Into this file too.")
def main(
    quick: bool,
    rounds: int | None,
    only: tuple[str, ...],
    curves: tuple[str, ...],
    write: bool,
    target: Path | None,
) -> None:
    """Us and our peers, side by side."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and what was started with it
    most = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = QUICK if quick else FULL
    if rounds is not None:
        plan = replace(plan, rounds=rounds)
    chosen = [one for one in curves or CURVES if one != "none"]
    say(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = measure(plan, Path(folder), only=only, curves=chosen)
        except Missing as error:
            raise click.ClickException(str(error)) from error
    for name, why in result["absent"].items():
        say(f"absent: {name}: {why}")
    if target is not None:
        target.write_text(json.dumps(result, indent=1) + "\n")
    if write:
        write_report(result)
    if result["failures"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
