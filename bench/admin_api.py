"""The admin API beside very many objects: milliseconds of a request, and what it holds in memory.

    python -m bench.admin_api [--routes 20000] [--requests 500] [--store sqlite --store etcd] [--no-bars]

One `sniproxy admin` as a process of its own, asked by one client over HTTP, one request after the other: pages of the list
of stream routes, also by name and by upstream, of which each request asks for another; writes of one route, each of which
refers to an upstream; and deletions of an upstream that is in use, which are refused. Beside every list one route has been
written since the last one. etcd is one member, on the disk of this machine.
"""

import json
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import click
import httpx

from bench.machine import describe_machine, percentile
from bench.processes import memory
from sniproxy.settings import Settings
from sniproxy.store.opening import open_store
from tests.admin.processes import start, wait_http
from tests.support.etcd import EtcdServer, find_etcd_binaries
from tests.support.ports import free_ports

KEY = "the-key-of-an-administrator"
UPSTREAMS = 1000  # that the routes share
PAGE = 100  # objects
LIST = 100.0  # ms at the 99th percentile
WRITE = {"sqlite": 10.0, "etcd": 25.0}  # ms at the 99th percentile
MEMORY = 300.0  # MiB
TRANSACTION = 100  # objects that are written at once while loading

Request = Callable[[int], httpx.Response]


@contextmanager
def opened(store: str, folder: Path) -> Iterator[str]:
    """The store's address."""
    if store == "sqlite":
        yield f"sqlite://{folder}/config.db"
        return
    server = EtcdServer(find_etcd_binaries()[0], folder / "etcd")
    server.start()
    try:
        yield server.url.replace("http", "etcd") + "/apisix"
    finally:
        server.stop()


def objects(routes: int) -> Iterator[tuple[str, bytes]]:
    """Upstreams, and routes that refer to them: keys and values."""
    for number in range(UPSTREAMS):
        value: dict[str, object] = {"id": str(number), "nodes": {f"10.0.{number % 250}.1:7777": 1}}
        yield f"/apisix/upstreams/{number}", json.dumps(value).encode()
    for number in range(routes):
        yield f"/apisix/stream_routes/{number}", json.dumps(route(number)).encode()


async def fill(url: str, routes: int) -> None:
    """Straight into the file."""
    store = open_store(Settings.model_validate({"store": url}))
    for key, value in objects(routes):
        await store.put(key, value)
    await store.aclose()


def fill_etcd(url: str, routes: int) -> None:
    """Straight into etcd, in transactions."""
    puts = [
        {
            "request_put": {
                "key": b64encode(key.encode()).decode(),
                "value": b64encode(value).decode(),
            }
        }
        for key, value in objects(routes)
    ]
    with httpx.Client(base_url=url, timeout=30, verify=False) as client:
        for first in range(0, len(puts), TRANSACTION):
            body = {"success": puts[first : first + TRANSACTION]}
            client.post("/v3/kv/txn", json=body).raise_for_status()


def route(number: int, **members: object) -> dict[str, object]:
    """One of them."""
    return {
        "id": str(number),
        "name": f"room-{number}",
        "sni": f"room-{number}.example.com",
        "upstream_id": str(number % UPSTREAMS),
        "labels": {"region": f"r{number % 7}"},
        "create_time": 1_700_000_000,
        "update_time": 1_700_000_000,
        **members,
    }


@contextmanager
def serving(url: str, folder: Path) -> Iterator[tuple[httpx.Client, int]]:
    """The admin over a store: a client of it and its process id."""
    (port,) = free_ports(1)
    settings = {
        "SNIPROXY_STORE": url,
        "SNIPROXY_STATE_DIR": str(folder),
        "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{port}",
        "SNIPROXY_ADMIN__KEYS": json.dumps([{"name": "bench", "key": KEY}]),
        "SNIPROXY_ENCRYPTION__KEYRING": json.dumps(["A" * 43 + "="]),
    }
    process = start("admin", settings=settings)
    base = f"http://127.0.0.1:{port}/apisix/admin"
    try:
        wait_http(base, process)
        with httpx.Client(
            base_url=base, headers={"X-API-KEY": KEY}, timeout=60, verify=False
        ) as client:
            yield client, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=20)


