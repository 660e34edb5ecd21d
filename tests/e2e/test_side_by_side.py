"""The smallest form of `make bench`: whichever peers are here, every unit of work, every curve, and the page."""

import json
import sys
from pathlib import Path

import pytest

from bench.generator import Missing, build
from bench.report import BEGIN, END, JSON, write_report
from bench.side_by_side import CURVES, measure
from bench.works import COST, LATENCY, MEMORY, TINY

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(400),  # the load generator may have to be built first
]


@pytest.fixture(scope="module")
def binary() -> Path:
    try:
        return build()
    except Missing as error:
        pytest.skip(str(error))


def test_everybody_who_is_here_does_everything(binary: Path, tmp_path: Path) -> None:
    result = measure(TINY, tmp_path / "run")
    assert result["failures"] == []
    here = set(result["contestants"])
    assert "sniproxy, trio relay" in here
    assert len(here) + len(result["absent"]) == 5
    assert set(result["units"]) == {unit.key for unit in (*COST, *LATENCY, *MEMORY)}
    for unit in (*COST, *LATENCY, *MEMORY):
        found = result["units"][unit.key]
        assert set(found) == here, unit.key
        for name, figures in found.items():
            assert len(figures["samples"]) == TINY.rounds
            if unit.field != "kib":  # too few sessions here to be seen
                assert figures[unit.field] > 0, (unit.key, name)
    for curve, points in zip(CURVES, (TINY.sessions, TINY.sizes, TINY.routes), strict=True):
        assert set(result["curves"][curve]) == set(points)
        assert all(set(point) == here for point in result["curves"][curve].values())
    assert str(tmp_path) not in json.dumps(result)
    (tmp_path / "benchmarks.md").write_text(f"{BEGIN}{END}")
    write_report(result, tmp_path)
    kept = json.loads((tmp_path / "benchmarks" / JSON).read_text())
    assert set(kept["units"]) == set(result["units"])
    for curve in CURVES:
        assert (tmp_path / "benchmarks" / f"{curve}.svg").exists()
