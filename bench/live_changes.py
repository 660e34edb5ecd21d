"""How long after the API's answer a change is in force for new connections, on SQLite and on etcd.

    python -m bench.live_changes [--changes 200] [--routes 10000] [--store sqlite --store etcd]

Each change is a new route; a player then asks for its name again and again until the game server answers. Then the route
is deleted and asked for until it is refused. All of it runs on one machine, so the figures hold the player's own time too.
With --routes the same is measured again beside that many routes, to show that a change costs only itself.
"""

import tempfile
import time
from pathlib import Path

import click

from bench.machine import describe_machine, percentile
from tests.support.echo import echo_process
from tests.support.players import client_hello, connect
from tests.support.stack import Stack, retry_until, stores

BATCH = 500  # routes per progress line while loading


def reaches_a_game(port: int, hello: bytes) -> bool:
    """Whether the game server echoes the hello (10 bytes suffice: an alert has 7)."""
    with connect(port) as player:
        player.sendall(hello)
        got = b""
        while len(got) < 10:
            try:
                data = player.recv(4096)
            except ConnectionResetError:
                return False
            if not data:
                return False
            got += data
    return True


def measure(stack: Stack, node: str, changes: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the answer until in force, for each new route and for each deletion."""
    appeared, vanished = [], []
    for number in range(changes):
        name = f"change-{number}.example.com"
        hello = client_hello(name)
        route = {"sni": name, "tls_passthrough": True, "upstream": {"nodes": {node: 1}}}
        stack.put(f"/stream_routes/{name}", route)
        appeared.append(_until(stack, hello, reached=True))
        stack.api.delete(f"/stream_routes/{name}").raise_for_status()
        vanished.append(_until(stack, hello, reached=False))
    return appeared, vanished


def _until(stack: Stack, hello: bytes, *, reached: bool) -> float:
    answered = time.perf_counter()
    for _ in retry_until(10, "the change in force"):
        if reaches_a_game(stack.port, hello) is reached:
            break
    return (time.perf_counter() - answered) * 1000


def load_routes(stack: Stack, node: str, count: int) -> None:
    """That many routes that nobody asks for."""
    for number in range(count):
        name = f"other-{number}.example.org"
        stack.put(f"/stream_routes/{name}", {"sni": name, "upstream": {"nodes": {node: 1}}})
        if number % BATCH == BATCH - 1:
            click.echo(f"  {number + 1} of {count} routes loaded", err=True)


def report(kind: str, routes: int, appeared: list[float], vanished: list[float]) -> None:
    """One row per kind of change."""
    for what, times in (("new route", appeared), ("deletion", vanished)):
        row = " ".join(f"{percentile(times, share):8.2f}" for share in (0.5, 0.9, 0.99, 1.0))
        click.echo(f"{kind:8} {routes:8} {what:10} {len(times):6} {row}")


@click.command()
@click.option("--changes", default=200, show_default=True)
@click.option("--routes", default=10_000, show_default=True, help="0: only the empty run.")
@click.option("--store", "kinds", multiple=True, default=("sqlite", "etcd"), show_default=True)
def main(changes: int, routes: int, kinds: tuple[str, ...]) -> None:
    """Milliseconds from the API's answer until a change is in force."""
    click.echo(describe_machine())
    click.echo("store      routes change      count   p50 ms   p90 ms   p99 ms   max ms")
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder, echo_process() as port:
            node = f"127.0.0.1:{port}"
            with (
                stores(kind, Path(folder)) as (store, _),
                Stack(Path(folder) / "s", store) as stack,
            ):
                report(kind, 0, *measure(stack, node, changes))
                if routes:
                    load_routes(stack, node, routes)
                    report(kind, routes, *measure(stack, node, changes))


if __name__ == "__main__":
    main()
