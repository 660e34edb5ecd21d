"""Sessions with a game server that speaks TLS: who it must be, what it is asked and shown, and what becomes of failures.

On virtual time, with real game servers.
"""

import gc
import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from sniproxy.keyring import Keyring
from sniproxy.relay.contexts import _for_servers
from sniproxy.settings import Listener
from sniproxy.store import Entry
from sniproxy.upstream_tls import TLS_IN_TLS
from tests.support.certificates import (
    NAME,
    PLAYER,
    Flaw,
    authority_pem,
    game_context,
    pair,
    player_context,
)
from tests.support.clocks import relay_clock
from tests.support.gateway import KEY, PREFIX, Gateway, certificate, open_gateway
from tests.support.hellos import named
from tests.support.names import resolving
from tests.support.peers import Peer, TlsPeer, deaf_server, game_server
from tests.support.stage import MIXED, PLAIN
from tests.support.tls_game import tls_game

pytestmark = pytest.mark.anyio

DEADLINE = 100  # virtual seconds for one test
TERMINATE = Listener(address="127.0.0.1:0", tls=True)
LISTENERS = pytest.mark.parametrize("listener", [TERMINATE, PLAIN], ids=["terminated", "plain"])
OURS: dict[str, Any] = {"verify": True, "ca_certs": [authority_pem()]}
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": relay_clock(0.02)}


def fresh(**asked: Any) -> ssl.SSLContext:
    """A context of a game server that is this test's alone, since it is told whom to ask."""
    return game_context.__wrapped__(**asked)


def nodes(*ports: int, host: str = "127.0.0.1") -> list[dict[str, Any]]:
    """In that order."""
    return [
        {"host": host, "port": port, "weight": 1, "priority": -turn}
        for turn, port in enumerate(ports)
    ]


def towards(*ports: int, tls: Mapping[str, Any] = OURS, **upstream: Any) -> dict[str, Any]:
    """One route to these, in that order, and a certificate for who comes."""
    inside = {"nodes": nodes(*ports), "scheme": "tls", "tls": tls, **upstream}
    return {"stream_routes/1": {"upstream": inside}, "ssls/1": certificate()}


@asynccontextmanager
async def opened(
    listener: Listener, objects: Mapping[str, Mapping[str, Any]], **settings: Any
) -> AsyncIterator[Gateway]:
    """A data plane, for a while."""
    with trio.fail_after(DEADLINE):
        async with open_gateway(listener, objects, **settings) as gateway:
            yield gateway


async def join(gateway: Gateway, listener: Listener) -> Peer:
    """A player who has said something, and heard it from the game server."""
    player = gateway.dial()
    if listener.tls:
        player = TlsPeer(player.sock, player_context())
        await player.handshake()
    await player.send(b"ping")
    assert await player.read(4) == b"ping"
    return player


async def leave(gateway: Gateway, player: Peer) -> dict[str, Any]:
    """Its line."""
    await player.end()
    assert await player.read_all() == b""
    player.close()
    line = await gateway.lines.next()
    assert line["reason"] == "client_closed"
    return line


async def turned_away(gateway: Gateway, listener: Listener) -> dict[str, Any]:
    """The line of a player who comes to no game server, and is told nothing but the end."""
    player = gateway.dial()
    if listener.tls:
        player = TlsPeer(player.sock, player_context())
        await player.handshake()
    assert await player.read_all() == b""
    player.close()
    return await gateway.lines.next()


@LISTENERS
@pytest.mark.parametrize("version", [V1_2, V1_3])
async def test_a_session_with_the_right_one(listener: Listener, version: ssl.TLSVersion) -> None:
    """Bytes are those of the stream, not of the cipher."""
    context = fresh(version=version, name=NAME if listener.tls else "127.0.0.1")
    async with tls_game(context) as game, opened(listener, towards(game.port)) as gateway:
        line = await leave(gateway, await join(gateway, listener))
    assert game.versions == [version.name.replace("_", ".")]
    assert (line["bytes_in"], line["bytes_out"]) == (4, 4)
    assert line["node"] == line["node_address"] == f"127.0.0.1:{game.port}"
    assert line["node_tls"] == game.versions[0]


