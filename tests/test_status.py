"""The status port over real sockets: what it answers, of one worker and of several together."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason
from sniproxy.scrape import counters, export_worker
from sniproxy.settings import Settings
from sniproxy.store import Entry
from tests.support.status_port import BOUND, TEXT, open_port

pytestmark = pytest.mark.anyio

KNOWN = "there are /livez, /readyz, /metrics, /config, /sessions, /refused and /v1/healthcheck\n"
NO_CONFIG = "no configuration yet: the store has not answered\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.mark.parametrize(
    ("method", "path", "ready", "code", "body"),
    [
        ("GET", "/livez", False, 200, "ok\n"),
        ("GET", "/livez?verbose=1", False, 200, "ok\n"),
        ("GET", "/readyz", False, 503, NO_CONFIG),
        ("GET", "/readyz", True, 200, "ok\n"),
        ("GET", "/", True, 404, KNOWN),
        ("GET", "/livez/", True, 404, KNOWN),
        ("GET", "/%00%ff", True, 404, KNOWN),
        ("HEAD", "/livez", False, 200, ""),
        ("HEAD", "/readyz", False, 503, ""),
        ("POST", "/livez", True, 405, "only GET is answered here\n"),
        ("DELETE", "/metrics", True, 405, "only GET is answered here\n"),
    ],
)
async def test_requests_and_their_answers(
    method: str, path: str, ready: bool, code: int, body: str
) -> None:
    async with open_port() as port:
        if ready:
            port.status.unready = ""
        answer = await port.ask(method, path)
    assert (answer.status_code, answer.text) == (code, body)
    assert answer.headers["content-type"] == TEXT
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["content-length"]) > 0


async def test_who_serves_by_an_old_configuration_is_ready_and_says_so() -> None:
    async with open_port() as port:
        port.status.unready = ""
        await trio.sleep(BOUND + 2)
        answer = await port.ask("GET", "/readyz")
    assert answer.status_code == 200
    expected = "ok, but config_stale: revision 1 was last known to be the store's 12 s ago\n"
    assert answer.text == expected


async def test_why_it_is_not_ready() -> None:
    """Also where it is stale: that it is to end is what a balancer must know."""
    async with open_port() as port:
        port.status.unready = "draining: no new players, please"
        port.freshness.lost()
        answer = await port.ask("GET", "/readyz")
    assert (answer.status_code, answer.text) == (503, "draining: no new players, please\n")


async def test_what_is_in_force() -> None:
    broken = Entry("/apisix/upstreams/2", b"[]", 5, 5)
    async with open_port() as port:
        port.first.snapshot.apply([broken])
        await trio.sleep(3)
        answer = (await port.ask("GET", "/config")).json()
        port.freshness.lost()
        later = (await port.ask("GET", "/config")).json()
    assert 3 <= answer.pop("age") < 3.5
    why = "expected a JSON object, got list"
    assert answer == {
        "revision": 5,
        "stale": False,
        "objects": {"/apisix/upstreams/1": 1, "/apisix/upstreams/2": 5},
        "broken": [{"key": broken.key, "why": why, "kept": False}],
    }
    assert later["stale"] is True


async def test_in_force_is_what_the_last_worker_has() -> None:
    new = Entry("/apisix/upstreams/2", b'{"nodes": {}}', 5, 5)
    async with open_port(workers=3) as port:
        for hand in (port.hands.all[0], port.hands.all[2]):
            hand.snapshot.apply([new])
        behind = (await port.ask("GET", "/config")).json()
        port.hands.all[1].snapshot.apply([new])
        level = (await port.ask("GET", "/config")).json()
    assert (behind["revision"], list(behind["objects"])) == (1, ["/apisix/upstreams/1"])
    assert (level["revision"], len(level["objects"])) == (5, 2)


async def test_no_worker_answers() -> None:
    """The port does: what nobody says is empty, and no error."""
    async with open_port() as port:
        port.hands.all.clear()
        config = (await port.ask("GET", "/config")).json()
        refused = (await port.ask("GET", "/refused")).json()
        metrics = await port.ask("GET", "/metrics")
        assert (await port.ask("GET", "/livez")).text == "ok\n"
    config.pop("age")
    assert config == {"revision": 0, "stale": False, "objects": {}, "broken": []}
    assert refused == {"refused": []}
    assert "sniproxy_config_stale 0.0" in metrics.text.splitlines()


async def test_a_head_request_has_the_headers_of_get() -> None:
    async with open_port() as port:
        head, get = [await port.ask(method, "/readyz") for method in ("HEAD", "GET")]
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.content == b""


async def test_metrics_are_those_of_the_workers_together_and_of_their_parent() -> None:
    async with open_port(workers=2) as port:
        for hand in port.hands.all:
            hand.metrics.counts.opened += 1
            for _ in range(3):
                hand.metrics.counts.close(CloseReason.NO_ROUTE)
        port.metrics.worker_crashes.inc()
        answer = await port.ask("GET", "/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "sniproxy_sessions_opened_total 2.0" in lines
    assert "sniproxy_sessions_active 14.0" in lines
    assert 'sniproxy_sessions_closed_total{reason="no_route"} 6.0' in lines
    assert "sniproxy_worker_crashes_total 1.0" in lines
    assert "sniproxy_config_stale 0.0" in lines
    assert sum("sniproxy_sessions_closed_total{" in line for line in lines) == len(CloseReason)
    assert len({line for line in lines if line.startswith("# TYPE")}) == sum(
        line.startswith("# TYPE") for line in lines
    )


async def test_routes_are_among_the_metrics_and_apisix_names_where_they_are_asked_for() -> None:
    async with open_port(workers=2) as port:
        for hand in port.hands.all:
            hand.metrics.counts.tallies.of("7").opened += 2
        plain = (await port.ask("GET", "/metrics")).text.splitlines()
        port.settings = Settings.model_validate({"status": {"apisix_metrics": True}})
        more = (await port.ask("GET", "/metrics")).text.splitlines()
    assert 'sniproxy_route_sessions_opened_total{route="7"} 4' in plain
    assert not any(line.startswith("apisix_") for line in plain)
    assert 'apisix_stream_connection_total{route="7"} 4.0' in more
    assert any('{listen_addr="0.0.0.0:8888"}' in line for line in more)


async def test_sessions_of_all_workers_by_route_and_by_game_server() -> None:
    """One of a version that knows nothing of it is left out."""
    async with open_port(workers=3) as port:
        first, second, _ = port.hands.all
        first.sessions = {"routes": {"7": 2, "1": 1}, "nodes": {"10.0.0.5:1": 3}}
        second.sessions = {"routes": {"7": 1}, "nodes": {"10.0.0.4:1": 1}}
        answer = await port.ask("GET", "/sessions")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "routes": {"1": 1, "7": 3},
        "nodes": {"10.0.0.4:1": 1, "10.0.0.5:1": 3},
    }


async def test_health_is_of_the_one_worker_that_probes() -> None:
    node = {"hostname": "10.0.0.5", "ip": "10.0.0.5", "port": 1, "status": "healthy"}
    one = {"name": "/apisix/upstreams/1", "type": "tcp", "nodes": [node]}
    other = {"name": "/apisix/stream_routes/1", "type": "http", "nodes": []}
    async with open_port(workers=2) as port:
        assert (await port.ask("GET", "/v1/healthcheck")).json() == []
        port.hands.all[1].health = [one, other]
        answer = await port.ask("GET", "/v1/healthcheck")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == [one, other]
        assert (await port.ask("GET", "/v1/healthcheck/upstreams/1")).json() == one
        assert (await port.ask("GET", "/v1/healthcheck/stream_routes/1")).json() == other
        for unknown in ("upstreams/2", "upstreams/", "1", "apisix/upstreams/1/x", ""):
            answer = await port.ask("GET", f"/v1/healthcheck/{unknown}")
            assert (answer.status_code, list(answer.json())) == (404, ["error_msg"]), unknown


async def test_what_a_worker_had_counted_that_is_gone_stays_counted() -> None:
    async with open_port(workers=2) as port:
        for hand in port.hands.all:
            hand.metrics.counts.opened += 1
        gone = port.hands.all.pop()
        port.hands.buried = json.loads(json.dumps(counters(export_worker(gone.metrics))))
        lines = (await port.ask("GET", "/metrics")).text.splitlines()
    assert "sniproxy_sessions_opened_total 2.0" in lines
    assert "sniproxy_sessions_active 7.0" in lines  # which are not its any more