def timed(count: int, request: Request, code: int, between: Request | None = None) -> list[float]:
    """Milliseconds of each; `between`: what happens before each, untimed."""
    times = []
    for number in range(count):
        if between is not None:
            between(number).raise_for_status()
        begun = time.perf_counter()
        answer = request(number)
        times.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == code, answer.text[:500]
    return times


def measure(
    store: str, client: httpx.Client, routes: int, count: int
) -> Iterator[tuple[str, list[float], float]]:
    """What is measured, the times and the bar for their 99th percentile."""
    pages = routes // PAGE

    def write(number: int) -> httpx.Response:
        value = {k: v for k, v in route(number).items() if not k.endswith("_time")}
        return client.put(f"/stream_routes/{number}", json=value)

    def page(query: str) -> Request:
        def ask(number: int) -> httpx.Response:
            where = f"page={number % pages + 1}&page_size={PAGE}"
            return client.get(f"/stream_routes?{where}" + query.format(number=number))

        return ask

    yield "PUT of a route", timed(count, write, 200), WRITE[store]
    first = timed(1, page(""), 200)
    click.echo(f"  the first list, for which the admin reads all of them: {first[0]:.0f} ms")
    yield "a page", timed(count, page(""), 200), LIST
    yield "a page, one route written before", timed(count, page(""), 200, write), LIST
    yield "a page of those with a name", timed(count, page("&name=room-{number}[0-9]$"), 200), LIST
    by_upstream = page("&filter=upstream_id%3D{number}")
    yield "a page of those of an upstream", timed(count, by_upstream, 200), LIST
    yield (
        "DELETE of what is in use",
        timed(count, lambda n: client.delete(f"/upstreams/{n % UPSTREAMS}"), 400),
        LIST,
    )


def run(store: str, folder: Path, routes: int, count: int) -> list[str]:
    """One store; what is over its bar."""
    missed = []
    with ExitStack() as stack:
        url = stack.enter_context(opened(store, folder))
        begun = time.monotonic()
        if store == "etcd":
            fill_etcd(url.replace("etcd", "http").removesuffix("/apisix"), routes)
        else:
            anyio.run(fill, url, routes)
        click.echo(
            f"{store}: {routes} stream routes and {UPSTREAMS} upstreams, loaded in {time.monotonic() - begun:.0f} s"
        )
        client, pid = stack.enter_context(serving(url, folder))
        click.echo(f"  {'milliseconds':40} {'p50':>8} {'p99':>8} {'max':>8} {'bar':>6}")
        for what, times, bar in measure(store, client, routes, count):
            shares = [percentile(times, share) for share in (0.5, 0.99, 1.0)]
            click.echo(f"  {what:40} " + " ".join(f"{one:8.1f}" for one in shares) + f" {bar:6.0f}")
            if shares[1] > bar:
                missed.append(
                    f"{store}: {what}: {shares[1]:.1f} ms at the 99th percentile, {bar:g} are allowed"
                )
        held = memory(pid) / 1024
        click.echo(f"  memory of the admin: {held:.0f} MiB (PSS), {MEMORY:.0f} are allowed")
        if held > MEMORY:
            missed.append(f"{store}: the admin holds {held:.0f} MiB")
    return missed


@click.command()
@click.option("--routes", type=click.IntRange(min=PAGE), default=20_000, show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--store", "stores", multiple=True, type=click.Choice(("sqlite", "etcd")))
@click.option("--no-bars", is_flag=True, help="Only tell what is over a bar.")
def main(routes: int, requests: int, stores: tuple[str, ...], no_bars: bool) -> None:
    """What a request to the admin API takes beside very many objects."""
    click.echo(describe_machine())
    missed = []
    for store in stores or ("sqlite", "etcd"):
        with tempfile.TemporaryDirectory() as folder:
            missed += run(store, Path(folder), routes, requests)
    for one in missed:
        click.echo(f"{'over its bar' if no_bars else 'FAILED'}: {one}", err=True)
    if missed and not no_bars:
        sys.exit(1)


if __name__ == "__main__":
    main()
