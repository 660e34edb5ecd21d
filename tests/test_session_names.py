"""Sessions to game servers that have a name, over a data plane and a DNS server on real sockets. Time is virtual.

Row B10: the name changes its address, is gone, or DNS is down for five minutes.
"""

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.dns_client import DnsClient
from sniproxy.settings import Dns
from sniproxy.store import Entry
from tests.support.certificates import NAME
from tests.support.clocks import relay_clock
from tests.support.dns_server import DnsServer, Mood, dns_server
from tests.support.gateway import PREFIX, Gateway, open_gateway
from tests.support.hellos import named

pytestmark = pytest.mark.anyio

HELLO = named(NAME.encode())
OLD, NEW, ELSEWHERE = "127.0.0.2", "127.0.0.3", "127.0.0.4"  # where game servers are
GS, SRV = "gs.example.", "_game._tcp.example."
TTL = 30  # seconds
MARGIN = 5  # seconds in which new sessions follow after that
DEADLINE = 5000  # virtual seconds


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.02)}


def entry(key: str, value: dict[str, Any]) -> Entry:
    """A change of an object."""
    return Entry(f"{PREFIX}/{key}", json.dumps(value).encode(), 9, 9)


class World:
    """What a test sees of it."""

    def __init__(self, gateway: Gateway, dns: DnsServer, port: int) -> None:
        self.gateway = gateway
        self.dns = dns
        self.port = port  # of every game server

    async def play(self) -> str:
        """Where a new player lands: the address of the game server, or the reason why on none."""
        player = self.gateway.dial()
        await player.send(HELLO)
        with suppress(ConnectionResetError):
            welcome = await player.read_all()
        player.close()
        self.line = await self.gateway.lines.next()
        return welcome.decode() or str(self.line["reason"])

    def count(self, name: str) -> float:
        """A counter."""
        value = self.gateway.worker.metrics.registry.get_sample_value(f"sniproxy_{name}_total")
        assert value is not None
        return value


@asynccontextmanager
async def game_servers(*hosts: str, port: int = 0) -> AsyncIterator[int]:
    """Each tells its address and leaves; all are on one port."""

    async with trio.open_nursery() as nursery:
        for host in hosts:

            async def welcome(stream: trio.SocketStream, host: str = host) -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some()
                    await stream.send_all(host.encode())
                    await stream.aclose()

            (listener,) = await trio.open_tcp_listeners(port, host=host)
            port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, welcome, [listener])
        yield port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def world(
    upstream: dict[str, Any] | None = None, *, port: int = 0, **settings: Any
) -> AsyncIterator[World]:
    """GS is at OLD, and game servers are there and at NEW and ELSEWHERE."""
    with trio.fail_after(DEADLINE):
        async with (
            game_servers(OLD, NEW, ELSEWHERE, port=port) as port,
            dns_server({GS: {"A": [OLD]}}) as dns,
        ):
            dns.ttl = TTL
            upstream = upstream or {"nodes": {f"gs.example:{port}": 1}}
            objects = {"stream_routes/1": {"upstream": upstream, "tls_passthrough": True}}
            settings["dns"] = {"servers": [dns.address], **settings.get("dns", {})}
            async with open_gateway(objects=objects, **settings) as gateway:
                yield World(gateway, dns, port)


@pytest.mark.parametrize("pause", [1, 10, 70])
async def test_new_sessions_follow_a_name_that_changes_its_address(pause: float) -> None:
    """Within its time and five seconds, however often somebody comes."""
    async with world() as of:
        assert await of.play() == OLD
        of.dns.zone[GS] = {"A": [NEW]}
        changed = trio.current_time()
        while await of.play() == OLD:
            assert trio.current_time() - changed <= TTL + MARGIN
            await trio.sleep(pause)
        assert await of.play() == NEW


@pytest.mark.parametrize("mood", [Mood.SILENT, Mood.SERVFAIL])
async def test_the_last_good_address_is_kept_while_dns_is_down(mood: Mood) -> None:
    """For five minutes and longer; and new ones are followed as soon as it is back."""
    async with world() as of:
        assert await of.play() == OLD
        of.dns.mood = mood
        for _ in range(60):
            assert await of.play() == OLD
            await trio.sleep(5)
        assert of.line["connect_ms"] < 1000
        assert of.count("names_stale") > 40
        of.dns.mood = Mood.WELL
        of.dns.zone[GS] = {"A": [NEW]}
        await trio.sleep(MARGIN)
        assert await of.play() == NEW
        events = [line["event"] for line in of.gateway.lines.all if line["event"] != "session"]
        assert events == ["name not resolved", "name resolved again"]


@pytest.mark.parametrize("pause", [1, 70])
async def test_a_name_that_is_gone_is_no_way_to_anybody(pause: float) -> None:
    """The reason says so, and what to do; and it is there again when the name is."""
    async with world() as of:
        assert await of.play() == OLD
        del of.dns.zone[GS]
        gone = trio.current_time()
        while await of.play() == OLD:
            assert trio.current_time() - gone <= TTL + MARGIN
            await trio.sleep(pause)
        assert of.line["reason"] == "upstream_name"
        assert of.line["detail"] == (
            "gs.example: DNS knows no such name (NXDOMAIN): "
            "correct the name in the upstream, or add it to DNS"
        )
        of.dns.zone[GS] = {"A": [NEW]}
        await trio.sleep(MARGIN)
        assert await of.play() == NEW


async def test_no_thread_looks_anything_up() -> None:
    """Known, unknown, unanswered or over TCP."""
    before = threading.active_count()
    async with world() as of:
        assert await of.play() == OLD
        of.dns.mood = Mood.CUT
        await trio.sleep(2 * TTL)
        assert await of.play() == OLD
        of.dns.mood = Mood.SILENT
        await trio.sleep(2 * TTL)
        assert await of.play() == OLD
        of.dns.mood = Mood.WELL
        del of.dns.zone[GS]
        await trio.sleep(2 * TTL)
        assert await of.play() == "upstream_name"
        assert threading.active_count() == before


