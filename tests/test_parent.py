"""The data plane's parent: what becomes of its workers and their players when signals and requests come at odd times."""

import errno
import json
import os
import signal
import socket
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from admin.traffic import TrafficReader
from sniproxy.cli import main
from sniproxy.drain import Phase
from sniproxy.errors import SettingsError
from sniproxy.objects.traffic import DAY, hour_of
from sniproxy.parent import DataPlane, check_settings
from sniproxy.scrape import rows_in
from sniproxy.settings import Drain, Encryption, Etcd, Listener, Settings
from sniproxy.upgrade import Estate
from tests.support.crews import played, until
from tests.support.peers import Peer
from tests.support.planes import House, Plane, house_of
from tests.support.ports import free_ports
from tests.support.stores import opened_sqlite

pytestmark = pytest.mark.anyio


async def test_what_is_drained_before_it_is_ready_lets_nobody_in_when_it_is(tmp_path: Path) -> None:
    """Nor does it say that it is ready; and once that is taken back it does."""
    async with house_of(tmp_path) as house, house.version() as plane:
        await plane.ask("POST", "/drain")
        await until(lambda: plane.parent.draining.phase is Phase.OVER)
        await plane.ready()
        assert await plane.readiness() == 503
        with pytest.raises(ConnectionRefusedError):
            plane.dial()
        await plane.ask("DELETE", "/drain")
        assert await plane.readiness() == 200
        (player,) = await plane.join(1)
        player.close()


async def test_a_drain_that_is_taken_back_before_it_is_ready_makes_it_not_ready(
    tmp_path: Path,
) -> None:
    async with house_of(tmp_path) as house, house.version() as plane:
        await plane.ask("POST", "/drain")
        await plane.ask("DELETE", "/drain")
        if not plane.parent.crew.first_ready.is_set():
            assert await plane.readiness() == 503
        await plane.ready()
        assert await plane.readiness() == 200
        (player,) = await plane.join(1)
        player.close()


async def test_told_to_end_before_it_was_ever_ready_it_waits_for_no_balancer(
    tmp_path: Path,
) -> None:
    drain = Drain(accept=600, deadline=600)
    async with house_of(tmp_path, drain) as house, house.version() as plane:
        plane.send(signal.SIGTERM)
        with trio.fail_after(20):
            await plane.ended.wait()
        assert plane.left is None


def test_a_store_that_cannot_be_had_is_known_before_an_upgrade(tmp_path: Path) -> None:
    """The next version would end with that, when the old one has gone."""
    keyring = Encryption(keyring=("A" * 43 + "=",))
    settings = Settings(store="etcds://127.0.0.1:1/apisix", state_dir=tmp_path, encryption=keyring)
    check_settings(settings)
    missing = Etcd(ca_file=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="ca_file"):
        check_settings(settings.model_copy(update={"etcd": missing}))


@pytest.fixture
def any_version_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tries it."""

    async def check(held: list[str]) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("sniproxy.parent.check_new_version", check)


async def upgraded(plane: Plane) -> Estate:
    """What it leaves to the next version."""
    plane.send(signal.SIGUSR2)
    with trio.fail_after(20):
        await plane.ended.wait()
    assert plane.left is not None
    return plane.left


def close(players: list[Peer]) -> None:
    for player in players:
        player.close()


@pytest.mark.usefixtures("any_version_could_run")
async def test_told_to_end_right_after_an_upgrade_it_waits_for_those_who_came_before(
    tmp_path: Path,
) -> None:
    """The old workers have not said yet how many play."""
    async with house_of(tmp_path, Drain(deadline=600)) as house:
        async with house.version() as plane:
            await plane.ready()
            players = await plane.join(5)
            left = await upgraded(plane)
        async with house.version(left) as plane:
            assert (await plane.ask("GET", "/version")).json()["old_sessions"] == 5
            plane.send(signal.SIGTERM)
            await trio.sleep(1)
            for player in players:
                await played(player)
            close(players)
            with trio.fail_after(20):
                await plane.ended.wait()


@pytest.mark.usefixtures("any_version_could_run")
async def test_the_old_workers_are_heard_while_the_new_ones_wait_for_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would take their parent for gone at last; and nobody would know when the last of them has ended."""

    async def wait(*_: object) -> None:
        await trio.sleep_forever()

    async with house_of(tmp_path, Drain(deadline=600)) as house:
        async with house.version() as plane:
            await plane.ready()
            players = await plane.join(5)
            left = await upgraded(plane)
        monkeypatch.setattr(DataPlane, "_serve", wait)
        async with house.version(left) as plane:
            old = plane.parent.crew.old
            await until(lambda: all(one.ready for one in old))
            players += await plane.join(1)
            plane.send(signal.SIGTERM)
            await until(lambda: plane.parent.draining.phase is Phase.WAITING)
            close(players)
            with trio.fail_after(20):
                await plane.ended.wait()
            assert plane.logged("worker killed") == []


