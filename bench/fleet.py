"""Many data planes on one etcd: how long a write waits for all of them, and changes beside very many routes.

    python -m bench.fleet [--planes 8] [--writes 200] [--routes 20000] [--rate 100] [--seconds 30] [--no-bars]

First writes with `?wait=all`, one after the other: milliseconds from the request to the answer, which says that every data
plane has it in force. Then, on three data planes, `routes` routes of which a quarter are wildcards, players whose sessions
stand on a route that nobody touches, and `rate` changes of routes a second in etcd: milliseconds from the answer to a
change until each data plane says that it has it. No session may be lost and every new connection must be served meanwhile.

Everything runs on this machine: three members of etcd, the admin, the data planes, the players and the writers.
"""

import json
import sys
import tempfile
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import httpx

from bench.configuration import PREFIX, make_configuration
from bench.faults import differences
from bench.machine import describe_machine, percentile
from bench.processes import cpu_seconds
from bench.side_by_side import say
from bench.site import Site
from bench.traffic import playing

ACKNOWLEDGED = 100.0  # ms at the 99th percentile: the bar for ?wait=all
VISIBLE = 1000.0  # ms at the 99th percentile: the bar for a change under load
PLANES_UNDER_LOAD = 3
SESSIONS = 20  # on each data plane
WRITERS = 8  # threads that share the rate
TRANSACTION = 100  # objects that are written at once while loading
LOOK = 0.05  # seconds between two looks at what the data planes say
CHANGED = 500  # routes that are changed in turn
PATIENCE = 60.0  # seconds until all data planes must have what was loaded


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: milliseconds, and the bar for their 99th percentile."""

    what: str
    times: list[float]
    bar: float

    def __str__(self) -> str:
        shares = " ".join(f"{percentile(self.times, share):8.1f}" for share in (0.5, 0.99, 1.0))
        return f"{self.what:62} {len(self.times):6} {shares} {self.bar:6.0f}"

    @property
    def missed(self) -> bool:
        """Whether it took longer than its bar."""
        return percentile(self.times, 0.99) > self.bar


def acknowledge(site: Site, writes: int) -> list[float]:
    """Milliseconds of each write with ?wait=all, but the first: with that one the admin begins to follow the data planes."""
    took = []
    for number in range(writes + 1):
        value = {"desc": str(number), "nodes": {f"127.0.0.1:{site.game}": 1}}
        begun = time.perf_counter()
        answer = site.admin.api.put(f"/upstreams/w{number % 20}?wait=all&timeout=60s", json=value)
        took.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code in (200, 201), answer.text
        assert answer.headers["X-In-Force-On"] == str(len(site.planes)), answer.headers
    return took[1:]


def load(site: Site, routes: int) -> None:
    """That many routes, straight into etcd."""
    listing = make_configuration(routes, routes // 4, 0).listing
    for begin in range(0, len(listing.entries), TRANSACTION):
        puts = [
            {"request_put": {"key": _b64(entry.key.encode()), "value": _b64(entry.value)}}
            for entry in listing.entries[begin : begin + TRANSACTION]
        ]
        site.etcd.call("/v3/kv/txn", {"success": puts})
    deadline = time.monotonic() + PATIENCE
    while unlike := differences(site):
        assert time.monotonic() < deadline, unlike
        time.sleep(0.2)


class Watcher(threading.Thread):
    """Notes when each data plane says that it has a revision."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="watcher")
        self._site = site
        self.over = threading.Event()
        self.seen: list[tuple[float, int]] = []  # when, and the revision that all have

    def run(self) -> None:
        """Until it is over."""
        with _client(self._site) as api:
            while not self.over.wait(LOOK):
                nodes = api.get("/nodes").json()["list"]
                assert len(nodes) == len(self._site.planes), nodes
                self.seen.append((time.perf_counter(), min(node["revision"] for node in nodes)))

    def wait_for(self, revision: int) -> None:
        """Until all have it."""
        deadline = time.monotonic() + PATIENCE
        while not self.seen or self.seen[-1][1] < revision:
            assert time.monotonic() < deadline, f"revision {revision} is not everywhere"
            assert self.is_alive()
            time.sleep(LOOK)

    def delays(self, writes: list[tuple[float, int]]) -> list[float]:
        """Milliseconds from each write's answer until the last data plane had its revision."""
        found, looks = [], iter(self.seen)
        at, had = next(looks)
        for answered, revision in sorted(writes, key=lambda one: one[1]):
            while had < revision:
                at, had = next(looks)
            found.append(max(0.0, at - answered) * 1000)
        return found


