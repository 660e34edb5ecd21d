"""Traces of sessions, where `traces.enabled` asks for them. Nothing of OpenTelemetry is imported where it does not."""

from importlib import import_module
from typing import Protocol, cast

from sniproxy.errors import SettingsError
from sniproxy.journal import Tracer
from sniproxy.logs import Log
from sniproxy.metrics import Metrics
from sniproxy.settings import Traces

_EXPORTER = "sniproxy.tracing.exporter"  # the only module that needs the extra


class OpenTracer(Tracer, Protocol):
    """One that has to be closed."""

    def close(self, seconds: float = ...) -> None:
        """Sends what waits, if that takes no longer, and waits for it."""
        ...


def check_traces(traces: Traces) -> None:
    """SettingsError when traces are asked for and cannot be made."""
    if not traces.enabled:
        return
    try:
        import_module(_EXPORTER)
    except ImportError as error:
        advice = "pip install 'sniproxy[otel]'"
        raise SettingsError(
            f"traces.enabled: OpenTelemetry is not installed ({error.name}): {advice}"
        ) from None


def open_tracer(traces: Traces, node: str, metrics: Metrics, log: Log) -> OpenTracer | None:
    """A worker's, of that data plane; None where there are no traces."""
    if not traces.enabled:
        return None
    exporter = import_module(_EXPORTER)
    return cast("OpenTracer", exporter.Exporting(traces, node, metrics, log))
