"""What clients send does nothing to whoever reads of it: in lines of the log, labels of metrics, traces and status pages."""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trio

from sniproxy.accounting import ALPN_LIMIT
from sniproxy.corpus import Expect, load
from sniproxy.log_text import visible
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.relay import Accepted
from sniproxy.settings import Listener, Traces
from sniproxy.tracing import open_tracer
from tests.support.certificates import NAME
from tests.support.collector import Collector, collecting
from tests.support.gateway import Gateway
from tests.support.hellos import alpn, message, named, record
from tests.support.proxy_headers import AUTHORITY, IPV4, UNIQUE_ID, ssl, tlv, v1, v2
from tests.support.stage import HELLO, MIXED, PROXIED_TLS, Stage, open_stage
from tests.support.status_port import open_port

pytestmark = pytest.mark.anyio

FORGED = b'{"event": "session", "reason": "forged"}'
NASTY = {
    "a line": b"a\r\n" + FORGED + b"\n",
    "controls of a terminal": b"\x1b[2J\x1b]0;owned\x07\x08\x08",
    "those of C1": b"\x9b31m\x85\x90",
    "quotes": b'"}\\", "reason": "forged',
    "zeros": b"\0" * 8,
    "lines of Unicode": "\u2028\u2029\u0085a".encode(),
    "right to left": "\u202egpj.exe\u2066\u061c".encode(),
    "not ASCII": "gämé\u0301.example".encode(),
    "not UTF-8": b"\xff\xfe\xc3",
    "a label": b'x"} 1\nsniproxy_forged{a="b',
    "a form": b"%s%(x)s%n{}{0}",
    "a page": b"<script>alert(1)</script>",
    "much": b"\x1b" * 255,
    "DEL": b"\x7f",
}
CLOCK = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (info |warn |error) ")
LABEL = re.compile(r"[A-Za-z0-9_.:+-]*")
PATIENCE = 60.0  # seconds for what must come


def of_a_listener(nasty: bytes) -> Iterator[bytes]:
    """First flights with it where no PROXY header is expected."""
    yield named(nasty)
    yield named(NAME.encode() + nasty)
    yield named(b"nobody.example", alpn(nasty, nasty[:9]))
    yield record(message([alpn(nasty)]))
    yield nasty
    yield v1(f"TCP4 {nasty.decode('latin-1')} 1.2.3.4 1 2") + HELLO


def of_a_balancer(nasty: bytes) -> Iterator[bytes]:
    """And where one is."""
    yield v1(f"TCP4 {nasty.decode('latin-1')} 1.2.3.4 1 2") + HELLO
    yield v1(nasty.decode("latin-1")) + HELLO
    yield v2(IPV4 + tlv(AUTHORITY, nasty) + tlv(UNIQUE_ID, nasty[:128])) + named(nasty)
    yield v2(IPV4 + ssl(tlv(0x22, nasty))) + named(b"nobody.example")
    yield v2(nasty) + HELLO


def flights(of: Callable[[bytes], Iterator[bytes]]) -> list[bytes]:
    return [flight for nasty in NASTY.values() for flight in of(nasty)]


REFUSED = [row.sent for row in load() if row.expect is Expect.REFUSE]
HARMLESS = re.compile(r"[ -~\n]*")


class Told:
    """All that a data plane tells of its sessions, in one form of the log."""

    def __init__(self, form: str, collector: Collector) -> None:
        self.stream = io.StringIO()
        self.log = open_log("proxy", self.stream)
        self.log.choose(form)
        traces = Traces(enabled=True, endpoint=collector.endpoint, queue=10_000)
        tracer = open_tracer(traces, "edge-1", Metrics(), self.log)
        assert tracer is not None
        self.tracer = tracer

    @property
    def lines(self) -> list[str]:
        """Of the log; its reader knows one end of a line."""
        return self.stream.getvalue().split("\n")[:-1]

    async def wait_for(self, count: int) -> None:
        """Until there are so many."""
        with trio.fail_after(PATIENCE):
            while len(self.lines) < count:  # noqa: ASYNC110  # a thread may write them
                await trio.sleep(0.005)


