"""The short form of `make faults`: each fault once, under few players."""

from pathlib import Path

import pytest

from bench.fault_kinds import FAULTS
from bench.faults import Plan, run
from tests.support.etcd import find_etcd_binaries

pytestmark = [
    pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here"),
    pytest.mark.timeout(400),
]


def test_no_fault_loses_anything(tmp_path: Path) -> None:
    report = run(Plan(planes=2, sessions=5), tmp_path)
    assert report.wrong == []
    assert set(report.faults) == set(FAULTS)
