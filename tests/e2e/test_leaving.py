"""The short form of `make load` where data planes come and go; the other scenarios have tests of their own beside this."""

from pathlib import Path

import pytest

from bench.leaving import Size, rolling

pytestmark = [pytest.mark.anyio, pytest.mark.alone]


async def test_a_rolling_restart_of_three_data_planes_loses_nobody(tmp_path: Path) -> None:
    size = Size(staying=80, rate=50, accept=0, deadline=0.5, spread=0.5, upgrades=0)
    assert " 0 of " in await rolling(tmp_path, size)
