"""A defect of ours, wherever it strikes, costs one session: the others play on, the next is served, and it is told of once.

Each case makes one function of ours raise once, over real sockets, with either relay.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from sniproxy.accounting import Account, Form
from sniproxy.client_hello import ClientHelloReader
from sniproxy.limits import Limits
from sniproxy.refusals import Recorder, Sampler
from sniproxy.relay.native import BUILT, NativeRelay
from sniproxy.relay.trio_relay import TrioRelay
from sniproxy.router import Router
from sniproxy.stick_table import StickTable
from sniproxy.turns import Turns
from tests.support.files import open_files, settled_files
from tests.support.hellos import named
from tests.support.sabotage import (
    Saboteur,
    Strike,
    Victim,
    assert_all_is_well,
    assert_told_once,
    at,
    becomes,
    errors,
    failures,
    of_the_log,
    open_doors,
    reasons,
)
from tests.support.stage import HELLO, Stage, open_stage

pytestmark = pytest.mark.anyio

DEADLINE = 30  # seconds for one test, for when something hangs
NOBODY = named(b"nobody.example.com")  # has no route
NOWHERE = named(b"nowhere.example.com")  # has one, to a node that refuses
DEAF = named(b"deaf.example.com")  # likewise, to one that never answers
BOTH = ("trio", "native")


# What the victim does


def served(victim: Victim) -> Victim:
    """The same, without a plan: the worker serves it."""

    async def without_plan(stage: Stage, strike: Callable[[], None]) -> None:
        stage.gateway.worker.snapshot.on_change()
        await victim(stage, strike)

    return without_plan


async def shut_out(stage: Stage, strike: Callable[[], None], says: bytes = HELLO) -> None:
    """Comes no further than to be closed; the game server may have seen it for a moment."""
    strike()
    player = await stage.dial(says)
    with suppress(ConnectionResetError):
        await player.read_all()
    stage.nobody_came()  # or has come and gone


async def to_the_end(stage: Stage, strike: Callable[[], None]) -> None:
    """Plays and leaves."""
    player, server = await stage.join(HELLO)
    strike()
    await player.end()
    assert await server.read_all() == b""
    await server.end()


async def to_a_reset(stage: Stage, strike: Callable[[], None]) -> None:
    """Plays and is cut off."""
    player, _ = await stage.join(HELLO)
    strike()
    player.reset()


async def in_the_midst(stage: Stage, strike: Callable[[], None]) -> None:
    """Plays, and is closed when it says something."""
    player, server = await stage.join(HELLO)
    strike()
    await player.send(b"x")
    assert await player.read_all() == b""
    assert await server.read_all() in (b"", b"x")


async def refused(stage: Stage, strike: Callable[[], None]) -> None:
    """Is not let in, as is right."""
    await shut_out(stage, strike, NOBODY)


async def tried(stage: Stage, strike: Callable[[], None]) -> None:
    """Arrives from a node that has refused it, by a plan."""
    await stage.refused(NOWHERE)
    await shut_out(stage, strike, NOWHERE)


async def on_the_way(stage: Stage, strike: Callable[[], None]) -> None:
    """Arrives with a connection to a node that has not answered yet, by a plan."""
    assert (await stage.refused(DEAF))["reason"] == "upstream_timeout"
    await shut_out(stage, strike, DEAF)


# Where it strikes


@dataclass(frozen=True)
class Case:
    """A defect, whom it strikes, and what is said of it."""

    strike: Strike
    victim: Victim
    route: str = ""  # that it counts for
    reason: str = "internal_error"  # that the session is counted with
    line: bool = True  # whether the session's own line is written
    relays: tuple[str, ...] = BOTH
    settings: dict[str, Any] = field(default_factory=dict)


SESSION, NATIVE = "sniproxy.session", ("native",)
CLOSED: dict[str, Any] = {"route": "1", "reason": "client_closed"}
SILENT: dict[str, Any] = CLOSED | {"line": False}
COUNTED = {"limits": {"route_sessions": 100}}
HASTY: dict[str, Any] = {"line": False, "relays": NATIVE, "settings": {"connect_timeout": 1}}

CASES: dict[str, Case] = {
    # in the task that sets it up
    "client's address": Case(at(SESSION, "peer_text"), served(shut_out)),
    "hello": Case(at(ClientHelloReader, "feed"), served(shut_out)),
    "routing": Case(at(Router, "match"), served(shut_out)),
    "limits of the route": Case(at(Limits, "admit_route"), served(shut_out), "1"),
    "its turn": Case(at(Turns, "enter"), served(shut_out), "1"),
    "target": Case(at(SESSION, "_target"), served(shut_out), "1"),
    "plan": Case(at(SESSION, "plan_for"), served(shut_out), "1", relays=NATIVE),
    "terms": Case(at(SESSION, "_terms"), served(shut_out), "1"),
    "connecting": Case(at(SESSION, "reach"), served(shut_out), "1"),
    "account is settled": Case(at(Account, "settle"), served(shut_out), "1"),
    "hand-over": Case(at(TrioRelay, "start"), shut_out, "1", relays=("trio",)),
    "hand-over, native": Case(at(NativeRelay, "start"), served(shut_out), "1", relays=NATIVE),
    "numbers of the terms": Case(
        at("sniproxy.relay.native", "as_numbers"), served(shut_out), "1", relays=NATIVE
    ),
    # where a refusal is told
    "sampler": Case(at(Sampler, "note"), refused, reason="no_route", line=False),
    "recorder": Case(at(Recorder, "add"), refused, reason="no_route"),
    "line of a refusal": Case(at(Account, "line"), refused, reason="no_route", line=False),
    # where its end is accounted for: in the relay's task
    "line": Case(at(Account, "line"), served(to_the_end), **SILENT),
    "log": Case(of_the_log("info_many"), served(to_the_end), **SILENT),
    "a claim": Case(at(StickTable, "release"), to_the_end, **SILENT, settings=COUNTED),
    "accounting": Case(at(SESSION, "_account_for"), served(to_the_end), **SILENT),
    # in the relay
    "copying": Case(
        at("sniproxy.relay.trio_relay", "receive_into"), in_the_midst, "1", relays=("trio",)
    ),
    "reason": Case(reasons, served(to_the_end), "1", relays=NATIVE),
    # without Python: in what comes out of the engine in batches
    "reason, by plan": Case(reasons, to_the_end, "1", relays=NATIVE),
    "form": Case(at(Form, "fill"), to_the_end, **SILENT, relays=NATIVE),
    "line of a reset": Case(
        at("sniproxy.journal", "account_of"), to_a_reset, "1", "client_reset", False, NATIVE
    ),
    "all lines": Case(
        of_the_log("info_many"), to_the_end, "", "client_closed", False, relays=NATIVE
    ),
    "arrival's socket": Case(
        at("sniproxy.relay.front", "_as_accepted"), served(shut_out), line=False, relays=NATIVE
    ),
    "arrival of one who was tried": Case(
        at("sniproxy.relay.front", "_as_accepted"), tried, "2", line=False, relays=NATIVE
    ),
    "arrival with a connection": Case(
        at("sniproxy.relay.front", "_as_accepted"), on_the_way, "3", **HASTY
    ),
    # where it is let in
    "entering": Case(at(Limits, "enter"), served(shut_out), line=False),
    "entering of one who was tried": Case(
        at(Limits, "enter"), tried, "2", line=False, relays=NATIVE
    ),
    "entering with a connection": Case(at(Limits, "enter"), on_the_way, "3", **HASTY),
}


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> None:
    """What other tests have left to the collector is not of these."""
    gc.collect()


@pytest.fixture
def saboteur(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saboteur]:
    """And that all files are closed afterwards."""
    before = settled_files()
    yield Saboteur(monkeypatch)
    gc.collect()  # the engine's own; a socket that is found by it is warned of, which is an error here
    assert open_files() == before


@pytest.fixture(params=BOTH)
def relay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What moves the bytes."""
    name: str = request.param
    if name == "native" and not BUILT:
        pytest.skip("the native relay is not built")
    monkeypatch.setattr("tests.support.gateway.MOVED_BY", name)
    return name


