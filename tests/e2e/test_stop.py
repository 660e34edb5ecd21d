"""The end of a data plane: SIGTERM with players on it, and a drain that an operator asks for."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.crowd import is_open
from tests.support.crowds import ROUTE, crowd_at, crowded, heard, ready_code, until
from tests.support.stack import Stack

pytestmark = pytest.mark.anyio

STAYING = 200  # a tenth of what the bar has
SLOW = 1.5  # seconds by which this machine may be late


def phases(stack: Stack) -> list[str]:
    """Of its drain, so far."""
    return [line["phase"] for line in stack.proxy.lines("draining")]


def begun(stack: Stack, phase: str) -> None:
    """It has come that far."""
    assert phase in phases(stack)


@pytest.mark.alone
async def test_sigterm_with_players_on_it(tmp_path: Path) -> None:
    """Not ready at once, open for `accept` more seconds, nobody reset before the deadline, then one by one; exit code 0."""
    drain = {"accept": 2, "deadline": 3, "spread": 2}
    with crowded(tmp_path, drain, workers=2) as stack:
        process = stack.proxy.process
        assert process is not None
        async with crowd_at(stack, STAYING) as crowd:
            process.terminate()
            asked_at = time.monotonic()
            await until(lambda: ready_code(stack) == 503, SLOW)
            async with trio.open_nursery() as newcomers:
                newcomers.start_soon(crowd.come_and_go, 30)
                await trio.sleep(1)
                assert ready_code(stack) == 503
                newcomers.cancel_scope.cancel()
            assert crowd.served > 20
            assert not crowd.turned_away
            await until(lambda: not is_open(stack.port))
            assert time.monotonic() - asked_at >= drain["accept"]
            await crowd.play()
            assert not crowd.lost  # they play on, behind closed doors
            assert phases(stack) == ["leaving", "waiting"]
            ends: list[float] = []
            async with trio.open_nursery() as watching:
                for stream in crowd.staying.values():
                    watching.start_soon(_note_end, stream, ends)
            assert len(ends) == STAYING
            assert min(ends) - asked_at >= drain["accept"] + drain["deadline"] - 0.1
            assert max(ends) - min(ends) >= drain["spread"] / 2  # no storm
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert phases(stack) == ["leaving", "waiting", "ending", "over"]
        # A newcomer who is called back with an echo unread is a reset of his own.
        reasons = {line["reason"] for line in stack.proxy.lines("session")} - {"client_reset"}
        assert reasons == {"client_closed", "shutdown"}


async def _note_end(stream: trio.SocketStream, ends: list[float]) -> None:
    assert await stream.receive_some(1) == b""  # an end, and no reset
    ends.append(time.monotonic())


async def test_it_ends_as_soon_as_the_last_player_has_left(tmp_path: Path) -> None:
    with crowded(tmp_path, {"deadline": 600, "spread": 600}, workers=2) as stack:
        process = stack.proxy.process
        assert process is not None
        async with crowd_at(stack, 20) as crowd:
            process.terminate()
            await until(lambda: not is_open(stack.port))
            await trio.sleep(0.3)
            assert process.poll() is None
            await crowd.leave()
            await until(lambda: process.poll() == 0)


async def test_a_second_sigterm_is_final(tmp_path: Path) -> None:
    with crowded(tmp_path, {"accept": 600, "deadline": 600}, workers=2) as stack:
        process = stack.proxy.process
        assert process is not None
        async with crowd_at(stack, 20) as crowd:
            process.terminate()
            await until(lambda: ready_code(stack) == 503)
            process.send_signal(signal.SIGHUP)  # no signal but these two ends anything
            process.terminate()
            await until(lambda: process.poll() == 0, 10)
            for stream in crowd.staying.values():
                assert await stream.receive_some(1) == b""


def command(stack: Stack, *options: str) -> subprocess.Popen[str]:
    """`sniproxy drain`, asked of it."""
    return subprocess.Popen(
        [sys.executable, "-m", "sniproxy.cli", "drain", "-c", str(stack.config), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    out, err = await trio.to_thread.run_sync(process.communicate, None, 60)
    return process.returncode, out, err


async def test_drain_without_stopping_and_its_undoing(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2) as stack:
        async with crowd_at(stack, 30) as crowd:
            draining = command(stack)
            await until(lambda: not is_open(stack.port))
            assert ready_code(stack) == 503
            await crowd.play()
            assert not crowd.lost
            assert (await finished(command(stack, "--undo")))[0] == 0
            assert ready_code(stack) == 200
            await crowd.stay(10)  # players are let in again
            code, _, err = await finished(draining)
            assert (code, err) == (1, "sniproxy: the drain was taken back\n")
            draining = command(stack)
            await until(lambda: not is_open(stack.port))
            await crowd.leave()
            code, out, err = await finished(draining)
        assert code == 0, err
        assert out.splitlines()[-1].startswith("0 sessions")
        assert stack.proxy.process is not None
        assert stack.proxy.process.poll() is None
        assert stack.metrics()["sniproxy_draining"] == 1


async def test_drain_with_a_deadline_ends_the_rest(tmp_path: Path) -> None:
    with crowded(tmp_path, {"spread": 0.5}, workers=2) as stack:
        async with crowd_at(stack, 30) as crowd:
            code, out, _ = await finished(command(stack, "--deadline", "1s"))
            assert code == 0, out
            for stream in crowd.staying.values():
                assert await stream.receive_some(1) == b""


async def test_a_drained_route_takes_nobody_and_the_others_do(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2, refused_log_interval=0) as stack:
        other: dict[str, Any] = stack.api.get(f"/stream_routes/{ROUTE}").json()["value"]
        stack.put("/stream_routes/other?wait=all", {**_bare(other), "sni": "other.example.com"})
        async with crowd_at(stack, 20) as crowd:
            code, _, err = await finished(command(stack, "--route", "nobody"))
            assert code == 1
            assert "no stream_route has the id 'nobody'" in err
            draining = command(stack, "--route", ROUTE)
            await until(lambda: stack.proxy.lines("route drained"))
            heard(stack)
            with pytest.raises((OSError, EOFError, trio.BrokenResourceError)):
                await crowd.stay_one()
            await crowd.play()
            assert not crowd.lost
            crowd.rename("other.example.com")
            await crowd.stay(5)
            await crowd.leave(20)  # those of the drained route
            code, out, _ = await finished(draining)
            assert (code, out.splitlines()[-1]) == (0, "0 sessions")
            assert (await finished(command(stack, "--route", ROUTE, "--undo")))[0] == 0
            heard(stack)
            crowd.rename("crowd.example.com")
            await crowd.stay(5)
            await crowd.play()
            assert not crowd.lost
            await crowd.leave()
        assert {line["reason"] for line in stack.proxy.lines("session")} == {
            "client_closed",
            "route_drained",
        }


def _bare(route: dict[str, Any]) -> dict[str, Any]:
    return {name: route[name] for name in ("upstream", "tls_passthrough")}
