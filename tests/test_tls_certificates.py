"""Certificates by the hundred, and new ones under players, on each relay. Over real sockets."""

import gc
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from sniproxy.relay.native import NativeRelay
from sniproxy.settings import Listener
from sniproxy.snapshot import Broken
from sniproxy.store import Entry
from sniproxy.tls import Certificate
from tests.support.certificates import pair, player_context
from tests.support.gateway import PREFIX, Gateway, certificate, open_gateway, route
from tests.support.peers import TlsPeer, game_server

pytestmark = pytest.mark.anyio

MANY = 500
DEADLINE = 30  # seconds for one test, for when something hangs
FIRST, SECOND = "first.example.com", "second.example.com"  # for whom a certificate says it is


@dataclass(frozen=True)
class Stage:
    """A data plane with so many ssl objects, one for each name."""

    gateway: Gateway
    count: int

    async def join(self, number: int = 0) -> TlsPeer:
        """A player of the name of that object, who was heard."""
        name = f"n{number}.example.com"
        peer = TlsPeer(self.gateway.dial().sock, player_context(any_name=True), name)
        await peer.handshake(then=b"hi")
        assert await peer.read(2) == b"hi"
        return peer

    def change(self, **members: Any) -> list[Broken]:
        """Another object in the place of the first one; whether it cannot be used."""
        snapshot = self.gateway.worker.snapshot
        revision = snapshot.revision + 1
        value = json.dumps(of(0, **members)).encode()
        return snapshot.apply([Entry(f"{PREFIX}/ssls/0", value, revision, revision)])

    @property
    def opened(self) -> list[int]:
        """The objects whose keys are there in clear; where the relay is native, as many handles are there."""
        gc.collect()
        found = []
        for number in range(self.count):
            chosen = self.gateway.worker.snapshot.certificates.choose(f"n{number}.example.com", 1e9)
            assert isinstance(chosen, Certificate)
            if chosen._server_tls is not None:
                found.append(number)
        relay = self.gateway.worker.relay
        if isinstance(relay, NativeRelay):
            handles = list(relay._handshakes._servers.values())
            assert len(handles) == len(found)
            assert None not in handles, "OpenSSL has it"
        return found


def of(number: int, certified: str = FIRST, **members: Any) -> dict[str, Any]:
    """The ssl object with that number, with a certificate for somebody else."""
    return certificate(certified, **{"sni": f"n{number}.example.com", **members})


@asynccontextmanager
async def staged(moved_by: str, count: int) -> AsyncIterator[Stage]:
    objects = {f"ssls/{number}": of(number) for number in range(count)}
    async with game_server() as game:
        everything = {**objects, "stream_routes/1": route(game.port, sni="*")}
        listener = Listener(address="127.0.0.1:0", tls=True)
        with trio.fail_after(DEADLINE):
            async with open_gateway(listener, everything, moved_by=moved_by) as gateway:
                yield Stage(gateway, count)


def shown(peer: TlsPeer) -> str:
    """For whom the certificate is that a player was shown."""
    ders = {ssl.PEM_cert_to_DER_cert(pair(name)[0]): name for name in (FIRST, SECOND)}
    assert peer.shown is not None
    return ders[peer.shown]


async def test_a_certificate_is_loaded_when_somebody_asks_for_it(moved_by: str) -> None:
    async with staged(moved_by, MANY) as stage:
        assert stage.opened == []
        for number in (7, MANY - 1, 7):
            (await stage.join(number)).close()
        assert stage.opened == [7, MANY - 1]


async def test_a_new_certificate_is_for_those_who_come_from_now_on(moved_by: str) -> None:
    """Who plays goes on playing; nothing of the old one is kept for anybody."""
    async with staged(moved_by, 1) as stage:
        before = await stage.join()
        assert not stage.change(certified=SECOND)
        after = await stage.join()
        assert (shown(before), shown(after)) == (FIRST, SECOND)
        assert stage.opened == [0]
        for peer in (before, after):
            await peer.send(b"still here")
            assert await peer.read(10) == b"still here"
            peer.close()


BROKEN = {
    "no PEM": {"cert": "x" * 200},
    "key of another": {"key": pair(SECOND)[1]},
    "chain without a leaf": {"cert": pair()[0].replace("MII", "XII", 1)},
}


@pytest.mark.parametrize("members", BROKEN.values(), ids=list(BROKEN))
async def test_the_old_certificate_serves_while_the_new_one_is_broken(
    moved_by: str, members: dict[str, Any]
) -> None:
    async with staged(moved_by, 1) as stage:
        (await stage.join()).close()
        (broken,) = stage.change(**members)
        assert broken.kept
        peer = await stage.join()
        assert shown(peer) == FIRST
        peer.close()
        assert not stage.change(certified=SECOND)
        peer = await stage.join()
        assert shown(peer) == SECOND
        peer.close()


async def test_nobody_is_lost_to_changes(moved_by: str) -> None:
    """Twenty of them, each while three players are in the middle of their handshakes."""
    async with staged(moved_by, 1) as stage:
        seen: set[str] = set()

        async def visit() -> None:
            peer = await stage.join()
            seen.add(shown(peer))
            peer.close()

        async with trio.open_nursery() as nursery:
            for turn in range(20):
                for _ in range(3):
                    nursery.start_soon(visit)
                await trio.sleep(0.005)
                assert not stage.change(certified=(SECOND, FIRST)[turn % 2])
    assert seen == {FIRST, SECOND}
    assert stage.gateway.counted()["opened"] == 60
