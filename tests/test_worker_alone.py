"""A worker whose parent is gone, or was another one."""

from pathlib import Path

import pytest

from sniproxy.settings import Drain
from tests.test_member import worker

pytestmark = pytest.mark.anyio


async def test_one_that_was_told_to_take_its_time_ends_in_time_once_its_parent_is_gone(
    tmp_path: Path,
) -> None:
    """Of the version before, without drain.upgrade_deadline: else nothing would ever end it."""
    async with worker(tmp_path, drain=Drain(deadline=0.2, spread=0.1)) as one:
        player = await one.join()
        one.tell(leave=[None, 0])
        await one.heard()
        one.member.channel.close()
        assert await one.ended() == 0
        player.close()
