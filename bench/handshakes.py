"""Handshakes by the thousand beside players who are passed through. `python -m bench.load --only handshakes`

Newcomers have their TLS terminated, one echo each, at a steady rate; nothing is resumed. The players of another game server
send 20 messages a second before and meanwhile. The arithmetic of one handshake takes as long as a hundred messages do, and
those who play must not wait for it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.outcome import Outcome, over
from bench.pod import Game, Route, Site, serving
from bench.processes import cpu_seconds
from bench.storm import ENDED, RATE, Trips
from bench.works import SIZE
from sniproxy.errors import REFUSALS

DONE = 15.0  # seconds until all are
WAIT = 100.0  # milliseconds, p99 of a round trip of those who play


@dataclass(frozen=True)
class Plan:
    """How many come, and who plays beside them."""

    newcomers: int
    seconds: float  # in which they come
    players: int


FULL = Plan(newcomers=2_000, seconds=5, players=500)
QUICK = Plan(newcomers=200, seconds=1, players=50)


def handshakes(plan: Plan, site: Site) -> Outcome:
    """Players alone, then players and newcomers."""
    with Game(site.generator) as greeted, Game(site.generator) as played:
        come = Route("come-terminated.example.com", greeted.port, passed=False)
        stay = Route("stay-passed.example.com", played.port)
        rounds = {
            "sessions": plan.players,
            "count": round(plan.players * RATE * plan.seconds),
            "rate": plan.players * RATE,
            "size": SIZE,
            "deadline": plan.seconds + ENDED,
        }
        with (
            serving(site, "handshakes", [come, stay]) as pod,
            site.generator.standing("rounds", pod.target(stay), **rounds) as players,
            ThreadPoolExecutor(1) as pool,
        ):
            quiet = Trips.of(players.go())
            closed, before = pod.closed(), cpu_seconds(pod.pid)
            playing = pool.submit(players.go)
            came = site.generator.run(
                "connections",
                pod.target(come),
                count=plan.newcomers,
                rate=plan.newcomers / plan.seconds,
                at_once=plan.newcomers,
                deadline=ENDED,
            )
            meanwhile = Trips.of(playing.result(ENDED))
            used = cpu_seconds(pod.pid) - before
            refused = {
                reason: count - closed.get(reason, 0)
                for reason, count in pod.closed().items()
                if reason in REFUSALS and count > closed.get(reason, 0)
            }
    p50, p99, most = (came["latency_us"][share] / 1000 for share in ("p50", "p99", "max"))
    lines = [
        f"{plan.newcomers} newcomers in {plan.seconds:g} s, terminated: all done after {came['seconds']:.1f} s, "
        f"one after p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms; refused {refused or 0}; CPU of the pod {used:.2f} s",
        f"{plan.players} players at {RATE} messages a second, passed through: p50 {quiet.p50:.2f} -> {meanwhile.p50:.2f}, "
        f"p99 {quiet.p99:.2f} -> {meanwhile.p99:.2f}, max {quiet.longest:.2f} -> {meanwhile.longest:.2f} ms",
    ]
    missed = []
    if came["count"] != plan.newcomers or refused:
        missed.append(
            f"{came['count']} of {plan.newcomers} were let in, refused: {refused or 'none'}"
        )
    late = over("until all newcomers are done", came["seconds"], DONE, "s")
    late += over("p99 of those who play", meanwhile.p99, WAIT, "ms")
    return Outcome(lines, missed, late)
