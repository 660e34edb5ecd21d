"""A log that nobody reads costs lines, and no player anything. Dropped lines are counted: tests/test_log_queue.py."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.crowds import crowd_at, crowded
from tests.support.stack import Part

pytestmark = pytest.mark.anyio

PIPE = 64 * 1024  # bytes that the kernel takes before a writer must wait


def unread(part: Part) -> subprocess.Popen[bytes]:
    """The part, started with pipes that nobody reads from."""
    pipe = subprocess.PIPE
    return subprocess.Popen(part.command, env=part.env, stdout=pipe, stderr=pipe)


async def test_players_do_not_notice_that_nobody_reads_the_log(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2) as stack:
        stack.proxy.stop()
        process = stack.proxy.process = unread(stack.proxy)
        stack.wait_ready()
        async with crowd_at(stack, 20) as crowd:
            for _ in range(8):
                await crowd.stay(50)
                await crowd.leave(50)
                await crowd.play()
            assert not crowd.lost
        assert stack.metrics()["sniproxy_sessions_opened_total"] >= 400
        process.terminate()
        out, err = process.communicate(timeout=20)  # what waited is there after all
        assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(out) > PIPE
    assert len([line for line in lines if line["event"] == "session"]) == 420
