"""The README's walk-through, word for word, with the real openssl and curl: on quickstart, and by hand on etcd.

Only ports and the key differ, so that the test runs beside anything else on the machine.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.players import Game
from tests.support.ports import free_ports, free_run
from tests.support.stack import KEY, Stack, retry_until, stores

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("curl")), reason="needs openssl and curl"
)


def walk_through() -> list[str]:
    """The commands of the README between its two markers."""
    text = README.read_text()
    block = re.search(r"<!-- walk-through -->\n+```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    commands = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    assert [line.split()[0] for line in commands] == ["openssl", "curl", "curl", "openssl"]
    return commands


def walk(folder: Path, key: str, ports: dict[str, int], game: str) -> None:
    """Runs them in a shell as a newcomer would, types hello and reads the answer."""
    commands = walk_through()
    for written, real in ports.items():
        commands = [re.sub(rf"\b{written}\b", str(real), line) for line in commands]
    env = os.environ | {"KEY": key}
    for line in commands[:3]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        if line.startswith("curl"):
            assert done.stdout.startswith("HTTP/1.1 201 Created"), done.stdout
            assert "BEGIN PRIVATE KEY" not in done.stdout
    for _ in retry_until(60, "hello answered"):
        player = subprocess.Popen(
            ["bash", "-c", "exec " + commands[3].partition("#")[0]],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert player.stdin is not None
        assert player.stdout is not None
        try:
            player.stdin.write(b"hello\n")
            player.stdin.flush()
            answer = player.stdout.readline()
        except BrokenPipeError:  # not in force yet
            answer = b""
        finally:
            player.terminate()
            player.communicate()
        if answer:
            assert answer == f"[{game}] hello\n".encode()
            return


@contextmanager
def quickstart(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The admin key and the ports of a running `sniproxy quickstart`."""
    listener, admin, status = free_ports(3)
    games = free_run(3)
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("SNIPROXY_")
    } | {
        "SNIPROXY_PROXY__LISTENERS": f'[{{"address":"127.0.0.1:{listener}","tls":true,"tls_passthrough":true}}]',
        "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{admin}",
        "SNIPROXY_STATUS__ADDRESS": f"127.0.0.1:{status}",
    }
    command = [sys.executable, "-m", "sniproxy.cli", "quickstart", "--data-dir", "data"]
    with subprocess.Popen(
        [*command, "--games-from", str(games)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C ends everything" in line:
                break
        key = (folder / "data" / "admin.key").read_text().strip()
        try:
            yield key, {"8888": listener, "9180": admin, "9001": games}
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def test_on_quickstart(tmp_path: Path) -> None:
    with quickstart(tmp_path) as (key, ports):
        walk(tmp_path, key, ports, "test-server-1")


def test_by_hand_on_etcd(tmp_path: Path, games: tuple[Game, Game]) -> None:
    with (
        stores("etcd", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=1) as stack,
    ):
        ports = {"8888": stack.port, "9180": stack.admin_port, "9001": games[0].port}
        walk(tmp_path, KEY, ports, games[0].name)
