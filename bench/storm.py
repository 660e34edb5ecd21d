"""A game server restarts, and all its players come back at once. `python -m bench.load --only storm`

Two game servers. The players of one lose their connection, because it restarts, and connect anew within some seconds, at
moments spread by chance: none is refused, and each is routed soon. The players of the other send 20 messages a second
before, meanwhile and afterwards: how much longer are their messages on the way?

A player is routed when the first bytes that it sent have come back from its game server; the time is from when it wanted to
connect. What the proxy itself logs is shorter: from the hello, of which the handshake is a part, to the connection with the
game server.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.generator import Standing
from bench.machine import percentile
from bench.outcome import Outcome, joined, over
from bench.pod import Game, Pod, Route, Site, serving
from bench.processes import cpu_seconds
from bench.side_by_side import say
from bench.works import SIZE
from sniproxy.errors import REFUSALS, CloseReason

RATE = 20  # messages a second of each that plays on
BEGIN = 0.2  # seconds after which whoever was told to wait for the loss does
ROUTED = 15.0  # seconds until all are
WAIT = 2000.0  # milliseconds, p99 of the time until one is
ADDED = 50.0  # milliseconds, of the p99 of those who play on
ENDED = 60.0  # seconds for all that a storm does


@dataclass(frozen=True)
class Plan:
    """How many come back, and what plays beside them."""

    players: int
    spread: float  # seconds in which they come back
    calm: int  # who play on, of each kind
    quiet: float  # seconds of play before and after


FULL = Plan(players=5_000, spread=5, calm=25, quiet=10)
QUICK = Plan(players=500, spread=1, calm=10, quiet=1)


@dataclass(frozen=True)
class Trips:
    """Round trips of those who play on, of one kind; milliseconds."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, result: dict[str, Any]) -> "Trips":
        """What the generator has measured."""
        found = (result["latency_us"][share] / 1000 for share in ("p50", "p99", "max"))
        return cls(*found)


def storm(plan: Plan, kinds: Sequence[str], site: Site) -> Outcome:
    """kinds: `mixed`, half of the players terminated and half passed through; `passed`, all passed through."""
    with Game(site.generator) as restarted, Game(site.generator) as calm:
        gone = [
            Route("storm-passed.example.com", restarted.port),
            Route("storm-terminated.example.com", restarted.port, passed=False),
        ]
        stay = [
            Route("calm-passed.example.com", calm.port),
            Route("calm-terminated.example.com", calm.port, passed=False),
        ]
        with serving(site, "storm", [*gone, *stay]) as pod:
            return joined(
                [
                    _Storm(plan, site, pod, gone if kind == "mixed" else gone[:1], stay).blow(
                        kind, restarted
                    )
                    for kind in kinds
                ]
            )