async def test_others_play_while_one_name_is_not_answered() -> None:
    """The loop goes on, and so does everybody with another game server."""
    async with world() as of:
        of.dns.mood = Mood.SILENT
        waiting = of.gateway.dial()
        await waiting.send(HELLO)
        while not of.dns.asked:
            await trio.lowlevel.checkpoint()
        other = {"upstream": {"nodes": {f"{NEW}:{of.port}": 1}}, "tls_passthrough": True}
        of.gateway.worker.snapshot.apply([entry("stream_routes/1", other)])
        assert await of.play() == NEW
        with suppress(ConnectionResetError):
            assert await waiting.read_all() == b""
        waiting.close()
        line = await of.gateway.lines.next()
        assert line["reason"] == "upstream_name"
        assert line["detail"].startswith("gs.example: 127.0.0.1: no answer in 1 s: see whether")


async def test_other_servers_are_asked_once_the_settings_name_them() -> None:
    async with world() as of, dns_server({GS: {"A": [NEW]}}) as other:
        assert await of.play() == OLD
        worker = of.gateway.worker
        dns = Dns(servers=(other.address,))
        worker.settle(worker.settings.model_copy(update={"dns": dns}), worker.turns.settings)
        await trio.sleep(TTL)
        assert await of.play() == NEW


async def test_a_crowd_for_one_name_is_one_question() -> None:
    async with world() as of:
        of.dns.asked.clear()
        landed: list[str] = []
        players = [of.gateway.dial() for _ in range(50)]
        for player in players:
            await player.send(HELLO)
        for player in players:
            landed.append((await player.read_all()).decode())
            player.close()
        assert landed == [OLD] * 50
        assert sorted(about for _, about, _ in of.dns.asked) == ["A", "AAAA"]


async def test_sessions_spread_over_the_addresses_of_a_name() -> None:
    async with world() as of:
        of.dns.zone[GS] = {"A": [OLD, NEW, ELSEWHERE]}
        landed = [await of.play() for _ in range(9)]
        assert sorted(landed) == sorted([OLD, NEW, ELSEWHERE] * 3)


async def test_one_address_of_a_name_is_dead(deaf: tuple[str, int]) -> None:
    """It costs those whose turn it is a quarter of a second, and nobody the session."""
    async with world(port=deaf[1]) as of:
        of.dns.zone[GS] = {"A": ["127.0.0.1", OLD]}
        for _ in range(4):
            assert await of.play() == OLD
            assert of.line["connect_ms"] < 1000
            assert "attempts" not in of.line


async def test_ipv6_goes_first_and_ipv4_is_there_if_it_is_none() -> None:
    async with world() as of, game_servers("::1", port=of.port):
        of.dns.zone[GS] = {"A": [OLD], "AAAA": ["::1"]}
        assert await of.play() == "::1"
    async with world() as of:
        of.dns.zone[GS] = {"A": [OLD], "AAAA": ["::1"]}  # where nobody listens now
        assert await of.play() == OLD


async def test_a_name_that_is_not_resolved_is_passed_over() -> None:
    async with game_servers(NEW) as port:
        nodes = [
            {"host": "nobody.example", "port": port, "weight": 1},
            {"host": NEW, "port": port, "weight": 1, "priority": -1},
        ]
        async with world({"nodes": nodes}) as of:
            assert await of.play() == NEW
            assert (of.line["attempts"], of.line["node"]) == (2, f"{NEW}:{port}")


async def test_nodes_are_what_dns_has_under_a_service_name() -> None:
    """SRV records name them, their ports and their ranks; those that come and go are followed."""
    async with world({"service_name": SRV[:-1], "discovery_type": "dns"}) as of:
        of.dns.zone[SRV] = {
            "SRV": [f"10 1 {of.port} gs.example.", f"20 1 {of.port} spare.example."]
        }
        of.dns.zone["spare.example."] = {"A": [ELSEWHERE]}
        assert [await of.play() for _ in range(3)] == [OLD] * 3
        assert of.line["node"] == f"gs.example:{of.port}"
        of.dns.zone[GS] = {"A": ["127.0.0.77"]}  # where nobody is
        await trio.sleep(TTL + MARGIN)
        assert await of.play() == ELSEWHERE
        of.dns.zone[SRV] = {"SRV": [f"10 1 {of.port} new.example."]}
        of.dns.zone["new.example."] = {"A": [NEW]}
        await trio.sleep(TTL + MARGIN)
        assert await of.play() == NEW
        of.dns.zone[SRV] = {"SRV": ["0 0 0 ."]}
        await trio.sleep(2 * TTL)
        assert await of.play() == "upstream_name"
        assert of.line["detail"].startswith("_game._tcp.example: the name has no service in DNS: ")


async def test_a_name_that_dns_has_given_is_completed_by_no_search_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a cluster: a name of few dots is another one there first, and somebody else's."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nsearch corp.example\noptions ndots:5\n")
    async with world({"service_name": SRV, "discovery_type": "dns"}) as of:
        of.dns.zone[SRV] = {"SRV": [f"10 1 {of.port} gs.example."]}
        of.dns.zone["gs.example.corp.example."] = {"A": [ELSEWHERE]}
        monkeypatch.setattr("sniproxy.dns_client.PORT", int(of.dns.address.rpartition(":")[2]))
        monkeypatch.setattr(of.gateway.worker.names, "_ask", DnsClient(Dns(), conf).ask)
        assert await of.play() == OLD
