"""Who comes back by a ticket: at any pod that has the keyring and asks for as much, under the same name, and nowhere else.

Over real sockets; two data planes are two pods. Those of the relay on trio have keys of their own, so there nobody comes
back at another one.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from sniproxy.keyring import Keyring
from sniproxy.relay.native import BUILT
from sniproxy.settings import Listener
from sniproxy.store import Entry
from tests.support.certificates import NAME, authority_pem, player_context
from tests.support.gateway import PREFIX, Gateway, certificate, open_gateway, route
from tests.support.peers import TlsPeer, game_server

pytestmark = pytest.mark.anyio

DEADLINE = 20  # seconds for one test, for when something hangs
OTHER = "other.example.com"
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
OURS, NEW, THEIRS = (letter * 43 + "=" for letter in "AEI")  # keys: base64 of 32 bytes
APISIX = "edd1c9f0985e76a2"  # everybody knows it
on_both_versions = pytest.mark.parametrize(
    "version", [V1_2, V1_3], ids=lambda version: version.name
)


@dataclass(frozen=True)
class Pod:
    """How one is set up: its keyring, for whom its certificate is, and what else its ssl object says."""

    keyring: tuple[str, ...] = (OURS,)
    members: dict[str, Any] = field(default_factory=dict)
    certified: str = NAME

    @property
    def ssl_object(self) -> dict[str, Any]:
        """For both names."""
        chosen = {"snis": [NAME, OTHER], **self.members}
        return {**certificate(self.certified), **chosen, "sni": None}

    @asynccontextmanager
    async def serving(
        self, moved_by: str, game: int, keyring: Keyring | None = None
    ) -> AsyncIterator[Gateway]:
        """For as long as the block lasts."""
        objects = {"ssls/1": self.ssl_object, "stream_routes/1": route(game, sni="*")}
        if self.keyring and keyring is None:
            keyring = Keyring(self.keyring)
        listener = Listener(address="127.0.0.1:0", tls=True)
        async with open_gateway(listener, objects, keyring=keyring, moved_by=moved_by) as gateway:
            yield gateway


@asynccontextmanager
async def open_game() -> AsyncIterator[int]:
    """The port of a game server that echoes."""
    with trio.fail_after(DEADLINE):
        async with game_server() as game:
            yield game.port


def player(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Who shows a certificate where one is asked for."""
    return player_context(version, identity="ours", any_name=True)


async def visit(
    gateway: Gateway,
    context: ssl.SSLContext,
    session: ssl.SSLSession | None = None,
    name: str = NAME,
) -> TlsPeer:
    """A player who has been let in, was heard and has left."""
    peer = TlsPeer(gateway.dial().sock, context, name, session=session)
    await peer.handshake(then=b"hi")
    assert await peer.read(2) == b"hi"
    await peer.end()
    assert await peer.read_all() == b""
    peer.close()
    assert (await gateway.lines.next())["reason"] == "client_closed"
    return peer


def asking(which: str, depth: int = 1) -> dict[str, Any]:
    """Members of an object that wants client certificates from that CA."""
    return {"client": {"ca": authority_pem(which), "depth": depth}}


@dataclass(frozen=True)
class Row:
    """Where a ticket is from, where it is shown, and whether it is taken."""

    what: str
    there: Pod
    here: Pod
    taken: bool
    name: str = NAME