async def say(stage: Stage, listener: Listener, says: list[bytes]) -> None:
    """One player after another, who says that and hears how it ends."""
    for flight in says:
        player = await stage.dial(flight)
        with suppress(OSError):  # whoever was refused may be reset
            await player.end()
            await player.read_all()
        player.close()


def assert_labels(metrics: Metrics) -> None:
    """None is a client's word, nor a part of one."""
    for family in metrics.registry.collect():
        for sample in family.samples:
            for value in sample.labels.values():
                assert LABEL.fullmatch(value)
                assert not any(word in value for word in ("example", "conformance", "127.0.0.1"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    ("listener", "says"),
    [(MIXED, [*flights(of_a_listener), *REFUSED]), (PROXIED_TLS, flights(of_a_balancer))],
    ids=["to us", "behind a balancer"],
)
async def test_first_flights(
    collector: Collector, listener: Listener, says: list[bytes], form: str
) -> None:
    told = Told(form, collector)
    async with open_stage() as stage:
        gateway = await stage.open(listener, {}, log=told.log)
        gateway.worker.journal.tracer = told.tracer
        await say(stage, listener, says)
        closed = gateway.closed()
        await told.wait_for(sum(closed.values()) - closed.get("probe", 0))
        assert_labels(gateway.worker.metrics)
        pages = await read_pages(gateway)
    assert sum(closed.values()) == len(says)
    told.tracer.close()
    assert_lines(told.lines, form)
    for page in pages:
        assert HARMLESS.fullmatch(page)
    spans = collector.spans
    assert len({span.trace for span in spans}) == len(told.lines)
    for span in spans:
        assert span.name in ("session", "hello", "route", "handshake", "connect")
        for text in (span.message, *span.attributes.values()):
            assert visible(str(text)) == str(text)


async def read_pages(gateway: Gateway) -> list[str]:
    """What the status port shows of it."""
    async with open_port(gateway.worker.recorder) as port:
        port.first.metrics = gateway.worker.metrics
        port.first.snapshot = gateway.worker.snapshot
        port.first.sessions = {"routes": gateway.worker.playing(), "nodes": {}}
        paths = ("/metrics", "/refused", "/sessions", "/config")
        answers = [await port.ask("GET", path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return [answer.text for answer in answers]


def assert_lines(lines: list[str], form: str) -> None:
    """Each is one line of ours, whatever it tells of."""
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        if form == "json":
            members = json.loads(line)
            assert members["event"] == "session"
            assert members["reason"] != "forged"
        else:
            assert CLOCK.match(line)


@pytest.mark.parametrize("form", ["json", "text"])
async def test_players_who_play(collector: Collector, served: list[Accepted], form: str) -> None:
    """Served here, and by a plan: both say the same of them."""
    told = Told(form, collector)
    async with open_stage() as stage:
        gateway = await stage.open(MIXED, log=told.log)
        gateway.worker.journal.tracer = told.tracer
        for number, nasty in enumerate(NASTY.values()):
            hello = named(f"{number}.example.com".encode(), alpn(nasty, b"h2"))
            for _ in range(2):
                player, server = await stage.join(hello)
                await player.end()
                assert await server.read_all() == b""
                await server.end()
        await told.wait_for(2 * len(NASTY))
        assert len(served) == len(NASTY)
    told.tracer.close()
    assert_lines(told.lines, form)
    if form == "json":
        members = [json.loads(line) for line in told.lines]
        offered = {(one["sni"], one["alpn"]) for one in members}
        assert len(offered) == len(NASTY)
        assert all(text.endswith(",h2") or len(text) == ALPN_LIMIT for _, text in offered)
    for span in collector.spans:
        for value in span.attributes.values():
            assert visible(str(value)) == str(value)
