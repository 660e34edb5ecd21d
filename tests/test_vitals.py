"""How late a loop is, and how busy a thread."""

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.vitals import LOOK_EVERY, WINDOW, Lag, Load, Vitals

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def test_the_worst_is_told_for_ten_seconds() -> None:
    lag = Lag()
    assert lag.worst(0.0) == 0.0
    for now, late in ((1.0, 0.1), (2.0, 0.5), (3.0, 0.2), (4.0, 0.0)):
        lag.note(now, late)
    assert lag.worst(4.0) == 0.5
    assert lag.worst(2.0 + WINDOW) == 0.5
    assert lag.worst(2.1 + WINDOW) == 0.2
    assert lag.worst(3.1 + WINDOW) == 0.0
    assert lag.worst(100.0) == 0.0


def test_a_load_is_what_was_used_of_the_window() -> None:
    load = Load()
    assert load.share == 0.0
    load.note(100.0, 50.0)
    assert load.share == 0.0
    load.note(101.0, 50.5)
    assert load.share == 0.5
    for second in range(2, 30):
        load.note(100.0 + second, 50.5)
    assert load.share == 0.0


async def test_a_loop_that_is_kept_is_late() -> None:
    vitals, clock = Vitals(), trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(vitals.run)
        await trio.sleep(LOOK_EVERY * 1.5)
        assert vitals.worst_lag() == pytest.approx(0, abs=1e-6)
        clock.jump(2.0)  # somebody computes
        await trio.sleep(LOOK_EVERY / 10)
        assert vitals.worst_lag() == pytest.approx(2.0 - LOOK_EVERY / 2, abs=0.01)
        await trio.sleep(WINDOW + 1)
        assert vitals.worst_lag() == pytest.approx(0, abs=1e-6)
        nursery.cancel_scope.cancel()


async def test_the_thread_of_the_relay_is_found_by_its_name(tmp_path: Path) -> None:
    for number, name, used in (("10", "python", 7), ("11", "relay", 250_000_000)):
        (tmp_path / number).mkdir()
        (tmp_path / number / "comm").write_text(f"{name}\n")
        (tmp_path / number / "schedstat").write_text(f"{used} 0 3\n")
    vitals = Vitals(tmp_path)
    assert vitals.relay_load is not None
    vitals.look(0.0)
    (tmp_path / "11" / "schedstat").write_text("750000000 0 9\n")
    vitals.look(1.0)
    assert vitals.relay_load() == 0.5
    (tmp_path / "11" / "schedstat").unlink()
    vitals.look(2.0)  # the kernel does not say any more
    assert vitals.relay_load() == 0.5


async def test_a_relay_without_a_thread_has_no_load(tmp_path: Path) -> None:
    assert Vitals(tmp_path).relay_load is None
    assert Vitals(tmp_path / "missing").relay_load is None
