"""What counting costs: microseconds of Python for each session and for each message, against what it was all done for.

    python -m bench.observing [--sessions 20000] [--no-bars]

`by plan`: what the worker does about a session that the relay has played without it. `served`: the accounting of one that
the worker has served itself. `message`: a piece of bytes in the relay on trio, which counts it in Python. Each is measured
with all counting and without any; the best of ROUNDS is taken. `native`: a message in the native relay, all of it, where its
thread counts and where it does not (`native_counting.py`), the median of TURNS. Counting may cost at most BAR_SESSION of
what a session costs, BAR_MESSAGE of what a message does. SESSION is half of what `bench.side_by_side` found for a session
in the quickest relay, and MESSAGE half of a round trip there. Exits with 1 when a bar is missed.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence

import click
import trio

from bench import native_counting
from bench.machine import describe_machine
from sniproxy.accounting import Account
from sniproxy.errors import CloseReason
from sniproxy.keyring import Keyring
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.metrics.counts import Counts
from sniproxy.objects import StreamRoute
from sniproxy.plan import Plan
from sniproxy.reception import Reception
from sniproxy.relay import Played
from sniproxy.relay.meters import Meter
from sniproxy.relay.native import BUILT
from sniproxy.relay.trio_relay import open_trio_relay
from sniproxy.router import Route
from sniproxy.settings import Listener, Logging, Proxy, Traces
from sniproxy.snapshot import Snapshot
from sniproxy.worker_state import Worker, open_worker

SESSION = 60.0  # microseconds of CPU
MESSAGE = 8.0
BAR_SESSION = 0.05
BAR_MESSAGE = 0.02
ROUNDS = 5
TURNS = 1000
BATCH = 64  # sessions that are told of at once


class Uncounted(Counts):
    """Counts nothing."""

    def set_up(self, *_: object, **__: object) -> None:
        """Nothing."""

    def end(self, *_: object) -> None:
        """Nothing."""

    def play(self, *_: object) -> None:
        """Nothing."""


def best(works: Sequence[Callable[[], None]], times: int) -> list[float]:
    """Microseconds of CPU for each time of each, all of them in turns."""
    found = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for place, work in enumerate(works):
            begun = time.process_time()
            work()
            found[place] = min(found[place], (time.process_time() - begun) / times * 1e6)
    return found


def by_plan(
    counts: Counts, sessions: int, worker: Worker, reception: Reception, plan: Plan
) -> Callable[[], None]:
    """Some that were played by a plan."""
    times = (150, 90, 61_000_000)
    one = Played(plan, 0, 1, "192.0.2.7:4242", CloseReason.CLIENT_CLOSED, "", 5000, 9000, *times)
    batch = [one] * BATCH

    def work() -> None:
        worker.metrics.counts = counts
        for _ in range(sessions // BATCH):
            reception.played(batch)

    return work


def served(counts: Counts, sessions: int) -> Callable[[], None]:
    """What is counted of some that the worker has served."""
    account = Account("192.0.2.7:4242", "0.0.0.0:443", 0.0)
    account.tally = counts.tallies.of("1")
    account.hello_at, account.handshake_at, account.connected_at = 0.001, 0.003, 0.004

    def work() -> None:
        for _ in range(sessions):
            counts.set_up(account, by_plan=False)
            counts.end(account, CloseReason.CLIENT_CLOSED, 61.0)

    return work


def message(messages: int) -> Callable[[], None]:
    """Pieces of bytes that are counted by route in the relay on trio."""
    meter = Meter()

    def work() -> None:
        for _ in range(messages):
            meter.add(0, 100)

    return work


async def measure(sessions: int, turns: int) -> dict[str, list[float]]:
    """Microseconds with and without counting."""
    async with open_trio_relay(buffer_size=1 << 16) as relay, trio.open_nursery() as nursery:
        snapshot = Snapshot("/apisix", Keyring(["A" * 43 + "="]))
        worker = open_worker(Proxy(), snapshot, relay, open_log("proxy", io.StringIO()))
        worker.journal.settle(Logging(sessions=0), Traces())  # `bench.telling` has what lines cost
        upstream = {"nodes": {"10.0.0.1:7777": 1}}
        route = Route("1", StreamRoute.model_validate({"sni": "a.example", "upstream": upstream}))
        assert route.target is not None
        counts: Counts = Metrics().counts
        listener = Listener(address="0.0.0.0:443", tls_passthrough=True)
        tally = counts.tallies.of("1")
        plan = Plan(listener, "a.example", route, route.target, 443, tally=tally)
        reception = Reception(worker, nursery)
        both = (counts, Uncounted())
        return {
            "by plan": best(
                [by_plan(one, sessions, worker, reception, plan) for one in both], sessions
            ),
            "served": best([served(one, sessions) for one in both], sessions),
            "message": [*best([message(sessions)], sessions), 0.0],
            **({"native": [*await native_counting.measure(turns)]} if BUILT else {}),
        }


@click.command()
@click.option("--sessions", default=20_000)
@click.option("--turns", default=TURNS, help="Of the native relay.")
@click.option("--bars/--no-bars", default=True)
def main(sessions: int, turns: int, bars: bool) -> None:
    """See the module."""
    click.echo(describe_machine())
    missed = False
    for what, (counted, bare) in trio.run(measure, sessions, turns).items():
        cost = counted - bare
        whole, bar = {"message": (MESSAGE, BAR_MESSAGE), "native": (bare, BAR_MESSAGE)}.get(
            what, (SESSION, BAR_SESSION)
        )
        share = cost / whole
        missed |= share > bar
        click.echo(
            f"{what:8} {counted:7.2f} us, {bare:7.2f} without: {cost:5.2f} us is {share:.1%} of {whole:.1f} us"
            f" (at most {bar:.0%})"
        )
    if bars and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
