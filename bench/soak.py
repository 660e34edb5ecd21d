"""One worker for long: sessions that stand for minutes, then a million short ones; nothing lost, nothing left behind.

    python -m bench.soak [--sessions 20000] [--minutes 10] [--short 1000000] [--quick] [--relay native]

The proxy has one core; the load generator and the game server behind the proxy have another. All sessions are passed
through by one of several names, and every byte that comes back is compared with what was sent.

First many sessions at once, each sending a message once a second: none is lost, and every message comes back. Then, in a
new process, short sessions, each a hello, its echo and both ends, some at a time: descriptors, tasks, sessions and memory
are what they were after a warm-up, and every session was counted once and has one line in the log. The lines of a million
sessions take half a gigabyte in the temporary folder.
"""

import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import httpx

from bench.generator import Failed, Generator, Missing, build
from bench.machine import describe_machine
from bench.peers import Setup, make_certificate, ours
from bench.processes import allocated, cores, cpu_seconds, descriptors, memory
from bench.side_by_side import SPARE, most_sessions, say
from bench.watch import Watched, described, grown, left_behind
from bench.works import AT_ONCE, REST, SIZE, get_ready
from sniproxy.relay.native import BUILT
from tests.support.ports import free_ports

NAMES = 16  # of routes
EVERY = 5.0  # seconds between two lines of progress
SLICE = 2_000  # short sessions between two looks at the clock
WARM_UP = 40_000  # short sessions before memory is looked at first; on trio it takes its last step after 25 000
LATE = 60.0  # seconds after the last message was due, in which it must be back
PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
REUSE = Path("/proc/sys/net/ipv4/tcp_tw_reuse")


@dataclass(frozen=True)
class Plan:
    """How much is done; a part with 0 sessions is left out."""

    sessions: int  # at once
    minutes: float
    short: int


FULL = Plan(sessions=20_000, minutes=10, short=1_000_000)
QUICK = Plan(sessions=500, minutes=0.25, short=10_000)


@dataclass(frozen=True)
class Outcome:
    """What a part has to say, and where it missed its bar."""

    lines: list[str]
    missed: list[str]


def within(wanted: int, limit: int, ports: int) -> int:
    """So many of these sessions as descriptors allow, two for each, and local ports, one towards each side."""
    return min(wanted, most_sessions(limit), ports - SPARE)


def local_ports() -> int:
    """How many there are for connections to one address."""
    lowest, highest = map(int, PORTS.read_text().split())
    return highest - lowest + 1


def check_ports(short: int, ports: int, reuse: int) -> None:
    """Missing where the ports of sessions that have ended would run out.

    Who closes first keeps its port for a minute: that is the player and, towards the game server, the proxy. Both have
    connected over loopback, where Linux gives such a port out again after a second unless it is told not to.
    """
    if not reuse and min(short, WARM_UP) + short > ports:
        raise Missing(
            f"{REUSE} is 0: {short} short sessions and their warm-up need more than the {ports} ports here"
        )


def slices(count: int, size: int) -> Iterator[int]:
    """Numbers up to `size` whose sum is `count`."""
    while count:
        piece = min(count, size)
        yield piece
        count -= piece


def stand(proxy: Watched, sessions: int, minutes: float) -> Outcome:
    """Many sessions at once, a message a second on each."""
    before = proxy.state()
    seconds = 60 * minutes
    due = round(sessions * seconds)
    options = {"count": due, "size": SIZE, "rate": sessions, "deadline": seconds + LATE}
    players = proxy.running.generator
    with players.standing("rounds", proxy.running.passed, sessions=sessions, **options) as standing:
        time.sleep(REST)
        first = memory(proxy.pid), allocated(proxy.pid)
        say(f"{sessions} sessions are open")
        began, cpu = time.monotonic(), cpu_seconds(proxy.pid)

        def progress() -> None:
            passed = time.monotonic() - began
            try:
                used = (cpu_seconds(proxy.pid) - cpu) / passed
                mib = memory(proxy.pid) / 1024
                seen = f"{proxy.active} sessions, {used:.2f} cores, {mib:.1f} MiB"
            except (OSError, AssertionError, httpx.HTTPError) as error:
                seen = f"the proxy does not answer: {error!r}"
            say(f"  {passed:.0f} of {seconds:g} s: {seen}")

        result = standing.go(progress, EVERY)
        used = (cpu_seconds(proxy.pid) - cpu) / (time.monotonic() - began)
        last = memory(proxy.pid), allocated(proxy.pid)
        active = proxy.active
    after = proxy.state()
    p50, p99, most = (result["latency_us"][share] / 1000 for share in ("p50", "p99", "max"))
    each = [
        f"{(now - then) / sessions:.2f}"
        for now, then in zip(first + last, 2 * (before.memory, before.allocated), strict=True)
    ]
    lines = [
        f"{sessions} sessions: {result['count']} round trips of {SIZE} bytes in {result['seconds']:.1f} s, "
        "every byte right",
        f"round trip ms: p50 {p50:.2f}, p99 {p99:.2f}, max {most:.2f}; CPU of the proxy: {used:.2f} cores",
        f"KiB per session: PSS {each[0]} at the beginning, {each[2]} at the end; "
        f"allocated {each[1]} at the beginning, {each[3]} at the end",
        f"left after them: {described(before, after)}",
    ]
    missed = left_behind(before, after, sessions)
    if active != sessions:
        missed.insert(0, f"{active} sessions at the end, not {sessions}")
    if result["count"] != due:
        missed.insert(0, f"{result['count']} round trips, not {due}")
    return Outcome(lines, missed)


