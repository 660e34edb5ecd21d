"""What is told of sessions, and how: the log and the traces."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sniproxy.settings.fields import Section

Share = Annotated[float, Field(ge=0, le=1)]


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an URL such as http://collector:4318/v1/traces")
    return text


class Logging(Section):
    """The log on stdout."""

    format: Literal["auto", "json", "text"] = "auto"  # auto: text where stdout is a terminal
    sessions: Share = 1.0  # of sessions that ended as most do; all others have their line


class Traces(Section):
    """Traces of sessions, sent by OTLP over HTTP. What is not set here may be in OTEL_* variables."""

    enabled: bool = False  # needs the extra [otel]
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None  # None: OTEL_EXPORTER_OTLP_*
    share: Share = 1.0  # of sessions
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 4096  # sessions that wait, per worker
