"""Routes into ourselves: refused when they are written, and when a name leads there; no connection comes to our ports."""

from pathlib import Path

import pytest

from tests.support import plain_http
from tests.support.players import client_hello, connect
from tests.support.stack import Stack, retry_until, stores

NAME = "loop.example.com"
WRITTEN = 20.0  # seconds for a log line


@pytest.mark.parametrize("port", ["port", "status_port", "admin_port"])
def test_no_route_leads_to_ourselves(tmp_path: Path, port: str) -> None:
    with (
        stores("sqlite", tmp_path) as (store, _),
        Stack(tmp_path / "stack", store, workers=1, refused_log_interval=0) as stack,
    ):
        number = getattr(stack, port)
        route = {"sni": NAME, "tls_passthrough": True}
        refused = stack.api.put(
            "/stream_routes/1", json={**route, "upstream": {"nodes": {f"127.0.0.1:{number}": 1}}}
        )
        assert refused.status_code == 400
        assert f"127.0.0.1:{number} is ours" in refused.json()["error_msg"]
        # of a name the admin knows nothing; the data plane asks what it is by now
        named = {**route, "upstream": {"nodes": {f"localhost:{number}": 1}}}
        stack.put("/stream_routes/1?wait=all&timeout=60s", named)
        for _ in range(3):
            with connect(stack.port) as player:
                player.sendall(client_hello(NAME))
                assert player.recv(100) == b""
        for _ in retry_until(WRITTEN, "three lines"):
            lines = stack.proxy.lines("session")
            if len(lines) >= 3:
                break
        assert [line["reason"] for line in lines] == ["upstream_denied"] * 3
        assert all("is ours" in line["detail"] for line in lines)
        assert stack.metrics()["sniproxy_sessions_opened_total"] == 3  # no hop of a loop
        assert plain_http.get(f"http://127.0.0.1:{stack.status_port}/readyz").status_code == 200
