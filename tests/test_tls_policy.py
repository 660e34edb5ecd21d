"""A name that asks for client certificates is never reached with less: not by an odd hello, and not by a session of before.

Over real sockets. The secure name has an ssl object and a game server of its own; everything else is served to anybody.
"""

import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from sniproxy.corpus import INCOMPLETE, Expect, Row, load
from sniproxy.settings import Listener
from sniproxy.snapshot import Broken
from sniproxy.store import Entry
from tests.support.certificates import authority_pem, player_context
from tests.support.gateway import (
    MOVED_BY,
    PREFIX,
    Gateway,
    Objects,
    certificate,
    open_gateway,
    route,
)
from tests.support.hellos import handshake_messages, records
from tests.support.peers import GameServer, TlsPeer, game_server

pytestmark = pytest.mark.anyio

DEADLINE = 20  # seconds for one test, for when something hangs
TERMINATE = Listener(address="127.0.0.1:0", tls=True)
SECURE, OPEN = "secure.example.com", "open.example.com"
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
on_both_versions = pytest.mark.parametrize(
    "version", [V1_2, V1_3], ids=lambda version: version.name
)


def secured(name: str = SECURE, **members: Any) -> dict[str, Any]:
    """An ssl object that wants a client certificate from our CA."""
    return certificate(name, **{"client": {"ca": authority_pem("ours")}, **members})


@dataclass
class Stage:
    """The data plane and the two game servers behind it."""

    gateway: Gateway
    secure: GameServer
    other: GameServer
    subject: str | None = None  # of the certificate of who played last, as the log has it

    def change(self, objects: Objects) -> list[Broken]:
        """Puts them in force; those that cannot be used."""
        snapshot = self.gateway.worker.snapshot
        return snapshot.apply(
            [
                Entry(f"{PREFIX}/{key}", json.dumps(value).encode(), revision, revision)
                for revision, (key, value) in enumerate(objects.items(), snapshot.revision + 1)
            ]
        )

    def dial(
        self, player: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None
    ) -> TlsPeer:
        """A player who has connected and said nothing."""
        return TlsPeer(self.gateway.dial().sock, player, name, session=session)

    async def plays(self, peer: TlsPeer) -> ssl.SSLSession | None:
        """He is let in, is heard and answered, and leaves; his session."""
        await peer.handshake()
        await peer.send(b"hi")
        assert await peer.read(2) == b"hi"
        await peer.end()
        assert await peer.read_all() == b""
        peer.close()
        line = await self.gateway.lines.next()
        assert line["reason"] == "client_closed"
        assert (line["tls"], line["resumed"]) == (peer.version, peer.resumed)
        self.subject = line.get("client_subject")
        return peer.session

    async def refused(self, peer: TlsPeer, reason: str = "handshake_failed") -> str | None:
        """He is not let in; the alert that he gets, by name."""
        with suppress(ssl.SSLError):
            await peer.handshake(then=b"let me in")
        told = await peer.told()
        peer.close()
        line = await self.gateway.lines.next()
        assert (line["reason"], line["route"]) == (reason, "secure")
        assert not peer.resumed
        return told

    @property
    def heard(self) -> tuple[list[bytes], list[bytes]]:
        """What each connection to the secure game server said, and to the other one."""
        secure, other = ([bytes(one) for one in game.heard] for game in (self.secure, self.other))
        return secure, other


@asynccontextmanager
async def open_stage(objects: Objects | None = None) -> AsyncIterator[Stage]:
    """The secure name wants TLS 1.3 and a certificate, unless `objects` say otherwise."""
    async with game_server() as secure, game_server() as other:
        everything = {
            "ssls/secure": secured(ssl_protocols=["TLSv1.3"]),
            "ssls/wild": certificate("*.example.com"),
            "ssls/any": certificate("any.test", sni="*"),
            "stream_routes/secure": route(secure.port, sni=SECURE),
            "stream_routes/any": route(other.port, sni="*"),
            **(objects or {}),
        }
        with trio.fail_after(DEADLINE):
            async with open_gateway(TERMINATE, everything) as gateway:
                yield Stage(gateway, secure, other)