@pytest.mark.parametrize(
    ("relay", "case"),
    [
        pytest.param(relay, case, id=f"{relay}-{name}")
        for name, case in CASES.items()
        for relay in case.relays
    ],
    indirect=["relay"],
)
@pytest.mark.usefixtures("relay")
async def test_a_defect_costs_one_session(case: Case, saboteur: Saboteur) -> None:
    with trio.fail_after(DEADLINE):
        async with open_stage() as stage:
            playing = await open_doors(stage, **case.settings)
            gateway = stage.gateway
            await case.victim(stage, lambda: case.strike(saboteur, stage))
            await becomes(lambda: bool(errors(stage)))
            assert saboteur.struck == 1
            told = {line["session"] for line in failures(stage)} - {None}
            if case.line:
                line = await gateway.lines.next()
                assert line["reason"] == case.reason
                assert {line["session"]} == told
            await becomes(lambda: gateway.closed().get(case.reason) == 1)
            await assert_all_is_well(stage, playing)
            assert_told_once(stage, case.route)
            counted = gateway.counted()
            assert sum(gateway.closed().values()) == counted["opened"]
            assert counted["active"] == gateway.worker.limits.active == 0


# One of a batch


async def test_of_a_batch_of_ends_one_line_is_lost(relay: str, saboteur: Saboteur) -> None:
    """They end at once; with the native relay some of them went by plans and some were handed over."""
    with trio.fail_after(DEADLINE):
        async with open_stage() as stage:
            playing = await open_doors(stage)
            crowd = [await stage.join(HELLO) for _ in range(20)]
            saboteur.arm(Account, "line")
            if relay == "native":
                saboteur.arm(Form, "fill")
            for player, server in crowd:
                player.close()
                server.close()
            expected = 2 if relay == "native" else 1
            if relay == "native":  # its lines are filled in, but for that of whom Python has served
                player, server = playing.pop(0)
                player.close()
                server.close()
                crowd.append((player, server))
            await becomes(lambda: len(failures(stage)) == expected)
            for _ in range(len(crowd) - expected):
                assert (await stage.gateway.lines.next())["reason"].endswith("_closed")
            assert errors(stage) == {"1": expected}
            assert stage.gateway.counted()["active"] == len(playing)
            await assert_all_is_well(stage, playing)
            assert len(failures(stage)) == expected


