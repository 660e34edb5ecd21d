"""Limits that are reached, and left again. `python -m bench.load --only full-house`

Descriptors, then `max_sessions`, then the caps of a client address and of a route: each time some play, and so many come
that the limit is reached, and more after that. Those who play go on; whoever comes waits or is refused, and that is counted;
the proxy does not spin, and its log has at most one line a second of each kind for each worker. Then whoever has come goes:
somebody else is inside at most a second later.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import trio

from bench.outcome import Outcome, joined, over
from bench.pod import Game, Pod, Route, Site, serving
from bench.processes import cpu_seconds
from bench.settling import settled
from bench.side_by_side import say
from bench.visitors import Players, Visitors, trips_of, try_until_inside
from sniproxy.errors import CloseReason
from tests.support.players import client_hello

PLAYING, CROWD, OTHER = "playing.example.com", "crowd.example.com", "other.example.com"
AGAIN = 1.0  # seconds within which somebody is let in again
BUSY = 0.1  # cores more than before
LINES = 1.0  # a second, of each kind and worker
RUSH = 20.0  # a second, of those who come once it is full
PLAYED = {  # how those have ended who were inside: a player who is told to stop may have a message on its way
    CloseReason.CLIENT_CLOSED,
    CloseReason.CLIENT_TRUNCATED,
    CloseReason.CLIENT_RESET,
    CloseReason.UPSTREAM_CLOSED,
    CloseReason.PROBE,
}
CALM = 0.5  # seconds until all play
GIVE_UP = 30.0  # seconds until somebody must be inside
CAREFUL = 10  # sessions at once, below every cap
DESCRIPTORS = 400  # of a process


@dataclass(frozen=True)
class Plan:
    """How much is asked of it."""

    players: int
    sessions: int  # a limit that lets in so many, the players among them
    seconds: float  # for which it is full
    at_once: int  # limits; where time is measured, one


FULL = Plan(players=20, sessions=400, seconds=20, at_once=1)
QUICK = Plan(players=10, sessions=60, seconds=1, at_once=3)


@dataclass(frozen=True)
class Case:
    """A limit."""

    what: str
    reason: CloseReason | None  # of those who are refused; None: they wait
    name: str  # that they ask for
    source: Callable[[int], str]  # the client address of each
    many: int  # who come at once


def full_house(plan: Plan, site: Site) -> Outcome:
    """Every limit in turn."""
    with Game(site.generator) as game:
        routes = [Route(name, game.port) for name in (PLAYING, CROWD, OTHER)]
        with ThreadPoolExecutor(plan.at_once) as pool:
            parts = [pool.submit(part, plan, site, routes) for part in (_few, _many, _caps)]
            return joined([part.result() for part in parts])


def _few(plan: Plan, site: Site, routes: Sequence[Route]) -> Outcome:
    with serving(site, "descriptors", routes, workers=1, descriptors=DESCRIPTORS) as pod:
        case = Case("descriptors", None, CROWD, _everybody, DESCRIPTORS)
        return _fill(plan, pod, case, workers=1)


def _many(plan: Plan, site: Site, routes: Sequence[Route]) -> Outcome:
    most = plan.sessions
    with serving(site, "max-sessions", routes, warm=CAREFUL, max_sessions=most) as pod:
        reason = CloseReason.SESSION_LIMIT
        case = Case("max_sessions", reason, CROWD, _everybody, 2 * most)
        return _fill(plan, pod, case, workers=2)


def _caps(plan: Plan, site: Site, routes: Sequence[Route]) -> Outcome:
    most = plan.sessions
    caps = {"address_sessions": most // 2, "route_sessions": most}
    by_address, by_route = CloseReason.ADDRESS_LIMIT, CloseReason.ROUTE_LIMIT
    cases = (
        Case("address_sessions", by_address, CROWD, _somebody, most),
        Case("route_sessions", by_route, OTHER, _everybody, 2 * most),
    )
    with serving(site, "caps", routes, warm=CAREFUL, limits=caps) as pod:
        return joined([_fill(plan, pod, case, workers=2) for case in cases])


def _everybody(number: int) -> str:
    return f"127.0.{1 + number % 50}.1"


def _somebody(_: int) -> str:
    return "127.1.1.1"


@dataclass
class _Seen:
    """What was found out while one limit was reached."""

    players: Players
    visitors: Visitors
    before: list[float]
    during: list[float]
    quiet: float  # cores, before
    busy: float  # and while it was full
    waited: int
    again: float  # seconds until the first was inside again
    newcomer: float  # and until one was who had not waited
    seconds: float
    lines: list[dict[str, Any]]


def _fill(plan: Plan, pod: Pod, case: Case, workers: int) -> Outcome:
    closed, paused = pod.closed(), pod.metrics()["sniproxy_accept_paused_total"]
    was = settled(pod)
    seen = trio.run(_be_full, plan, pod, case)
    now = settled(pod)
    more = Counter(pod.closed()) - Counter(closed)
    paused = pod.metrics()["sniproxy_accept_paused_total"] - paused
    refused = {reason: count for reason, count in more.items() if reason not in PLAYED}
    most, kind = most_lines(seen.lines)
    rate = most / seen.seconds / workers
    visitors = seen.visitors
    lines = [
        f"{case.what}: {plan.players} play, {visitors.came} come: {visitors.inside} inside, {visitors.refused} refused, "
        f"{seen.waited} waited; counted {refused or 'no refusal'}, {paused:.0f} pauses of accepting",
        f"  players' {trips_of(seen.before)} before, {trips_of(seen.during)} while it is full, "
        f"{len(seen.players.lost)} lost; CPU {seen.quiet:.3f} -> {seen.busy:.3f} cores; "
        f"at most {rate:.2f} lines a second ({kind}) of a worker",
        f"  {seen.again * 1000:.0f} ms after the others have gone somebody else is inside, "
        f"after {seen.newcomer * 1000:.0f} ms one who had not waited; "
        f"descriptors {was[0]} -> {now[0]}, tasks {was[1]} -> {now[1]}",
    ]
    missed = [
        *(
            [f"{case.what}: {was} descriptors, tasks, sessions before, {now} after"]
            if was != now
            else []
        ),
        *(f"{case.what}: a player is lost: {one}" for one in seen.players.lost[:3]),
        *([f"{case.what}: {visitors.lost} lost once inside"] if visitors.lost else []),
        *_uncounted(case, visitors, seen.waited, refused, paused),
    ]
    late = [
        *over(
            f"{case.what}: lines of the log ({kind})",
            most,
            workers * (seen.seconds * LINES + 1),
            "lines",
        ),
        *over(f"{case.what}: until somebody is inside again", seen.again, AGAIN, "s"),
        *over(f"{case.what}: CPU more than before", seen.busy - seen.quiet, BUSY, "cores"),
    ]
    return Outcome(lines, missed, late)


def _uncounted(
    case: Case, visitors: Visitors, waited: int, refused: dict[str, int], paused: float
) -> list[str]:
    """Those who were not let in and of whom no counter tells."""
    if case.reason is None:
        if waited + visitors.refused == 0 or paused == 0:
            return [f"{case.what}: not reached: {waited} waited, {paused:.0f} pauses"]
        if sum(refused.values()) < visitors.refused:
            return [f"{case.what}: {visitors.refused} were refused, counted: {refused}"]
        return []
    if not visitors.refused:
        return [f"{case.what}: not reached"]
    # Whoever asked again and again once the others had gone may have been refused too.
    if refused.get(case.reason, 0) < visitors.refused or set(refused) != {case.reason}:
        return [f"{case.what}: {visitors.refused} were refused, counted: {refused}"]
    return []


async def _be_full(plan: Plan, pod: Pod, case: Case) -> _Seen:
    players, visitors = Players(), Visitors()
    hello, asked = client_hello(PLAYING), client_hello(case.name)
    async with trio.open_nursery() as nursery:
        for number in range(plan.players):
            nursery.start_soon(players.play, pod.port, hello, number, _everybody(number))
        await trio.sleep(CALM)
        players.cut()
        quiet, before = await _used(pod, plan.seconds / 2), players.cut()
        for number in range(case.many):
            nursery.start_soon(visitors.visit, pod.port, asked, case.source(number))
            if number % 20 == 19:
                await trio.sleep(0.02)  # let the connections be accepted
        await trio.sleep(0.5)
        say(
            f"{case.what}: {visitors.inside} inside, {visitors.refused} refused, {visitors.waiting} wait"
        )
        players.cut()
        logged, began = pod.logged, time.monotonic()
        nursery.start_soon(_keep_coming, pod, case, visitors, asked, plan.seconds, nursery)
        busy, during = await _used(pod, plan.seconds), players.cut()
        lines, waited = pod.lines(logged), visitors.waiting
        left = time.monotonic()
        visitors.leave.set()
        with trio.fail_after(GIVE_UP):
            newcomer = await try_until_inside(pod.port, asked, case.source(0))
            while visitors.waiting:  # noqa: ASYNC110  # in the kernel's queue
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return _Seen(
        players=players,
        visitors=visitors,
        before=before,
        during=during,
        quiet=quiet,
        busy=busy,
        waited=waited,
        again=min(newcomer, visitors.first) - left,
        newcomer=newcomer - left,
        seconds=left - began,
        lines=lines,
    )


async def _keep_coming(
    pod: Pod,
    case: Case,
    visitors: Visitors,
    hello: bytes,
    seconds: float,
    nursery: trio.Nursery,
) -> None:
    """More, while it is full."""
    for number in range(int(seconds * RUSH)):
        nursery.start_soon(visitors.visit, pod.port, hello, case.source(number))
        await trio.sleep(1 / RUSH)


async def _used(pod: Pod, seconds: float) -> float:
    """Cores of the pod for so long."""
    began, cpu = time.monotonic(), cpu_seconds(pod.pid)
    await trio.sleep(seconds)
    return (cpu_seconds(pod.pid) - cpu) / (time.monotonic() - began)


def most_lines(lines: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """How many lines there are of that kind of which there are most, and which it is: event and reason."""
    kinds = Counter(f"{line.get('event')} {line.get('reason', '')}".strip() for line in lines)
    if not kinds:
        return 0, "none"
    ((kind, count),) = kinds.most_common(1)
    return count, kind
