"""The short form of `make load`: as many sessions, fewer seconds."""

import resource
from pathlib import Path

import pytest

from bench.load import Plan, run

pytestmark = pytest.mark.alone


def test_1000_sessions_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        tally, _ = run(Plan(sessions=1000, seconds=3, rate=1, size=1024), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert tally.messages >= 3000
