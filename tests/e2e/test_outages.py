"""etcd away, silent, or compacted behind a data plane's back, while players play; and endpoints that are dead at the start.

The long form of the first: `python -m bench.faults --each --only kill-all --only pause-all --last 600`.
"""

import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.faults import NOTICED, Plan, differences, run
from bench.site import PREFIX, ROUTE, Site
from bench.traffic import TICK, playing
from tests.support import plain_http
from tests.support.etcd import find_etcd_binaries
from tests.support.etcd_cluster import EtcdCluster
from tests.support.players import client_hello, connect
from tests.support.ports import free_ports
from tests.support.stack import START_DEADLINE, Stack, retry_until

pytestmark = [
    pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here"),
    pytest.mark.timeout(200),
]

OUTAGE = NOTICED + 1  # seconds: what is to be known in time must have had its time
BAR = 5.0  # seconds until what was missed is in force
READY = 15.0  # seconds for a start with a dead endpoint
CHANGES = 1_000
AT_ONCE = 10  # changes in one transaction, and so in one revision
LOADED = 600  # routes, before anything happens
SESSIONS = 20  # on each data plane


def test_an_outage_costs_nobody_anything(tmp_path: Path) -> None:
    """Bars of `bench.faults`: no session lost, all served, stale in time, the first change after it in force in time."""
    report = run(Plan(names=("kill-all", "pause-all"), last=OUTAGE, planes=2), tmp_path)
    assert report.wrong == []
    assert set(report.noticed) == {"kill-all", "pause-all"}
    assert max(report.noticed.values()) <= NOTICED


# -- compaction


def write(etcd: EtcdCluster, values: dict[str, dict[str, Any] | None]) -> None:
    """Straight into etcd, in order; None: deleted. A transaction names no key twice."""
    operations = [_operation(key, value) for key, value in values.items()]
    for begin in range(0, len(operations), AT_ONCE):
        etcd.call("/v3/kv/txn", {"success": operations[begin : begin + AT_ONCE]})


def _operation(key: str, value: dict[str, Any] | None) -> dict[str, Any]:
    stored = {"key": _b64((PREFIX + key).encode())}
    if value is None:
        return {"request_delete_range": stored}
    return {"request_put": stored | {"value": _b64(json.dumps(value).encode())}}


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def route(name: str, game: int) -> dict[str, Any]:
    return {
        "id": name,
        "sni": f"{name}.example.com",
        "upstream": {"nodes": {f"127.0.0.1:{game}": 1}},
    }


def served(port: int, name: str) -> bool:
    """Whether the game server behind the name answers."""
    hello = client_hello(name)
    with connect(port) as player:
        player.sendall(hello)
        try:
            return player.recv(len(hello), socket.MSG_WAITALL) == hello  # not an alert
        except ConnectionResetError:
            return False


def test_history_is_gone_when_a_data_plane_comes_back(tmp_path: Path) -> None:
    with Site(tmp_path, planes=2) as site:
        names = [f"r{number}" for number in range(LOADED)]
        write(site.etcd, {f"stream_routes/{name}": route(name, site.game) for name in names})
        for _ in retry_until(START_DEADLINE, "what was loaded"):
            if not differences(site):
                break
        away = site.planes[0]
        with playing(site, SESSIONS) as players:
            away.cut()
            for _ in retry_until(NOTICED, "stale"):
                if away.stale:
                    break
            before = [them.newcomers for them in players]
            new = [f"new{number}" for number in range(CHANGES - 500)]
            changes: dict[str, dict[str, Any] | None] = {}
            changes |= {f"stream_routes/{name}": None for name in names[:300]}
            changes |= {
                f"stream_routes/{name}": route(f"now-{name}", site.game) for name in names[300:500]
            }
            changes |= {f"stream_routes/{name}": route(name, site.game) for name in new}
            assert len(changes) == CHANGES
            write(site.etcd, changes)
            site.etcd.compact()
            time.sleep(1)  # etcd has forgotten, and new players have come
            assert set(away.config()["objects"]) == {
                f"{PREFIX}stream_routes/{n}" for n in ("stays", *names)
            }
            away.heal()
            for _ in retry_until(BAR, "what was missed"):
                if not differences(site):
                    break
            time.sleep(10 * TICK)
            assert all(
                them.newcomers - was >= 10 for them, was in zip(players, before, strict=True)
            )
            assert [them.held for them in players] == [SESSIONS, SESSIONS]
        assert [trouble for them in players for trouble in them.troubles] == []
        # The other one too may find its last revision forgotten: node records have moved etcd on behind it.
        told = [len(plane.logged("listing anew")) for plane in site.planes]
        assert told in ([1, 0], [1, 1])
        for name, there in (
            ("new0", True),
            ("now-r300", True),
            ("r300", False),
            ("r0", False),
            ("r599", True),
        ):
            for plane in site.planes:
                assert served(plane.port, f"{name}.example.com") is there, (plane.name, name)
        assert served(away.port, ROUTE)


# -- endpoints


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members, of which each test leaves one out."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@contextmanager
def dead_endpoint(kind: str) -> Iterator[str]:
    """HOST:PORT where no etcd is."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody answers
        yield {
            "refuses": f"127.0.0.1:{free_ports(1)[0]}",
            "has no address": "nowhere.invalid:2379",  # never resolves (RFC 6761)
            "is silent": f"127.0.0.1:{silent.getsockname()[1]}",
        }[kind]


@pytest.mark.parametrize(
    ("kind", "position"),
    [
        *(("refuses", 0), ("has no address", 0), ("is silent", 0)),  # whom it asks first
        *(("is silent", 1), ("refuses", 2)),
    ],
)
def test_a_dead_endpoint_at_the_start(
    kind: str, position: int, etcd: EtcdCluster, tmp_path: Path
) -> None:
    with dead_endpoint(kind) as dead:
        endpoints = [f"127.0.0.1:{port}" for port in etcd.ports]
        endpoints[position] = dead
        begun = time.monotonic()
        with Stack(
            tmp_path, f"etcd://{','.join(endpoints)}/apisix", parts=["proxy"], workers=1
        ) as stack:
            assert time.monotonic() - begun <= READY
            assert plain_http.get(f"http://127.0.0.1:{stack.status_port}/readyz").text == "ok\n"
            for number in range(3):
                write(etcd, {"stream_routes/1": route(f"change-{number}", 1)})
                wanted = {key: revision for key, (revision, _) in etcd.state(PREFIX).items()}
                for _ in retry_until(BAR, "a change"):
                    config = plain_http.get(f"http://127.0.0.1:{stack.status_port}/config").json()
                    if config["objects"] == wanted:
                        break
            assert not config["stale"]