@dataclass(frozen=True)
class Wrong:
    """A game server that may not be taken for the right one, and what is said of it."""

    name: str
    words: str
    game: Mapping[str, Any] = field(default_factory=dict)
    tls: Mapping[str, Any] = field(default_factory=lambda: OURS)


FLAWED: dict[Flaw, str] = {
    "expired": "certificate has expired|certificate expired",
    "self-signed": "self-signed certificate|UnknownIssuer",
}
WRONG = [
    Wrong("other CA", "sent alert unknown_ca: ", {"which": "theirs"}),
    Wrong(
        "other name",
        "Hostname mismatch|certificate not valid for name",
        {"name": "other.example.com"},
    ),
    Wrong(
        "system's authorities",
        "unable to get local issuer certificate|UnknownIssuer",
        tls={"verify": True},
    ),
    *(Wrong(flaw, words, {"flaw": flaw}) for flaw, words in FLAWED.items()),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
async def test_a_session_with_the_wrong_one(wrong: Wrong) -> None:
    """Refused where `verify` is asked for, and where it is not, nobody is looked at."""
    rewrite = {"pass_host": "rewrite", "upstream_host": PLAYER} if "flaw" in wrong.game else {}
    async with tls_game(fresh(**wrong.game)) as game:
        async with opened(TERMINATE, towards(game.port, tls=wrong.tls, **rewrite)) as gateway:
            line = await turned_away(gateway, TERMINATE)
        trusting = {**wrong.tls, "verify": False}
        async with opened(TERMINATE, towards(game.port, tls=trusting, **rewrite)) as gateway:
            await leave(gateway, await join(gateway, TERMINATE))
    assert line["reason"] == "upstream_certificate"
    assert line["detail"].startswith(f"127.0.0.1:{game.port}: sent alert ")
    assert re.search(wrong.words, line["detail"])


@pytest.mark.parametrize("members", [{}, {"tls": {}}], ids=["no tls", "no verify"])
async def test_who_asks_for_no_verification_gets_none(members: dict[str, Any]) -> None:
    """APISIX's default."""
    async with tls_game(fresh(which="theirs")) as game:
        upstream = {"nodes": nodes(game.port), "scheme": "tls", **members}
        objects = {"stream_routes/1": {"upstream": upstream}}
        async with opened(PLAIN, objects) as gateway:
            await leave(gateway, await join(gateway, PLAIN))
    assert game.asked == [None]


@pytest.mark.parametrize(
    ("listener", "members", "host", "asked"),
    [
        (TERMINATE, {}, "127.0.0.1", NAME),
        (TERMINATE, {}, "gs-1.example", NAME),
        (TERMINATE, {"pass_host": "node"}, "gs-1.example", "gs-1.example"),
        (TERMINATE, {"pass_host": "node"}, "127.0.0.1", None),
        (
            TERMINATE,
            {"pass_host": "rewrite", "upstream_host": "a.example"},
            "127.0.0.1",
            "a.example",
        ),
        (TERMINATE, {"pass_host": "rewrite", "upstream_host": "192.0.2.1"}, "gs-1.example", None),
        (PLAIN, {}, "gs-1.example", "gs-1.example"),
        (PLAIN, {}, "127.0.0.1", None),
        (PLAIN, {"pass_host": "rewrite", "upstream_host": "a.example"}, "127.0.0.1", "a.example"),
    ],
)
async def test_whom_the_game_server_is_asked_for(
    listener: Listener, members: dict[str, Any], host: str, asked: str | None
) -> None:
    async with tls_game(fresh()) as game:
        objects = towards(game.port, tls={}, **members, nodes=nodes(game.port, host=host))
        with resolving({"gs-1.example": ["127.0.0.1"]}):
            async with opened(listener, objects) as gateway:
                await leave(gateway, await join(gateway, listener))
    assert game.asked == [asked]


def der(name: str, which: str) -> bytes:
    """A certificate as the game server sees it."""
    return ssl.PEM_cert_to_DER_cert(pair(name, which)[0])


def client(which: str, **members: Any) -> dict[str, Any]:
    """An ssl object of type client."""
    chain, key = pair(PLAYER, which)
    return {"cert": chain, "key": key, "type": "client", **members}


@pytest.mark.parametrize("sealed", [False, True], ids=["in clear", "as stored"])
@pytest.mark.parametrize("version", [V1_2, V1_3])
async def test_a_client_certificate_inside_the_upstream(
    version: ssl.TLSVersion, sealed: bool
) -> None:
    chain, key = pair(PLAYER, "theirs")
    if sealed:
        key = Keyring([KEY]).encrypt(key, "stream_routes/1/upstream/tls/client_key")
    tls = OURS | {"client_cert": chain, "client_key": key}
    async with (
        tls_game(fresh(version=version, wants="theirs")) as game,
        opened(TERMINATE, towards(game.port, tls=tls)) as gateway,
    ):
        await leave(gateway, await join(gateway, TERMINATE))
    assert game.shown == [der(PLAYER, "theirs")]


@pytest.mark.parametrize("version", [V1_2, V1_3])
async def test_a_client_certificate_that_is_missing(version: ssl.TLSVersion) -> None:
    async with (
        tls_game(fresh(version=version, wants="theirs")) as game,
        opened(PLAIN, towards(game.port, tls={})) as gateway,
    ):
        line = await turned_away(gateway, PLAIN)
    assert line["reason"] == "upstream_tls"
    told = "certificate.required" if version == V1_3 else "handshake_failure"
    assert re.search(told, line["detail"])


async def test_a_client_certificate_by_id_is_looked_up_for_each_session() -> None:
    """Who plays goes on under the old one."""
    context = fresh(wants="theirs")
    context.load_verify_locations(cadata=authority_pem("others"))
    async with tls_game(context) as game:
        objects = towards(game.port, tls=OURS | {"client_cert_id": 7})
        objects["ssls/7"] = client("theirs")
        async with opened(TERMINATE, objects) as gateway:
            players = [await join(gateway, TERMINATE) for _ in range(2)]
            change(gateway, "ssls/7", client("others"))
            players += [await join(gateway, TERMINATE)]
            for player in players:
                await player.send(b"again")
                assert await player.read(5) == b"again"
                await leave(gateway, player)
    assert game.shown == [der(PLAYER, which) for which in ("theirs", "theirs", "others")]


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (None, "is not there"),
        (client("theirs", status=0), "is switched off"),
        (certificate("x.example.com"), "is no client's"),
    ],
    ids=["none", "switched off", "a server's"],
)
async def test_a_client_certificate_by_id_that_cannot_be_shown(
    shown: dict[str, Any] | None, words: str
) -> None:
    async with tls_game(fresh()) as game:
        objects = towards(game.port, tls={"client_cert_id": "mine"})
        if shown is not None:
            objects["ssls/mine"] = shown
        async with opened(TERMINATE, objects) as gateway:
            line = await turned_away(gateway, TERMINATE)
    assert line["reason"] == "no_upstream"
    assert line["detail"].startswith("ssl mine, its client certificate, ")
    assert words.split()[-1] in line["detail"]
    assert game.asked == []


