"""Workers as real processes: kept running, started again, given up, and ended; and who lets players in meanwhile."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.errors import WorkersFailed
from sniproxy.settings import Settings
from tests.support.crews import PATIENCE, Running, crew_of, is_alive, played, until
from tests.support.peers import Peer

pytestmark = pytest.mark.anyio


def close(players: list[Peer]) -> None:
    for player in players:
        player.close()


async def test_they_start_let_players_in_and_end_when_they_are_told_to(tmp_path: Path) -> None:
    async with crew_of(tmp_path) as running:
        crew = running.crew
        assert (crew.stale, crew.revision, crew.members) == (True, 0, [])
        with trio.fail_after(30):
            await crew.first_ready.wait()
        await running.serve()
        assert (crew.stale, crew.revision) == (False, 1)
        assert running.changed[-1] == 1
        assert running.metric("workers") == 2
        players = await running.join(30)
        assert crew.active == 30
        routes = await crew.answers("routes")
        assert sum(one["7"] for one in routes) == 30
        assert all(one["7"] > 0 for one in routes)  # both have some
        counted = await running.counted()
        assert counted["sniproxy_sessions_opened_total"] == 30
        assert counted["sniproxy_sessions_active"] == 30
        assert counted["sniproxy_route_sessions_opened_total"] == 30
        assert counted["sniproxy_route_sessions_active"] == 30
        assert counted["sniproxy_route_bytes_to_client_total"] > 0  # while they play

        crew.order({"drained": ["7"]})
        await crew.answers("routes")  # which comes after
        await turned_away(running)
        crew.order({"drained": []})
        await crew.answers("routes")
        players += await running.join(1)

        pids = crew.pids
        await crew.stop()
        assert crew.everybody == []
        assert not any(map(is_alive, pids))
        for player in players:
            assert await player.read_all() == b""
        assert running.logged("worker died") == []
        assert running.metric("worker_crashes_total") == 0
        close(players)


async def lost_with(running: Running, worker: int) -> tuple[int, float]:
    """How many sessions end when that worker is killed, and how many were counted as opened by then."""
    counted = await running.counted()
    lost = running.sessions(worker)
    (victim,) = (one for one in running.crew.members if one.worker == worker)
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: len(running.crew.members) == 1)
    return lost, counted["sniproxy_sessions_opened_total"]


async def test_a_worker_that_is_killed_costs_its_sessions_and_nobody_who_comes(
    tmp_path: Path,
) -> None:
    async with crew_of(tmp_path) as running:
        await running.serve()
        crew = running.crew
        players = await running.join(40)
        before = crew.pids
        lost, opened = await lost_with(running, 0)
        assert 0 < lost < 40
        (other,) = crew.members
        assert sorted(other.slots) == [0, 1]
        late = await running.join(40)  # whichever socket they come to

        gone = 0
        for player in players:
            try:
                await played(player)
            except (OSError, AssertionError):
                gone += 1
        assert gone == lost
        await until(lambda: len(crew.members) == 2)
        assert [one.slots for one in sorted(crew.members, key=lambda one: one.worker)] == [[0], [1]]
        assert len(set(crew.pids) & set(before)) == 1
        assert crew.active == 80 - lost
        last = await running.join(20)

        counted = await running.counted()
        assert counted["sniproxy_sessions_opened_total"] == opened + 60  # it never fell
        assert counted["sniproxy_sessions_active"] == 100 - lost
        assert counted["sniproxy_route_sessions_opened_total"] == opened + 60
        assert counted["sniproxy_route_sessions_active"] == 100 - lost
        assert 0 <= counted["sniproxy_fds_ratio"] < 1  # of those that live
        assert 0 <= counted["sniproxy_loop_lag_seconds"] < PATIENCE
        assert running.metric("worker_crashes_total") == 1
        assert running.metric("worker_sessions_lost_total") == lost
        (line,) = running.logged("worker died")
        assert (line["worker"], line["cause"], line["sessions_lost"]) == (0, "SIGKILL", lost)
        assert crew.all_ready.is_set()
        close(players + late + last)


async def test_no_counter_falls_while_workers_die_and_come_back(tmp_path: Path) -> None:
    """Whenever it is looked: also while one has said nothing yet, or says nothing any more."""
    async with crew_of(tmp_path, max_crashes=100) as running:
        await running.serve()
        highest: dict[str, float] = {}
        for turn in range(3):
            players = await running.join(10)
            (victim,) = (one for one in running.crew.members if one.worker == turn % 2)
            counted = await running.counted()
            os.kill(victim.pid, signal.SIGKILL)
            while victim in running.crew.members or len(running.crew.members) < 2:
                for name, value in counted.items():
                    if name.endswith("_total") and name.startswith("sniproxy_"):
                        assert value >= highest.get(name, 0), name
                        highest[name] = value
                counted = await running.counted()
            close(players)
        assert highest["sniproxy_sessions_opened_total"] == 30


async def test_one_that_dies_again_and_again_is_given_up_and_the_other_does_its_part(
    tmp_path: Path,
) -> None:
    async with crew_of(tmp_path, max_crashes=2) as running:
        await running.serve()
        crew = running.crew
        for count in (1, 2):
            await until(lambda: len(crew.members) == 2)
            (victim,) = (one for one in crew.members if one.worker == 1)
            os.kill(victim.pid, signal.SIGSEGV)
            await until(lambda count=count: len(running.logged("worker died")) == count)  # type: ignore[misc]
        (line,) = running.logged("worker given up")
        assert (line["worker"], line["cause"]) == (1, "it died 2 times in 60 s")
        assert running.logged("worker died")[0]["cause"] == "SIGSEGV"
        await trio.sleep(0.5)
        assert len(crew.everybody) == 1
        assert running.metric("workers") == 1
        close(await running.join(30))
        assert not crew.stale


def broken(folder: Path, text: str) -> Path:
    """Where another `sniproxy` lies, whose worker is that."""
    package = folder / "broken" / "sniproxy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(text)
    return package.parent


async def failure(folder: Path, **proxy: Any) -> tuple[BaseException, Running]:
    """What ends a crew that cannot go on, and the crew."""
    found: list[Running] = []
    try:
        async with crew_of(folder, **proxy) as running:
            found.append(running)
            await trio.sleep(30)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, WorkersFailed)
        return error, found[0]
    raise AssertionError("it goes on")


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("", "exit code 0"),
    ],
)
async def test_when_none_stays_alive_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, cause: str
) -> None:
    monkeypatch.setattr("sniproxy.member.ROOT", broken(tmp_path, program))
    failed, running = await failure(tmp_path, max_crashes=3)
    assert str(failed).startswith("every worker has died 3 times in 60 s: ")
    died = running.logged("worker died")
    assert {line["cause"] for line in died} == {cause}
    assert [sorted(line["worker"] for line in died).count(worker) for worker in (0, 1)] == [3, 3]
    assert len(running.logged("worker given up")) == 1
    assert not running.crew.first_ready.is_set()


async def test_a_system_that_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    _, running = await failure(tmp_path, max_crashes=2)
    assert "/nowhere/python" in running.logged("worker not started")[0]["cause"]


async def test_one_whose_channel_breaks_is_replaced_although_it_lives_for_a_while(
    tmp_path: Path,
) -> None:
    """What it lets in no more, others do at once; its sessions go on for as long as a drain lets them."""
    async with crew_of(tmp_path) as running:
        await running.serve()
        players = await running.join(30)
        (one,) = (one for one in running.crew.members if one.worker == 0)
        one.channel.close()
        await until(lambda: len(running.crew.members) == 1)
        (other,) = running.crew.members
        assert sorted(other.slots) == [0, 1]
        close(await running.join(20))
        await until(lambda: not is_alive(one.pid))
        await until(lambda: len(running.crew.members) == 2)
        assert running.logged("worker died")[0]["cause"] == "exit code 0"
        close(players)


async def test_nobody_is_started_while_all_are_to_end(tmp_path: Path) -> None:
    async with crew_of(tmp_path) as running:
        await running.serve()
        crew = running.crew
        for _ in range(2):  # the second time there is a pause
            await until(lambda: len(crew.members) == 2)
            (victim,) = (one for one in crew.members if one.worker == 0)
            os.kill(victim.pid, signal.SIGKILL)
            await until(lambda victim=victim: victim not in crew.everybody)  # type: ignore[misc]
        await crew.stop()
        await trio.sleep(0.3)
        assert crew.everybody == []


async def test_who_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker alone: on a busy machine any other would not end within so short a time either."""
    monkeypatch.setattr("sniproxy.crew.STOP_WITHIN", 0.3)
    async with crew_of(tmp_path, workers=1) as running:
        await running.serve()
        stuck = running.crew.members[0]
        os.kill(stuck.pid, signal.SIGSTOP)
        await running.crew.stop()
        await until(lambda: not is_alive(stuck.pid))
        (line,) = running.logged("worker killed")
        assert line["worker"] == stuck.worker


