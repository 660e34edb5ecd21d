"""Settings say how sessions are told of, and whole processes do it: text on a terminal, and traces at a collector."""

import json
import os
import pty
import re
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from sniproxy.settings import load_settings
from sniproxy.store.opening import open_store
from tests.support.collector import collecting
from tests.support.crowds import NAME, crowd_at, until
from tests.support.echo import echo_process
from tests.support.stack import Part, Stack, stores

pytestmark = pytest.mark.anyio

PLAYERS = 6
COLOURS = re.compile(r"\x1b\[\d*m")


class Screen:
    """A terminal that a program writes to."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._master, 65536).decode()
            except OSError:  # EIO: everybody who had it open is gone
                return

    def close(self) -> None:
        """Once nobody writes any more."""
        self._reader.join()
        os.close(self._master)


def start_at(screen: Screen, part: Part) -> None:
    """The part, with the terminal as its stdout."""
    none = subprocess.DEVNULL
    part.process = subprocess.Popen(
        part.command, env=part.env, stdin=none, stdout=screen.slave, stderr=screen.slave
    )
    os.close(screen.slave)


async def put_route(stack: Stack, game: int) -> None:
    """NAME leads to that port; without an admin, which has no part in this."""
    upstream = {"nodes": {f"127.0.0.1:{game}": 1}}
    route = {"sni": NAME, "upstream": upstream, "tls_passthrough": True}
    store = open_store(load_settings(stack.config))
    await store.put("/apisix/stream_routes/1", json.dumps(route).encode())
    await store.aclose()


async def test_a_terminal_and_a_collector(tmp_path: Path) -> None:
    """Every player has a line that people can read, and the trace that it names."""
    screen = Screen()
    with (
        collecting() as collector,
        echo_process() as game,
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, parts=[], workers=1) as stack,
    ):
        await put_route(stack, game)
        stack.proxy.env |= {
            "SNIPROXY_TRACES__ENABLED": "true",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.endpoint,
            "SNIPROXY_NODE": "edge-1",
            "TERM": "xterm",
        }
        stack.proxy.env.pop("NO_COLOR", None)
        start_at(screen, stack.proxy)
        try:
            _wait_for(f"http://127.0.0.1:{stack.status_port}/readyz")
            async with crowd_at(stack, PLAYERS) as crowd:
                await crowd.leave(PLAYERS // 2)
                await until(lambda: len(sessions_on(screen)) == PLAYERS // 2)  # they have left
                code = stack.proxy.stop()  # what is left to tell is told by then
        finally:
            stack.proxy.stop()
            screen.close()
    assert code == 0
    assert "\x1b[2m" in screen.text
    lines = shown_on(screen)
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} (info |warn |error) ", line) for line in lines)
    sessions = sessions_on(screen)
    assert len(sessions) == PLAYERS
    assert Counter(line.split()[2] for line in sessions)["shutdown"] == PLAYERS - PLAYERS // 2
    for line in sessions:
        spans = collector.trace(line.rpartition("session=")[2])
        assert set(spans) == {"session", "hello", "route", "connect"}
        assert spans["session"].resource["service.instance.id"] == "edge-1"
        assert spans["session"].attributes["sniproxy.reason"] in line


def shown_on(screen: Screen) -> list[str]:
    """The lines so far."""
    return COLOURS.sub("", screen.text).splitlines()


def sessions_on(screen: Screen) -> list[str]:
    """Those of sessions."""
    return [line for line in shown_on(screen) if f" {NAME} " in line]


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)
