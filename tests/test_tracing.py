"""Traces on their way to a collector: what arrives there, and what it costs when none does."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from sniproxy import __version__
from sniproxy.accounting import Account, Ended
from sniproxy.errors import CloseReason, SettingsError
from sniproxy.logs import open_log
from sniproxy.metrics import Metrics
from sniproxy.relay import Accepted, Outcome
from sniproxy.settings import Logging, Traces
from sniproxy.tracing import OpenTracer, check_traces, exporter, open_tracer
from tests.support.collector import Collector, collecting
from tests.support.gateway import route
from tests.support.hellos import named
from tests.support.stage import HELLO, MIXED, open_stage

PATIENCE = 60.0  # seconds for what must come
OUTCOME = Outcome(CloseReason.CLIENT_CLOSED, "", 7, 11)


def account(number: int = 1) -> Account:
    """A session that was played."""
    session = f"{number:016x}"
    return Account("192.0.2.1:5000", "0.0.0.0:8888", 0.0, id=session, hello_at=1.0, routed_at=1.0)


def add(tracer: OpenTracer, *numbers: int) -> None:
    """Sessions that are over."""
    for number in numbers:
        tracer.add(account(number), Ended(2.0, 1_795_896_000.0), OUTCOME)


def until(true: Callable[[], bool]) -> None:
    """Waits for what a thread will do."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Sent:
    """A tracer, and what it counts and logs."""

    def __init__(self, **settings: Any) -> None:
        self.metrics = Metrics()
        self.log = io.StringIO()
        traces = Traces(enabled=True, **settings)
        tracer = open_tracer(traces, "edge-1:7085", self.metrics, open_log("proxy", self.log))
        assert tracer is not None
        self.tracer = tracer

    def counted(self) -> tuple[float, ...]:
        """Sessions that were sent, and dropped."""
        counters = (self.metrics.traces_sent, self.metrics.traces_dropped)
        return tuple(next(iter(one.collect())).samples[0].value for one in counters)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextmanager
def sending(collector: Collector, **settings: Any) -> Iterator[Sent]:
    """Who sends to it."""
    sent = Sent(**({"endpoint": collector.endpoint} | settings))
    try:
        yield sent
    finally:
        collector.gate.set()
        sent.tracer.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for others."""
    monkeypatch.setattr(exporter, "INTERVAL", 0.01)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")


def test_a_session_arrives_as_a_trace(collector: Collector) -> None:
    with sending(collector) as sent:
        add(sent.tracer, 0xAB)
        until(lambda: sent.counted() == (1, 0))
    spans = collector.trace("ab")
    assert spans.keys() == {"session", "hello", "route", "connect"}
    session = spans["session"]
    assert (session.span, session.parent) == ("ab".zfill(16), "")
    assert {span.parent for name, span in spans.items() if name != "session"} == {session.span}
    assert (session.start, session.end) == (1_795_895_998 * 10**9, 1_795_896_000 * 10**9)
    assert session.attributes["sniproxy.bytes_in"] == 7
    assert session.resource["service.name"] == "sniproxy"
    assert session.resource["service.instance.id"] == "edge-1:7085"
    assert session.resource["service.version"] == __version__
    assert collector.paths == ["/v1/traces"]
    assert sent.lines == []


def test_environment_says_where_and_who(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of any program that speaks OpenTelemetry."""
    base = collector.endpoint.removesuffix("/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,region=r1")
    with sending(collector, endpoint=None) as sent:
        add(sent.tracer, 1)
        until(lambda: sent.counted() == (1, 0))
    resource = collector.spans[0].resource
    assert (resource["service.name"], resource["region"]) == ("edge", "r1")
    assert resource["service.instance.id"] == "edge-1:7085"


def test_what_waits_is_sent_at_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "INTERVAL", 60.0)
    sent = Sent(endpoint=collector.endpoint)
    add(sent.tracer, *range(1, 4))
    sent.tracer.close()
    assert sent.counted() == (3, 0)
    assert {span.trace for span in collector.spans} == {f"{one:032x}" for one in range(1, 4)}


def test_requests_are_of_a_size(collector: Collector) -> None:
    count = 2 * exporter.BATCH + 1
    with sending(collector) as sent:
        collector.gate.clear()
        add(sent.tracer, *range(1, count + 1))
        collector.gate.set()
        until(lambda: sent.counted() == (count, 0))
    assert len(collector.requests) >= 3
    assert len({span.trace for span in collector.spans}) == count


def test_a_collector_that_hangs_costs_traces_and_no_time(collector: Collector) -> None:
    collector.gate.clear()
    with sending(collector, queue=10) as sent:
        add(sent.tracer, 1)
        until(lambda: not sent.tracer._waiting)  # type: ignore[attr-defined]  # it is being sent
        add(sent.tracer, *range(2, 32))
        assert sent.counted() == (0, 20)
        collector.gate.set()
        until(lambda: sent.counted() == (11, 20))


