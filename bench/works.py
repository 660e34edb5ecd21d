"""The units of work: what is done through a proxy once, and what of it is written down."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from bench.generator import Failed, Generator, Target, wait_for
from bench.peers import TERMINATED, Contestant, Launch, Setup, route_name
from bench.processes import cpu_seconds, end, memory, spawn
from tests.support.players import client_hello

SETTLE = 0.3  # seconds after the last session's end, in which a proxy accounts for it
REST = 0.5  # seconds before a process's memory is looked at
START = 120.0  # seconds until a proxy must serve
WARM_UP = 200  # sessions before the first figure
SPREAD = 256  # names that are asked for among many routes
AT_ONCE = 50  # new connections in flight
STREAMS = 4  # of a bulk
WINDOW = 256 * 1024  # bytes that one of them has on the way: 100 Mbit/s over 20 ms
PLAYERS = 100
SIZE = 100  # bytes of a message
RATE = 5000  # messages per second where their latency is looked at
THOUSAND, HUNDRED_THOUSAND, GB = 1e3, 1e5, 1e9

Sample = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    rounds: int
    connections: int
    handshakes: int
    trips: int
    bulk: int  # bytes
    idle: int
    idle_tls: int
    alone: int  # connections one after another
    paced: int  # messages at RATE
    sessions: tuple[int, ...]  # points of the curves
    routes: tuple[int, ...]
    sizes: tuple[int, ...]
    curve_rounds: int
    curve_trips: int
    curve_connections: int


FULL = Plan(
    rounds=5,
    connections=10_000,
    handshakes=3_000,
    trips=100_000,
    bulk=1_000_000_000,
    idle=5_000,
    idle_tls=2_000,
    alone=1_000,
    paced=20_000,
    sessions=(1, 10, 100, 1_000, 5_000, 10_000, 20_000),
    routes=(1, 10, 100, 1_000, 10_000, 100_000),
    sizes=(1, 16, 64, 256, 1_024, 4_096, 16_384, 65_536),
    curve_rounds=3,
    curve_trips=40_000,
    curve_connections=5_000,
)
QUICK = Plan(
    rounds=1,
    connections=2_000,
    handshakes=500,
    trips=20_000,
    bulk=100_000_000,
    idle=500,
    idle_tls=200,
    alone=100,
    paced=1_000,
    sessions=(1, 1_000),
    routes=(1, 1_000),
    sizes=(1, 65_536),
    curve_rounds=1,
    curve_trips=2_000,
    curve_connections=500,
)
TINY = Plan(
    rounds=1,
    connections=200,
    handshakes=50,
    trips=500,
    bulk=5_000_000,
    idle=50,
    idle_tls=20,
    alone=20,
    paced=100,
    sessions=(1, 20),
    routes=(1, 20),
    sizes=(1, 1_024),
    curve_rounds=1,
    curve_trips=100,
    curve_connections=50,
)


@dataclass
class Running:
    """A proxy that serves."""

    contestant: Contestant
    setup: Setup
    process: Popen[bytes]
    generator: Generator
    game: int  # process id of the game server
    passed: Target
    terminated: Target
    marks: tuple[float, float, float] = field(default=(0, 0, 0))

    @property
    def pid(self) -> int:
        return self.process.pid

    def mark(self) -> None:
        """What follows counts."""
        self.marks = cpu_seconds(self.pid), self.generator.cpu, cpu_seconds(self.game)

    def spent(self, units: float) -> Sample:
        """CPU seconds per unit since the mark: the proxy's, and the load's (generator and game server)."""
        proxy, load, game = self.marks
        used = cpu_seconds(self.pid) - proxy
        loaded = self.generator.cpu - load + cpu_seconds(self.game) - game
        return {"cpu": used / units, "load_cpu": loaded / units}


@dataclass(frozen=True)
class Ready:
    """A contestant with its configuration written."""

    contestant: Contestant
    setup: Setup
    launch: Launch
    hello: Path

    @contextmanager
    def serve(self, core: int, generator: Generator, game: int) -> Iterator[Running]:
        """The proxy, warm."""
        log = self.setup.folder / "output.log"
        with log.open("ab") as output:
            process = spawn(
                self.launch.command, core, output=output, errors=output, env=self.launch.env
            )
        passed = Target(self.setup.passed, ("--hello", str(self.hello)))
        port = self.launch.terminated or self.setup.terminated
        terminated = Target(port, ("--tls", TERMINATED))
        running = Running(self.contestant, self.setup, process, generator, game, passed, terminated)
        try:
            for target in (passed, terminated):
                wait_for(generator, target, START)
                generator.run("connections", target, count=WARM_UP, at_once=AT_ONCE)
            yield running
        except BaseException as error:
            error.add_note(f"{self.contestant.name}: {log.read_text()[-1000:]}")
            raise
        finally:
            end(process)


def get_ready(contestant: Contestant, setup: Setup) -> Ready:
    """Writes its configuration, and the hellos of players of names from all over it."""
    setup.folder.mkdir(parents=True)
    step = max(1, setup.routes // SPREAD)
    names = [route_name(number) for number in range(0, setup.routes, step)][:SPREAD]
    hello = setup.folder / "hellos"
    hello.write_bytes(b"".join(map(client_hello, names)))
    return Ready(contestant, setup, contestant.prepare(setup), hello)


# --- work


def connect(proxy: Running, target: Target, count: int) -> Sample:
    """New sessions, AT_ONCE in flight; per 1000."""
    proxy.mark()
    result = proxy.generator.run("connections", target, count=count, at_once=AT_ONCE)
    time.sleep(SETTLE)
    return proxy.spent(count / THOUSAND) | {"per_second": count / result["seconds"]}


def come_back(proxy: Running, count: int) -> Sample:
    """The same of players who come back by a ticket; Failed where most of them may not."""
    target = Target(proxy.terminated.port, ("--resume", TERMINATED))
    proxy.mark()
    result = proxy.generator.run("connections", target, count=count, at_once=AT_ONCE)
    time.sleep(SETTLE)
    whole = result["whole_handshakes"]
    if whole > max(count / 10, 2 * AT_ONCE):
        raise Failed(f"connections: {whole} of {count} were not resumed")
    return proxy.spent(count / THOUSAND) | {"per_second": count / result["seconds"]}


def connect_alone(proxy: Running, target: Target, count: int) -> Sample:
    """New sessions one after another: how long each waits."""
    return _latency(proxy.generator.run("connections", target, count=count, at_once=1))


def trips(
    proxy: Running, target: Target, count: int, *, sessions: int = PLAYERS, size: int = SIZE
) -> Sample:
    """Round trips, each session's next one when the last one is back; per 100 000."""
    options = {"sessions": sessions, "count": count, "size": size}
    with proxy.generator.standing("rounds", target, **options) as standing:
        proxy.mark()
        result = standing.go()
        sample = proxy.spent(count / HUNDRED_THOUSAND)
    return sample | {"per_second": count / result["seconds"]}


