"""The data plane's parent: what becomes of its workers and their players when signals and requests come at odd times."""

import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from sniproxy.drain import Phase
from sniproxy.settings import Drain
from tests.support.crews import played, until
from tests.support.planes import Plane, house_of

pytestmark = pytest.mark.anyio


async def readiness(plane: Plane) -> int:
    """What a balancer hears."""
    return (await plane.look("/readyz")).status_code


async def test_what_is_drained_before_it_is_ready_lets_nobody_in_when_it_is(tmp_path: Path) -> None:
    """Nor does it say that it is ready; and once that is taken back it does."""
    async with house_of(tmp_path) as house, house.version() as plane:
        await plane.ask("POST", "/drain")
        await until(lambda: plane.parent.draining.phase is Phase.OVER)
        await plane.ready()
        assert await readiness(plane) == 503
        with pytest.raises(ConnectionRefusedError):
            plane.dial()
        await plane.ask("DELETE", "/drain")
        assert await readiness(plane) == 200
        (player,) = await plane.join(1)
        player.close()


async def test_a_drain_that_is_taken_back_before_it_is_ready_makes_it_not_ready(
    tmp_path: Path,
) -> None:
    async with house_of(tmp_path) as house, house.version() as plane:
        await plane.ask("POST", "/drain")
        await plane.ask("DELETE", "/drain")
        if not plane.parent.crew.first_ready.is_set():
            assert await readiness(plane) == 503
        await plane.ready()
        assert await readiness(plane) == 200
        (player,) = await plane.join(1)
        player.close()


async def test_told_to_end_before_it_was_ever_ready_it_waits_for_no_balancer(
    tmp_path: Path,
) -> None:
    async with house_of(tmp_path, Drain(accept=600, deadline=600)) as house:
        async with house.version() as plane:
            plane.send(signal.SIGTERM)
            with trio.fail_after(20):
                await plane.ended.wait()
            assert plane.left is None
