"""Asking DNS servers, over real sockets: what is asked of whom, and what an answer says. Waiting is on virtual time."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sniproxy.dns_client import EMPTY, UNKNOWN, UNOFFERED, DnsClient, read
from sniproxy.name_cache import RETRY, Failed, Found, Gone, Key, Kind, Outcome, Service
from sniproxy.settings import Dns
from tests.support.dns_server import DnsServer, Mood, Zone, dns_server

pytestmark = pytest.mark.anyio

DEADLINE = 100.0  # virtual seconds
DEAD = "127.0.0.77:9"  # nobody is there

ZONE: Zone = {
    "both.example.": {"A": ["10.0.0.1", "10.0.0.2"], "AAAA": ["2001:db8::1"]},
    "four.example.": {"A": ["10.0.0.4"]},
    "alias.example.": {"CNAME": ["four.example."]},
    "dangling.example.": {"CNAME": ["nowhere.example."]},
    "mail.example.": {"MX": ["10 a.example."]},
    "_game._tcp.example.": {"SRV": ["10 5 7001 a.example.", "20 0 7002 b.example."]},
    "_off._tcp.example.": {"SRV": ["0 0 0 ."]},
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


def addresses(name: str) -> Key:
    """The question for them."""
    return Key(Kind.ADDRESSES, name)


async def ask(key: Key, *servers: str, **settings: Any) -> Outcome:
    """By a client of these servers."""
    with trio.fail_after(DEADLINE):
        outcome = await DnsClient(Dns(servers=servers, **settings)).ask(key)
    if isinstance(outcome, Found):  # a server turns them by chance
        in_order: Any = tuple(sorted(outcome.records, key=str))
        return Found(in_order, outcome.ttl)
    return outcome


@pytest.mark.parametrize(
    ("key", "outcome"),
    [
        (addresses("both.example"), Found(("10.0.0.1", "10.0.0.2", "2001:db8::1"), 30)),
        (addresses("BOTH.example."), Found(("10.0.0.1", "10.0.0.2", "2001:db8::1"), 30)),
        (addresses("four.example"), Found(("10.0.0.4",), 30)),
        (addresses("alias.example"), Found(("10.0.0.4",), 30)),
        (addresses("nobody.example"), Gone(UNKNOWN)),
        (addresses("dangling.example"), Gone(UNKNOWN)),
        (addresses("mail.example"), Gone(EMPTY)),
        (Key(Kind.SERVICES, "_off._tcp.example"), Gone(UNOFFERED)),
        (Key(Kind.SERVICES, "four.example"), Gone(UNOFFERED)),
        (Key(Kind.SERVICES, "_x._tcp.example"), Gone(UNKNOWN)),
        (
            Key(Kind.SERVICES, "_game._tcp.example"),
            Found((Service(10, 5, 7001, "a.example."), Service(20, 0, 7002, "b.example.")), 30),
        ),
    ],
)
@pytest.mark.parametrize("mood", [Mood.WELL, Mood.CUT, Mood.FOREIGN, Mood.FORGED])
async def test_what_a_server_says(mood: Mood, key: Key, outcome: Outcome) -> None:
    """Over TCP where it is too long for UDP. What comes beside the answer is not one."""
    async with dns_server(ZONE) as server:
        server.mood = mood
        assert await ask(key, server.address) == outcome
        assert ("tcp" in {over for _, _, over in server.asked}) is (mood is Mood.CUT)


@pytest.mark.parametrize(
    "name", ["two..dots", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "\\999.example"]
)
async def test_what_is_no_name_is_asked_of_nobody(name: str) -> None:
    async with dns_server() as server:
        outcome = await ask(addresses(name), server.address)
        assert isinstance(outcome, Gone)
        assert outcome.why.startswith("no name that DNS could hold: ")
        assert server.asked == []


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (Mood.SILENT, "no answer in 0.5 s"),
        (Mood.GARBLED, "no answer in 0.5 s"),
        (Mood.SERVFAIL, "SERVFAIL"),
        (Mood.REFUSED, "REFUSED"),
    ],
)
async def test_a_server_that_knows_nothing_is_asked_twice(mood: Mood, said: str) -> None:
    async with dns_server(ZONE) as server:
        server.mood = mood
        outcome = await ask(addresses("four.example"), server.address, timeout=0.5)
        assert outcome == Failed(f"127.0.0.1: {said}")
        assert sorted(about for _, about, _ in server.asked) == ["A", "A", "AAAA", "AAAA"]


async def test_a_chain_of_names_that_ends_without_an_address() -> None:
    async with dns_server() as server:
        server.zone["one.example."] = {"CNAME": ["two.example."]}
        server.zone["two.example."] = {"CNAME": ["three.example."]}
        server.zone["three.example."] = {}
        assert await ask(addresses("one.example"), server.address) == Gone(EMPTY)


@pytest.mark.parametrize("mood", [Mood.SILENT, Mood.SERVFAIL, Mood.REFUSED])
async def test_the_next_server_is_asked_and_remembered(mood: Mood) -> None:
    async with dns_server(ZONE) as ill, dns_server(ZONE) as well:
        ill.mood = mood
        client = DnsClient(Dns(servers=(ill.address, well.address)))
        with trio.fail_after(DEADLINE):
            for _ in range(3):
                assert await client.ask(addresses("four.example")) == Found(("10.0.0.4",), 30)
        assert len(ill.asked) == 2  # A and AAAA, at the first time
        assert len(well.asked) == 6


async def test_no_server_is_there() -> None:
    outcome = await ask(addresses("four.example"), DEAD)
    assert isinstance(outcome, Failed)
    assert outcome.why.startswith("127.0.0.77: ")


async def test_a_server_may_be_ipv6() -> None:
    async with dns_server(ZONE, host="::1") as server:
        assert await ask(addresses("four.example"), server.address) == Found(("10.0.0.4",), 30)


@pytest.mark.parametrize(
    ("silent_about", "found"), [("AAAA", ("10.0.0.1", "10.0.0.2")), ("A", ("2001:db8::1",))]
)
async def test_one_family_does_not_wait_long_for_the_other(
    silent_about: str, found: tuple[str, ...]
) -> None:
    """And is asked for again soon, since half of the answer is missing."""
    async with dns_server(ZONE) as server:
        server.silent_about = silent_about
        started = trio.current_time()
        assert await ask(addresses("both.example"), server.address) == Found(found, RETRY)
        assert trio.current_time() - started < 1


async def of_file(server: DnsServer, tmp_path: Path, name: str, text: str) -> Outcome:
    """Asked as a resolv.conf has it, of a server on the port that such a file cannot name."""
    (tmp_path / "resolv.conf").write_text(text)
    client = DnsClient(Dns(), tmp_path / "resolv.conf")
    port = int(server.address.rpartition(":")[2])
    with pytest.MonkeyPatch.context() as patch, trio.fail_after(DEADLINE):
        patch.setattr("sniproxy.dns_client.PORT", port)
        return await client.ask(addresses(name))


POD = "search games.svc.x svc.x\nnameserver 127.0.0.1\noptions ndots:5\n"


async def test_names_are_completed_as_in_a_pod(tmp_path: Path) -> None:
    async with dns_server({"gs-1.lobby.svc.x.": {"A": ["10.0.0.9"]}}) as server:
        assert await of_file(server, tmp_path, "gs-1.lobby", POD) == Found(("10.0.0.9",), 30)
        asked = [name for name, about, _ in server.asked if about == "A"]
        assert asked == ["gs-1.lobby.games.svc.x.", "gs-1.lobby.svc.x."]


async def test_a_name_that_no_completion_has_is_unknown(tmp_path: Path) -> None:
    async with dns_server() as server:
        assert await of_file(server, tmp_path, "gs-1", POD) == Gone(UNKNOWN)
        assert len({name for name, _, _ in server.asked}) == 3


@pytest.mark.parametrize("search", ["x" * 60 + ".example", "x" * 64, "a..b"])
async def test_a_completion_that_is_no_name_is_passed_over(tmp_path: Path, search: str) -> None:
    """The name itself is one, and so is what the rest of the list makes of it."""
    long = ".".join(["y" * 60] * 3) + ".z"
    text = f"search {search} games\nnameserver 127.0.0.1\noptions ndots:5\n"
    zone: Zone = {f"{long}.": {"A": ["10.0.0.1"]}, f"gs.{long}.games.": {"A": ["10.0.0.2"]}}
    async with dns_server(zone) as server:
        assert await of_file(server, tmp_path, long, text) == Found(("10.0.0.1",), 30)
        assert await of_file(server, tmp_path, f"gs.{long}", text) == Found(("10.0.0.2",), 30)
        assert await of_file(server, tmp_path, "gs", text) == Gone(UNKNOWN)


async def test_one_that_is_there_without_an_address_is_told(tmp_path: Path) -> None:
    async with dns_server({"gs-1.svc.x.": {"MX": ["1 a."]}}) as server:
        assert await of_file(server, tmp_path, "gs-1", POD) == Gone(EMPTY)


async def test_no_other_name_is_taken_because_the_right_one_is_silent(tmp_path: Path) -> None:
    async with dns_server({"gs-1.": {"A": ["6.6.6.6"]}}) as server:
        server.mood = Mood.SERVFAIL
        assert isinstance(await of_file(server, tmp_path, "gs-1", POD), Failed)
        assert {name for name, _, _ in server.asked} == {"gs-1.games.svc.x."}


@given(st.binary(max_size=120))
def test_no_message_makes_it_raise_more_than_it_says(noise: bytes) -> None:
    """Whatever can be read as a message is an outcome, or dnspython's own error."""
    query = dns.message.make_query("a.example.", "A").to_wire()
    try:
        message = dns.message.from_wire(query[:2] + b"\x80\x00" + query[4:] + noise)
    except Exception:
        return
    with suppress(dns.exception.DNSException):
        assert isinstance(read(message), Found | Gone | Failed)
