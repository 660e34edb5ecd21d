"""A DNS server on loopback: answers from a dictionary that the test changes, over UDP and TCP."""

import errno
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

Zone = dict[str, Mapping[str, Sequence[str]]]  # by name, by type: what records hold, as text


class Mood(Enum):
    """How it is that day."""

    WELL = auto()
    SILENT = auto()
    SERVFAIL = auto()
    REFUSED = auto()
    GARBLED = auto()  # what it says is no message
    FOREIGN = auto()  # it answers what nobody asked, and then what was asked
    FORGED = auto()  # somebody else answers first, from another port
    CUT = auto()  # over UDP all is too long


@dataclass
class DnsServer:
    """A name that is not in the zone does not exist."""

    zone: Zone
    ttl: int = 30  # seconds
    mood: Mood = Mood.WELL
    silent_about: str | None = None  # a type that is never answered
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, udp or tcp
    address: str = ""  # as proxy.dns.servers takes it

    def answer(self, wire: bytes, over: str) -> list[bytes]:
        """What goes back, message by message."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, about = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, about, over))
        if self.mood is Mood.SILENT or about == self.silent_about:
            return []
        if self.mood is Mood.GARBLED:
            return [b"\x00" * 7]
        answer = dns.message.make_response(query, recursion_available=True)
        if self.mood in (Mood.SERVFAIL, Mood.REFUSED):
            answer.set_rcode(dns.rcode.from_text(self.mood.name))
        elif self.mood is Mood.CUT and over == "udp":
            answer.flags |= dns.flags.TC
        else:
            self._fill(answer, name, about)
        wires = [answer.to_wire()]
        if self.mood is Mood.FOREIGN and over == "udp":
            foreign = dns.message.make_response(dns.message.make_query("evil.example.", "A"))
            foreign.answer.append(dns.rrset.from_text("evil.example.", 60, "IN", "A", "6.6.6.6"))
            wires.insert(0, foreign.to_wire())
        return wires

    def _fill(self, answer: dns.message.Message, name: str, about: str) -> None:
        while True:
            records = self.zone.get(name)
            if records is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                return
            for kind in (about, "CNAME"):
                if texts := records.get(kind, ()):
                    answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *texts))
                    break
            else:
                return
            if kind == about:
                return
            name = texts[0]


@asynccontextmanager
async def dns_server(zone: Zone | None = None, host: str = "127.0.0.1") -> AsyncIterator[DnsServer]:
    """For as long as the block lasts."""
    server = DnsServer(zone if zone is not None else {})
    tcp, udp = await _bound(host)
    with tcp, udp:
        tcp.listen()
        port = tcp.getsockname()[1]
        server.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_datagrams, server, udp)
            listeners = [trio.SocketListener(tcp)]

            async def answer_stream(stream: trio.SocketStream) -> None:
                await _answer_stream(server, stream)

            nursery.start_soon(trio.serve_listeners, answer_stream, listeners)
            yield server
            nursery.cancel_scope.cancel()


async def _bound(host: str) -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """One port for both: what the kernel gives for TCP may be somebody's for UDP, and then it is asked for another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with ExitStack() as stack:
            tcp = stack.enter_context(trio.socket.socket(family))
            udp = stack.enter_context(trio.socket.socket(family, socket.SOCK_DGRAM))
            await tcp.bind((host, 0))
            try:
                await udp.bind((host, tcp.getsockname()[1]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            stack.pop_all()
            return tcp, udp


async def _answer_datagrams(server: DnsServer, udp: trio.socket.SocketType) -> None:
    while True:
        wire, peer = await udp.recvfrom(65535)
        if server.mood is Mood.FORGED:
            forged = dns.message.make_response(dns.message.from_wire(wire))
            with socket.socket(udp.family, socket.SOCK_DGRAM) as somebody:
                somebody.sendto(forged.to_wire(), peer)
        for answer in server.answer(wire, "udp"):
            with suppress(OSError):
                await udp.sendto(answer, peer)


async def _answer_stream(server: DnsServer, stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        head = await stream.receive_some(2)
        if len(head) == 2:
            wire = await stream.receive_some(struct.unpack("!H", head)[0])
            for answer in server.answer(bytes(wire), "tcp"):
                await stream.send_all(struct.pack("!H", len(answer)) + answer)
