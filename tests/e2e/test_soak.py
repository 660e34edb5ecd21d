"""The short form of `make soak`: fewer sessions for some seconds, then some thousand short ones."""

import os
import signal
import sys
from pathlib import Path

import pytest

from bench import soak
from bench.generator import Missing, build
from bench.processes import tree
from bench.soak import Plan, run
from bench.watch import Watched
from sniproxy.relay.native import BUILT
from tests.support.stack import RELAY

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(400),  # the load generator may have to be built first
    pytest.mark.alone,
]

SESSIONS, SHORT = 300, 3_000


@pytest.fixture(scope="module")
def relay() -> str:
    try:
        build()
    except Missing as error:
        pytest.skip(str(error))
    return os.environ.get(RELAY, "native" if BUILT else "trio")


def test_nothing_is_lost_and_nothing_left_behind(
    relay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(sessions=SESSIONS, minutes=0.1, short=SHORT)  # long enough for a line of progress
    assert run(plan, relay, tmp_path / "run") == []
    seen = capsys.readouterr()
    assert f"{SESSIONS} sessions: {SESSIONS * 6} round trips of 100 bytes" in seen.out
    assert f"{SHORT} short sessions" in seen.out
    assert f"of 6 s: {SESSIONS} sessions" in seen.err


def test_sessions_that_are_lost_are_a_miss(
    relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(proxy: Watched) -> int:
        for one in tree(proxy.pid):  # workers too: they would play on without their parent
            os.kill(one, signal.SIGKILL)
        return 0

    monkeypatch.setattr(Watched, "active", property(kill))
    monkeypatch.setattr(soak, "EVERY", 0.5)
    (missed,) = run(Plan(sessions=20, minutes=0.05, short=0), relay, tmp_path / "run")
    assert missed.startswith("Failed: rounds: "), missed
