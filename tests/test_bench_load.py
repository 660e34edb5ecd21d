"""What the load suite allows, and what it notices."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import load
from bench.full_house import most_lines
from bench.generator import Failed, Missing
from bench.idle import PASSED, keepalive_timers, smaller
from bench.newcomers import delayed
from bench.outcome import Outcome, joined, over
from bench.pod import Site
from bench.slow_readers import kernel_memory, slower
from bench.storm import to_upstream

# Of the kernel's, columns that do not matter left out: our listener, a player's session with its other end, one towards
# a game server whose timer is for a retransmission, and one whose timer is for a keepalive.
SOCKETS = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 02:00000AF0
   2: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000
   3: 0100007F:9C42 0100007F:2328 01 00000000:00000000 01:00000014
   4: 0100007F:9C44 0100007F:2328 01 00000000:00000000 02:00000AF0
"""


def test_sockets_that_ask_their_other_side_are_counted_by_side() -> None:
    assert keepalive_timers(SOCKETS, 8080, 9000) == (1, 1)
    assert keepalive_timers(SOCKETS, 8081, 9001) == (0, 0)


def test_fewer_idle_sessions_say_nothing_of_the_pod_beside_them() -> None:
    plan = smaller(PASSED, 0.1, 3)
    assert (plan.sessions, plan.seconds, plan.pod) == (1_000, 3, None)
    assert plan.most == PASSED.most


def test_a_figure_at_its_bar_is_no_miss() -> None:
    assert over("time", 2.0, 2.0, "s") == []
    assert over("time", 2.01, 2.0, "s") == ["time: 2.01 s, at most 2 are allowed"]


def test_outcomes_are_put_together_in_order() -> None:
    together = joined([Outcome(["a"], ["x"], ["y"]), Outcome(["b"], [], ["z"])])
    assert together == Outcome(["a", "b"], ["x"], ["y", "z"])


def test_most_lines_of_a_kind_are_those_of_one_event_and_reason() -> None:
    lines: list[dict[str, Any]] = [
        {"event": "session", "reason": "session_limit"},
        {"event": "session", "reason": "address_limit"},
        {"event": "accepting pauses", "cause": "Too many open files"},
        {"event": "session", "reason": "session_limit"},
    ]
    assert most_lines(lines) == (2, "session session_limit")
    assert most_lines(lines[2:3]) == (1, "accepting pauses")
    assert most_lines([]) == (0, "none")


def test_only_sessions_that_came_back_are_timed() -> None:
    def line(**members: Any) -> dict[str, Any]:
        return {"event": "session", "sni": "a", "connect_ms": 1.0} | members

    lines = [
        line(reason="client_closed"),
        line(reason="client_truncated", handshake_ms=20.0),
        line(reason="upstream_closed"),  # it was lost
        line(reason="client_closed", sni="b"),
        {"event": "ready"},
    ]
    assert to_upstream(lines, "a") == [1.0, 21.0]


@pytest.mark.parametrize(
    ("before", "during", "missed"),
    [
        ([100, 100, 100], [110, 110, 110], False),
        ([100, 100, 100], [111, 111, 50], True),
        ([100, 100, 100], [100, 100, 999], False),  # one round is not three
        ([100, 100, 190], [180, 180, 180], False),  # the rounds before differ by as much
        ([1, 1, 1], [6, 6, 6], False),  # a turn of the scheduler
        ([1, 1, 1], [6.1, 6.1, 6.1], True),
    ],
)
def test_others_are_slower_if_the_median_is_beyond_a_tenth_and_noise(
    before: list[float], during: list[float], missed: bool
) -> None:
    assert bool(slower("passed through", before, during)) is missed


@pytest.mark.parametrize(
    ("beside", "flooded", "missed"),
    [
        (101, 150, []),  # the machine is busy
        (102, 150, ["x: p50: 102.00 ms, at most 101 are allowed"]),
        (500, 2_000, []),  # far less than those of the flood wait
        (501, 2_000, ["x: p50: 501.00 ms, at most 500 are allowed"]),
    ],
)
def test_newcomers_are_late_if_they_wait_as_those_of_the_flood_do(
    beside: float, flooded: float, missed: list[str]
) -> None:
    def result(p50: float) -> dict[str, Any]:
        return {"latency_us": {"p50": p50 * 1000, "p99": p50 * 1000}}

    assert delayed("x", result(1), result(beside), result(flooded)) == missed


def test_kernel_counts_memory_in_pages() -> None:
    text = "sockets: used 67\nTCP: inuse 40 orphan 0 tw 23 alloc 40 mem 163\nUDP: inuse 0 mem 9\n"
    assert kernel_memory(text) == 652


# --- the command


def _given(monkeypatch: pytest.MonkeyPatch, outcome: Outcome | Exception) -> None:
    def scenario(_: Site) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(load, "build", lambda: Path("load"))
    monkeypatch.setattr(load, "scenarios", lambda **_: {"idle": scenario})


@pytest.mark.parametrize(
    ("outcome", "options", "code", "said"),
    [
        (Outcome(["fine"]), [], 0, "all bars are held"),
        (Outcome(["x"], ["2 lost"]), [], 1, "FAILED: idle: 2 lost"),
        (Outcome(["x"], ["2 lost"]), ["--quick"], 1, "FAILED: idle: 2 lost"),
        (Outcome(["x"], [], ["9 s"]), [], 1, "FAILED: idle: 9 s"),
        (Outcome(["x"], [], ["9 s"]), ["--quick"], 0, "slower than its bar: idle: 9 s"),
        (Failed("3 broke"), [], 1, "FAILED: idle: Failed: 3 broke"),
    ],
)
def test_a_miss_is_told_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome | Exception,
    options: list[str],
    code: int,
    said: str,
) -> None:
    _given(monkeypatch, outcome)
    done = CliRunner().invoke(load.main, options)
    assert done.exit_code == code, done.output
    assert said in done.output


def test_without_a_generator_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Path:
        raise Missing("cargo is not installed")

    monkeypatch.setattr(load, "build", build)
    done = CliRunner().invoke(load.main, ["--quick"])
    assert done.exit_code == 1
    assert "cargo is not installed" in done.output
