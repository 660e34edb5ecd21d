"""A PyPI of the test's own: a proxy that is pypi.org itself, for whoever trusts the test's authority."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme


@dataclass
class PyPI:
    """What it knows of packages, and who has been asked for."""

    vulnerabilities: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by package
    unknown: frozenset[str] = frozenset()
    broken: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)  # names and versions

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body for /pypi/NAME/VERSION/json."""
        _, _, name, version, _ = path.split("/")
        self.asked.append((name, version))
        if self.broken:
            return 503, {}
        if name in self.unknown:
            return 404, {"message": "Not Found"}
        return 200, {"vulnerabilities": self.vulnerabilities.get(name, [])}


class Handler(BaseHTTPRequestHandler):
    """First CONNECT, then TLS and what is asked in it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    pypi: PyPI
    context: ssl.SSLContext

    def do_CONNECT(self) -> None:
        assert self.path == "pypi.org:443", self.path
        self.send_response(200)
        self.end_headers()
        self.close_connection = False  # which it is where HTTP/1.0 is spoken
        self.request = self.context.wrap_socket(self.connection, server_side=True)
        self.setup()

    def do_GET(self) -> None:
        status, content = self.pypi.answer(self.path)
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def log_message(self, *_: Any) -> None:
        """Nothing: a test says what it has seen."""


@contextmanager
def serving(pypi: PyPI, authority: trustme.CA, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which it is PyPI. Nothing is read from, or left in, anybody's cache."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pypi.org").configure_cert(context)
    bundle = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    handler = type("Handler", (Handler,), {"pypi": pypi, "context": context})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False  # it ends when those who asked have gone
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {
                "HTTPS_PROXY": f"http://127.0.0.1:{server.server_port}",
                "https_proxy": f"http://127.0.0.1:{server.server_port}",
                "NO_PROXY": "",
                "no_proxy": "",
                "REQUESTS_CA_BUNDLE": str(bundle),
                "PIP_CACHE_DIR": str(folder / "cache"),
                "XDG_CACHE_HOME": str(folder / "cache"),
            }
        finally:
            server.shutdown()
            thread.join()
