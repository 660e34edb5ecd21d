"""The short forms of `bench.fleet` and `bench.snapshot`: writes that wait for all, changes under load, and look-ups among
20 000 routes, within their bars."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.fleet import run
from bench.machine import percentile
from tests.support.etcd import find_etcd_binaries

pytestmark = [
    pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here"),
    pytest.mark.timeout(200),
    pytest.mark.alone,
]


TRIES = 3  # a neighbour on the machine may take its time from one


def test_a_change_is_everywhere_in_time(tmp_path: Path) -> None:
    missed = []
    for number in range(TRIES):
        folder = tmp_path / str(number)
        rows, troubles = run(folder, planes=3, writes=50, routes=2_000, rate=50, seconds=4)
        assert troubles == []
        assert [len(row.times) for row in rows] == [50, 200]
        late = [(row.what, percentile(row.times, 0.99), row.bar) for row in rows if row.missed]
        if not late:
            return
        missed += late
    raise AssertionError(missed)


def test_a_look_up_among_very_many_routes_takes_no_time() -> None:
    """All routes of the long form, and few certificates: those take most of its time."""
    command = [sys.executable, "-m", "bench.snapshot", "--certificates", "100"]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "20000 routes, 5000 of them wildcards" in done.stdout, done.stderr
        if not done.returncode:
            return
    raise AssertionError(done.stdout)