@pytest.mark.usefixtures("any_version_could_run")
async def test_no_counter_falls_with_an_upgrade(tmp_path: Path) -> None:
    """What those had counted that have died, and the parent itself, is handed on."""

    async def counted(plane: Plane) -> dict[str, float]:
        names = ("sessions_opened", "worker_crashes", "worker_sessions_lost")
        return {name: await plane.metric(f"{name}_total") for name in names}

    async with house_of(tmp_path, workers=1) as house:
        async with house.version() as plane:
            await plane.ready()
            lost = await plane.join(5)
            before = await counted(plane)
            plane.parent.crew.members[0].kill()
            await until(lambda: plane.logged("worker died"))
            await until(lambda: plane.parent.crew.members)
            lost += await plane.join(2)
            left = await upgraded(plane)
        assert before["sessions_opened"] == 5
        for _ in range(2):
            async with house.version(left) as plane:
                assert await counted(plane) == {
                    "sessions_opened": 7,
                    "worker_crashes": 1,
                    "worker_sessions_lost": 5,
                }
                close(lost)
                await plane.ready()
                await until(lambda plane=plane: not plane.parent.crew.old)  # type: ignore[misc]
                left = await upgraded(plane)


async def test_a_drain_that_begins_while_the_new_version_is_tried_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, drained = trio.Event(), trio.Event()

    async def check(held: list[str]) -> None:
        tried.set()
        await drained.wait()

    monkeypatch.setattr("sniproxy.parent.check_new_version", check)
    async with house_of(tmp_path) as house, house.version() as plane:
        await plane.ready()
        plane.send(signal.SIGUSR2)
        await tried.wait()
        await plane.ask("POST", "/drain")
        drained.set()
        await until(lambda: plane.logged("upgrade refused"))
        assert not plane.ended.is_set()
        assert await plane.readiness() == 503


@pytest.mark.usefixtures("any_version_could_run")
async def test_each_session_is_in_the_statistics_once_whichever_version_counts_it(
    tmp_path: Path,
) -> None:
    """Also those of a worker that died, and of one that plays on after an upgrade."""

    async def written(house: House) -> int:
        async with opened_sqlite(tmp_path / "config.db") as store:
            reader = TrafficReader(store, house.settings.where.prefix, 10)
            today = hour_of(time.time()) // DAY
            days = await reader.days(today - 1, today + 1, dict)
            return sum(one.site.sessions for one in days.values())

    async with house_of(tmp_path, workers=1) as house:
        async with house.version() as plane:
            await plane.ready()
            players = await plane.join(3)
            await plane.look("/metrics")  # what was counted is known
            plane.parent.crew.members[0].kill()
            await until(lambda: plane.logged("worker died"))
            await until(lambda: plane.parent.crew.members)
            players += await plane.join(2)
            left = await upgraded(plane)
        assert await written(house) == 5
        async with house.version(left) as plane:
            known = rows_in(chain.from_iterable(plane.parent.crew.known))
            assert known["7"][0] == 5  # before any worker says so
            await plane.ready()
            players += await plane.join(4)
            close(players)
            plane.send(signal.SIGTERM)
            with trio.fail_after(20):
                await plane.ended.wait()
        assert await written(house) == 9


@pytest.mark.usefixtures("any_version_could_run")
async def test_sessions_that_end_with_an_old_worker_are_counted_as_lost(tmp_path: Path) -> None:
    async with house_of(tmp_path, workers=1) as house:
        async with house.version() as plane:
            await plane.ready()
            players = await plane.join(3)
            left = await upgraded(plane)
        async with house.version(left) as plane:
            await plane.ready()
            (old,) = plane.parent.crew.old
            old.kill()
            await until(lambda: plane.logged("old worker died"))
            (line,) = plane.logged("old worker died")
            assert (line["cause"], line["sessions_lost"]) == ("SIGKILL", 3)
            assert await plane.metric("worker_sessions_lost_total") == 3
            assert await plane.metric("worker_crashes_total") == 1
            close(players)


@pytest.mark.usefixtures("any_version_could_run")
async def test_who_came_to_a_listener_that_goes_with_an_upgrade_plays_on(tmp_path: Path) -> None:
    """Its old worker is still accepting there when the parent has closed it."""
    addresses = tuple(Listener(address=f"127.0.0.1:{port}") for port in free_ports(2))
    async with house_of(tmp_path, workers=1, listeners=addresses) as house:
        async with house.version() as plane:
            await plane.ready()
            players = [plane.dial(0), plane.dial(1)]
            for player in players:
                await played(player)
            left = await upgraded(plane)
        (old,) = (one.pid for one in left.workers)
        proxy = house.settings.proxy.model_copy(update={"listeners": addresses[1:]})
        house.settings = house.settings.model_copy(update={"proxy": proxy})
        async with house.version(left) as plane:
            os.kill(old, signal.SIGSTOP)  # as one that is busy
            await plane.ready()
            os.kill(old, signal.SIGCONT)
            await trio.sleep(0.5)
            for player in players:
                await played(player)
            close(players)


def test_where_the_program_cannot_be_executed_the_old_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers would lose their parent, and everybody who plays his game."""
    found: list[Estate | None] = []

    async def run_parent(*args: Any) -> Estate | None:
        found.append(args[-1])
        return estate if len(found) == 1 else None

    def execve(*_: Any) -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("sniproxy.proxy_command.run_parent", run_parent)
    monkeypatch.setattr("os.execve", execve)
    file = tmp_path / "sniproxy.yaml"
    file.write_text("{}")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with socket.socket() as sock:
            estate = Estate("1", {}, ("127.0.0.1:1", sock.fileno()), [], ["7"], 3, [])
            result = CliRunner().invoke(main, ["proxy", "-c", str(file)])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert result.exit_code == 0, result.exception
    assert found == [None, replace(estate, generation=2)]
    (line,) = [json.loads(one) for one in result.stdout.splitlines()]
    assert (line["event"], line["advice"]) == ("upgrade failed", "this version goes on")
