"""Sends traces by OTLP over HTTP, from a thread of its own. The only module that needs the extra [otel].

A session costs the loop one entry in a queue with a bound: spans are made of it in the thread. A collector that is away,
slow or says no costs traces, which are counted, and never a session.
"""

import logging
import threading
from collections import deque
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from sniproxy import __version__
from sniproxy.accounting import Account, Ended
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.relay import Outcome
from sniproxy.settings import Traces
from sniproxy.tracing.spans import Span, spans_of, trace_of

INTERVAL = 1.0  # seconds for which a trace may wait
BATCH = 64  # sessions in one request: making it holds up whatever else this process does for some milliseconds
END_WAIT = 1.0  # seconds that the end of a worker waits for what is left to be sent

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SCOPE = InstrumentationScope("sniproxy", __version__)


class _Over(NamedTuple):
    """A session that is over."""

    account: Account
    ended: Ended
    outcome: Outcome


class Exporting:
    """The traces of one worker. Implements `sniproxy.tracing.OpenTracer`."""

    def __init__(self, traces: Traces, node: str, metrics: Metrics, log: Log) -> None:
        """`node`: which data plane this is. `log`: told when the collector is lost, and when it is back."""
        self._words = _last_words()
        self._exporter = OTLPSpanExporter(endpoint=traces.endpoint)
        self._resource = _resource(node)
        self._limit = traces.queue
        self._waiting: deque[_Over] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._lost = False  # the last request has failed
        self._metrics = metrics
        self._log = log
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def add(self, account: Account, ended: Ended, outcome: Outcome) -> None:
        """As `sniproxy.journal.Tracer` says."""
        waiting = len(self._waiting)
        if waiting >= self._limit:
            self._metrics.traces_dropped.inc()
            return
        self._waiting.append(_Over(account, ended, outcome))
        if waiting + 1 == BATCH:
            self._wake.set()

    def close(self, seconds: float = END_WAIT) -> None:
        """As `OpenTracer` says; a request that takes longer ends with the process."""
        self._ending = True
        self._wake.set()
        self._thread.join(seconds)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            self._send_all()
        self._send_all()  # what came before it was told to end

    def _send_all(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), BATCH)
            self._send([self._waiting.popleft() for _ in range(count)])

    def _send(self, sessions: list[_Over]) -> None:
        self._words.message = ""
        try:
            spans = [span for one in sessions for span in self._spans(one)]
            sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # of the libraries: it costs these traces
            self._words.message, sent = repr(error), False
        counter = self._metrics.traces_sent if sent else self._metrics.traces_dropped
        counter.inc(len(sessions))
        if sent and self._lost:
            self._log.info("traces are sent again")
        elif not sent and not self._lost and not self._ending:
            self._log.warning("traces not sent", cause=self._words.message[:500])
        self._lost = not sent

    def _spans(self, one: _Over) -> list[ReadableSpan]:
        trace = trace_of(one.account)
        return [self._span(trace, span) for span in spans_of(*one)]

    def _span(self, trace: int, span: Span) -> ReadableSpan:
        failed = span.error is not None
        return ReadableSpan(
            name=span.name,
            context=_context(trace, span.id),
            parent=None if span.parent is None else _context(trace, span.parent),
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if failed else Status(),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=_SCOPE,
        )


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _resource(node: str) -> Resource:
    """Who sends them. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before."""
    ours = {
        "service.name": "sniproxy",
        "service.version": __version__,
        "service.instance.id": node,
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


class _LastWords(logging.Handler):
    """What OpenTelemetry has said last. It goes into a line of ours, and not to stderr."""

    message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()


def _last_words() -> _LastWords:
    logger, handler = logging.getLogger("opentelemetry"), _LastWords()
    logger.handlers = [handler]
    logger.propagate = False
    return handler