async def test_who_has_not_said_anything_yet_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr("sniproxy.crew.STOP_WITHIN", PATIENCE)
    async with crew_of(tmp_path) as running:
        await until(lambda: len(running.crew.pids) == 2)
        pids = running.crew.pids
        with trio.fail_after(PATIENCE / 2):
            await running.crew.stop()
        assert not any(map(is_alive, pids))
        assert running.logged("worker killed") == running.logged("worker died") == []


async def test_shut_whoever_waits_is_in_and_nobody_comes_after_that(tmp_path: Path) -> None:
    """And opened again all is as before."""
    async with crew_of(tmp_path) as running:
        await running.serve()
        crew = running.crew
        for member in crew.members:
            os.kill(member.pid, signal.SIGSTOP)
        waiting = [running.dial() for _ in range(30)]
        for member in crew.members:
            os.kill(member.pid, signal.SIGCONT)
        await crew.shut()
        running.doors.close()
        with pytest.raises(ConnectionRefusedError):
            running.dial()
        for player in waiting:
            await played(player)
        (victim, _) = crew.members
        os.kill(victim.pid, signal.SIGKILL)  # who comes back lets nobody in either
        await until(lambda: len(running.logged("worker died")) == 1)
        await until(lambda: len(crew.members) == 2)
        assert [one.slots for one in crew.members] == [[], []]
        running.doors.open()
        crew.accept()
        close(await running.join(20))
        close(waiting)


