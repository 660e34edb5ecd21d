"""What the fault suite holds to be wrong, and that it notices."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner

from bench import faults
from bench.fault_kinds import FAULTS, Fault, kill_all
from bench.faults import Plan, Report, difference, differences, endure, main
from bench.site import Plane, Site, followed
from bench.traffic import Players, Writers, outcome_of
from tests.support.echo import echo_process
from tests.support.history import Outcome
from tests.support.tcp_relay import TcpRelay


@pytest.mark.parametrize(
    ("has", "words"),
    [
        ({"a": 1, "b": 2}, []),
        ({"a": 1}, ["lacks b"]),
        ({"a": 1, "b": 2, "c": 3}, ["still has c"]),
        ({"a": 1, "b": 1}, ["has another revision of b"]),
        ({"b": 3, "c": 4}, ["lacks a", "still has c", "has another revision of b"]),
    ],
)
def test_a_difference_is_in_words(has: dict[str, int], words: list[str]) -> None:
    assert difference(has, {"a": 1, "b": 2}) == words


def test_not_every_key_is_named() -> None:
    assert difference({}, dict.fromkeys("abcde", 1)) == ["lacks a, b, c and 2 more"]


class FakePlane:
    """Answers what it is told to."""

    name = "plane-0"

    def __init__(self, **config: Any) -> None:
        self._config = {"objects": {"a": 1}, "stale": False, "broken": []} | config

    def config(self) -> dict[str, Any]:
        return self._config


class DeadPlane:
    name = "plane-1"

    def config(self) -> dict[str, Any]:
        raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    ("plane", "words"),
    [
        (FakePlane(), []),
        (FakePlane(objects={}), ["plane-0 lacks a"]),
        (FakePlane(stale=True), ["plane-0 says that it is stale"]),
        (FakePlane(broken=["a"]), ["plane-0 holds ['a'] to be broken"]),
        (DeadPlane(), ["plane-1 does not answer: ConnectError('refused')"]),
    ],
)
def test_planes_are_compared_with_etcd(plane: FakePlane | DeadPlane, words: list[str]) -> None:
    site = SimpleNamespace(planes=[plane], objects=lambda: {"a": 1})
    assert differences(cast("Site", site)) == words


def test_what_a_data_plane_follows() -> None:
    assert followed("/apisix/stream_routes/x")
    assert not followed("/apisix/gen_id")
    assert not followed("/apisix/routes/x")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACKNOWLEDGED),
        (201, Outcome.ACKNOWLEDGED),
        (400, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (500, Outcome.UNKNOWN),
        (503, Outcome.UNKNOWN),
    ],
)
def test_what_an_answer_says_of_its_write(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_each_fault_once_and_in_order() -> None:
    made = [fault.name for fault in Plan().faults(random.Random(1), lambda: 0.0)]
    assert made == list(FAULTS)


def test_each_fault_so_many_times_and_so_long() -> None:
    plan = Plan(names=("kill-leader", "pause-all"), times=2, last=7)
    made = list(plan.faults(random.Random(1), lambda: 0.0))
    assert [fault.name for fault in made] == ["kill-leader", "pause-all"] * 2
    assert [(fault.seconds, fault.blinds) for fault in made] == [(7, False), (7, True)] * 2


class Following:
    """A data plane that says the first, then the second, and so on, and at last the same for ever: is it stale?"""

    def __init__(self, *stale: bool) -> None:
        self._stale = list(stale)

    @property
    def stale(self) -> bool:
        return self._stale.pop(0) if len(self._stale) > 1 else self._stale[0]


# How long a fault lasts, where 0.2 s are allowed; what two data planes say; what is wrong of that.
NOTICING: dict[str, tuple[float, tuple[Following, Following], list[str]]] = {
    "at once": (0.3, (Following(True), Following(True)), []),
    "soon": (0.3, (Following(False, True), Following(False, False, True)), []),
    "one does not": (0.3, (Following(True), Following(False)), ["not stale after 0.2 s"]),
    "too short to say": (0.1, (Following(False), Following(False)), []),
    "not to the end": (
        0.3,
        (Following(True), Following(True, False)),
        ["not stale any more, and it was not over"],
    ),
}


@pytest.mark.parametrize(("seconds", "planes", "wrong"), NOTICING.values(), ids=NOTICING)
def test_data_planes_must_say_that_they_cannot_follow(
    seconds: float,
    planes: tuple[Following, Following],
    wrong: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults, "NOTICED", 0.2)
    report = Report()
    begun = time.monotonic()
    endure(
        Fault(kill_all, seconds, blinds=True), cast("Site", SimpleNamespace(planes=planes)), report
    )
    assert time.monotonic() - begun >= seconds
    assert report.wrong == [f"kill-all: {one}" for one in wrong]


def test_faults_in_random_order_until_the_time_is_up() -> None:
    clock = iter(range(10_000))
    plan = Plan(minutes=1)
    made = [fault.name for fault in plan.faults(random.Random(1), lambda: float(next(clock)))]
    assert len(made) == 59  # one look at the clock at the beginning, one before each
    first, second = made[: len(FAULTS)], made[len(FAULTS) : 2 * len(FAULTS)]
    assert set(first) == set(second) == set(FAULTS)
    assert first != second


def test_the_summary_counts_and_keeps_the_slowest() -> None:
    report = Report()
    for seconds in (0.5, 2.0, 1.0):
        report.note("kill-leader", seconds)
    report.noticed["pause-all"] = 9.96
    writers = SimpleNamespace(counts=dict.fromkeys(Outcome, 7))
    players = SimpleNamespace(held=20, round_trips=300, newcomers=40)
    lines = report.lines(cast("Writers", writers), [cast("Players", players)] * 2)
    assert lines == [
        "writes: 7 acknowledged, 7 refused, 7 unknown (deletions of what is not there are refused)",
        "sessions held: 40; round trips: 600; new connections: 80",
        "kill-leader: 3 times, slowest catch-up 2000 ms",
        "pause-all: stale after 10.0 s",
    ]


@pytest.fixture
def relay() -> Iterator[TcpRelay]:
    with echo_process() as echo, TcpRelay(echo) as running:
        yield running


def test_players_notice_lost_sessions_and_refused_newcomers(relay: TcpRelay) -> None:
    players = Players(cast("Plane", SimpleNamespace(name="plane", port=relay.port)), sessions=10)
    assert players.held == 10
    players.start()
    try:
        wait(lambda: players.round_trips > 10 and players.newcomers > 1)
        assert players.troubles == []
        relay.cut()
        wait(lambda: players.held == 0)
    finally:
        players.over.set()
        players.join()
    lost = [one for one in players.troubles if "was lost" in one]
    refused = [one for one in players.troubles if "was not served" in one]
    assert len(lost) == 10
    assert refused


def wait(until: Any) -> None:
    end = time.monotonic() + 10
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("wrong", "code"), [([], 0), (["a plane lacks a"], 1)])
def test_what_is_wrong_is_the_exit_code_and_keeps_the_logs(
    wrong: list[str], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = []

    def run(plan: Plan, _: Path) -> Report:
        plans.append(plan)
        return Report(wrong=wrong)

    monkeypatch.setattr(faults, "run", run)
    monkeypatch.setattr("bench.faults.signal.signal", lambda *_: None)
    monkeypatch.setattr("bench.faults.tempfile.mkdtemp", lambda prefix: str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    result = CliRunner().invoke(
        main, ["--minutes", "2", "--only", "restore", "--seed", "5", "--last", "1"]
    )
    assert result.exit_code == code
    assert plans == [Plan(names=("restore",), minutes=2, last=1, seed=5)]
    assert "seed 5" in result.output
    assert (tmp_path / "logs").exists() is bool(wrong)
    assert all(f"FAILED: {one}" in result.output for one in wrong)
