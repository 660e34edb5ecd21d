"""Runs the application under uvicorn on a socket that is bound already, with TLS or without."""

import signal
import socket
import sys
from types import FrameType

import anyio
import uvicorn
from starlette.applications import Starlette

from admin.readiness import Readiness
from admin.tls import Certificate
from sniproxy.settings import Admin

SIGNALS = signal.SIGTERM, signal.SIGINT  # that end it


def serve(
    app: Starlette,
    sock: socket.socket,
    settings: Admin,
    certificate: Certificate | None,
    readiness: Readiness,
) -> None:
    """Until SIGTERM or SIGINT. It goes on for `shutdown_delay` seconds, not ready any more, while load balancers hear of it;
    requests that are in flight by then get `shutdown_timeout` seconds. A second signal cuts the first of them short.

    certificate: with it HTTPS.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is whoever connects
        ssl_context_factory=(lambda *_: certificate.listening()) if certificate else None,
        headers=[("Server", settings.server_header)] if settings.server_header else [],
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    # uvicorn stops gracefully at a signal and then raises it again for whoever handled it before.
    for number in SIGNALS:
        signal.signal(number, _leave)
    _Server(config, settings.shutdown_delay, readiness).run(sockets=[sock])


def _leave(*_: object) -> None:
    """The end of the process; a signal that comes during that would be the interpreter's, and end it with another code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


class _Server(uvicorn.Server):
    """Ends `delay` seconds after it was told to, or when it is told again."""

    def __init__(self, config: uvicorn.Config, delay: float, readiness: Readiness) -> None:
        super().__init__(config)
        self._delay = delay
        self._readiness = readiness
        self._signal: int | None = None  # that told it first
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In a signal's handler, between two steps of whatever the loop is at."""
        self._readiness.end()
        if self._signal is None and self._delay:
            self._signal = sig
        elif not self.should_exit:
            # Told twice, it would leave out the end of what runs beside it.
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; true: it ends now."""
        if self._signal is not None and not self.should_exit:
            now = anyio.current_time()
            self._ends_at = self._ends_at or now + self._delay
            if now >= self._ends_at:
                super().handle_exit(self._signal, None)
        return await super().on_tick(counter)