async def test_one_that_is_too_slow_to_hear_that_the_doors_are_closed_keeps_its_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sniproxy.member.ANSWER_WITHIN", 0.1)
    async with crew_of(tmp_path) as running:
        await running.serve()
        crew = running.crew
        players = await running.join(20)
        for member in crew.members:
            os.kill(member.pid, signal.SIGSTOP)
        await crew.shut()
        running.doors.close()
        for member in crew.members:
            os.kill(member.pid, signal.SIGCONT)
        monkeypatch.setattr("sniproxy.member.ANSWER_WITHIN", PATIENCE)
        assert len(await crew.answers("routes")) == 2
        for player in players:
            await played(player)
        running.doors.open()
        crew.accept()
        close(await running.join(20))
        close(players)
        assert running.logged("worker died") == []


async def test_settings_hold_for_those_who_come_back_too(tmp_path: Path) -> None:
    async with crew_of(tmp_path) as running:
        await running.serve()
        crew = running.crew
        members: dict[str, Any] = crew.settings.model_dump(mode="json")
        members["proxy"]["max_sessions"] = 1
        crew.settings = Settings.model_validate(members)
        crew.order({"settings": members})
        await crew.answers("routes")
        (player,) = await running.join(1)
        await turned_away(running)
        await until(lambda: crew.active == 1)
        (victim,) = (one for one in crew.members if not running.sessions(one.worker))
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: len(running.logged("worker died")) == 1)
        await until(lambda: len(crew.members) == 2)
        for _ in range(20):  # by whichever of them
            await turned_away(running)
        await played(player)
        player.close()


async def turned_away(running: Running) -> None:
    """Somebody who is not let in."""
    player = running.dial()
    with trio.fail_after(PATIENCE):
        assert await player.read_all() == b""
    player.close()