def paced(proxy: Running, target: Target, count: int) -> Sample:
    """Messages at a steady rate: how long each is on its way."""
    options = {"sessions": PLAYERS, "count": count, "size": SIZE, "rate": RATE}
    with proxy.generator.standing("rounds", target, **options) as standing:
        return _latency(standing.go())


def bulk(proxy: Running, target: Target, size: int, window: int = WINDOW) -> Sample:
    """Bytes there and back over a few streams, each with no more than `window` of them on the way; per 10^9."""
    options = {"sessions": STREAMS, "bytes": size, "window": window}
    with proxy.generator.standing("bulk", target, **options) as standing:
        proxy.mark()
        result = standing.go()
        sample = proxy.spent(size / GB)
    return sample | {"per_second": size / result["seconds"]}


def hold(proxy: Running, target: Target, count: int) -> Sample:
    """Sessions that do nothing: KiB of the proxy's memory for each."""
    time.sleep(REST)
    before = memory(proxy.pid)
    with proxy.generator.standing("idle", target, sessions=count) as standing:
        time.sleep(REST)
        after = memory(proxy.pid)
        standing.go()  # all are there still
    return {"kib": (after - before) / count}


def _latency(result: dict[str, dict[str, float]]) -> Sample:
    return {share: result["latency_us"][share] / 1000 for share in ("p50", "p99")}


