"""The short form of the second half of `make load`: fewer clients that mean harm, and no bar on the players' round trips."""

from pathlib import Path

import pytest

from bench.hostile import garbage, proxy_and_games, slow_clients

pytestmark = pytest.mark.alone


def test_slow_clients_are_closed_on_time_and_garbage_leaves_nothing(tmp_path: Path) -> None:
    with proxy_and_games(tmp_path) as (stack, trap):
        slow_clients(stack, 400, 1.0)
        garbage(stack, trap, 500.0, 3.0)
