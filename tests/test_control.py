"""The control socket: who may use it, and what is answered there, over a real unix socket."""

import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trio
from trio.testing import MockClock

from sniproxy import __version__
from sniproxy.control import FILE, Control, Plane, open_control
from sniproxy.drain import Drain, Terms
from sniproxy.errors import SettingsError, UpgradeRefused
from sniproxy.settings import Drain as DrainSettings
from sniproxy.settings import Settings
from sniproxy.small_http import serve_http
from tests.support.files import open_files, settled_files
from tests.support.gateway import open_lines

pytestmark = pytest.mark.anyio

DEADLINE = 1000  # virtual seconds for one test
KNOWN = "there are /version, /drain, /drain/ROUTE and /upgrade\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


class Crew:
    """Workers that play some sessions: one of this version, and one of the version before."""

    def __init__(self) -> None:
        self.drained: frozenset[str] = frozenset()
        self.all_ready = trio.Event()
        self.old = [SimpleNamespace(active=2), SimpleNamespace(active=3)]
        self.active = 12

    async def answers(self, about: str) -> list[Any]:
        assert about == "config"
        objects = {
            "/apisix/stream_routes/7": 3,
            "/apisix/stream_routes/a b": 4,
            "/apisix/ssls/8": 5,
        }
        return [{"objects": {}}, {"objects": objects}]

    async def ask(self, about: str, *, old: bool) -> dict[str, Any]:
        assert (about, old) == ("routes", True)
        return {"one": {"7": 2, "8": 1}, "other": {"7": 3}, "third": {}}


class House:
    """A data plane: what is asked, and what comes of it. Implements `drain.Emptied` and `control.Plane`."""

    def __init__(self) -> None:
        log, self.lines = open_lines()
        self.crew = Crew()
        self.settings = Settings(
            store="sqlite:///config.db", drain=DrainSettings(accept=10, deadline=60, spread=5)
        )
        self.generation = 3
        self.did: list[tuple[Any, ...]] = []
        self.refused = ""
        self.draining = Drain(self, log)

    @property
    def active(self) -> int:
        return self.crew.active

    def retire(self) -> None:
        self.did.append(("retire",))

    async def close(self) -> None:
        self.did.append(("close",))

    def drain(self, after: float, spread: float) -> None:
        self.did.append(("drain", after, spread))

    def reopen(self) -> None:
        self.did.append(("reopen",))

    def drain_route(self, route: str, drained: bool) -> None:
        self.did.append(("drain_route", route, drained))
        self.crew.drained = self.crew.drained - {route} | ({route} if drained else set())

    async def prepare_upgrade(self) -> None:
        if self.refused:
            raise UpgradeRefused(self.refused)


class Operator:
    """Who asks."""

    def __init__(self, house: House, client: httpx.AsyncClient) -> None:
        self.house = house
        self._client = client

    async def ask(self, method: str, target: str) -> Any:
        """The content of an answer that is none of an error."""
        answer = await self.answer(method, target)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    async def answer(self, method: str, target: str) -> httpx.Response:
        return await self._client.request(method, target)


@asynccontextmanager
async def operating(state_dir: Path) -> AsyncIterator[Operator]:
    """A control socket that is served until the block is left, and somebody who asks there."""
    house = House()
    log, lines = open_lines()
    sock = open_control(state_dir, log)
    assert sock is not None, lines.all
    transport = httpx.AsyncHTTPTransport(uds=str(state_dir / FILE), verify=False)
    with sock, trio.fail_after(DEADLINE):
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(house.draining.run)
            nursery.start_soon(serve_http, sock, Control(cast("Plane", house)).answer)
            yield Operator(house, client)
            nursery.cancel_scope.cancel()


async def test_who_serves_here(tmp_path: Path) -> None:
    async with operating(tmp_path) as operator:
        version = await operator.ask("GET", "/version")
        operator.house.crew.all_ready.set()
        later = await operator.ask("GET", "/version")
    assert version == {
        "version": __version__,
        "pid": os.getpid(),
        "generation": 3,
        "ready": False,
        "sessions": 12,
        "old_workers": 2,
        "old_sessions": 5,
    }
    assert later == version | {"ready": True}