def player(version: ssl.TLSVersion | None = None, identity: str | None = None) -> ssl.SSLContext:
    """A client that does not care for whom the server's certificate is."""
    return player_context(version, identity=identity, any_name=True)


# -- odd hellos

NAMES = [SECURE, "SECURE.example.com", "secure.example.com.", "sEcUrE.ExAmPlE.CoM."]
FRAMES: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "whole": lambda hello: [hello],
    "byte by byte": lambda hello: (hello[at : at + 1] for at in range(len(hello))),
    "records of 1": lambda hello: [records(hello[5:], (1,))],
    "records of 5": lambda hello: [records(hello[5:], (5,))],
    "records of 100": lambda hello: [records(hello[5:], (100,))],
    "records of 7, in segments of 11": lambda hello: in_segments(records(hello[5:], (7,)), 11),
}


def in_segments(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
@pytest.mark.parametrize("name", NAMES)
async def test_an_odd_hello_is_asked_for_as_much(
    name: str, frame: Callable[[bytes], Iterable[bytes]]
) -> None:
    async def dial(context: ssl.SSLContext) -> TlsPeer:
        peer = stage.dial(context, name)
        hello = peer.hello()
        assert len(hello) == 5 + int.from_bytes(hello[3:5], "big"), "one record, to be cut anew"
        for segment in frame(hello):
            await peer.wire.send(segment)
        return peer

    async with open_stage() as stage:
        assert await stage.refused(await dial(player())) == "certificate_required"
        assert await stage.refused(await dial(player(V1_3))) == "certificate_required"
        assert await stage.refused(await dial(player(identity="theirs"))) == "unknown_ca"
        assert await stage.refused(await dial(player(V1_2))) == "protocol_version"
        assert await stage.refused(await dial(player(V1_2, "ours"))) == "protocol_version"
        assert stage.heard == ([], [])
        await stage.plays(await dial(player(identity="ours")))
        assert stage.heard == ([b"hi"], [])


async def test_odd_names_in_the_objects_are_the_same_names() -> None:
    async with open_stage({"ssls/secure": secured(sni="SECURE.Example.com.")}) as stage:
        loud = route(stage.secure.port, sni="sEcure.example.COM.")
        assert not stage.change({"stream_routes/secure": loud})
        assert await stage.refused(stage.dial(player(), SECURE)) == "certificate_required"
        await stage.plays(stage.dial(player(identity="ours"), SECURE))
        assert (stage.subject or "").startswith("OU=Testing cert #")  # as trustme makes them
        assert stage.heard == ([b"hi"], [])


@pytest.mark.parametrize("name", [None, "127.0.0.1", "xsecure.example.com", "a.secure.example.com"])
async def test_another_name_or_none_leads_elsewhere(name: str | None) -> None:
    async with open_stage() as stage:
        await stage.plays(stage.dial(player(), name))
        assert stage.heard == ([], [b"hi"])


@on_both_versions
async def test_who_is_too_deep_is_not_heard(version: ssl.TLSVersion) -> None:
    """Not even what he said before he could know that he is refused."""
    async with open_stage({"ssls/secure": secured()}) as stage:
        deep = player_context(version, identity="ours", intermediates=2, any_name=True)
        told = await stage.refused(stage.dial(deep, SECURE))
        assert told in (None, "certificate_unknown")  # OpenSSL is past the handshake by then
        assert stage.heard == ([], [])
        enough = player_context(version, identity="ours", intermediates=1, any_name=True)
        await stage.plays(stage.dial(enough, SECURE))
        assert stage.heard == ([b"hi"], [])


# -- resumption


@pytest.mark.parametrize("protocols", [["TLSv1.3"], ["TLSv1.2", "TLSv1.3"]])
@on_both_versions
async def test_a_session_of_an_open_name_is_of_no_use_for_the_secure_one(
    version: ssl.TLSVersion, protocols: list[str]
) -> None:
    async with open_stage({"ssls/secure": secured(ssl_protocols=protocols)}) as stage:
        session = await stage.plays(stage.dial(player(version), OPEN))
        again = stage.dial(player(version), OPEN, session)
        session = await stage.plays(again)
        assert again.resumed
        told = await stage.refused(stage.dial(player(version), SECURE, session))
        assert stage.heard == ([], [b"hi", b"hi"])
    if version is V1_3:
        assert told == "certificate_required"
    else:
        assert told == ("handshake_failure" if "TLSv1.2" in protocols else "protocol_version")


async def test_nor_if_the_player_offers_more_versions_than_the_session_had() -> None:
    async with open_stage({"ssls/secure": secured()}) as stage:
        context = player_context.__wrapped__(any_name=True)
        context.maximum_version = V1_2
        session = await stage.plays(stage.dial(context, OPEN))
        context.maximum_version = V1_3
        assert await stage.refused(stage.dial(context, SECURE, session)) == "certificate_required"
        assert stage.heard == ([], [b"hi"])


@on_both_versions
async def test_a_session_of_the_secure_name_leads_under_an_open_one_to_the_open_one(
    version: ssl.TLSVersion,
) -> None:
    async with open_stage({"ssls/secure": secured()}) as stage:
        context = player(version, "ours")
        session = await stage.plays(stage.dial(context, SECURE))
        under_another = stage.dial(context, OPEN, session)
        await stage.plays(under_another)
        assert not under_another.resumed
        back = stage.dial(context, SECURE, session)
        await stage.plays(back)
        # In the relay on trio there is no ticket for who needs a certificate.
        assert back.resumed is (version is V1_2 or MOVED_BY == "native")
        assert stage.heard == ([b"hi", b"hi"], [b"hi"])


# -- changes


@on_both_versions
async def test_once_a_certificate_is_asked_for_no_session_of_before_is_resumed(
    version: ssl.TLSVersion,
) -> None:
    async with open_stage({"ssls/secure": certificate(SECURE)}) as stage:
        session = await stage.plays(stage.dial(player(version), SECURE))
        assert stage.subject is None
        again = stage.dial(player(version), SECURE, session)
        session = await stage.plays(again)
        assert again.resumed
        assert not stage.change({"ssls/secure": secured()})
        told = await stage.refused(stage.dial(player(version), SECURE, session))
        assert told == ("certificate_required" if version is V1_3 else "handshake_failure")
        await stage.plays(stage.dial(player(version, "ours"), SECURE))
        assert stage.heard == ([b"hi"] * 3, [])


BAD_AUTHORITIES = {
    "no PEM": "x" * 200,
    "damaged": authority_pem("ours").replace("MII", "XII", 1),
    "empty block": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" * 3,
}


@pytest.mark.parametrize("ca", BAD_AUTHORITIES.values(), ids=list(BAD_AUTHORITIES))
async def test_a_broken_change_leaves_the_old_demand_in_force(ca: str) -> None:
    async with open_stage() as stage:
        (broken,) = stage.change({"ssls/secure": secured(client={"ca": ca})})
        assert broken.kept
        assert await stage.refused(stage.dial(player(), SECURE)) == "certificate_required"
        assert await stage.refused(stage.dial(player(V1_2, "ours"), SECURE)) == "protocol_version"
        await stage.plays(stage.dial(player(identity="ours"), SECURE))
        assert stage.heard == ([b"hi"], [])


@pytest.mark.parametrize("ca", BAD_AUTHORITIES.values(), ids=list(BAD_AUTHORITIES))
async def test_an_object_that_was_never_sound_does_not_open_its_name(ca: str) -> None:
    """As a worker meets it that has just been started: the name must not fall to the wildcard, which asks for less."""
    async with open_stage({"ssls/secure": certificate("unrelated.test")}) as stage:
        (broken,) = stage.change({"ssls/later": secured(client={"ca": ca})})
        assert not broken.kept
        peer = stage.dial(player(), SECURE)
        with suppress(OSError):
            await peer.handshake(then=b"let me in")
            await peer.read(9)
        peer.close()
        assert stage.heard == ([], [])


async def test_authorities_may_be_commented_in_any_language() -> None:
    """As bundles are; the comment stands outside of the PEM block."""
    ca = "# Főtanúsítvány\n" + authority_pem("ours")
    async with open_stage({"ssls/secure": secured(client={"ca": ca})}) as stage:
        assert await stage.refused(stage.dial(player(), SECURE)) == "certificate_required"
        await stage.plays(stage.dial(player(identity="ours"), SECURE))
        assert stage.heard == ([b"hi"], [])


# -- wildcards


async def test_a_wildcard_certificate_is_for_one_label() -> None:
    """RFC 6125 section 6.4.3. A route's `*.x` covers two as well, so they must not be served by a `*` that asks for less."""
    async with open_stage({"ssls/secure": secured("*.secure.example.com")}) as stage:
        deep = route(stage.secure.port, sni="*.secure.example.com")
        assert not stage.change({"stream_routes/secure": deep})
        one, two = "a.secure.example.com", "a.b.secure.example.com"
        assert await stage.refused(stage.dial(player(), one)) == "certificate_required"
        assert stage.heard == ([], [])
        await stage.refused(stage.dial(player(), two), "no_certificate")
        assert stage.heard == ([], [])


# -- the corpus

ROUTED = "play.conformance.test"


def rows(*expected: Expect) -> list[Row]:
    """Those that say the whole of ROUTED in any way, and nothing is missing from them."""
    return [
        row
        for row in load()
        if row.expect in expected and row.reason != INCOMPLETE
        if row.name == ROUTED or ROUTED.encode() in row.sent.lower()
    ]


async def play(stage: Stage, played: list[Row]) -> dict[str, list[int]]:
    """What each was answered: the types of the handshake messages, as far as they are in clear."""
    answers: dict[str, list[int]] = {}
    at_once = trio.CapacityLimiter(20)  # fewer than the listener's queue takes

    async def one(row: Row) -> None:
        async with at_once:
            peer, answer = stage.gateway.dial(), b""
            # It may be over before all is said; what was answered by then is read all the same.
            with suppress(ConnectionResetError, BrokenPipeError):
                for segment in row.segments:
                    await peer.send(segment)
            with suppress(ConnectionResetError):
                while SERVER_HELLO_DONE not in handshake_messages(answer) and (
                    more := await peer.receive()
                ):
                    answer += more
            answers[row.id] = handshake_messages(answer)
            peer.close()

    async with trio.open_nursery() as nursery:
        for row in played:
            nursery.start_soon(one, row)
    return answers


SERVER_HELLO, CERTIFICATE_REQUEST, SERVER_HELLO_DONE = 2, 13, 14


def routed(**members: Any) -> Objects:
    """ROUTED is the secure name."""
    return {
        "ssls/secure": secured(ROUTED, **members),
        "stream_routes/secure": route(9, sni=ROUTED),
    }


async def test_no_broken_hello_is_answered() -> None:
    broken = rows(Expect.REFUSE)
    assert len(broken) > 200
    async with open_stage(routed()) as stage:
        answers = await play(stage, broken)
        assert {name: answer for name, answer in answers.items() if answer} == {}
        assert stage.heard == ([], [])
        counts = stage.gateway.closed()
        assert counts.keys() == {"hello_broken", "hello_not_tls", "hello_too_large"}
        assert sum(counts.values()) == len(broken)


async def test_every_sound_hello_is_asked_for_a_certificate() -> None:
    """Unless TLS 1.2 cannot be spoken with who sent it: in that version the request is in clear."""
    async with open_stage(routed(ssl_protocols=["TLSv1.2"])) as stage:
        answers = await play(stage, rows(Expect.ROUTE))
        assert stage.heard == ([], [])
    answered = {name: answer for name, answer in answers.items() if SERVER_HELLO in answer}
    assert len(answered) > 40
    assert {name for name, answer in answered.items() if CERTIFICATE_REQUEST not in answer} == set()