@pytest.mark.parametrize("relay", NATIVE, indirect=True)
@pytest.mark.usefixtures("relay")
async def test_of_a_batch_of_ends_one_cannot_be_read(saboteur: Saboteur) -> None:
    with trio.fail_after(DEADLINE):
        async with open_stage() as stage:
            playing = await open_doors(stage, limits={"route_sessions": 100})  # no plans
            crowd = [await stage.join(HELLO) for _ in range(20)]
            reasons(saboteur, stage)
            for player, server in crowd:
                player.close()
                server.close()
            lines = [await stage.gateway.lines.next() for _ in crowd]
            ended = sorted(line["reason"] for line in lines)
            assert ended.count("internal_error") == 1
            assert_told_once(stage, "1")
            await assert_all_is_well(stage, playing)


async def test_of_many_who_arrive_at_once_one_is_lost(relay: str, saboteur: Saboteur) -> None:
    where = (Limits, "enter") if relay == "trio" else ("sniproxy.relay.front", "_as_accepted")
    with trio.fail_after(DEADLINE):
        async with open_stage() as stage:
            playing = await open_doors(stage)
            stage.gateway.worker.snapshot.on_change()
            saboteur.arm(*where)
            crowd = [stage.gateway.dial() for _ in range(10)]
            for player in crowd:
                with suppress(ConnectionError):
                    await player.send(NOBODY)
            lines = [await stage.gateway.lines.next() for _ in range(9)]
            assert {line["reason"] for line in lines} == {"no_route"}
            await becomes(lambda: bool(errors(stage)))
            for player in crowd:
                player.close()
            await assert_all_is_well(stage, playing)
            assert_told_once(stage, "")


# The log fails as well


async def test_a_log_that_fails_too_is_counted_all_the_same(relay: str, saboteur: Saboteur) -> None:
    with trio.fail_after(DEADLINE):
        async with open_stage() as stage:
            playing = await open_doors(stage)
            saboteur.arm(Account, "line")
            saboteur.arm(stage.gateway.worker.log, "error")
            await refused(stage, lambda: None)
            await becomes(lambda: bool(errors(stage)))
            assert failures(stage) == []
            assert errors(stage) == {"": 1}
            await assert_all_is_well(stage, playing)
