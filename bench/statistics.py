"""What traffic statistics cost: bytes in the store, and milliseconds of CPU, with all routes busy on all data planes.

    python -m bench.statistics [--routes 1000] [--pods 20] [--workers 8]

Counts are drawn at random, about as large as those of a busy route, so they pack as badly as real ones. What an etcd is
written counts until it compacts its history; what is kept counts for good.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import click

from admin.statistics import Wanted, as_json
from bench.machine import describe_machine
from sniproxy.bookkeeping import SOONEST
from sniproxy.metrics.rows import Rows
from sniproxy.objects.traffic import DAY, Part, Row, Stored, Traffic, joined_day, joined_hour
from sniproxy.scrape import family_of, rows_in
from sniproxy.settings import Statistics
from sniproxy.statistics import LOOK_EVERY, Growth, look_at

MIB = 2**20


def traffic(names: list[str], draw: random.Random) -> Traffic:
    """An hour of one data plane."""
    routes = {
        name: Row(
            draw.randrange(10**3),
            draw.randrange(10**9),
            draw.randrange(10**10),
            draw.randrange(10**7),
            draw.randrange(10**3),
        )
        for name in names
    }
    site = Row()
    for row in routes.values():
        site = site.beside(row)
    return Traffic(site, routes)


def exported(names: list[str], draw: random.Random) -> list[dict[str, Any]]:
    """As a worker tells it."""
    most = 10**9
    rows: Rows = {
        name: [draw.randrange(most), 9, draw.randrange(most), draw.randrange(most), {"x": 1}]
        for name in names
    }
    return [family_of(rows)]


def timed(work: Callable[[], object], times: int = 5) -> float:
    """Milliseconds of CPU, the best of so many."""
    best = float("inf")
    for _ in range(times):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best * 1000


@click.command()
@click.option("--routes", default=1000, show_default=True)
@click.option("--pods", default=20, show_default=True)
@click.option("--workers", default=8, show_default=True, help="Of one data plane.")
def main(routes: int, pods: int, workers: int) -> None:
    """Print bytes and milliseconds."""
    draw = random.Random(10)
    settings = Statistics(max_routes=routes)
    names = [f"game-server-{number}.example" for number in range(routes)]
    parts = [
        Part("", 0, f"pod-{pod}", f"{pod:012x}", Stored(traffic(names, draw), 1), 1)
        for pod in range(pods)
    ]
    hour = joined_hour(Stored(), parts, routes)
    day = Stored()
    for one in range(DAY):
        again = [Part("", one, p.node, f"{one:04x}{p.token[4:]}", p.stored, 1) for p in parts]
        day = joined_day(day, hour, again, routes)
    part_size, hour_size, day_size = (len(one.encode()) for one in (parts[0].stored, hour, day))
    kept = (hour_size * settings.keep_hours + day_size * settings.keep_days) / MIB
    writes = 3600 / (settings.interval * (1 + SOONEST) / 2)
    written = (pods * part_size * (writes + 1) + hour_size + day_size) / MIB
    click.echo(describe_machine())
    click.echo(f"{routes} routes, {pods} data planes of {workers} workers")
    click.echo(f"bytes of a part; an hour; a day: {part_size}; {hour_size}; {day_size}")
    click.echo(f"kept, {settings.keep_hours} hours and {settings.keep_days} days: {kept:.1f} MiB")
    click.echo(f"written in an hour by all: {written:.1f} MiB")
    told = [family for _ in range(workers) for family in exported(names, draw)]
    growth = Growth({})
    encoded, month = hour.encode(), range(30 * DAY)
    wanted = Wanted("hour", 0, 30 * DAY, None, as_csv=False)

    def read() -> None:
        found = ((one, (Stored.decode(encoded) or Stored()).traffic) for one in month)
        as_json(wanted, found, routes)

    look = timed(lambda: growth.take(look_at(rows_in(told)), LOOK_EVERY))
    click.echo(f"ms of a look, each {LOOK_EVERY:g} s: {look:.1f}")
    click.echo(f"ms to pack a part: {timed(parts[0].stored.encode):.1f}")
    click.echo(f"ms to fold an hour: {timed(lambda: joined_hour(Stored(), parts, routes)):.1f}")
    click.echo(f"ms to read 30 days by the hour: {timed(read, 1):.0f}")


if __name__ == "__main__":
    main()
