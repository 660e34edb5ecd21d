"""`sniproxy` as a process of its own, with an environment of its own, for tests of commands."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping

import httpx

from tests.support import plain_http

PATIENCE = 90.0  # seconds that a command, or a server until it answers, may take
SNIPROXY = (sys.executable, "-m", "sniproxy.cli")
Process = subprocess.Popen[str]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours, with these settings and none that the machine happens to have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SNIPROXY_")}
    return kept | dict(settings)


def start(*args: str, settings: Mapping[str, str], new_session: bool = False) -> Process:
    """A command that runs until it is ended; `communicate` gives what it printed."""
    return subprocess.Popen(
        [*SNIPROXY, *args],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=new_session,
        text=True,
    )


def run(
    *args: str, settings: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*SNIPROXY, *args],
        env=environment(settings),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )


def wait_http(url: str, process: Process) -> None:
    """Until somebody answers there, whatever it is."""
    give_up = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < give_up:
        try:
            plain_http.get(url, timeout=2)
        except httpx.TransportError:
            time.sleep(0.01)
        else:
            return
    process.kill()
    out, err = process.communicate()
    raise RuntimeError(f"nobody answers at {url}:\n{out}{err}")