def change(gateway: Gateway, key: str, value: dict[str, Any]) -> None:
    """Puts it in force."""
    snapshot = gateway.worker.snapshot
    revision = snapshot.revision + 1
    raw = json.dumps(value).encode()
    assert not snapshot.apply([Entry(f"{PREFIX}/{key}", raw, revision, revision)])


@LISTENERS
async def test_a_game_server_that_speaks_no_tls(listener: Listener) -> None:
    async with game_server() as game, opened(listener, towards(game.port)) as gateway:
        line = await turned_away(gateway, listener)
    assert line["reason"] == "upstream_tls"
    assert line["detail"].startswith(f"127.0.0.1:{game.port}: ")


@pytest.mark.parametrize("seconds", [3.0, 0.5])
async def test_connecting_and_the_handshake_have_one_time(seconds: float) -> None:
    """A game server that accepts and says nothing."""
    upstream = {"timeout": {"connect": seconds, "send": 60, "read": 60}}
    async with AsyncExitStack() as stack:
        (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stack.push_async_callback(silent.aclose)
        port = silent.socket.getsockname()[1]
        async with opened(PLAIN, towards(port, **upstream)) as gateway:
            since = trio.current_time()
            line = await turned_away(gateway, PLAIN)
            assert trio.current_time() - since == pytest.approx(seconds, abs=0.1)
    assert line["reason"] == "upstream_timeout"
    assert line["detail"] == f"127.0.0.1:{port}: no TLS handshake in {seconds:g} s"


async def test_what_fails_moves_on_to_the_next_node() -> None:
    """No byte of the player has been sent by then; each of them has a time of its own."""
    async with (
        tls_game(fresh(which="theirs")) as stranger,
        game_server() as in_clear,
        tls_game(fresh()) as right,
    ):
        with deaf_server() as (_, deaf):
            ports = (stranger.port, in_clear.port, deaf, right.port)
            async with opened(TERMINATE, towards(*ports)) as gateway:
                line = await leave(gateway, await join(gateway, TERMINATE))
                change(gateway, "stream_routes/1", towards(*ports[:-1])["stream_routes/1"])
                last = await turned_away(gateway, TERMINATE)
    assert (line["node"], line["attempts"]) == (f"127.0.0.1:{right.port}", 4)
    assert last["reason"] == "upstream_timeout"
    assert [part.partition(": ")[0] for part in last["detail"].split("; ")] == [
        f"127.0.0.1:{port}" for port in ports[:-1]
    ]


@LISTENERS
async def test_the_proxy_header_comes_first(listener: Listener) -> None:
    context = fresh(name=NAME if listener.tls else "127.0.0.1")
    async with tls_game(context, header=True) as game:
        objects = towards(game.port, proxy_protocol="v1")
        async with opened(listener, objects) as gateway:
            await leave(gateway, await join(gateway, listener))
    assert [header[:14] for header in game.headers] == [b"PROXY TCP4 127"]


async def test_no_tls_is_put_around_the_clients_own() -> None:
    async with tls_game(fresh()) as game:
        objects = towards(game.port)
        objects["stream_routes/1"] |= {"tls_passthrough": True}
        async with opened(MIXED, objects) as gateway:
            player = gateway.dial()
            await player.send(named(NAME.encode()))
            line = await gateway.lines.next()
            player.close()
    assert (line["reason"], line["detail"]) == ("no_upstream", TLS_IN_TLS)
    assert game.asked == []


async def test_openssl_is_told_once_of_what_many_sessions_and_upstreams_have_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And forgets it with the last object that asks for it."""
    monkeypatch.setattr("tests.support.gateway.MOVED_BY", "trio")
    authorities = authority_pem("only here")
    tls = {"verify": True, "ca_certs": [authorities]}

    def told() -> int:
        return sum(
            authorities in getattr(made_from, "authorities", ()) for made_from in _for_servers
        )

    async with tls_game(fresh(name="127.0.0.1", which="only here")) as game:
        objects = towards(game.port, tls=tls)
        async with opened(PLAIN, objects) as gateway:
            counts = [told()]
            for desc in ("one", "another"):
                change(gateway, "stream_routes/1", objects["stream_routes/1"] | {"desc": desc})
                for _ in range(2):
                    await leave(gateway, await join(gateway, PLAIN))
                    counts.append(told())
            change(gateway, "stream_routes/1", towards(game.port)["stream_routes/1"])
            gc.collect()
            counts.append(told())
    assert counts == [0, 1, 1, 1, 1, 0]