@pytest.mark.parametrize("status", [400, 403])
def test_a_collector_that_says_no_is_told_of_once(collector: Collector, status: int) -> None:
    collector.status = status
    with sending(collector) as sent:
        for number in range(1, 4):
            add(sent.tracer, number)
            until(lambda number=number: sent.counted() == (0, number))  # type: ignore[misc]
        collector.status = 200
        add(sent.tracer, 4)
        until(lambda: sent.counted() == (1, 3))
    assert [(line["level"], line["event"]) for line in sent.lines] == [
        ("warning", "traces not sent"),
        ("info", "traces are sent again"),
    ]
    assert str(status) in sent.lines[0]["cause"]


def test_without_a_collector_nobody_waits(capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does anything but the log hear of it."""
    sent = Sent(endpoint="http://127.0.0.1:1/v1/traces")
    add(sent.tracer, 1)
    began = time.monotonic()
    sent.tracer.close()
    assert time.monotonic() - began < exporter.END_WAIT + 2
    assert capfd.readouterr() == ("", "")


def test_a_defect_of_the_libraries_costs_traces(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sending(collector) as sent:
        monkeypatch.setattr(exporter, "spans_of", lambda *_: 1 / 0)
        add(sent.tracer, 1)
        until(lambda: sent.counted() == (0, 1))
        monkeypatch.undo()
    assert "ZeroDivisionError" in sent.lines[0]["cause"]


# Off


def test_off_is_nothing() -> None:
    """No thread; and no import, as tests/test_architecture.py has it."""
    before = set(threading.enumerate())  # others may end meanwhile
    log = open_log("proxy", io.StringIO())
    assert open_tracer(Traces(), "edge-1", Metrics(), log) is None
    check_traces(Traces())
    assert set(threading.enumerate()) <= before


def test_on_without_the_extra_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    check_traces(Traces(enabled=True))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "sniproxy.tracing.exporter")
    with pytest.raises(SettingsError, match=r"traces\.enabled: .*sniproxy\[otel\]"):
        check_traces(Traces(enabled=True))


# Of whole sessions


@pytest.mark.anyio
@pytest.mark.parametrize("share", [1.0, 0.0])
async def test_a_players_session_is_traced(collector: Collector, share: float) -> None:
    traces = Traces(enabled=True, endpoint=collector.endpoint, share=share)
    with sending(collector) as sent:
        async with open_stage() as stage:
            gateway = await stage.open(MIXED)
            gateway.worker.journal.tracer = sent.tracer
            gateway.worker.journal.settle(Logging(), traces)
            line = await stage.leave(*await stage.join(named(b"play.example.com")))
            refused = await stage.refused(b"GET / HTTP/1.1\r\n\r\n")
        count = 2 * share
        await trio.to_thread.run_sync(until, lambda: sent.counted() == (count, 0))
    spans = collector.trace(line["session"])
    assert set(spans) == ({"session", "hello", "route", "connect"} if share else set())
    if share:
        root = spans["session"]
        assert root.attributes["tls.client.server_name"] == "play.example.com"
        assert root.attributes["sniproxy.route"] == line["route"]
        assert abs((root.end - root.start) / 1e6 - line["duration_ms"]) < 0.01
        assert f"127.0.0.1:{stage.port}" == line["node_address"]
        assert spans["connect"].attributes["network.peer.port"] == stage.port
        hello = collector.trace(refused["session"])["hello"]
        assert (hello.status, hello.message[:14]) == (2, "hello_not_tls:")


@pytest.mark.anyio
async def test_a_session_by_plan_is_traced_like_another(
    collector: Collector, served: list[Accepted]
) -> None:
    """Name by name, attribute by attribute."""
    with sending(collector) as sent:
        async with open_stage() as stage:
            gateway = await stage.open(
                MIXED, {"stream_routes/1": route(stage.port, sni="*", tls_passthrough=True)}
            )
            gateway.worker.journal.tracer = sent.tracer
            first, second = [await stage.leave(*await stage.join(HELLO)) for _ in range(2)]
        assert len(served) == 1
        await trio.to_thread.run_sync(until, lambda: sent.counted() == (2, 0))
    one, other = (collector.trace(line["session"]) for line in (first, second))
    assert list(one) == list(other) == ["session", "hello", "route", "connect"]
    for name, span in one.items():
        assert list(other[name].attributes) == list(span.attributes)
        assert other[name].kind == span.kind
    assert other["session"].attributes["sniproxy.node"] == first["node"]