def pass_by(proxy: Watched, count: int) -> Outcome:
    """Short sessions, one after another in each of some places."""
    play(proxy, min(count, WARM_UP), "sessions to warm up")
    before, cpu = proxy.state(), cpu_seconds(proxy.pid)
    took = play(proxy, count, "short sessions")
    used = cpu_seconds(proxy.pid) - cpu
    after = proxy.state()
    lines = [
        f"{count} short sessions, {AT_ONCE} at a time, in {took:.1f} s: {count / took:.0f} a second",
        f"CPU of the proxy: {used / took:.2f} cores, {used / count * 1000:.3f} s per 1000 sessions",
        f"left after them: {described(before, after)}",
    ]
    return Outcome(lines, left_behind(before, after, count) + grown(before, after))


def play(proxy: Watched, count: int, what: str) -> float:
    """So many short sessions; the seconds that they took."""
    began = shown = time.monotonic()
    done = 0
    for piece in slices(count, SLICE):
        players = proxy.running.generator
        players.run("connections", proxy.running.passed, count=piece, at_once=AT_ONCE)
        done += piece
        active = proxy.active  # each time: reading counters takes memory too
        if time.monotonic() - shown >= EVERY:
            shown = time.monotonic()
            rate, mib = done / (shown - began), memory(proxy.pid) / 1024
            say(f"  {done} of {count} {what}: {rate:.0f} a second, {active} active, {mib:.1f} MiB")
    return time.monotonic() - began


def run(plan: Plan, relay: str, folder: Path) -> list[str]:
    """Both parts; prints their figures, and returns what missed its bar. Missing where it cannot be run."""
    contestant = ours(relay)
    if contestant.absent:
        raise Missing(contestant.absent)
    check_ports(plan.short, local_ports(), int(REUSE.read_text()))
    binary = build()
    proxy_core, load_core = cores()
    generator = Generator(binary, load_core)
    folder.mkdir(exist_ok=True)
    chain, key = make_certificate(folder)
    passed, terminated, game = free_ports(3)
    setup = Setup(folder / "proxy", passed, terminated, game, NAMES, chain, key)
    ready = get_ready(contestant, setup)
    parts: tuple[tuple[int, Callable[[Watched], Outcome]], ...] = (
        (plan.sessions, lambda proxy: stand(proxy, plan.sessions, plan.minutes)),
        (plan.short, lambda proxy: pass_by(proxy, plan.short)),
    )
    missed = []
    with generator.echo([game]) as game_pid:
        for sessions, part in parts:
            if not sessions:
                continue
            try:
                with ready.serve(proxy_core, generator, game_pid) as running:
                    outcome = part(Watched(ready, running))
            except (Failed, AssertionError, OSError, httpx.HTTPError) as error:
                notes = getattr(error, "__notes__", ())
                missed.append("\n".join([f"{type(error).__name__}: {error}", *notes]))
            else:
                click.echo("\n".join(outcome.lines))
                missed += outcome.missed
    return missed


@click.command()
@click.option("--sessions", type=click.IntRange(0), help="At once. [default: 20000]")
@click.option("--minutes", type=click.FloatRange(0.05), help="For which they stand. [default: 10]")
@click.option("--short", type=click.IntRange(0), help="Short sessions. [default: 1000000]")
@click.option("--quick", is_flag=True, help="A small form: 500 for 15 s, then 10 000.")
@click.option(
    "--relay",
    type=click.Choice(("native", "trio")),
    default="native" if BUILT else "trio",
    show_default=True,
)
def main(quick: bool, relay: str, **given: Any) -> None:
    """Many sessions for long, then very many short ones. A part with 0 sessions is left out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and what was started with it
    most, ports = descriptors(), local_ports()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asked = {name: value for name, value in given.items() if value is not None}
    plan = replace(QUICK if quick else FULL, **asked)
    held = within(plan.sessions, most, ports)
    click.echo(f"{describe_machine()}, {relay} relay")
    if held < plan.sessions:
        click.echo(
            f"{held} sessions at once, not {plan.sessions}: a process may have {most} descriptors here, "
            f"and there are {ports} local ports"
        )
        plan = replace(plan, sessions=held)
    with tempfile.TemporaryDirectory() as folder:
        try:
            missed = run(plan, relay, Path(folder))
        except Missing as error:
            raise click.ClickException(str(error)) from error
    for one in missed:
        click.echo(f"FAILED: {one}", err=True)
    if missed:
        sys.exit(1)
    click.echo("nothing lost, nothing left behind")


if __name__ == "__main__":
    main()
