"""What the configuration costs a worker: loading all of it, changing one object, finding a route and a certificate.

    python -m bench.snapshot [--routes 20000] [--wildcards 5000] [--certificates 5000] [--no-bars]

A full list is loaded in a fresh process that has imported what a worker imports. Then, beside all that is loaded: every
certificate is asked for, as by its first handshake; names are looked up that hit an exact route, that hit a wildcard one,
two or three labels up, and that hit nothing; and single objects are written, deleted and written again. Nothing else runs in
that process, and all times are CPU time of its thread, so what else the machine does counts little. The bars are for 99 in
100; exits with 1 when one is missed.
"""

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from multiprocessing import get_context
from pathlib import Path
from random import Random

import click

import sniproxy.worker
from bench.configuration import (
    KEYRING,
    PREFIX,
    SHARED,
    Configuration,
    entry,
    make_configuration,
    route,
    upstream,
)
from bench.machine import describe_machine, percentile
from bench.processes import resident
from sniproxy.keyring import Keyring
from sniproxy.relay.contexts import server_context
from sniproxy.router import Arrival
from sniproxy.snapshot import Snapshot
from sniproxy.store import Deleted, Entry, Event

ROUNDS = 300  # of each kind of change: written, deleted, written again
LOOKUPS = 30_000
SHARES = (0.5, 0.99, 1.0)

LOAD_SECONDS, MEMORY_MIB, CHANGE_MS, LOOKUP_US = 3.0, 250.0, 2.0, 50.0


@dataclass(slots=True)
class Costs:
    """What was measured in the process."""

    imported: float  # MiB
    loaded: float  # MiB, the list being forgotten
    in_use: float  # MiB, with every certificate in use
    load: float  # s
    changes: dict[str, list[float]]  # ms
    lookups: dict[str, list[float]]  # us
    handshakes: list[float]  # ms


def measure(file: Path) -> Costs:
    """Runs in the process that is measured; `file` holds a Configuration."""
    imported = resident(os.getpid()) / 1024
    made: Configuration = pickle.loads(file.read_bytes())
    snapshot = Snapshot(PREFIX, Keyring(KEYRING))
    begun = time.thread_time()
    broken = snapshot.load(made.listing)
    load = time.thread_time() - begun
    assert not broken, broken
    exact, wildcards, certified = made.exact, made.wildcards, made.certified
    ssls = [one for one in made.listing.entries if "/ssls/" in one.key][:ROUNDS]
    del made
    sniproxy.worker.tame_garbage_collection()
    loaded = resident(os.getpid()) / 1024
    handshakes = [_handshake_ms(snapshot, name) for name in certified]
    in_use = resident(os.getpid()) / 1024
    lookups = dict(_look_up(snapshot, exact, wildcards))
    changes = {
        kind: list(_change(snapshot, events))
        for kind, events in _changes(exact, wildcards, ssls).items()
    }
    return Costs(imported, loaded, in_use, load, changes, lookups, handshakes)


def _handshake_ms(snapshot: Snapshot, name: str) -> float:
    begun = time.thread_time()
    certificate = snapshot.certificates.choose(name.replace("*", "star"), time.time())
    assert certificate is not None
    server_context(certificate.server_tls)
    return (time.thread_time() - begun) * 1e3


def _look_up(
    snapshot: Snapshot, exact: list[str], wildcards: list[str]
) -> Iterator[tuple[str, list[float]]]:
    random = Random(2)
    here = ip_address("192.0.2.1"), ip_address("198.51.100.1"), 443

    def find(name: str) -> object:
        return snapshot.router.match(Arrival(name, *here))

    def below(depth: int) -> str:
        return "player." * (depth - 1) + random.choice(wildcards).replace("*", "server")

    now = time.time()
    names: dict[str, Callable[[], str]] = {
        "exact": lambda: random.choice(exact),
        "wildcard": lambda: below(random.randint(1, 3)),
        "none": lambda: f"nobody.{random.choice(exact)}",
    }
    ways: dict[str, Callable[[str], object]] = {
        "route": find,
        "certificate": lambda name: snapshot.certificates.choose(name, now),
    }
    for way, find_one in ways.items():
        for kind, name in names.items():
            times = [_timed_us(find_one, name()) for _ in range(LOOKUPS // len(names))]
            yield f"{way}, {kind}", times


def _timed_us(find: Callable[[str], object], name: str) -> float:
    begun = time.thread_time()
    find(name)
    return (time.thread_time() - begun) * 1e6


def _changes(exact: list[str], wildcards: list[str], ssls: list[Entry]) -> dict[str, list[Event]]:
    random = Random(3)

    def stream_route(number: int, name: str) -> Entry:
        return entry(f"stream_routes/{number}", route(random, number, name), 0)

    shared = upstream(random)
    kinds = {
        "exact route": [stream_route(number, exact[number]) for number in range(ROUNDS)],
        "wildcard route": [
            stream_route(len(exact) + number, wildcards[number]) for number in range(ROUNDS)
        ],
        "ssl": ssls,
        "upstream of 1 000 routes": [entry(f"upstreams/{SHARED}", shared, 0)] * ROUNDS,
        "service of 1 000 routes": [entry(f"services/{SHARED}", {"upstream": shared}, 0)] * ROUNDS,
    }
    return {
        kind: [event for one in written for event in (one, Deleted(one.key, 0), one)]
        for kind, written in kinds.items()
    }


def _change(snapshot: Snapshot, events: list[Event]) -> Iterator[float]:
    for event in events:
        begun = time.thread_time()
        broken = snapshot.apply([event])
        yield (time.thread_time() - begun) * 1e3
        assert not broken, broken


def report(costs: Costs) -> bool:
    """The table; whether every bar is met."""
    rows = [
        ("cold load, s", [costs.load], LOAD_SECONDS),
        ("memory of the process, MiB", [costs.loaded], MEMORY_MIB),
        ("  before it loaded anything", [costs.imported], None),
        ("  with every certificate in use", [costs.in_use], None),
        *((f"change: {kind}, ms", times, CHANGE_MS) for kind, times in costs.changes.items()),
        *((f"look-up: {kind}, us", times, LOOKUP_US) for kind, times in costs.lookups.items()),
        ("certificate's first use, ms", costs.handshakes, None),
    ]
    click.echo(f"{'':40}{'count':>7}{'p50':>10}{'p99':>10}{'max':>10}{'bar':>8}")
    met = True
    for what, values, bar in rows:
        figures = [percentile(values, share) for share in SHARES]
        missed = bar is not None and figures[1] > bar
        met = met and not missed
        cells = "".join(f"{figure:10.3f}" for figure in figures)
        limit = f"{bar:8g}" if bar is not None else ""
        click.echo(f"{what:40}{len(values):7}{cells}{limit}{'  MISSED' * missed}")
    return met


@click.command()
@click.option("--routes", default=20_000, show_default=True, help="In all.")
@click.option("--wildcards", default=5_000, show_default=True, help="Of the routes.")
@click.option("--certificates", default=5_000, show_default=True)
@click.option("--bars/--no-bars", default=True, show_default=True)
def main(routes: int, wildcards: int, certificates: int, bars: bool) -> None:
    """What the configuration costs a worker."""
    click.echo(describe_machine())
    click.echo(f"{routes} routes, {wildcards} of them wildcards; {certificates} certificates")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "configuration"
        file.write_bytes(pickle.dumps(make_configuration(routes, wildcards, certificates)))
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            met = report(fresh.submit(measure, file).result())
    if bars and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
