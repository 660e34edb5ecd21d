"""A whole site for the fault suite: an etcd of three members, an admin, some data planes, and a game server behind them.

All are real processes on loopback. Each data plane reaches each member through a relay of its own, so its network can fail.
"""

import json
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.echo import echo_process
from tests.support.etcd_cluster import EtcdCluster
from tests.support.small_disk import NotPermitted, small_disk
from tests.support.stack import Stack
from tests.support.tcp_relay import TcpRelay

PREFIX = "/apisix/"
COLLECTIONS = ("ssls", "stream_routes", "upstreams", "services")  # what a data plane follows
ROUTE = "stays.example.com"  # the name of the route that never changes
PATIENCE = 5.0  # seconds for an answer of a status port
DISK = "64m"  # for the state of a data plane


def followed(key: str) -> bool:
    """Whether a data plane follows this key; a mark of an empty collection, which an APISIX expects, is passed over."""
    collection, _, object_id = key.removeprefix(PREFIX).partition("/")
    return collection in COLLECTIONS and bool(object_id)


class Plane:
    """A data plane, and its network towards etcd."""

    def __init__(
        self, number: int, stack: Stack, relays: list[TcpRelay], disk: Path | None
    ) -> None:
        """disk: where its state lies, if that is a small disk of its own."""
        self.name = f"plane-{number}"
        self.disk = disk
        self.relays = relays
        self.port = stack.port
        self._stack = stack
        self._status = httpx.Client(
            base_url=f"http://127.0.0.1:{stack.status_port}",
            trust_env=False,
            verify=False,
            timeout=PATIENCE,
        )

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._stack.proxy.pid

    def config(self) -> dict[str, Any]:
        """What it has in force, and how sure it is."""
        answer = self._status.get("/config")
        answer.raise_for_status()
        config: dict[str, Any] = answer.json()
        return config

    @property
    def stale(self) -> bool:
        """Whether its metric says that it does not follow etcd."""
        return self._stack.metrics()["sniproxy_config_stale"] == 1

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log under that event."""
        return self._stack.proxy.lines(event)

    def cut(self) -> None:
        """Take its network towards etcd away, so that it notices."""
        for relay in self.relays:
            relay.cut()

    def freeze(self, *, existing_only: bool = False) -> None:
        """Take its network towards etcd away, so that nothing is heard; see TcpRelay."""
        for relay in self.relays:
            relay.freeze(existing_only=existing_only)

    def heal(self) -> None:
        """Give it back."""
        for relay in self.relays:
            relay.heal()

    def close(self) -> None:
        """Only what asks it; who started the process ends it."""
        self._status.close()


class Site:
    """`with` starts all of it, and ends all of it."""

    def __init__(self, folder: Path, planes: int) -> None:
        self._folder = folder
        self._count = planes
        self._running = ExitStack()
        self.etcd = EtcdCluster(folder / "etcd")
        self.planes: list[Plane] = []
        self.admin: Stack
        self.game: int  # the port of a game server that echoes

    def __enter__(self) -> Self:
        with self._running:
            self._start(self._running.enter_context)
            self._running = self._running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def objects(self) -> dict[str, int]:
        """What etcd has: key -> mod revision, of what a data plane follows."""
        return {
            key: revision for key, (revision, _) in self.etcd.state(PREFIX).items() if followed(key)
        }

    def registers(self) -> dict[str, int]:
        """The numbers that writers have written, by key."""
        found = {}
        for key, (_, value) in self.etcd.state(PREFIX).items():
            stored = json.loads(value) if followed(key) else {}
            if "desc" in stored:
                found[key] = int(stored["desc"])
        return found

    def _start(self, enter: Any) -> None:
        enter(self.etcd)
        self.game = enter(echo_process())
        direct = [f"127.0.0.1:{port}" for port in self.etcd.ports]
        self.admin = enter(Stack(self._folder / "admin", _store(direct), parts=["admin"]))
        route = {"sni": ROUTE, "upstream": {"nodes": {f"127.0.0.1:{self.game}": 1}}}
        self.admin.put("/stream_routes/stays", route)
        for number in range(self._count):
            folder = self._folder / f"plane-{number}"
            disk = None
            with suppress(NotPermitted):
                disk = enter(small_disk(folder / "state", DISK))
            relays = [enter(TcpRelay(port)) for port in self.etcd.ports]
            store = _store([f"127.0.0.1:{relay.port}" for relay in relays])
            stack = enter(
                Stack(
                    folder,
                    store,
                    parts=["proxy"],
                    listener={"tls_passthrough": True},
                )
            )
            plane = Plane(number, stack, relays, disk)
            self._running.callback(plane.close)
            self.planes.append(plane)


def _store(endpoints: list[str]) -> str:
    return f"etcd://{','.join(endpoints)}{PREFIX.rstrip('/')}"