async def test_a_drain_from_the_beginning_to_where_it_is_taken_back(tmp_path: Path) -> None:
    async with operating(tmp_path) as operator:
        still: dict[str, Any] = {
            "phase": "serving",
            "seconds_left": None,
            "sessions": 12,
            "routes": [],
        }
        assert await operator.ask("GET", "/drain") == still
        assert (await operator.ask("POST", "/drain"))["sessions"] == 12
        await trio.sleep(4)
        leaving = await operator.ask("GET", "/drain")
        assert (leaving["phase"], round(leaving["seconds_left"])) == ("leaving", 6)
        await trio.sleep(100)
        waiting = await operator.ask("GET", "/drain")
        assert (waiting["phase"], waiting["seconds_left"]) == ("waiting", None)
        assert await operator.ask("DELETE", "/drain") == still
    assert operator.house.did == [("retire",), ("close",), ("reopen",)]


@pytest.mark.parametrize(
    ("query", "seconds"), [("30", 30), ("0", 0), ("1.5", 1.5), ("1e3", 1000), ("7&deadline=8", 8)]
)
async def test_a_deadline(tmp_path: Path, query: str, seconds: float) -> None:
    async with operating(tmp_path) as operator:
        await operator.ask("POST", f"/drain?deadline={query}")
        await trio.sleep(11)
    assert operator.house.did == [("retire",), ("close",), ("drain", seconds, 5)]


@pytest.mark.parametrize("query", ["", "soon", "-1", "nan", "inf", "-inf", "1m", "1,5", "1e999"])
async def test_what_is_no_deadline(tmp_path: Path, query: str) -> None:
    """Nothing is done, and it goes on serving."""
    async with operating(tmp_path) as operator:
        answer = await operator.answer("POST", f"/drain?deadline={query}")
        await trio.sleep(100)
        assert (await operator.ask("GET", "/drain"))["phase"] == "serving"
    assert (answer.status_code, answer.text) == (400, "deadline: expected seconds\n")
    assert operator.house.did == []


async def test_what_was_told_to_end_goes_on_by_its_own_terms(tmp_path: Path) -> None:
    """Whoever looks how far it is, as `sniproxy drain` does, puts nothing off."""
    async with operating(tmp_path) as operator:
        operator.house.draining.begin(Terms(accept=10, deadline=60, spread=5), final=True)
        assert (await operator.ask("POST", "/drain"))["phase"] == "leaving"
        undo = await operator.answer("DELETE", "/drain")
        later = await operator.answer("POST", "/drain?deadline=1000")
        await trio.sleep(30)
        waiting = await operator.ask("POST", "/drain")
        assert (waiting["phase"], round(waiting["seconds_left"])) == ("waiting", 40)
    assert undo.status_code == later.status_code == 409
    assert undo.text.startswith("it was told to end")
    assert operator.house.did == [("retire",), ("close",), ("drain", 60, 5)]


