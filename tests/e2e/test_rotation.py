"""The short form of `python -m bench.rotation`."""

from pathlib import Path

import pytest

from bench.rotation import rotate
from tests.support.echo import echo_process
from tests.support.stack import Stack, stores

pytestmark = [pytest.mark.anyio, pytest.mark.alone]


async def test_a_certificate_that_changes_under_handshakes_loses_none(tmp_path: Path) -> None:
    with (
        echo_process() as game,
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=2) as stack,
    ):
        assert " 0 of " in await rotate(stack, game, seconds=3, rate=30, every=0.3)
