"""The short form of `make soak`: fewer sessions for some seconds, then some thousand short ones."""

import os
import sys
from pathlib import Path

import pytest

from bench.generator import Missing
from bench.soak import Plan, run
from sniproxy.relay.native import BUILT
from tests.support.stack import RELAY

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(400),  # the load generator may have to be built first
]

SESSIONS, SHORT = 300, 3_000


def test_nothing_is_lost_and_nothing_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = os.environ.get(RELAY, "native" if BUILT else "trio")
    plan = Plan(sessions=SESSIONS, minutes=0.1, short=SHORT)  # long enough for a line of progress
    try:
        missed = run(plan, relay, tmp_path / "run")
    except Missing as error:
        pytest.skip(str(error))
    assert missed == []
    seen = capsys.readouterr()
    assert f"{SESSIONS} sessions: {SESSIONS * 6} round trips of 100 bytes" in seen.out
    assert f"{SHORT} short sessions" in seen.out
    assert f"of 6 s: {SESSIONS} sessions" in seen.err
