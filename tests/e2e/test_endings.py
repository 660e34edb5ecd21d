"""The short form of `python -m bench.endings`: every way in which a session with a game server may end, on this relay."""

import os
from pathlib import Path

import pytest

from bench.endings import ENDINGS, measure
from sniproxy.relay.native import BUILT

RELAY = os.environ.get("SNIPROXY_PROXY__RELAY", "native" if BUILT else "trio")


@pytest.mark.timeout(120)
def test_each_ending_has_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    lines = list(measure(tmp_path, RELAY, 60, 30))
    assert len(lines) == len(ENDINGS) + 1