@dataclass(frozen=True)
class Unit:
    """A row of a table."""

    key: str
    label: str
    field: str  # of the samples, for the table
    do: Callable[[Running, Plan], Sample]
    bar: float | None = None  # ours over the best peer
    most: float | None = None  # or ours
    fresh: bool = False  # in a process of its own


COST = (
    Unit(
        "connections",
        "1000 new passthrough connections",
        "cpu",
        lambda proxy, plan: connect(proxy, proxy.passed, plan.connections),
        bar=1.0,
    ),
    Unit(
        "trips",
        "100 000 round trips of 100 B, 100 connections",
        "cpu",
        lambda proxy, plan: trips(proxy, proxy.passed, plan.trips),
        bar=0.9,
    ),
    Unit(
        "bulk",
        "1 GB echoed, 4 connections",
        "cpu",
        lambda proxy, plan: bulk(proxy, proxy.passed, plan.bulk),
        bar=0.8,
    ),
    Unit(
        "full_bulk",
        "the same, with all on the way that sockets take",
        "cpu",
        lambda proxy, plan: bulk(proxy, proxy.passed, plan.bulk, window=plan.bulk),
    ),
    Unit(
        "handshakes",
        "1000 TLS handshakes, ECDSA P-256",
        "cpu",
        lambda proxy, plan: connect(proxy, proxy.terminated, plan.handshakes),
        bar=1.0,
    ),
    Unit(
        "resumptions",
        "1000 TLS handshakes, resumed",
        "cpu",
        lambda proxy, plan: come_back(proxy, plan.handshakes),
        bar=1.0,
    ),
    Unit(
        "tls_trips",
        "100 000 round trips of 100 B, TLS terminated",
        "cpu",
        lambda proxy, plan: trips(proxy, proxy.terminated, plan.trips),
        bar=0.9,
    ),
    Unit(
        "tls_bulk",
        "1 GB echoed, TLS terminated",
        "cpu",
        lambda proxy, plan: bulk(proxy, proxy.terminated, plan.bulk),
        bar=0.9,
    ),
)
MEMORY = (
    Unit(
        "idle",
        "KiB per idle passthrough connection",
        "kib",
        lambda proxy, plan: hold(proxy, proxy.passed, plan.idle),
        most=0.5,
        fresh=True,
    ),
    Unit(
        "tls_idle",
        "KiB per idle TLS connection",
        "kib",
        lambda proxy, plan: hold(proxy, proxy.terminated, plan.idle_tls),
        most=4.7,
        fresh=True,
    ),
)
LATENCY = (
    Unit(
        "alone",
        "new passthrough connection, one at a time, to the echo",
        "p50",
        lambda proxy, plan: connect_alone(proxy, proxy.passed, plan.alone),
    ),
    Unit(
        "tls_alone",
        "new TLS connection, one at a time, to the echo",
        "p50",
        lambda proxy, plan: connect_alone(proxy, proxy.terminated, plan.alone),
    ),
    Unit(
        "paced",
        f"round trip of 100 B, {RATE} a second over 100 connections",
        "p50",
        lambda proxy, plan: paced(proxy, proxy.passed, plan.paced),
    ),
    Unit(
        "tls_paced",
        f"round trip of 100 B, {RATE} a second, TLS terminated",
        "p50",
        lambda proxy, plan: paced(proxy, proxy.terminated, plan.paced),
    ),
)
