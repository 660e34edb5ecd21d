"""A whole sniproxy for tests and benchmarks: real processes, real ports, on SQLite or on a real etcd."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support import plain_http
from tests.support.etcd import EtcdServer, find_etcd_binaries
from tests.support.ports import free_ports

RELAY = "SNIPROXY_PROXY__RELAY"  # the one setting that a run of the tests may choose
START_DEADLINE = 60.0  # seconds until a part must answer
STOP_DEADLINE = 60.0  # seconds until a part that was asked to stop must be gone
KEY = "0123456789abcdef0123456789abcdef"


class Part:
    """One process and what it prints."""

    def __init__(self, name: str, folder: Path, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.command = command
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; its output is appended to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            code = self.process.wait(STOP_DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it has logged under that event so far."""
        found = []
        whole, _, _ = self.log.read_text().rpartition("\n")  # the last may be on its way
        for text in whole.splitlines():
            line = json.loads(text) if text.startswith("{") else {}
            if line.get("event") == event:
                found.append(line)
        return found


def read_metrics(address: str, timeout: float = 5.0) -> dict[str, float]:
    """The counters on a status port, by name with labels."""
    text = plain_http.get(f"http://{address}/metrics", timeout=timeout).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Stack:
    """`sniproxy admin` and `sniproxy proxy` on one store, or one of them; `with` starts and stops them."""

    def __init__(
        self,
        folder: Path,
        store: str,
        *,
        parts: Sequence[str] = ("admin", "proxy"),
        listener: dict[str, Any] | None = None,
        drain: dict[str, Any] | None = None,
        **proxy: Any,
    ) -> None:
        """store: the setting. parts: what runs. listener: flags of the one (mixed by default).

        drain: how it ends; by default at once. proxy: further settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.admin_port, self.status_port = free_ports(3)
        self.store = store
        flags = {"tls": True, "tls_passthrough": True} if listener is None else listener
        self.listener = flags
        settings = {
            "store": store,
            "state_dir": str(folder / "state"),
            "admin": {
                "address": f"127.0.0.1:{self.admin_port}",
                "keys": [{"name": "tests", "key": KEY}],
            },
            "status": {"address": f"127.0.0.1:{self.status_port}"},
            "proxy": {"listeners": [{"address": f"127.0.0.1:{self.port}"} | flags]} | proxy,
            "drain": {"deadline": 0, "spread": 0} | (drain or {}),
            "etcd": {"timeout": 2},
            "encryption": {"keyring": [base64.b64encode(os.urandom(32)).decode()]},
        }
        self.config = folder / "sniproxy.yaml"
        self.config.write_text(json.dumps(settings))  # JSON is YAML
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SNIPROXY_") or name == RELAY
        }
        command = [sys.executable, "-m", "sniproxy.cli"]
        self.admin = Part("admin", folder, [*command, "admin", "-c", str(self.config)], env)
        self.proxy = Part("proxy", folder, [*command, "proxy", "-c", str(self.config)], env)
        self._parts = [part for part in (self.admin, self.proxy) if part.name in parts]
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{self.admin_port}/apisix/admin",
            headers={"X-API-KEY": KEY},
            timeout=75,  # more than a change is waited for
            verify=False,
        )

    def __enter__(self) -> Self:
        try:
            for part in self._parts:
                part.start()
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as ending:  # all of them, whatever becomes of one
            ending.callback(self.api.close)
            for part in self._parts:
                ending.callback(part.stop)

    def wait_ready(self) -> None:
        """Until all parts answer."""
        if self.proxy in self._parts:
            self._wait(f"http://127.0.0.1:{self.status_port}/readyz", self.proxy)
        if self.admin in self._parts:
            self.wait_admin()

    def wait_admin(self) -> None:
        """Until the admin API reaches its store."""
        self._wait(
            f"http://127.0.0.1:{self.admin_port}/apisix/admin/ssls?api_key={KEY}", self.admin
        )

    def put(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """PUT that must succeed."""
        answer = self.api.put(path, json=value)
        assert answer.is_success, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def metrics(self) -> dict[str, float]:
        """The proxy's counters, by name with labels."""
        return read_metrics(f"127.0.0.1:{self.status_port}")

    def _wait(self, url: str, part: Part) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            assert part.process is not None
            if part.process.poll() is not None:
                break
            try:
                if plain_http.get(url, timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{part.name} is not up:\n{part.log.read_text()[-3000:]}")


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[tuple[str, EtcdServer | None]]:
    """The `store` setting for "sqlite" or "etcd", and the server behind it."""
    if kind == "sqlite":
        yield f"sqlite://{folder / 'config.db'}", None
        return
    with EtcdServer(find_etcd_binaries()[0], folder / "etcd") as server:
        yield f"etcd://{server.url.removeprefix('http://')}/apisix", server


def retry_until(deadline: float, what: str) -> Iterator[None]:
    """Iterations 2 ms apart until `deadline` seconds have passed, then AssertionError."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
        time.sleep(0.002)
    raise AssertionError(f"{what}: not within {deadline} s")