BOTH_CAS = {"client": {"ca": authority_pem("ours") + authority_pem("theirs"), "depth": 1}}
ONLY_1_3 = {"ssl_protocols": ["TLSv1.3"]}
BOTH = {"ssl_protocols": ["TLSv1.2", "TLSv1.3"]}
ROWS = [
    Row("the same", Pod(), Pod(), taken=True),
    Row("another certificate", Pod(), Pod(certified=OTHER), taken=True),
    Row("both ask for as much", Pod(members=asking("ours")), Pod(members=asking("ours")), True),
    Row("a new key before it", Pod(), Pod((NEW, OURS)), taken=True),
    Row("not all have the new key yet", Pod((NEW, OURS)), Pod(), taken=False),
    Row("another name", Pod(), Pod(), taken=False, name=OTHER),
    Row("another keyring", Pod(), Pod((THEIRS,)), taken=False),
    Row("the key is no more", Pod(), Pod((NEW,)), taken=False),
    Row("no keyring", Pod(()), Pod(()), taken=False),
    Row("a key that everybody knows", Pod((APISIX,)), Pod((APISIX,)), taken=False),
    Row("a certificate is asked for", Pod(), Pod(members=asking("ours")), taken=False),
    Row("none is any more", Pod(members=asking("ours")), Pod(), taken=False),
    Row("of other authorities", Pod(members=BOTH_CAS), Pod(members=asking("ours")), taken=False),
    Row("less deep", Pod(members=asking("ours", 2)), Pod(members=asking("ours")), taken=False),
    Row("other versions", Pod(members=BOTH), Pod(members=ONLY_1_3), taken=False),
]


def cases(rows: list[Row]) -> pytest.MarkDecorator:
    """Each in both versions, but where nothing but TLS 1.3 is spoken in the end."""
    return pytest.mark.parametrize(
        ("row", "version"),
        [
            pytest.param(row, version, id=f"{row.what}-{version.name}")
            for row in rows
            for version in (V1_2, V1_3)
            if version is V1_3 or row.here.members != ONLY_1_3
        ],
    )


@cases(ROWS)
async def test_who_comes_back_at_another_pod(
    moved_by: str, row: Row, version: ssl.TLSVersion
) -> None:
    context = player(version)
    async with (
        open_game() as game,
        row.there.serving(moved_by, game) as there,
        row.here.serving(moved_by, game) as here,
    ):
        session = (await visit(there, context)).session
        again = await visit(here, context, session, row.name)
        assert again.resumed is (row.taken and moved_by == "native")


@cases([row for row in ROWS if row.here.keyring == row.there.keyring])
async def test_who_comes_back_once_the_object_was_changed(
    moved_by: str, row: Row, version: ssl.TLSVersion
) -> None:
    context = player(version)
    async with open_game() as game, row.there.serving(moved_by, game) as gateway:
        session = (await visit(gateway, context)).session
        unchanged = row.here == row.there
        if not unchanged:
            change(gateway, row.here)
        again = await visit(gateway, context, session, row.name)
        # A process has keys of its own where there are none for all.
        taken = row.taken or (unchanged and row.name == NAME)
        if moved_by == "native" or (unchanged and not row.here.members):
            assert again.resumed is taken
        else:  # the keys are the object's, and who shows a certificate has no ticket in TLS 1.3
            assert taken or not again.resumed


def change(gateway: Gateway, pod: Pod) -> None:
    """The ssl object of that pod in the place of the one that there is."""
    snapshot = gateway.worker.snapshot
    revision = snapshot.revision + 1
    entry = Entry(f"{PREFIX}/ssls/1", json.dumps(pod.ssl_object).encode(), revision, revision)
    assert not snapshot.apply([entry])


@on_both_versions
async def test_a_keyring_that_gets_a_new_first_key(version: ssl.TLSVersion) -> None:
    """While it serves: who has a ticket from before comes back, and who gets one now does so where only the new key is."""
    if not BUILT:
        pytest.skip("the native relay is not built")
    context, keyring = player(version), Keyring([OURS])
    async with (
        open_game() as game,
        Pod().serving("native", game, keyring) as gateway,
        Pod((NEW,)).serving("native", game) as new,
    ):
        session = (await visit(gateway, context)).session
        keyring.succeed(Keyring([NEW]))
        gateway.worker.forget_plans()  # as after every change, and that of a key file is followed by some
        again = await visit(gateway, context, session)
        assert again.resumed
        assert (await visit(new, context, again.session)).resumed
