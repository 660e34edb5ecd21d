"""The short form of `python -m bench.fleet`: writes that wait for all, and changes under load, within their bars."""

from pathlib import Path

import pytest

from bench.fleet import run
from bench.machine import percentile
from tests.support.etcd import find_etcd_binaries

pytestmark = [
    pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here"),
    pytest.mark.timeout(200),
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
