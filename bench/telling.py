"""What it costs a worker to tell of its sessions: a line for each, as JSON or as text, and a trace.

    python -m bench.telling [--sessions 20000] [--no-bars]

CPU microseconds per session: of the loop's thread, and of all others in the process, which write the lines (to /dev/null)
and make and encode the traces (for a collector that takes them at once: nothing is sent). Sessions that were served here are
told of one by one, those that the native relay has played by plans in batches. The rows with traces need the extra [otel].
The bars are for the loop's thread, of lines as JSON; exits with 1 when one is missed.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from bench.configuration import KEYRING, PREFIX
from bench.machine import describe_machine
from sniproxy.accounting import Account
from sniproxy.errors import CloseReason
from sniproxy.forbidden import Forbidden
from sniproxy.journal import Journal
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.plan import Plan, plan_for
from sniproxy.refusals import Sampler
from sniproxy.relay import Outcome, Played
from sniproxy.settings import Listener, Logging, Proxy, Traces
from sniproxy.snapshot import Snapshot
from sniproxy.store import Entry
from sniproxy.tracing import open_tracer

BATCH = 100  # planned sessions that are over at once
SERVED_US, PLANNED_US = 40.0, 10.0

LISTENER = Listener(address="0.0.0.0:8888", tls=True, tls_passthrough=True)
NAME = "play.example.com"
OUTCOME = Outcome(CloseReason.CLIENT_CLOSED, "", 1000, 2000)


@dataclass(frozen=True, slots=True)
class Way:
    """How sessions are told of."""

    name: str
    logging: Logging
    traced: bool = False


WAYS = (
    Way("nothing", Logging(sessions=0.0)),
    Way("lines as JSON", Logging(format="json")),
    Way("lines as text", Logging(format="text")),
    Way("traces alone", Logging(sessions=0.0), traced=True),
    Way("lines as JSON, and traces", Logging(format="json"), traced=True),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds per session."""

    loop: float
    others: float


def play(journal: Journal, sessions: int) -> None:
    """Sessions that were served here."""
    for number in range(sessions):
        account = Account(
            client="192.0.2.1:50000",
            listener=LISTENER.address,
            started=100.0,
            id=f"{number:016x}",
            sni=NAME,
            alpn="h2,http/1.1",
            route="1",
            node="10.0.0.5:7777",
            node_address="10.0.0.5:7777",
            source="10.0.0.9:40000",
            tls="passthrough",
            attempts=1,
            hello_at=100.1,
            routed_at=100.1,
            connected_at=100.2,
        )
        journal.end(account, OUTCOME, 200.0)


def play_by_plan(journal: Journal, log_many: Callable[[list[str]], None], sessions: int) -> None:
    """Sessions of the native relay."""
    plan = make_plan()
    ends = [
        Played(
            *(plan, 0, number, "192.0.2.1:50000", CloseReason.CLIENT_CLOSED, "", 1000, 2000),
            *(100, 200, 100_000_000, "h2,http/1.1", "10.0.0.9:40000"),
        )
        for number in range(BATCH)
    ]
    for _ in range(sessions // BATCH):
        now = time.time()
        bodies = [journal.body(one, now) for one in ends]
        log_many([body for body in bodies if body is not None])


def make_plan() -> Plan:
    """For NAME."""
    snapshot = Snapshot(PREFIX, Keyring(KEYRING))
    upstream = {"nodes": {"10.0.0.5:7777": 1}}
    route = {"sni": NAME, "tls_passthrough": True, "upstream": upstream}
    snapshot.apply([Entry(f"{PREFIX}/stream_routes/1", json.dumps(route).encode(), 1, 1)])
    settings = Proxy(listeners=(LISTENER,))
    plan = plan_for(snapshot, LISTENER, settings, NAME, 8888, Forbidden(settings, ()))
    assert plan is not None
    return plan


def measure(way: Way, sessions: int, *, planned: bool) -> Cost:
    """What telling of so many costs."""
    traces = Traces(enabled=way.traced, endpoint="http://127.0.0.1:9/v1/traces", queue=1_000_000)
    with Path("/dev/null").open("w") as nowhere:
        log = open_log("proxy", nowhere)
        log.choose(way.logging.format)
        journal = Journal(log, Sampler(1.0))
        journal.settle(way.logging, traces)
        tracer = open_tracer(traces, "edge-1", Metrics(), log)
        journal.tracer = tracer
        gc.collect()
        loop, all_of_it = time.thread_time(), time.process_time()
        if planned:
            play_by_plan(journal, lambda bodies: log.info_many("session", bodies), sessions)
        else:
            play(journal, sessions)
        loop = time.thread_time() - loop
        if tracer is not None:
            tracer.close(60.0)
        log.close(60.0)
        all_of_it = time.process_time() - all_of_it
    return Cost(loop / sessions * 1e6, (all_of_it - loop) / sessions * 1e6)


def take_at_once() -> None:
    """A collector that takes what is sent at once."""
    exporter: Any = import_module("sniproxy.tracing.exporter")
    encoder = import_module("opentelemetry.exporter.otlp.proto.common.trace_encoder")

    class Taking(exporter.OTLPSpanExporter):  # type: ignore[misc]
        def export(self, spans: object) -> object:
            encoder.encode_spans(spans).SerializeToString()
            return exporter.SpanExportResult.SUCCESS

    exporter.OTLPSpanExporter = Taking


def report(costs: dict[tuple[str, bool], Cost]) -> list[str]:
    """Prints them; the bars that were missed."""
    click.echo(
        "| us of CPU per session | served: loop | other threads | by plans: loop | other threads |"
    )
    click.echo("|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in costs):
        both = [costs[name, planned] for planned in (False, True)]
        cells = " | ".join(f"{one.loop:.1f} | {one.others:.1f}" for one in both)
        click.echo(f"| {name} | {cells} |")
    lines = [costs["lines as JSON", planned].loop for planned in (False, True)]
    bars = zip(("a session served", "one by a plan"), lines, (SERVED_US, PLANNED_US), strict=True)
    return [f"{what}: {cost:.1f} us > {bar:g} us" for what, cost, bar in bars if cost > bar]


@click.command()
@click.option("--sessions", default=20_000, show_default=True)
@click.option("--bars/--no-bars", default=True, help="Exit with 1 where one is missed.")
def main(sessions: int, bars: bool) -> None:
    """What telling of sessions costs."""
    click.echo(describe_machine())
    can_trace = find_spec("opentelemetry") is not None
    if can_trace:
        take_at_once()
    costs = {
        (way.name, planned): measure(way, sessions, planned=planned)
        for way in WAYS
        for planned in (False, True)
        if can_trace or not way.traced
    }
    missed = report(costs)
    for line in missed:
        click.echo(f"missed: {line}", err=True)
    sys.exit(1 if missed and bars else 0)


if __name__ == "__main__":
    main()
