"""What a scrape of many routes costs: milliseconds of CPU, from what two workers have counted to the text.

    python -m bench.scrape [--routes 1000] [--no-bars]

Every route has had sessions that ended in five ways, in each of two workers. `export` is what a worker does each second and
at each scrape, its message included; `scrape` is the parent's: reading two messages, adding up, and writing the text. The
best of ROUNDS is taken. Exits with 1 when the scrape takes longer than BAR for 1 000 routes.
"""

import json
import sys
import time

import click
import trio

from bench.machine import describe_machine
from sniproxy.errors import CloseReason
from sniproxy.metrics import Metrics, PodMetrics
from sniproxy.scrape import Family, export, export_worker, merge, written

BAR = 50.0  # milliseconds
ROUNDS = 7
WORKERS = 2
ENDS = tuple(CloseReason)[:5]


def worker(routes: int) -> Metrics:
    """One that has worked."""
    metrics = Metrics(most_routes=routes)
    for number in range(routes):
        tally = metrics.counts.tallies.of(f"route-{number}")
        tally.opened += 1000 + number
        tally.meter.add(123_456_789, 987_654_321)
        for reason in ENDS:
            for _ in range(3):
                tally.close(reason)
    return metrics


async def measure(routes: int) -> tuple[float, float, int, int]:
    """Milliseconds of an export and of a scrape; bytes of a message and of the text."""
    workers, pod = [worker(routes) for _ in range(WORKERS)], PodMetrics()
    exports, scrapes = [], []
    for _ in range(ROUNDS):
        messages = []
        for one in workers:
            begun = time.process_time()
            messages.append(json.dumps(export_worker(one), separators=(",", ":")))
            exports.append(time.process_time() - begun)
        begun = time.process_time()
        told: list[list[Family]] = [json.loads(message) for message in messages]
        text = written(merge([export(pod.registry), *told]))
        scrapes.append(time.process_time() - begun)
    return min(exports) * 1000, min(scrapes) * 1000, len(messages[0]), len(text)


@click.command()
@click.option("--routes", default=1000)
@click.option("--bars/--no-bars", default=True)
def main(routes: int, bars: bool) -> None:
    """See the module."""
    click.echo(describe_machine())
    exported, scraped, message, text = trio.run(measure, routes)
    click.echo(f"{routes} routes, {WORKERS} workers, {len(ENDS)} reasons each")
    click.echo(f"export {exported:6.1f} ms in a worker, {message / 1024:.0f} KiB")
    click.echo(
        f"scrape {scraped:6.1f} ms in the parent, {text / 1024:.0f} KiB (at most {BAR:g} ms)"
    )
    if bars and scraped > BAR:
        sys.exit(1)


if __name__ == "__main__":
    main()
