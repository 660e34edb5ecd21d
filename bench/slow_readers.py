"""Players who read slowly what a game server sends as fast as it can. `python -m bench.load --only slow-readers`

Each of them reads 1 KiB a second, and its kernel keeps 16 KiB for it. While they do, the proxy reads no more for them than
they take: each costs little memory, and none is lost. Other players, of another game server, send 20 messages a second
before and meanwhile.

The bar is for the memory of the pod's processes. What the kernel keeps for their sockets is told beside it: it counts for a
container too, and a machine has a limit for all of it (net.ipv4.tcp_mem).

Their p99 is held to a tenth more than before, over several rounds: the median of the rounds meanwhile against the median
before, or within what the rounds before differ from each other, or within 5 ms, because the machine is shared.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.generator import Target
from bench.outcome import Outcome, joined, over
from bench.pod import Game, Pod, Route, Site, serving
from bench.processes import cpu_seconds, memory
from bench.side_by_side import say
from bench.works import REST, SIZE

RATE = 20  # messages a second of a player
PER_SECOND = 1024  # bytes that a slow one reads
MOST = 64.0  # KiB for each of them
SLOWER = 1.1  # times the others' p99
NOISE = 5.0  # milliseconds more of it, that are a turn or two of the kernel's scheduler on a shared core
SETTLE = 2.0  # seconds in which the buffers on the way fill
ENOUGH = 0.9  # of the reads that there should be: else they are slower than they want to be
LATE = 60.0  # seconds for what may be late
SOCKSTAT = Path("/proc/net/sockstat")


@dataclass(frozen=True)
class Plan:
    """How many, and for how long."""

    readers: int
    players: int
    seconds: float  # of a round
    rounds: int


FULL = Plan(readers=1_000, players=50, seconds=10, rounds=3)
QUICK = Plan(readers=100, players=20, seconds=1, rounds=1)


def slow_readers(plan: Plan, site: Site) -> Outcome:
    """Those that are passed through, then those that are terminated."""
    with Game(site.generator, "source") as source, Game(site.generator) as game:
        played = Route("played.example.com", game.port)
        kinds = [
            Route("slow-passed.example.com", source.port),
            Route("slow-terminated.example.com", source.port, passed=False),
        ]
        outcomes = []
        with serving(site, "slow-readers", [played, *kinds], warm_up=[played]) as pod:
            for slow in kinds:
                what = "passed through" if slow.passed else "terminated"
                outcomes.append(_rounds(what, plan, site, pod, slow, pod.target(played)))
    return joined(outcomes)


def _rounds(what: str, plan: Plan, site: Site, pod: Pod, slow: Route, played: Target) -> Outcome:
    """All rounds with those of one kind."""
    readers = {"sessions": plan.readers, "size": PER_SECOND, "deadline": LATE}
    count = round(plan.players * RATE * plan.seconds)
    options = {
        "sessions": plan.players,
        "count": count,
        "rate": plan.players * RATE,
        "size": SIZE,
        "deadline": plan.seconds + LATE,
    }
    before, during, costs, kernel, used = [], [], [], [], []
    missed = []
    with site.generator.standing("rounds", played, **options) as players:
        for _ in range(plan.rounds):
            pod_before, kernel_before = memory(pod.pid), kernel_memory(SOCKSTAT.read_text())
            before.append(players.go()["latency_us"]["p99"] / 1000)
            with site.generator.standing("slow", pod.target(slow), **readers) as reading:
                time.sleep(SETTLE)
                reading.go()  # what was read until now does not count
                cpu = cpu_seconds(pod.pid)
                began = time.monotonic()
                during.append(players.go()["latency_us"]["p99"] / 1000)
                used.append((cpu_seconds(pod.pid) - cpu) / (time.monotonic() - began))
                costs.append((memory(pod.pid) - pod_before) / plan.readers)
                now = kernel_memory(SOCKSTAT.read_text())
                kernel.append((now - kernel_before) / plan.readers)
                result = reading.go()
            due = plan.readers * result["seconds"] * ENOUGH
            if result["count"] < due:
                missed.append(f"{what}: {result['count']} reads, not {due:.0f}")
            say(f"{what}: p99 {before[-1]:.2f} -> {during[-1]:.2f} ms, {costs[-1]:.1f} KiB each")
            _until_gone(pod, plan.players)
    lines = [
        f"{plan.readers} slow readers, {what}, {plan.rounds} rounds: at most {max(costs):.2f} KiB of the pod for each, "
        f"and {max(kernel):.0f} KiB of the kernel for all sockets on its way; CPU of the pod {max(used):.2f} cores",
        f"  other players' p99 in ms: before {_listed(before)}, meanwhile {_listed(during)}",
    ]
    missed += over(f"{what}: memory of a slow reader", max(costs), MOST, "KiB")
    return Outcome(lines, missed, slower(what, before, during))


def _until_gone(pod: Pod, players: int) -> None:
    end = time.monotonic() + LATE
    while pod.active > players:
        assert time.monotonic() < end, f"{pod.active} sessions are left, of {players} players"
        time.sleep(0.1)
    time.sleep(REST)


def slower(what: str, before: Sequence[float], during: Sequence[float]) -> list[str]:
    """Whether the median of `during` is beyond a tenth more than that of `before`, and beyond noise."""
    was, is_now = _median(before), _median(during)
    if is_now <= max(SLOWER * was, was + NOISE, *before):
        return []
    return [f"{what}: the others' p99 is x{is_now / was:.2f} of what it was, not x{SLOWER}"]


def kernel_memory(sockstat: str) -> float:
    """KiB that TCP sockets hold, of the whole machine."""
    for line in sockstat.splitlines():
        name, *members = line.split()
        if name == "TCP:":
            return int(members[members.index("mem") + 1]) * 4.0  # pages
    raise AssertionError("no line about TCP")


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in values)
