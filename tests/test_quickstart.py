"""`sniproxy quickstart` as a newcomer meets it: comes up, says what to type, and leaves nothing behind when it ends."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.admin.processes import PATIENCE, SNIPROXY, environment
from tests.support import plain_http
from tests.support.ports import free_ports, free_run

STOP = 2.0  # seconds from Ctrl-C until everything has ended: the promise of the quickstart
SLACK = 10.0  # seconds more for this test to find the processors of a busy machine
PARTS = ("test-server-1", "test-server-2", "test-server-3", "admin", "proxy")
WORKER = " sniproxy.worker "  # stands in the command of each that the proxy has started


class Quickstart:
    """One run in a directory, on ports that were free."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.output = folder / "output"
        self.listener, self.second, self.admin, self.status = free_ports(4)
        self.games = free_run(3)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        settings = {
            "SNIPROXY_PROXY__LISTENERS": json.dumps(
                [
                    {"address": f"127.0.0.1:{self.listener}", "tls": True, "tls_passthrough": True},
                    {"address": f"127.0.0.1:{self.second}", "tls": True},
                ]
            ),
            "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{self.admin}",
            "SNIPROXY_STATUS__ADDRESS": f"127.0.0.1:{self.status}",
            **more,
        }
        where = ["--data-dir", str(self.data), "--games-from", str(self.games)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*SNIPROXY, "quickstart", *where],
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # as a shell starts it: a process group of its own
            )
        return self.process

    def said(self) -> list[str]:
        """What a person reads: the lines that are no log of a part."""
        return [line for line in self.output.read_text().splitlines() if not line.startswith("{")]

    def until(self, condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < give_up, self.output.read_text()
            time.sleep(0.01)

    def until_up(self) -> None:
        self.until(lambda: "Ctrl-C ends everything" in self.output.read_text())

    def until_gone(self) -> None:
        """For workers whose parent was killed, which nobody waits for."""
        give_up = time.monotonic() + PATIENCE
        while self.parts():
            assert time.monotonic() < give_up, self.parts()
            time.sleep(0.01)

    def parts(self) -> dict[int, str]:
        """Every process that belongs to this run but the first, with its command line: parts, and workers of the proxy."""
        assert self.process is not None
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pid = int(entry.name)
            ours = session == self.process.pid or str(self.data) in command
            if ours and command and pid != self.process.pid:
                found[pid] = command
        return found

    def part(self, name: str) -> int:
        """The process id of a part."""
        pattern = re.compile(rf"sniproxy\.cli {name} |game_echo [0-9]+ {name}( |$)")
        (pid,) = (pid for pid, command in self.parts().items() if pattern.search(command))
        return pid

    def end(self, number: signal.Signals, *, group: bool = False) -> int:
        """The exit code after a signal; all parts must be gone by then, in the time that is promised."""
        assert self.process is not None
        began = time.monotonic()
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert time.monotonic() - began < STOP + SLACK
        self.until_gone()  # workers of a proxy that was killed, being late, end a moment after it
        return code


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[Quickstart]:
    """Whatever a test does, nothing of it runs on."""
    run = Quickstart(tmp_path)
    yield run
    if run.process is not None:
        for pid in run.parts():
            os.kill(pid, signal.SIGKILL)
        run.process.kill()
        run.process.wait()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_comes_up_and_ends_and_comes_up_again(quickstart: Quickstart) -> None:
    key_file = quickstart.data / "admin.key"
    quickstart.start()
    quickstart.until_up()
    key = key_file.read_text()

    # what it leaves is for its owner alone
    assert mode(quickstart.data) == 0o700
    for name in ("admin.key", "sniproxy.yaml", "keyring", "config.db", "certs/gs-1.com.key"):
        assert mode(quickstart.data / name) == 0o600, name
    assert re.fullmatch(r"[0-9a-f]{32}\n", key)
    assert key.strip() not in quickstart.output.read_text()

    # what it says holds
    text = quickstart.output.read_text()
    assert f"-connect 127.0.0.1:{quickstart.listener} -servername gs-1.com " in text
    assert f"-connect 127.0.0.1:{quickstart.listener} -servername tls-1.com " in text
    assert f"http://127.0.0.1:{quickstart.admin}/apisix/admin/ssls " in text
    assert f'"nodes": {{"127.0.0.1:{quickstart.games}": 1}}' in text
    assert f"export KEY=$(cat {key_file})" in text
    assert "@" not in "\n".join(quickstart.said())
    workers = [pid for pid, command in quickstart.parts().items() if WORKER in command]
    assert workers
    assert len(quickstart.parts()) == len(PARTS) + len(workers)
    assert objects(quickstart, key) == {"ssls": 2, "stream_routes": 3}
    assert plain_http.get(f"http://127.0.0.1:{quickstart.status}/readyz").status_code == 200

    assert quickstart.end(signal.SIGINT) == 0
    assert '"event": "stopping", "signal": "SIGTERM"' in quickstart.output.read_text()

    quickstart.start()
    quickstart.until_up()
    assert key_file.read_text() == key
    assert objects(quickstart, key) == {"ssls": 2, "stream_routes": 3}
    assert quickstart.end(signal.SIGTERM) == 0


def objects(quickstart: Quickstart, key: str) -> dict[str, Any]:
    """How many there are of each kind, as an operator with the key sees it."""
    base = f"http://127.0.0.1:{quickstart.admin}/apisix/admin"
    with httpx.Client(headers={"X-API-KEY": key.strip()}, verify=False) as client:
        return {
            name: client.get(f"{base}/{name}").json()["total"] for name in ("ssls", "stream_routes")
        }


def test_ctrl_c_in_a_terminal_reaches_every_part_at_once(quickstart: Quickstart) -> None:
    """And yet it is an end in good order: no part is blamed for having ended."""
    quickstart.start()
    quickstart.until_up()
    with socket.create_connection(("127.0.0.1", quickstart.listener)) as player:
        player.sendall(b"\x16")
        assert quickstart.end(signal.SIGINT, group=True) == 0
    assert "ended with exit code" not in quickstart.output.read_text()
    assert "Traceback" not in quickstart.output.read_text()


def test_ctrl_c_that_a_part_hears_first(quickstart: Quickstart) -> None:
    process = quickstart.start()
    quickstart.until_up()
    process.send_signal(signal.SIGSTOP)  # so that it hears last
    os.killpg(process.pid, signal.SIGINT)
    quickstart.until(lambda: len(quickstart.parts()) < len(PARTS))
    assert quickstart.end(signal.SIGCONT) == 0
    assert "ended with exit code" not in quickstart.output.read_text()


def test_ctrl_c_again_and_again(quickstart: Quickstart) -> None:
    process = quickstart.start()
    quickstart.until_up()
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.01)
    assert process.returncode == 0
    assert "Traceback" not in quickstart.output.read_text()
    quickstart.until_gone()


