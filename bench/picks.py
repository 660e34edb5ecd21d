"""What it costs to choose a game server: nanoseconds per pick, for each balancer, at few and at many nodes.

    python -m bench.picks [--picks 100000] [--no-bars]

Nodes have weights 1 to 3 in turn. Each pick is of another client with an IPv4 address, while STAYING sessions play and
connecting to a node takes 1 to 10 ms. The best of ROUNDS rounds is taken: what else the machine does only adds to it. The
first pick of all, in which a ring is laid out, is told apart. Exits with 1 when a bar is missed.
"""

import sys
import time
from typing import Any

import click

from bench.machine import describe_machine
from sniproxy.balancing import Balancer, Caller, balancer_for
from sniproxy.objects import InlineUpstream

BARS = {10: 2000, 1000: 5000}  # nanoseconds per pick, by nodes
ROUNDS = 5
STAYING = 1000  # sessions at once
NOTHING: frozenset[int] = frozenset()
TYPES: dict[str, dict[str, Any]] = {
    "roundrobin": {"type": "roundrobin"},
    "roundrobin, no short round": {"type": "roundrobin"},
    "random": {"type": "random"},
    "least_conn": {"type": "least_conn"},
    "ewma": {"type": "ewma"},
    "chash": {"type": "chash", "key": "remote_addr"},
    "chash of two": {
        "type": "chash",
        "hash_on": "vars_combinations",
        "key": "$remote_addr$server_name",
    },
}


def upstream(name: str, count: int) -> InlineUpstream:
    """An object with so many nodes."""
    odd = 7919 if "no short round" in name else 1  # nodes of many weights that share no measure
    nodes = [
        {
            "host": f"10.0.{at >> 8}.{at & 255}",
            "port": 7777,
            "weight": (1 + at % 3) + (odd - 1) * at,
        }
        for at in range(count)
    ]
    return InlineUpstream.model_validate({"nodes": nodes, **TYPES[name]})


def measure(name: str, count: int, picks: int) -> tuple[float, float]:
    """Nanoseconds of the first pick, and of each one later."""
    balancer = balancer_for(upstream(name, count))
    server = ("198.51.100.1", 443)
    callers = [
        Caller((f"203.{at >> 16}.{at >> 8 & 255}.{at & 255}", 40_000), server, "gs-1.example")
        for at in range(picks)
    ]
    begun = time.perf_counter_ns()
    balancer.pick(NOTHING, callers[0], 0.0)
    first = time.perf_counter_ns() - begun
    _settle(balancer, callers[:STAYING])
    return first, min(_round(balancer, callers) for _ in range(ROUNDS))


def _settle(balancer: Balancer, callers: list[Caller]) -> None:
    for at, node in enumerate(balancer.nodes):
        node.state.observe(0.001 * (1 + at % 10), 0.0)
    for caller in callers:
        picked = balancer.pick(NOTHING, caller, 1.0)
        assert picked is not None
        picked.state.enter()


def _round(balancer: Balancer, callers: list[Caller]) -> float:
    pick, now = balancer.pick, 1.0
    begun = time.perf_counter_ns()
    for caller in callers:
        pick(NOTHING, caller, now)
    return (time.perf_counter_ns() - begun) / len(callers)


@click.command()
@click.option("--picks", default=100_000, show_default=True, help="Of each balancer, in a round.")
@click.option("--bars/--no-bars", default=True, show_default=True)
def main(picks: int, bars: bool) -> None:
    """What it costs to choose a game server."""
    click.echo(describe_machine())
    click.echo(f"{'':28}{'nodes':>7}{'ns a pick':>11}{'bar':>7}{'first, us':>11}")
    met = True
    for name in TYPES:
        for count, bar in BARS.items():
            first, each = measure(name, count, picks)
            missed = each > bar
            met = met and not missed
            marked = "  MISSED" * missed
            click.echo(f"{name:28}{count:7}{each:11.0f}{bar:7}{first / 1000:11.1f}{marked}")
    if bars and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
