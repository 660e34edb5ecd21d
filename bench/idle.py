"""Sessions that stand and say nothing: none is lost, and what each costs. `python -m bench.load --only idle`

All are opened, one message on each, and left alone. Then one more message on each must come back. Meanwhile the kernel asks
both sides of each session whether they are there still (TCP keepalive): its timers are counted in /proc/net/tcp.

The memory is of the whole pod, parent and workers: PSS, in which a page that several have is counted once; and the sum of
RSS, in which it is counted for each of them.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench.every_byte import TERMINATED
from bench.outcome import Outcome, joined, over
from bench.pod import Game, Pod, Route, Site, serving
from bench.processes import all_resident, cpu_seconds, memory, tree
from bench.side_by_side import say
from bench.watch import described, left_behind
from bench.works import REST, SIZE
from tests.support.stack import retry_until

EVERY = 10.0  # seconds between two lines of progress
EARLY = 1 / 6  # of the time, from when on memory may grow by no more than GROWTH: 5 of 30 minutes
GROWTH = 1.05
BUSY = 0.05  # cores
KEEPALIVE = 60  # seconds of silence after which the kernel asks
ANSWER = 120.0  # seconds for all to be opened, and to answer at the end
TIMER_KEEPALIVE = "02"  # of /proc/net/tcp, field `tr`


@dataclass(frozen=True)
class Plan:
    """How many stand for how long."""

    what: str
    sessions: int
    seconds: float
    most: float  # KiB for each
    passed: bool
    pod: float | None = None  # MiB that the pod may have beside them


PASSED = Plan("passed through", 10_000, 1800, 24, passed=True, pod=80)
TERMINATED_TLS = Plan("terminated TLS", 5_000, 120, 56, passed=False)


def idle(plans: list[Plan], site: Site) -> Outcome:
    """Each in a pod of its own."""
    return joined([_stand(plan, site) for plan in plans])


def smaller(plan: Plan, share: float, seconds: float) -> Plan:
    """So many of them, for so long: too few for what the pod is beside them."""
    return replace(plan, sessions=round(plan.sessions * share), seconds=seconds, pod=None)


def _stand(plan: Plan, site: Site) -> Outcome:
    name = "idle.example.com" if plan.passed else TERMINATED
    with Game(site.generator) as game:
        route = Route(name, game.port, plan.passed)
        folder = f"idle-{'passed' if plan.passed else 'terminated'}"
        with serving(site, folder, [route], keepalive_idle=KEEPALIVE) as pod:
            return _hold(plan, site, pod, route)


def _hold(plan: Plan, site: Site, pod: Pod, route: Route) -> Outcome:
    count = plan.sessions
    before, empty = pod.state(), all_resident(pod.pid)
    options = {"sessions": count, "count": count, "size": SIZE, "deadline": ANSWER}
    with site.generator.standing("rounds", pod.target(route), **options) as standing:
        for _ in retry_until(10, "all of them are counted"):
            if pod.active == count:
                break
        time.sleep(REST)
        say(f"{count} idle sessions, {plan.what}, are open")
        early, used = _wait(plan, pod)
        timers = keepalive_timers(Path("/proc/net/tcp").read_text(), pod.port, route.game)
        late, late_rss, active = memory(pod.pid), all_resident(pod.pid), pod.active
        answered = standing.go()["count"]
    after = pod.state()
    each, each_rss = (late - before.memory) / count, (late_rss - empty) / count
    factor, most = late / early, plan.most * count / 1024 + (plan.pod or float("inf"))
    lines = [
        f"{count} idle sessions, {plan.what}, for {plan.seconds:g} s: {count - active} lost, {answered} answer at the end; "
        f"keepalive timers {timers[0]} towards players, {timers[1]} towards the game server",
        f"KiB per session: {each:.2f} (PSS), {each_rss:.2f} (RSS); memory at the end x{factor:.3f} of what it was after "
        f"{plan.seconds * EARLY:g} s; CPU of the idle pod: {used * 100:.2f} % of a core",
        f"MiB of the pod's {len(tree(pod.pid))} processes: empty {before.memory / 1024:.1f} (PSS), "
        f"{empty / 1024:.1f} (RSS); with the sessions {late / 1024:.1f} (PSS), {late_rss / 1024:.1f} (RSS)",
        f"left after them: {described(before, after)}",
    ]
    missed = [
        *([f"{active} sessions at the end, not {count}"] if active != count else []),
        *([f"{answered} answers, of {count} sessions"] if answered != count else []),
        *([f"keepalive timers: {timers}, not {count} each"] if min(timers) < count else []),
        *over("memory of a session (PSS)", each, plan.most, "KiB"),
        *over("memory of a session (RSS)", each_rss, plan.most, "KiB"),
        *over("memory of the pod (PSS)", late / 1024, most, "MiB"),
        *over("memory at the end, of what it was early", factor, GROWTH, "times"),
        *left_behind(before, after, count),
    ]
    late_ones = over("CPU of an idle pod", used * 100, BUSY * 100, "% of a core")
    return Outcome(lines, missed, late_ones)


def _wait(plan: Plan, pod: Pod) -> tuple[float, float]:
    """Memory early on, KiB; cores used from the beginning to the end."""
    began, cpu = time.monotonic(), cpu_seconds(pod.pid)
    early, shown = 0.0, began
    while (passed := time.monotonic() - began) < plan.seconds:
        if not early and passed >= plan.seconds * EARLY:
            early = memory(pod.pid)
        if time.monotonic() - shown >= EVERY:
            shown = time.monotonic()
            used = (cpu_seconds(pod.pid) - cpu) / passed
            mib = memory(pod.pid) / 1024
            say(f"  {passed:.0f} of {plan.seconds:g} s: {used:.3f} cores, {mib:.1f} MiB")
        time.sleep(min(0.2, plan.seconds / 20))
    return early or memory(pod.pid), (cpu_seconds(pod.pid) - cpu) / (time.monotonic() - began)


def keepalive_timers(table: str, port: int, game: int) -> tuple[int, int]:
    """Sockets that wait to ask their other side: those of a listening port, and those connected to a game server's."""
    ours = theirs = 0
    for row in table.splitlines()[1:]:
        fields = row.split()
        if fields[5].partition(":")[0] == TIMER_KEEPALIVE:
            ours += _port(fields[1]) == port
            theirs += _port(fields[2]) == game
    return ours, theirs


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
