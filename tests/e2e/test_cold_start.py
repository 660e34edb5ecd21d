"""A data plane that starts while etcd is away: by the copy of last time, or not at all. Real processes throughout."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from sniproxy.logs import stamp
from tests.support import plain_http
from tests.support.etcd import EtcdServer
from tests.support.mirrors import flip
from tests.support.players import Game, connect, join, join_soon, pem_pair, say, trusting
from tests.support.stack import START_DEADLINE, Stack, retry_until, stores

NAME = "cold.example.com"
BAR = 5.0  # seconds until a data plane that runs serves, or a change is in force
PATIENCE = 60.0  # seconds for what has no bar


@dataclass
class Site:
    """A stack on an etcd, with one route to the first game server."""

    stack: Stack
    etcd: EtcdServer
    games: tuple[Game, Game]
    authority: trustme.CA
    key: str  # the private key that was written, as PEM

    @property
    def state(self) -> Path:
        return self.stack.config.parent / "state"

    def route(self, game: Game) -> None:
        """Everybody who asks for the name goes there."""
        self.stack.put("/stream_routes/cold", {"sni": NAME, "upstream": {"nodes": game.nodes}})

    def plays_on(self) -> str:
        """The game server of a new session."""
        with join(self.stack.port, NAME, trusting(self.authority)) as player:
            return say(player, "x").removesuffix(" x").strip("[]")

    def ready(self) -> tuple[int, str]:
        """What /readyz says; (0, "") while nobody answers."""
        try:
            answer = plain_http.get(f"http://127.0.0.1:{self.stack.status_port}/readyz", timeout=2)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def restart_without_etcd(self, *, in_between: object = None) -> None:
        """etcd is killed and the data plane started again; `in_between` is called with the site before that."""
        self.etcd.kill()
        self.stack.proxy.stop()
        if callable(in_between):
            in_between(self)
        self.stack.proxy.start()

    def answers(self) -> None:
        """Python is up: how long that takes is the machine's affair."""
        for _ in retry_until(START_DEADLINE, "the status port answers"):
            if self.ready()[0]:
                break

    def serves_without_etcd(self) -> str:
        """In time, once the status port answers; what /readyz says then. `store_wait` is 2 s of that time."""
        self.answers()
        text = ""
        for _ in retry_until(BAR, "ready without etcd"):
            code, text = self.ready()
            if code == 200:
                break
        return text

    def nobody_is_let_in(self, seconds: float) -> None:
        """For so long, once the status port answers: not ready, and no connection is taken."""
        self.answers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            code, text = self.ready()
            assert (code, "no configuration yet" in text) == (503, True)
            with pytest.raises(ConnectionRefusedError):
                connect(self.stack.port)
            time.sleep(0.05)

    def serves_again(self) -> None:
        """etcd is back: fresh, with a change in force and a record in the store."""
        self.etcd.start()
        for _ in retry_until(PATIENCE, "fresh again"):
            if self.ready() == (200, "ok\n"):
                break
        assert self.plays_on() == self.games[0].name
        self.stack.wait_admin()
        self.route(self.games[1])
        for _ in retry_until(BAR, "a change in force"):
            if self.plays_on() == self.games[1].name:
                break
        metrics = self.stack.metrics()
        assert metrics["sniproxy_config_stale"] == 0
        assert metrics["sniproxy_config_age_seconds"] < PATIENCE
        assert metrics["sniproxy_config_mirror_on_disk"] == 1
        self.is_in_the_store()

    def is_in_the_store(self) -> None:
        """The record of the one data plane that runs, which has all that was written in force."""
        for _ in retry_until(PATIENCE, "the record of the data plane"):
            if (nodes := self.stack.api.get("/nodes").json()["list"]) and not nodes[0]["stale"]:
                break
        (node,) = nodes
        assert node["id"].endswith(f":{self.stack.status_port}")
        answer = self.stack.api.put("/upstreams/any?wait=all", json={"nodes": {}})
        assert (answer.status_code // 100, answer.headers["X-In-Force-On"]) == (2, "1"), answer.text
        assert answer.status_code != 202


@contextmanager
def opened(folder: Path, authority: trustme.CA, games: tuple[Game, Game]) -> Iterator[Site]:
    """A site that serves."""
    with stores("etcd", folder) as (store, etcd):
        assert etcd is not None
        with Stack(folder / "stack", store, workers=1, store_retry_max=0.5) as stack:
            pair = pem_pair(authority, NAME)
            site = Site(stack, etcd, games, authority, pair["key"])
            stack.put("/ssls/cold", {"sni": NAME} | pair)
            site.route(games[0])
            join_soon(stack.port, NAME, trusting(authority)).close()
            yield site


@pytest.fixture
def site(tmp_path: Path, authority: trustme.CA, games: tuple[Game, Game]) -> Iterator[Site]:
    """One for each test, as each kills its etcd."""
    with opened(tmp_path, authority, games) as site:
        yield site


@pytest.mark.alone
def test_without_etcd_last_times_configuration_is_served(site: Site) -> None:
    site.is_in_the_store()
    before = time.monotonic()
    site.restart_without_etcd()
    assert "config_stale" in site.serves_without_etcd()
    assert site.plays_on() == site.games[0].name
    metrics = site.stack.metrics()
    assert metrics["sniproxy_config_stale"] == 1
    assert 0 < metrics["sniproxy_config_age_seconds"] < time.monotonic() - before + PATIENCE
    assert site.stack.proxy.lines("serving from the mirror")
    site.serves_again()


@pytest.mark.alone
def test_killed_with_etcd_and_started_without_it(site: Site) -> None:
    """SIGKILL to both at once: what was in force is in the copy."""
    site.route(site.games[1])
    for _ in retry_until(BAR, "the change in force"):
        if site.plays_on() == site.games[1].name:
            break
    site.stack.proxy.kill()
    site.etcd.kill()
    site.stack.proxy.start()
    site.serves_without_etcd()
    assert site.plays_on() == site.games[1].name


def empty(site: Site) -> None:
    """No copy is left. A data plane that runs may make or take away one of its bells meanwhile: then once more."""
    for _ in retry_until(PATIENCE, "nothing is left"):
        with suppress(OSError):
            shutil.rmtree(site.state)
            break


def damage(site: Site) -> None:
    """One bit of the copy is another."""
    flip(site.state / "mirror.db", "stream_routes/cold")


def test_without_etcd_and_copy_nobody_is_let_in(site: Site) -> None:
    """A client that connects elsewhere is better off than one who is told that there is no such game."""
    site.restart_without_etcd(in_between=empty)
    site.nobody_is_let_in(3)
    assert site.stack.proxy.lines("no configuration yet")
    assert site.stack.metrics()["sniproxy_config_stale"] == 1
    site.serves_again()


@pytest.mark.alone
def test_a_damaged_copy_is_set_aside_and_made_anew(site: Site) -> None:
    site.restart_without_etcd(in_between=damage)
    site.nobody_is_let_in(3)
    assert site.stack.metrics()["sniproxy_config_mirror_set_aside_total"] == 1
    (line,) = site.stack.proxy.lines("mirror set aside")
    assert "damaged" in line["cause"]
    assert (site.state / "mirror.db.set-aside").exists()
    site.serves_again()
    site.restart_without_etcd()  # by the new one
    site.serves_without_etcd()
    assert site.plays_on() == site.games[1].name


def test_a_state_dir_that_is_emptied_while_it_runs(site: Site) -> None:
    """Costs nothing that is in force, and is filled again."""
    since = stamp(time.time())  # some came before there was a route
    empty(site)
    site.route(site.games[1])
    for _ in retry_until(PATIENCE, "a change in force"):
        if site.plays_on() == site.games[1].name:
            break
    assert (site.state / "mirror.db").exists()
    reasons = {one["reason"] for one in site.stack.proxy.lines("session") if one["started"] > since}
    assert reasons == {"client_truncated"}  # no close_notify by Python


def test_private_keys_stay_encrypted_in_the_copy(site: Site) -> None:
    lines = [line.encode() for line in site.key.splitlines() if "-----" not in line]
    assert lines
    files = [file for file in site.state.rglob("mirror.db*") if file.is_file()]
    raw = b"".join(file.read_bytes() for file in files)
    assert b"/apisix/ssls/cold" in raw
    assert b"aes256gcm:" in raw
    assert b"PRIVATE KEY" not in raw
    assert not [line for line in lines if line in raw]


def test_a_data_plane_on_one_machine_has_a_record_too(tmp_path: Path) -> None:
    with (
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=1, store_retry_max=0.5) as stack,
    ):
        for _ in retry_until(BAR, "the record"):
            if (nodes := stack.api.get("/nodes").json())["total"]:
                break
        (node,) = nodes["list"]
        assert node["id"].endswith(f":{stack.status_port}")
        assert not node["stale"]
        answer = stack.api.put("/upstreams/1?wait=all", json={"nodes": {}})
        assert (answer.status_code, answer.headers["X-In-Force-On"]) == (201, "1")
        answer = stack.api.delete("/upstreams/1?wait=all")
        assert (answer.status_code, answer.headers["X-In-Force-On"]) == (200, "1")
        stack.proxy.stop()
        assert stack.api.get("/nodes").json()["total"] == 0  # it took it away
