"""As much of a Kubernetes API server as helm asks when it only looks objects up."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = {"Secret": ("/api/v1", "secrets"), "Deployment": ("/apis/apps/v1", "deployments")}
NOT_FOUND = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "reason": "NotFound",
    "code": 404,
}


@contextmanager
def kube_api(objects: Iterable[dict[str, Any]], namespace: str) -> Iterator[str]:
    """Its address. It has these objects, in one namespace."""
    known: dict[str, Any] = {"/version": {"major": "1", "minor": "37"}}
    for kind, (group, plural) in KINDS.items():
        resource = {"name": plural, "namespaced": True, "kind": kind, "verbs": ["get"]}
        version = group.removeprefix("/apis/").removeprefix("/api/")
        known[group] = {"kind": "APIResourceList", "groupVersion": version, "resources": [resource]}
    for it in objects:
        group, plural = KINDS[it["kind"]]
        known[f"{group}/namespaces/{namespace}/{plural}/{it['metadata']['name']}"] = it

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            body = json.dumps(found or NOT_FOUND).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests have nothing to say on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
