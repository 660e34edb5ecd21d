"""A whole pod of ours for a scenario of `bench.load`: a parent and its workers, with the routes that the scenario needs."""

import base64
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from threading import Lock
from typing import Any, Self

import httpx
import trustme

from bench.generator import Generator, Target, wait_for
from bench.peers import MANY
from bench.processes import end, spawn
from bench.watch import Observed
from bench.works import AT_ONCE, START, WARM_UP
from sniproxy.cli import main as sniproxy
from tests.support.players import client_hello, pem_pair
from tests.support.ports import free_ports
from tests.support.stack import retry_until

APPLYING = Lock()  # one at a time: there is one standard output


@dataclass(frozen=True)
class Route:
    """A name, and the game server behind it."""

    name: str
    game: int  # its port
    passed: bool = True  # or terminated


@dataclass(frozen=True)
class Site:
    """What every scenario is given."""

    generator: Generator
    relay: str
    folder: Path = field(repr=False)


class Game:
    """A game server that can be restarted. A context manager."""

    def __init__(self, generator: Generator, kind: str = "echo") -> None:
        self.port = free_ports(1)[0]
        self._generator = generator
        self._kind = kind
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._running.enter_context(self._generator.echo([self.port], self._kind))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


class Pod(Observed):
    """One that serves."""

    def __init__(self, pid: int, status: str, log: Path, port: int) -> None:
        super().__init__(pid, status, log)
        self.port = port
        self.log = log

    def target(self, route: Route) -> Target:
        """Where players of a route go."""
        if not route.passed:
            return Target(self.port, ("--tls", route.name))
        hello = self.log.parent / f"{route.name}.hello"
        if not hello.exists():
            hello.write_bytes(client_hello(route.name))
        return Target(self.port, ("--hello", str(hello)))

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """What it has logged from that byte on."""
        with self.log.open("rb") as log:
            log.seek(since)
            whole, _, _ = log.read().rpartition(b"\n")  # the last may be on its way
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    @property
    def logged(self) -> int:
        """Bytes, for `lines`."""
        return self.log.stat().st_size

    def closed(self) -> dict[str, int]:
        """Sessions that have ended, by reason."""
        start = 'sniproxy_sessions_closed_total{reason="'
        return {
            name.removeprefix(start).removesuffix('"}'): int(value)
            for name, value in self.metrics().items()
            if name.startswith(start) and value
        }


@contextmanager
def serving(
    site: Site,
    name: str,
    routes: Sequence[Route],
    *,
    workers: int = 2,
    descriptors: int | None = None,
    warm: int = AT_ONCE,
    warm_up: Sequence[Route] | None = None,
    **proxy: Any,
) -> Iterator[Pod]:
    """A pod, after some sessions of each route.

    name: of its folder. proxy: settings. warm: so many of those sessions at once. warm_up: the only routes for which there
    are any, if not all game servers echo.
    """
    folder = site.folder / name
    folder.mkdir(parents=True)
    port, admin, status = free_ports(3)
    listener = {"address": f"127.0.0.1:{port}", "tls": True, "tls_passthrough": True}
    base = {"relay": site.relay, "listeners": [listener], "max_sessions": MANY, "workers": workers}
    settings = {
        "store": f"sqlite://{folder / 'config.db'}",
        "state_dir": str(folder / "state"),
        "proxy": base | proxy,
        "drain": {"deadline": 0, "spread": 0},
        "admin": {"address": f"127.0.0.1:{admin}"},
        "status": {"address": f"127.0.0.1:{status}"},
        "encryption": {"keyring": [base64.b64encode(os.urandom(32)).decode()]},
    }
    config, objects = folder / "sniproxy.yaml", folder / "objects.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    objects.write_text(json.dumps(_objects(routes)))
    env = {name: value for name, value in os.environ.items() if not name.startswith("SNIPROXY_")}
    with APPLYING, redirect_stdout(io.StringIO()):  # in this process: its imports are done
        sniproxy(["apply", "-f", str(objects), "-c", str(config)], standalone_mode=False)
    log = folder / "output.log"
    with log.open("ab") as output:
        command: list[str | Path] = [sys.executable, "-m", "sniproxy.cli", "proxy", "-c", config]
        process = spawn(command, None, output=output, errors=output, env=env, most=descriptors)
    pod = Pod(process.pid, f"127.0.0.1:{status}", log, port)
    try:
        _wait_until_whole(pod, process, workers)
        for route in routes if warm_up is None else warm_up:
            wait_for(site.generator, pod.target(route), START)
            site.generator.run("connections", pod.target(route), count=WARM_UP, at_once=warm)
        yield pod
    except BaseException as error:
        error.add_note(f"the pod: {log.read_text()[-1000:]}")
        raise
    finally:
        end(process)


def _wait_until_whole(pod: Pod, process: Popen[bytes], workers: int) -> None:
    """A pod serves from its first worker on: what it holds is known once the last one is there."""
    for _ in retry_until(START, f"{workers} workers serve"):
        assert process.poll() is None, "the pod has died"
        with suppress(httpx.TransportError):
            if pod.metrics().get("sniproxy_workers") == workers:
                return
        time.sleep(0.05)


def _objects(routes: Sequence[Route]) -> dict[str, list[dict[str, Any]]]:
    authority = trustme.CA()
    ends = [route.name for route in routes if not route.passed]
    return {
        "ssls": [{"id": name, "sni": name} | pem_pair(authority, name) for name in ends],
        "stream_routes": [
            {
                "id": route.name,
                "sni": route.name,
                "tls_passthrough": route.passed,
                "upstream": {"nodes": {f"127.0.0.1:{route.game}": 1}},
            }
            for route in routes
        ],
    }
