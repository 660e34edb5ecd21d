"""Workers that die: only their sessions go with them, and others let players in until they are back."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.crowd import is_open
from tests.support.crowds import crowd_at, crowded, is_alive, ready_code, until, workers_of

pytestmark = pytest.mark.anyio

WORKERS = 4
STAYING = 200  # a tenth of what `make load` has
RATE = 50.0  # newcomers a second


async def test_only_the_sessions_of_a_killed_worker_end(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=WORKERS) as stack:
        async with crowd_at(stack, STAYING, RATE) as crowd:
            await until(lambda: stack.metrics()["sniproxy_workers"] == WORKERS)
            before = workers_of(stack)
            assert len(before) == WORKERS
            victim = min(before)
            opened = stack.metrics()["sniproxy_sessions_opened_total"]
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await until(lambda: len(workers_of(stack) - {victim}) == WORKERS)
            await until(lambda: stack.metrics()["sniproxy_workers"] == WORKERS)
            back_at = time.monotonic()
            served = crowd.served
            await until(lambda: crowd.served > served + RATE)
            await crowd.play()
            metrics = stack.metrics()
            assert len(crowd.staying) == STAYING - len(crowd.lost)
        # Who was on the way in through it may have been lost, and nobody who came after.
        assert all(one.at < killed_at + 1 for one in crowd.turned_away), crowd.turned_away
        assert len(crowd.turned_away) <= 5
        assert 0 < len(crowd.lost) < STAYING / 2
        assert metrics["sniproxy_worker_crashes_total"] == 1
        assert metrics["sniproxy_worker_sessions_lost_total"] >= len(crowd.lost)
        assert metrics["sniproxy_sessions_opened_total"] > opened  # no counter falls
        (line,) = stack.proxy.lines("worker died")
        assert line["cause"] == "SIGKILL"
        assert line["sessions_lost"] >= len(crowd.lost)
        assert back_at - killed_at < 10  # the bar of 1 s is bench.load's: this machine may be busy
        assert before - {victim} < workers_of(stack)
        await crowd.leave()


async def test_a_worker_that_dies_again_and_again_is_given_up_and_the_others_do_its_part(
    tmp_path: Path,
) -> None:
    with crowded(tmp_path, workers=2, max_crashes=2) as stack:
        async with crowd_at(stack, 0) as crowd:
            await until(lambda: stack.metrics()["sniproxy_workers"] == 2)
            (stays, victim) = sorted(workers_of(stack))
            os.kill(victim, signal.SIGKILL)
            await until(lambda: workers_of(stack) - {stays, victim})
            os.kill((workers_of(stack) - {stays, victim}).pop(), signal.SIGKILL)
            await until(lambda: stack.proxy.lines("worker given up"))
            (line,) = stack.proxy.lines("worker given up")
            assert "2 times in 60 s" in line["cause"]
            await crowd.stay(40)  # whichever of the sockets they come to
            assert ready_code(stack) == 200
            assert workers_of(stack) == {stays}
            await crowd.leave()
        # The last one too: then there is nobody left to serve.
        process = stack.proxy.process
        assert process is not None

        def has_ended() -> bool:
            for pid in workers_of(stack):
                with suppress(ProcessLookupError):  # killed in the last round, and gone by now
                    os.kill(pid, signal.SIGKILL)
            return process.poll() is not None

        await until(has_ended)
        assert process.poll() == 1
        assert "every worker has died 2 times in 60 s" in stack.proxy.log.read_text()
        assert not is_open(stack.port)


async def test_workers_whose_parent_is_gone_finish_their_sessions(tmp_path: Path) -> None:
    with crowded(tmp_path, {"deadline": 30}, workers=2) as stack:
        async with crowd_at(stack, 20) as crowd:
            await until(lambda: stack.metrics()["sniproxy_workers"] == 2)
            orphans = workers_of(stack)
            stack.proxy.kill()
            await until(lambda: not is_open(stack.port))
            stack.proxy.start()  # at once, on the same ports
            stack.wait_ready()
            await crowd.stay(20)
            await crowd.play()
            assert not crowd.lost
            assert not orphans & workers_of(stack)
            assert all(map(is_alive, orphans))
            await crowd.leave()
        await until(lambda: not any(map(is_alive, orphans)))
        assert len(stack.proxy.lines("parent gone")) == 2
