"""A whole data plane in one process, without a store: listener, sessions, relay, and what they log and count."""

import io
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from sniproxy.errors import CloseReason
from sniproxy.keyring import Keyring
from sniproxy.limits import open_limits
from sniproxy.listener import bind, listen
from sniproxy.logs import Log, open_log
from sniproxy.metrics.rows import CLOSED
from sniproxy.names import Names
from sniproxy.reception import Reception
from sniproxy.relay import Relay
from sniproxy.relay.opening import open_relay
from sniproxy.relay.sockets import tune
from sniproxy.settings import Listener, Overload, Proxy
from sniproxy.snapshot import Snapshot
from sniproxy.store import Entry
from sniproxy.worker_state import Worker, open_worker
from tests.support.certificates import NAME, pair
from tests.support.clocks import watch
from tests.support.names import current
from tests.support.peers import Peer

# Virtual time needs a relay that waits where trio sees it.
MOVED_BY = os.environ.get("SNIPROXY_PROXY__RELAY", "trio")
PREFIX = "/apisix"
KEEPALIVE_IDLE = 300  # seconds
PATIENCE = 60.0  # seconds for what a test does not mean to be too slow
KEY = "A" * 43 + "="  # base64 of 32 bytes

Objects = Mapping[str, Mapping[str, Any]]  # by key without the prefix, such as "ssls/1"


class Lines(io.StringIO):
    """What a logger writes to: keeps every line as its members, and lets a test wait for those of sessions.

    What stands in every line, its time and component, is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []
        self._put, self._take = trio.open_memory_channel[dict[str, Any]](1000)

    def write(self, text: str) -> int:
        for written in text.splitlines():
            line = json.loads(written)
            assert line.pop("time").endswith("Z")
            assert line.pop("component")
            self.all.append(line)
            if line["event"] == "session":
                self._put.send_nowait(dict(line))
        return len(text)

    async def next(self) -> dict[str, Any]:
        """The next session's line."""
        return await self._take.receive()

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The lines of all sessions so far."""
        return [line for line in self.all if line["event"] == "session"]


def open_lines() -> tuple[Log, Lines]:
    """A logger and what it was given."""
    lines = Lines()
    return open_log("proxy", lines), lines


def fill(objects: Objects) -> Snapshot:
    """A snapshot of objects that are all sound."""
    snapshot = Snapshot(PREFIX, Keyring([KEY]))
    broken = snapshot.apply(
        Entry(f"{PREFIX}/{key}", json.dumps(value).encode(), revision, revision)
        for revision, (key, value) in enumerate(objects.items(), 1)
    )
    assert not broken, broken
    return snapshot


def route(port: int | None, *, host: str = "127.0.0.1", **members: Any) -> dict[str, Any]:
    """A stream_route to one node; None: without an upstream."""
    upstream = {} if port is None else {"upstream": {"nodes": {f"{host}:{port}": 1}}}
    return {**upstream, **members}


def certificate(name: str = NAME, **members: Any) -> dict[str, Any]:
    """An ssl object for that name."""
    chain, key = pair(name)
    return {"cert": chain, "key": key, "sni": name, **members}


@dataclass
class Gateway:
    """What a test sees of it."""

    worker: Worker
    lines: Lines
    address: tuple[str, int]
    nursery: trio.Nursery = field(repr=False)

    def dial(self, host: str | None = None, *, source: str | None = None) -> Peer:
        """A player who has connected, from that address if it is given, and said nothing."""
        address = (host or self.address[0], self.address[1])
        sock = socket.create_connection(address, source_address=source and (source, 0))
        sock.setblocking(False)
        return Peer(sock)

    def closed(self) -> dict[str, int]:
        """Sessions that were counted as ended, by reason."""
        counts = {
            reason.value: self._sample("sessions_closed_total", reason=reason.value)
            for reason in CloseReason
        }
        return {reason: count for reason, count in counts.items() if count}

    def closed_by_route(self) -> dict[tuple[str, str], int]:
        """Those of them that had come to a route, by its id and reason."""
        rows = self.worker.metrics.rows()
        return {(route, why): n for route, row in rows.items() for why, n in row[CLOSED].items()}

    def labelled(self, name: str) -> dict[tuple[str, ...], int]:
        """Samples that are not 0, by the values of their labels."""
        return {
            tuple(sample.labels.values()): int(sample.value)
            for family in self.worker.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"sniproxy_{name}" and sample.value
        }

    def counted(self) -> dict[str, int]:
        """The counters that every session moves."""
        return {
            "opened": self._sample("sessions_opened_total"),
            "active": self._sample("sessions_active"),
            "in": self._sample("bytes_to_upstream_total"),
            "out": self._sample("bytes_to_client_total"),
        }

    def _sample(self, name: str, **labels: str) -> int:
        value = self.worker.metrics.registry.get_sample_value(f"sniproxy_{name}", labels)
        assert value is not None
        return int(value)


@asynccontextmanager
async def open_gateway(
    listener: Listener | None = None,
    objects: Objects | None = None,
    *,
    relay: Relay | None = None,
    log: Log | None = None,
    overload: Mapping[str, Any] | None = None,
    keyring: Keyring | None = None,
    moved_by: str | None = None,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Serves until the block is left, which ends its sessions as a shutdown does.

    `relay`: in the place of one of its own, of the kind `moved_by`. `keyring`: under which its tickets are; the objects'
    keys stand in clear.
    """
    listener = listener or Listener(address="127.0.0.1:0", tls=True, tls_passthrough=True)
    captured, lines = open_lines()
    listening = bind(listener.address, "proxy.listeners.0.address")
    with listening:
        tune(listening, keepalive_idle=KEEPALIVE_IDLE)
        listen(listening, "proxy.listeners.0.address", backlog=100)
        proxy = Proxy(
            **{
                "refused_log_interval": 0,
                "relay": moved_by or MOVED_BY,
                "hello_timeout": PATIENCE,
                "handshake_timeout": PATIENCE,
                **settings,
            }
        )
        limits = open_limits(proxy)
        opening = open_relay(proxy, limits.places, keyring.ticket_secrets if keyring else tuple)
        async with opening as opened, trio.open_nursery() as nursery:
            watch(opened)
            snapshot = fill(objects or {})
            crowded = Overload(**{"route_share": 1, "address_share": 1, **(overload or {})})
            worker = open_worker(proxy, snapshot, relay or opened, log or captured, limits, crowded)
            if "dns" not in settings:  # the test's own data, and nobody outside of it
                ask = current().ask
                worker.names = Names(proxy.dns, worker.log, worker.metrics, ask=ask)
            await nursery.start(worker.names.run)
            Reception(worker, nursery).open(listening, listener)
            yield Gateway(worker, lines, listening.getsockname()[:2], nursery)
            nursery.cancel_scope.cancel()
