"""What a pod does under load, scenario by scenario, each against its bar.

    python -m bench.load [--only idle ...] [--quick] [--minutes 30] [--relay native]

    every-byte    1 000 sessions at once, every byte hashed at both ends
    idle          10 000 idle sessions, passed through, for half an hour; 5 000 that are terminated, for two minutes
    storm         5 000 players whose game server restarts, and those of another one beside them
    full-house    descriptors, max_sessions, address_sessions and route_sessions, each reached and left
    slow-readers  1 000 players who read 1 KiB a second of what their game server sends as fast as it can
    newcomers     players of a quiet route beside a flood towards another one
    handshakes    2 000 handshakes in 5 s beside 500 players who are passed through

A pod is a parent and two workers. Players and game servers are the load generator's (Rust, so cargo is needed), and run on
the same cores. `--quick` is the form of a tenth that CI runs: there bars of time are told and not held.
"""

import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import httpx

from bench import every_byte, full_house, handshakes, idle, newcomers, slow_readers, storm
from bench.generator import Failed, Generator, Missing, build
from bench.machine import describe_machine
from bench.outcome import Outcome
from bench.pod import Site
from bench.processes import descriptors
from sniproxy.relay.native import BUILT

Scenario = Callable[[Site], Outcome]


def scenarios(*, quick: bool, minutes: float | None = None) -> dict[str, Scenario]:
    """By name, in the order in which they run. minutes: for which sessions that are passed through stand idle."""
    passed, terminated = idle.PASSED, idle.TERMINATED_TLS
    if quick:
        passed, terminated = idle.smaller(passed, 0.1, 2), idle.smaller(terminated, 0.1, 1)
    if minutes is not None:
        passed = replace(passed, seconds=60 * minutes)
    hashed = every_byte.QUICK if quick else every_byte.FULL
    blown = storm.QUICK if quick else storm.FULL
    kinds = ("mixed",) if quick else ("mixed", "passed")
    return {
        "every-byte": lambda site: every_byte.every_byte(hashed, site.folder / "every-byte"),
        "idle": lambda site: idle.idle([passed, terminated], site),
        "storm": lambda site: storm.storm(blown, kinds, site),
        "full-house": lambda site: full_house.full_house(
            full_house.QUICK if quick else full_house.FULL, site
        ),
        "slow-readers": lambda site: slow_readers.slow_readers(
            slow_readers.QUICK if quick else slow_readers.FULL, site
        ),
        "newcomers": lambda site: newcomers.newcomers(
            newcomers.QUICK if quick else newcomers.FULL, site
        ),
        "handshakes": lambda site: handshakes.handshakes(
            handshakes.QUICK if quick else handshakes.FULL, site
        ),
    }


def run(chosen: dict[str, Scenario], site: Site) -> dict[str, Outcome]:
    """One after another; prints their figures."""
    outcomes = {}
    for name, scenario in chosen.items():
        click.echo(f"{name}:")
        try:
            outcome = scenario(site)
        except (Failed, AssertionError, OSError, httpx.HTTPError) as error:
            notes = getattr(error, "__notes__", ())
            outcome = Outcome([], ["\n".join([f"{type(error).__name__}: {error}", *notes])])
        for line in outcome.lines:
            click.echo(f"  {line}")
        outcomes[name] = outcome
    return outcomes


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(scenarios(quick=True))))
@click.option("--quick", is_flag=True, help="A tenth of it, in seconds.")
@click.option("--minutes", type=click.FloatRange(0.01), help="Of idle sessions. [default: 30]")
@click.option(
    "--relay",
    type=click.Choice(("native", "trio")),
    default="native" if BUILT else "trio",
    show_default=True,
)
def main(only: tuple[str, ...], quick: bool, minutes: float | None, relay: str) -> None:
    """What a pod does under load."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and what was started with it
    most = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    click.echo(f"{describe_machine()}, {relay} relay")
    known = scenarios(quick=quick, minutes=minutes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            site = Site(Generator(build(), None), relay, Path(folder))
        except Missing as error:
            raise click.ClickException(str(error)) from error
        outcomes = run({name: known[name] for name in only or known}, site)
    missed = [f"{name}: {one}" for name, outcome in outcomes.items() for one in outcome.missed]
    late = [f"{name}: {one}" for name, outcome in outcomes.items() for one in outcome.late]
    for one in missed:
        click.echo(f"FAILED: {one}", err=True)
    for one in late:
        click.echo(f"{'slower than its bar' if quick else 'FAILED'}: {one}", err=True)
    if missed or (late and not quick):
        sys.exit(1)
    click.echo("all bars are held" if not late else "nothing lost, nothing left behind")


if __name__ == "__main__":
    main()