def change(site: Site, rate: float, seconds: float) -> tuple[list[float], float]:
    """Milliseconds until each of `rate` changes a second is everywhere; and how many a second there were."""
    count = round(rate * seconds)
    writes: list[tuple[float, int]] = []
    etcd = httpx.Client(base_url=site.etcd.urls[0], trust_env=False, verify=False, timeout=15)

    def write(number: int) -> None:
        time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        name = f"changed-{number % CHANGED}"
        node = f"10.0.0.1:{1 + number % 60_000}"
        value = {"id": name, "sni": f"{name}.example.com", "upstream": {"nodes": {node: 1}}}
        put = {
            "key": _b64(f"{PREFIX}/stream_routes/{name}".encode()),
            "value": _b64(json.dumps(value).encode()),
        }
        answer = etcd.post("/v3/kv/put", json=put)
        answer.raise_for_status()
        writes.append((time.perf_counter(), int(answer.json()["header"]["revision"])))

    watcher = Watcher(site)
    watcher.start()
    try:
        begun = time.perf_counter()
        with etcd, ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(count)))
        took = time.perf_counter() - begun
        watcher.wait_for(max(revision for _, revision in writes))
    finally:
        watcher.over.set()
        watcher.join()
    return watcher.delays(writes), count / took


def under_load(folder: Path, routes: int, rate: float, seconds: float) -> tuple[Row, list[str]]:
    """The second part; what was measured, and what went wrong."""
    with Site(folder, PLANES_UNDER_LOAD) as site, playing(site, SESSIONS) as players:
        load(site, routes)
        say(f"{routes} routes are in force on {PLANES_UNDER_LOAD} data planes")
        before = [cpu_seconds(plane.pid) for plane in site.planes]
        delays, reached = change(site, rate, seconds)
        each = [
            1000 * (cpu_seconds(plane.pid) - cpu) / len(delays)
            for plane, cpu in zip(site.planes, before, strict=True)
        ]
        troubles = [trouble for them in players for trouble in them.troubles] + differences(site)
        say(
            f"{sum(them.held for them in players)} sessions were held; {sum(them.newcomers for them in players)} new ones"
        )
    what = f"{reached:.0f} changes a second beside {routes} routes, {PLANES_UNDER_LOAD} data planes"
    say(f"CPU of a data plane for each change, players and records included: {max(each):.1f} ms")
    return Row(what, delays, VISIBLE), troubles


def _client(site: Site) -> httpx.Client:
    api = site.admin.api
    return httpx.Client(
        base_url=api.base_url,
        headers=dict(api.headers),
        trust_env=False,
        verify=False,
        timeout=15,
    )


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()


@click.command()
@click.option("--planes", type=click.IntRange(1), default=8, show_default=True)
@click.option("--writes", type=click.IntRange(1), default=200, show_default=True)
@click.option("--routes", type=click.IntRange(4), default=20_000, show_default=True)
@click.option("--rate", type=click.FloatRange(1), default=100, show_default=True, help="A second.")
@click.option("--seconds", type=click.FloatRange(0.1), default=30, show_default=True)
@click.option("--no-bars", is_flag=True, help="Only print.")
def main(planes: int, writes: int, routes: int, rate: float, seconds: float, no_bars: bool) -> None:
    """Milliseconds until all data planes have a change in force."""
    click.echo(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        rows, troubles = run(Path(folder), planes, writes, routes, rate, seconds)
    click.echo(f"{'milliseconds':62}  count      p50      p99      max    bar")
    for row in rows:
        click.echo(str(row))
    missed = troubles + [
        f"{row.what}: {percentile(row.times, 0.99):.1f} ms"
        for row in rows
        if not no_bars and row.missed
    ]
    for one in missed:
        click.echo(f"FAILED: {one}", err=True)
    sys.exit(1 if missed else 0)


def run(
    folder: Path, planes: int, writes: int, routes: int, rate: float, seconds: float
) -> tuple[list[Row], list[str]]:
    """Both parts: what was measured, and what went wrong whatever the time it took."""
    with Site(folder / "acknowledge", planes) as site:
        say(f"{planes} data planes are up")
        what = f"write with ?wait=all, {planes} data planes"
        first = Row(what, acknowledge(site, writes), ACKNOWLEDGED)
    second, troubles = under_load(folder / "load", routes, rate, seconds)
    return [first, second], troubles


if __name__ == "__main__":
    main()
