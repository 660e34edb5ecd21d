"""What is done about a defect of ours: it costs one session at most, is logged once with its traceback, and counted."""

from contextlib import suppress

from sniproxy.logs import Log
from sniproxy.metrics import Metrics


def report(
    metrics: Metrics, log: Log, trace: str, *, session: str | None = None, route: str | None = None
) -> None:
    """A session has failed. `trace`: the traceback as text; `route`: the id from the configuration, where it is known."""
    metrics.err(route)
    with suppress(Exception):  # a log that fails as well must not cost the worker
        log.error("session failed", session=session, route=route, exception=trace.rstrip())


def last_line(trace: str) -> str:
    """What of a traceback goes into the session's own line: the error itself."""
    return trace.rstrip().rpartition("\n")[2].strip()
