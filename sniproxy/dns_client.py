"""Asks DNS servers: a name -> its addresses or services, over UDP, or TCP where an answer is too long for that.

dnspython writes and reads the messages. Its own resolver goes by the time of day, which may jump, so whom to ask and for how
long is decided here.
"""

from pathlib import Path

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import trio
from dns.rdatatype import RdataType

from sniproxy.name_cache import (
    RETRY,
    Failed,
    Found,
    Gone,
    Key,
    Kind,
    Outcome,
    Records,
    Service,
    both,
)
from sniproxy.name_files import RESOLV_CONF, Followed, ResolvConf, parse_resolv_conf
from sniproxy.settings import Dns, split_address

PORT = 53
TRIES = 2  # of each server
SECOND_ANSWER = 0.5  # seconds in which the other family's addresses may come after those of one

UNKNOWN = "DNS knows no such name (NXDOMAIN)"
EMPTY = "the name has no address in DNS"
UNOFFERED = "the name has no service in DNS"

Server = tuple[str, int]  # an IP address and a port


class DnsClient:
    """Of one worker. It remembers which server has answered last, and asks that one first."""

    def __init__(self, settings: Dns, resolv_conf: Path = RESOLV_CONF) -> None:
        self.settings = settings
        self._file = Followed(resolv_conf, parse_resolv_conf)
        self._good: Server | None = None

    async def ask(self, key: Key) -> Outcome:
        """What DNS says of a name, asked for as the search list has it.

        A candidate that is not answered ends it: no other name must be taken for the right one because that is silent.
        One that is no name, such as with the search list too long, is passed over, as in the C library.
        """
        conf = self._conf()
        outcome: Outcome | None = None
        unheld = ""
        for candidate in conf.candidates(key.name):
            try:
                name = dns.name.from_text(candidate)
            except (dns.exception.DNSException, ValueError) as error:
                unheld = f"no name that DNS could hold: {error}"
                continue
            found = await self._of(key.kind, name, conf)
            if not isinstance(found, Gone):
                return found
            if outcome is None or found.why != UNKNOWN:
                outcome = found
        return outcome or Gone(unheld)

    def _conf(self) -> ResolvConf:
        if self.settings.servers:
            return ResolvConf(self.settings.servers)
        return self._file.value(trio.current_time())

    async def _of(self, kind: Kind, name: dns.name.Name, conf: ResolvConf) -> Outcome:
        if kind is Kind.SERVICES:
            return await self._question(name, RdataType.SRV, conf)
        answers: dict[RdataType, Outcome] = {}
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope

            async def ask(family: RdataType) -> None:
                answers[family] = outcome = await self._question(name, family, conf)
                if isinstance(outcome, Found):
                    scope.deadline = min(scope.deadline, trio.current_time() + SECOND_ANSWER)

            nursery.start_soon(ask, RdataType.A)
            nursery.start_soon(ask, RdataType.AAAA)
        late = Failed("no answer beside that for the other family")
        return both(answers.get(RdataType.A, late), answers.get(RdataType.AAAA, late), RETRY)

    async def _question(self, name: dns.name.Name, about: RdataType, conf: ResolvConf) -> Outcome:
        """One question, to one server after the other until one knows."""
        failures: dict[str, None] = {}
        for server in self._order(conf) * TRIES:
            outcome = await self._exchange(dns.message.make_query(name, about), server)
            if not isinstance(outcome, Failed):
                self._good = server
                return outcome
            failures[f"{server[0]}: {outcome.why}"] = None
        return Failed("; ".join(failures))

    def _order(self, conf: ResolvConf) -> list[Server]:
        servers = [_server(text) for text in conf.servers]
        return sorted(servers, key=lambda server: server != self._good)

    async def _exchange(self, query: dns.message.QueryMessage, server: Server) -> Outcome:
        host, port = server
        with trio.move_on_after(self.settings.timeout):
            try:
                answer, _ = await dns.asyncquery.udp_with_fallback(
                    query,
                    host,
                    port=port,
                    backend=dns.asyncbackend.get_backend("trio"),
                    ignore_unexpected=True,  # what others send to that port is not its answer
                    ignore_errors=True,
                )
                return read(answer)
            except (OSError, EOFError, trio.BrokenResourceError) as error:
                return Failed(getattr(error, "strerror", None) or type(error).__name__)
            except dns.exception.DNSException as error:
                return Failed(f"an answer that cannot be read: {type(error).__name__}")
        return Failed(f"no answer in {self.settings.timeout:g} s")


def _server(text: str) -> Server:
    """Of resolv.conf, an address alone; of the settings, with its port."""
    try:
        return split_address(text)
    except ValueError:
        return text, PORT


def read(answer: dns.message.Message) -> Outcome:
    """What a message says. DNSException if it contradicts itself."""
    if answer.rcode() == dns.rcode.NXDOMAIN:
        return Gone(UNKNOWN)
    if answer.rcode() != dns.rcode.NOERROR or not isinstance(answer, dns.message.QueryMessage):
        return Failed(dns.rcode.to_text(answer.rcode()))
    chain = answer.resolve_chaining()
    about = answer.question[0].rdtype
    records: Records = ()
    if chain.answer is not None and about == RdataType.SRV:
        services = (
            Service(one.priority, one.weight, one.port, one.target.to_text())
            for one in chain.answer
        )
        records = tuple(one for one in services if one.host != ".")  # "." says that there is none
    elif chain.answer is not None:
        records = tuple(one.address for one in chain.answer)
    if not records:
        return Gone(UNOFFERED if about == RdataType.SRV else EMPTY)
    return Found(records, chain.minimum_ttl)
