"""Another version on the same sockets, and settings that are read again: nobody is refused, nobody thrown out."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.crowd import is_open
from tests.support.crowds import crowd_at, crowded, heard, is_alive, ready_code, until, workers_of
from tests.support.ports import free_ports
from tests.support.stack import Stack

pytestmark = pytest.mark.anyio

RATE = 100.0  # newcomers a second; `make load` has 300
STAYING = 50


async def upgraded(stack: Stack) -> subprocess.CompletedProcess[str]:
    """`sniproxy upgrade`, to its end."""
    return await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "sniproxy.cli", "upgrade", "-c", str(stack.config)],
            capture_output=True,
            text=True,
        )
    )


def change(stack: Stack, **proxy: Any) -> None:
    """Other settings in the file."""
    settings = json.loads(stack.config.read_text())
    settings["proxy"] |= proxy
    stack.config.write_text(json.dumps(settings))


async def test_an_upgrade_refuses_nobody_and_throws_nobody_out(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2) as stack:
        parent = stack.proxy.pid
        async with crowd_at(stack, STAYING, RATE) as crowd:
            await until(lambda: crowd.served > RATE / 2)
            first = workers_of(stack)
            done = await upgraded(stack)
            assert done.returncode == 0, done.stderr
            assert "sessions finish in 2 old workers" in done.stdout
            await until(lambda: len(workers_of(stack) - first) == 2)
            await crowd.play()
            served = crowd.served
            await until(lambda: crowd.served > served + RATE / 2)
            # Again, by a signal, and with fewer workers: nobody's socket is forgotten.
            change(stack, workers=1)
            second = workers_of(stack) - first
            os.kill(parent, signal.SIGUSR2)
            await until(lambda: len(workers_of(stack) - first - second) == 1)
            await until(lambda: not any(map(is_alive, second)))  # they had nobody
            await crowd.play()
            served = crowd.served
            await until(lambda: crowd.served > served + RATE)
            metrics = stack.metrics()
        assert not crowd.turned_away
        assert not crowd.lost
        await until(lambda: not any(map(is_alive, first)))  # its last player has left
        assert stack.proxy.pid == parent
        assert metrics["sniproxy_workers"] == 1
        assert metrics["sniproxy_sessions_active"] >= STAYING
        # Only players end sessions; a newcomer who is called back with an echo unread is a reset.
        reasons = {line["reason"] for line in stack.proxy.lines("session")}
        assert "client_closed" in reasons
        assert reasons <= {"client_closed", "client_reset"}
        stack.put("/stream_routes/later?wait=all&timeout=60s", {"sni": "later.example.com"})


async def test_a_version_that_could_not_run_is_refused(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=1) as stack:
        async with crowd_at(stack, 5) as crowd:
            before = workers_of(stack)
            change(stack, hello_timeout=-1)
            done = await upgraded(stack)
            assert done.returncode == 2
            assert "proxy.hello_timeout" in done.stderr
            os.kill(stack.proxy.pid, signal.SIGUSR2)
            await until(lambda: stack.proxy.lines("upgrade refused"))
            await crowd.stay(5)
            await crowd.play()
            assert not crowd.lost
            assert workers_of(stack) == before
            assert ready_code(stack) == 200


async def test_settings_that_are_read_again(tmp_path: Path) -> None:
    """Some change for the next player, others are named, and those that cannot be used change nothing."""
    with crowded(tmp_path, workers=2) as stack:
        async with crowd_at(stack, 10) as crowd:
            await until(lambda: stack.metrics()["sniproxy_workers"] == 2)
            change(stack, max_sessions=12, backlog=1000, limits={"address_sessions": 11})
            os.kill(stack.proxy.pid, signal.SIGHUP)
            await until(lambda: stack.proxy.lines("settings read again"))
            (line,) = stack.proxy.lines("settings read again")
            assert line["need_upgrade"] == ["proxy.backlog"]
            await until(lambda: _is_full(stack))
            change(stack, hello_timeout="soon")
            os.kill(stack.proxy.pid, signal.SIGHUP)
            await until(lambda: stack.proxy.lines("settings not used"))
            (line,) = stack.proxy.lines("settings not used")
            assert "proxy.hello_timeout" in line["cause"]
            change(stack, hello_timeout=5, limits={}, max_sessions=1000)
            os.kill(stack.proxy.pid, signal.SIGHUP)
            await until(lambda: len(stack.proxy.lines("settings read again")) == 2)
            heard(stack)
            await crowd.stay(20)
            await crowd.play()
            assert not crowd.lost


def _is_full(stack: Stack) -> bool:
    """Whether one more is refused by what was read."""
    lines = [line["reason"] for line in stack.proxy.lines("session")]
    trial = subprocess.run(
        [sys.executable, "-c", _TRIAL, str(stack.port)], check=True, capture_output=True
    )
    return b"refused" in trial.stdout or "address_limit" in lines


_TRIAL = """
import socket, sys
from tests.support.players import client_hello
held = []
for _ in range(4):
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
    held.append(sock)
    try:
        sock.sendall(client_hello("crowd.example.com"))
        if not sock.recv(1):
            print("refused")
    except (ConnectionResetError, BrokenPipeError):
        print("refused")
"""


async def test_an_address_that_is_taken_is_known_before_the_old_version_has_gone(
    tmp_path: Path,
) -> None:
    with crowded(tmp_path, workers=1) as stack, socket.create_server(("127.0.0.1", 0)) as other:
        settings = json.loads(stack.config.read_text())
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        settings["proxy"]["listeners"].append({"address": taken})
        stack.config.write_text(json.dumps(settings))
        done = await upgraded(stack)
        assert done.returncode == 1
        assert "proxy.listeners.1.address: port" in done.stderr
        async with crowd_at(stack, 5) as crowd:
            await crowd.play()
            assert not crowd.lost


async def test_listeners_come_and_go_with_an_upgrade(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2) as stack:
        settings = json.loads(stack.config.read_text())
        (first,) = settings["proxy"]["listeners"]
        new = free_ports(1)[0]
        settings["proxy"]["listeners"] = [first | {"address": f"127.0.0.1:{new}"}]
        stack.config.write_text(json.dumps(settings))
        async with crowd_at(stack, 10) as crowd:
            assert (await upgraded(stack)).returncode == 0
            await until(lambda: not is_open(stack.port))
            await crowd.play()
            crowd.pick = lambda: new
            await crowd.stay(10)
            await crowd.play()
            assert not crowd.lost
