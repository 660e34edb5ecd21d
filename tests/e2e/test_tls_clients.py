"""Players with the TLS of others come through a terminating data plane: each version that they speak, on each relay.

Each comes twice: the second one finds a native relay that knows what becomes of the name, and speaks TLS before Python is
asked.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.settings import Listener
from tests.support.certificates import authority_pem, player_context
from tests.support.gateway import Gateway, certificate, open_gateway, route
from tests.support.hellos import X25519, X25519MLKEM768
from tests.support.peers import TlsPeer, game_server
from tests.support.relaying import VERSIONS
from tests.support.tls_clients import by_gnutls, by_go, by_openssl

pytestmark = pytest.mark.anyio

DEADLINE = 30  # seconds for one player, for when something hangs
on_both_versions = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


@asynccontextmanager
async def terminating(moved_by: str, **members: Any) -> AsyncIterator[Gateway]:
    """A data plane with a game server; further members of its ssl object."""
    async with game_server() as game:
        objects = {"ssls/1": certificate(**members), "stream_routes/1": route(game.port)}
        listener = Listener(address="127.0.0.1:0", tls=True)
        with trio.fail_after(DEADLINE):
            async with open_gateway(listener, objects, moved_by=moved_by) as gateway:
                yield gateway


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    path.write_text(authority_pem())
    return path


async def came_through(gateway: Gateway, version: str) -> None:
    """The last player's session, as it was logged."""
    line = await gateway.lines.next()
    assert (line["reason"], line["tls"]) == ("client_closed", version)


@on_both_versions
async def test_openssl(moved_by: str, authority: Path, version: str) -> None:
    async with terminating(moved_by) as gateway:
        for _ in range(2):
            printed = await by_openssl(gateway.address[1], authority, f"-tls1_{version[-1]}")
            assert f"New, {version}, Cipher is " in printed
            assert "Verify return code: 0 (ok)" in printed
            await came_through(gateway, version)


@on_both_versions
async def test_gnutls(moved_by: str, authority: Path, version: str) -> None:
    async with terminating(moved_by) as gateway:
        for _ in range(2):
            only = f"NORMAL:-VERS-ALL:+VERS-TLS{version[-3:]}"
            printed = await by_gnutls(gateway.address[1], authority, only)
            assert f"Description: (TLS{version[-3:]}" in printed
            await came_through(gateway, version)


@on_both_versions
async def test_python(moved_by: str, version: str) -> None:
    async with terminating(moved_by) as gateway:
        for _ in range(2):
            peer = TlsPeer(gateway.dial().sock, player_context(VERSIONS[version]))
            await peer.handshake(then=b"over TLS")
            assert (await peer.read(8), peer.version) == (b"over TLS", version)
            await peer.end()
            assert (await peer.read_all(), peer.goodbye) == (b"", True)
            peer.close()
            await came_through(gateway, version)


@on_both_versions
@pytest.mark.parametrize(
    ("hello", "size", "group"),
    [
        ("go", 1400, X25519MLKEM768),
        ("chrome", 1700, X25519MLKEM768),
        ("firefox", 600, X25519),  # as it was before there were post-quantum keys
    ],
)
async def test_go_and_browsers(
    moved_by: str, authority: Path, version: str, hello: str, size: int, group: int
) -> None:
    """Their hellos come in several segments, and offer both versions; the ssl object has one."""
    async with terminating(moved_by, ssl_protocols=[version]) as gateway:
        for _ in range(2):
            told = await by_go(gateway.address[1], authority, hello=hello, cut=600)
            assert told["version"] == version.replace("TLSv", "TLS ")
            assert told["hello"] >= size
            assert told["pieces"] >= size // 600
            if version == "TLSv1.3":
                # OpenSSL has the post-quantum one since 3.5.
                assert told["group"] in ({group} if moved_by == "native" else {group, X25519})
            await came_through(gateway, version)