class _Storm:
    """One storm on a pod."""

    def __init__(
        self, plan: Plan, site: Site, pod: Pod, gone: Sequence[Route], stay: Sequence[Route]
    ) -> None:
        self._plan = plan
        self._site = site
        self._pod = pod
        self._gone = gone
        self._stay = stay

    def blow(self, kind: str, game: Game) -> Outcome:
        """From calm to calm."""
        plan, pod = self._plan, self._pod
        closed, logged = pod.closed(), pod.logged
        with (
            self._players() as players,
            self._calm(plan.quiet) as quiet,
            self._calm(plan.spread + 1) as beside,
        ):
            say(f"{plan.players} players ({kind}) are there")
            before = _all_go(quiet)
            with ThreadPoolExecutor(len(players) + 1) as pool:
                lost = [pool.submit(one.go) for one in players]
                time.sleep(BEGIN)
                game.__exit__()
                for one in lost:
                    one.result(ENDED)
                game.__enter__()
                say("  they have lost their game server, and it is back")
                cpu = cpu_seconds(pod.pid)
                playing = pool.submit(_all_go, beside)
                back = [one.result() for one in [pool.submit(one.go) for one in players]]
                used = cpu_seconds(pod.pid) - cpu
                meanwhile = playing.result(ENDED)
            after = _all_go(quiet)
        pod.state()  # all lines are there
        refused = {
            reason: count - closed.get(reason, 0)
            for reason, count in pod.closed().items()
            if reason in REFUSALS and count > closed.get(reason, 0)
        }
        return self._judge(kind, back, used, refused, pod.lines(logged), (before, meanwhile, after))

    @contextmanager
    def _players(self) -> Iterator[list[Standing]]:
        """Those who will come back."""
        share, rest = divmod(self._plan.players, len(self._gone))
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    self._site.generator.standing(
                        "storm",
                        self._pod.target(route),
                        sessions=share + (rest if number == 0 else 0),
                        spread=self._plan.spread,
                        deadline=ENDED,
                    )
                )
                for number, route in enumerate(self._gone)
            ]

    @contextmanager
    def _calm(self, seconds: float) -> Iterator[list[Standing]]:
        """Those who play on: for so long each time."""
        sessions = self._plan.calm
        options = {
            "sessions": sessions,
            "count": round(sessions * RATE * seconds),
            "rate": sessions * RATE,
            "size": SIZE,
            "deadline": seconds + ENDED,
        }
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    self._site.generator.standing("rounds", self._pod.target(route), **options)
                )
                for route in self._stay
            ]

    def _judge(
        self,
        kind: str,
        back: list[dict[str, Any]],
        used: float,
        refused: dict[str, int],
        lines: list[dict[str, Any]],
        trips: tuple[list[Trips], list[Trips], list[Trips]],
    ) -> Outcome:
        plan = self._plan
        routed = sum(one["count"] for one in back)
        took = max(one["seconds"] for one in back)
        shown, late = [], []
        for route, one in zip(self._gone, back, strict=True):
            what = f"{kind}: {'passed through' if route.passed else 'terminated'}"
            p50, p99, most = (one["latency_us"][share] / 1000 for share in ("p50", "p99", "max"))
            inside = percentile(to_upstream(lines, route.name), 0.99)
            shown.append(
                f"{what}: {one['count']} are back, routed after p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms; "
                f"by the proxy's log p99 {inside:.1f} ms from hello to upstream"
            )
            late += over(f"{what}: p99 until one is routed", p99, WAIT, "ms")
        for route, quiet, meanwhile, after in zip(self._stay, *trips, strict=True):
            what = f"{kind}: players of the other game, {'passed through' if route.passed else 'terminated'}"
            three = (quiet, meanwhile, after)
            shown.append(
                f"{what}: p50 {' -> '.join(f'{one.p50:.2f}' for one in three)}, "
                f"p99 {' -> '.join(f'{one.p99:.2f}' for one in three)}, "
                f"max {' -> '.join(f'{one.longest:.2f}' for one in three)} ms"
            )
            late += over(f"{what}: p99 more than before", meanwhile.p99 - quiet.p99, ADDED, "ms")
        late += over(f"{kind}: until all are routed", took, ROUTED, "s")
        summary = (
            f"{kind}: {plan.players} players lose their game server and come back within {plan.spread:g} s: "
            f"{routed} routed in {took:.1f} s, refused {refused or 0}; CPU of the pod {used:.2f} s"
        )
        missed = []
        if routed != plan.players or refused:
            missed.append(
                f"{kind}: {routed} of {plan.players} are back, refused: {refused or 'none'}"
            )
        return Outcome([summary, *shown], missed, late)


def _all_go(standing: list[Standing]) -> list[Trips]:
    with ThreadPoolExecutor(len(standing)) as pool:
        return [Trips.of(one) for one in pool.map(Standing.go, standing)]


def to_upstream(lines: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Milliseconds from hello to the connection with the game server, of those sessions of a name that players ended."""
    return [
        line.get("handshake_ms", 0) + line["connect_ms"]
        for line in lines
        if line.get("event") == "session"
        and line["sni"] == name
        and line["reason"] in (CloseReason.CLIENT_CLOSED, CloseReason.CLIENT_TRUNCATED)
    ]