def test_ctrl_c_while_it_starts(quickstart: Quickstart) -> None:
    quickstart.start()
    quickstart.until(lambda: len(quickstart.parts()) >= 2)
    assert quickstart.end(signal.SIGINT) == 0
    assert "Traceback" not in quickstart.output.read_text()


@pytest.mark.parametrize("name", ["test-server-3", "admin", "proxy"])
def test_a_part_that_dies_ends_the_others(quickstart: Quickstart, name: str) -> None:
    process = quickstart.start()
    quickstart.until_up()
    os.kill(quickstart.part(name), signal.SIGKILL)
    assert process.wait(PATIENCE) not in (0, 2)
    quickstart.until_gone()
    assert quickstart.said()[-1] == (
        f"sniproxy quickstart: {name} ended with exit code -9; its own message stands above"
    )


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("listener", "proxy.listeners.0.address"),
        ("second", "proxy.listeners.1.address"),
        ("admin", "admin.address"),
        ("status", "status.address"),
        ("games", "--games-from"),
        ("games+2", "--games-from"),
    ],
)
def test_a_port_that_is_taken(quickstart: Quickstart, kind: str, setting: str) -> None:
    name, _, more = kind.partition("+")
    port = getattr(quickstart, name) + int(more or 0)
    with socket.create_server(("127.0.0.1", port)):
        process = quickstart.start()
        assert process.wait(PATIENCE) == 2
    assert quickstart.said() == [
        f"sniproxy: {setting}: port {port} is taken (127.0.0.1:{port}): "
        "end the program that uses it, or choose another port"
    ]
    assert quickstart.parts() == {}


def test_an_admin_that_speaks_tls(quickstart: Quickstart) -> None:
    """It is not asked without: nobody would ever answer."""
    more = {"SNIPROXY_ADMIN__CERT_FILE": "cert.pem", "SNIPROXY_ADMIN__KEY_FILE": "key.pem"}
    assert quickstart.start(**more).wait(PATIENCE) == 2
    (line,) = quickstart.said()
    assert line.startswith("sniproxy: admin.cert_file: quickstart asks the admin API without TLS")
    assert quickstart.parts() == {}


@pytest.mark.parametrize("where", ["/proc/none", "file/data"])
def test_a_directory_that_cannot_be_made(quickstart: Quickstart, where: str) -> None:
    (quickstart.output.parent / "file").write_text("")
    quickstart.data = quickstart.output.parent / where
    assert quickstart.start().wait(PATIENCE) == 2
    (line,) = quickstart.said()
    assert line.startswith(f"sniproxy: --data-dir: {quickstart.data}: ")