async def test_a_drain_that_cannot_be_taken_back_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has the port by now."""

    def reopen(house: House) -> None:
        raise SettingsError("proxy.listeners.0.address: port 1 is taken")

    monkeypatch.setattr(House, "reopen", reopen)
    async with operating(tmp_path) as operator:
        await operator.ask("POST", "/drain?deadline=50")
        await trio.sleep(20)
        undo = await operator.answer("DELETE", "/drain")
        assert undo.status_code == 409
        assert undo.text == "proxy.listeners.0.address: port 1 is taken\n"
        waiting = await operator.ask("GET", "/drain")
        assert (waiting["phase"], round(waiting["seconds_left"])) == ("waiting", 40)
        await trio.sleep(50)
        assert (await operator.ask("GET", "/drain"))["phase"] == "over"


async def test_a_route_is_drained_and_let_in_again(tmp_path: Path) -> None:
    async with operating(tmp_path) as operator:
        before = await operator.ask("GET", "/drain/7")
        drained = await operator.ask("POST", "/drain/7")
        assert await operator.ask("GET", "/drain/7") == drained
        assert (await operator.ask("GET", "/drain"))["routes"] == ["7"]
        other = await operator.ask("POST", "/drain/a%20b")
        assert (await operator.ask("GET", "/drain"))["routes"] == ["7", "a b"]
        after = await operator.ask("DELETE", "/drain/7")
        assert (await operator.ask("GET", "/drain"))["routes"] == ["a b"]
    assert before == after == {"route": "7", "drained": False, "sessions": 5}
    assert drained == before | {"drained": True}
    assert other == {"route": "a b", "drained": True, "sessions": 0}
    assert ("drain_route", "7", False) in operator.house.did


@pytest.mark.parametrize("route", ["8", "77", "", "7/", "stream_routes", "%2e%2e/ssls/8", "7%00"])
async def test_a_route_that_is_not_there_is_not_drained(tmp_path: Path, route: str) -> None:
    """One that was deleted can be let in again: it may come back."""
    async with operating(tmp_path) as operator:
        answer = await operator.answer("POST", f"/drain/{route}")
        assert answer.status_code == 404
        assert answer.text.startswith("no stream_route has the id ")
        assert operator.house.did == []
        await operator.ask("DELETE", f"/drain/{route}")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("POST", "/version"),
        ("GET", "/upgrade"),
        ("DELETE", "/upgrade"),
        ("PUT", "/drain"),
        ("PATCH", "/drain/7"),
        ("GET", "/drained"),
        ("GET", "/version/"),
        ("GET", "/livez"),
    ],
)
async def test_what_is_not_there(tmp_path: Path, method: str, target: str) -> None:
    async with operating(tmp_path) as operator:
        answer = await operator.answer(method, target)
    assert (answer.status_code, answer.text) == (404, KNOWN)
    assert operator.house.did == []


async def test_an_upgrade_is_the_signal_that_anybody_could_send(tmp_path: Path) -> None:
    with trio.open_signal_receiver(signal.SIGUSR2) as signals:
        async with operating(tmp_path) as operator:
            operator.house.refused = "proxy.listeners: what is that?"
            refused = await operator.answer("POST", "/upgrade")
            operator.house.refused = ""
            version = await operator.ask("POST", "/upgrade")
            assert await anext(aiter(signals)) == signal.SIGUSR2
    assert (refused.status_code, refused.text) == (409, "proxy.listeners: what is that?\n")
    assert version["pid"] == os.getpid()


# The socket


def opened(state_dir: Path) -> tuple[socket.socket | None, list[dict[str, Any]]]:
    """The control socket of that directory, and what was logged of it."""

    async def run() -> tuple[socket.socket | None, list[dict[str, Any]]]:
        log, lines = open_lines()
        return open_control(state_dir, log), lines.all

    return trio.run(run)


def answers(path: Path) -> bool:
    """Whether somebody lets us in there."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_it_is_for_its_owner_alone(tmp_path: Path, mask: int) -> None:
    """Whatever files are usually; and files are afterwards as they were."""
    before = os.umask(mask)
    try:
        sock, said = opened(tmp_path / "new" / "state")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert sock is not None
    assert said == []
    file = tmp_path / "new" / "state" / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert answers(file)
    assert not sock.getblocking()
    sock.close()
    assert not answers(file)


@pytest.mark.parametrize("left", ["socket", "file"])
def test_what_a_data_plane_left_that_was_killed_is_replaced(tmp_path: Path, left: str) -> None:
    file = tmp_path / FILE
    if left == "file":
        file.write_text("not a socket")
    else:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(file))
            stale.listen()
    sock, said = opened(tmp_path)
    assert sock is not None
    assert said == []
    assert answers(file)
    sock.close()


@pytest.mark.parametrize("waiting", [0, 8])
def test_that_of_another_data_plane_is_left_alone(tmp_path: Path, waiting: int) -> None:
    """One too that lets nobody in just now, its queue being full."""
    file = tmp_path / FILE
    clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(file))
        other.listen(2)
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(file))
        sock, (line,) = opened(tmp_path)
        for client in clients:
            client.close()
        assert sock is None
        assert (line["level"], line["event"]) == ("warning", "no control socket")
        assert "give each a state_dir of its own" in line["cause"]
        while let_in(other):
            pass
        assert answers(file)


def let_in(sock: socket.socket) -> bool:
    """Somebody who waits, if there is one."""
    sock.setblocking(False)
    try:
        sock.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("where", ["x" * 120, "file/state", "/proc/none"])
def test_where_there_can_be_none_signals_still_work(tmp_path: Path, where: str) -> None:
    """A path that is longer than a socket's may be, or one that cannot be made."""
    (tmp_path / "file").write_text("")
    before = settled_files()
    sock, (line,) = opened(tmp_path / where)
    assert sock is None
    assert (line["level"], line["event"]) == ("warning", "no control socket")
    assert line["advice"] == "signals still work"
    assert open_files() == before
