"""Runs the application under uvicorn on a socket that is bound already, with TLS or without."""

import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from admin.tls import Certificate
from sniproxy.settings import Admin


def serve(
    app: Starlette, sock: socket.socket, settings: Admin, certificate: Certificate | None
) -> None:
    """Until SIGTERM or SIGINT; requests in flight get `shutdown_timeout` seconds. certificate: with it HTTPS."""
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
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[sock])
