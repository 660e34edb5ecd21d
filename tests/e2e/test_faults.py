"""The short form of `make faults`: each fault once, under few players."""

from pathlib import Path

import pytest

from bench.faults import FAULTS, Plan, run
from tests.support.etcd import find_etcd_binaries

pytestmark = [
    pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here"),
    pytest.mark.timeout(400),
]

UNSEEN = "restore-while-cut"


def test_no_fault_loses_anything(tmp_path: Path) -> None:
    names = tuple(name for name in FAULTS if name != UNSEEN)
    report = run(Plan(names=names, sessions=10), tmp_path)
    assert report.wrong == []
    assert set(report.faults) == set(names)


@pytest.mark.xfail(reason="a watch knows a store that went back by its revision alone")
def test_a_restore_that_a_data_plane_has_not_seen(tmp_path: Path) -> None:
    assert run(Plan(names=(UNSEEN,), sessions=10, planes=1), tmp_path).wrong == []
