"""The status port over real sockets: what it answers, and to whom it does not listen long."""

import errno
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason
from sniproxy.status import MAX_CLIENTS, MAX_REQUEST, REQUEST_TIMEOUT
from sniproxy.store import Entry
from tests.support.status_port import BOUND, TEXT, open_port, read_until_gone

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.mark.parametrize(
    ("method", "path", "ready", "code", "body"),
    [
        ("GET", "/livez", False, 200, "ok\n"),
        ("GET", "/livez?verbose=1", False, 200, "ok\n"),
        ("GET", "/readyz", False, 503, "no configuration yet: the store has not answered\n"),
        ("GET", "/readyz", True, 200, "ok\n"),
        ("GET", "/", True, 404, "there are /livez, /readyz, /metrics, /config and /refused\n"),
        (
            "GET",
            "/livez/",
            True,
            404,
            "there are /livez, /readyz, /metrics, /config and /refused\n",
        ),
        (
            "GET",
            "/%00%ff",
            True,
            404,
            "there are /livez, /readyz, /metrics, /config and /refused\n",
        ),
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
        port.status.ready = ready
        answer = await port.ask(method, path)
    assert (answer.status_code, answer.text) == (code, body)
    assert answer.headers["content-type"] == TEXT
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["content-length"]) > 0


async def test_who_serves_by_an_old_configuration_is_ready_and_says_so() -> None:
    async with open_port() as port:
        port.status.ready = True
        await trio.sleep(BOUND + 2)
        answer = await port.ask("GET", "/readyz")
    assert answer.status_code == 200
    expected = "ok, but config_stale: revision 1 was last known to be the store's 12 s ago\n"
    assert answer.text == expected


async def test_what_is_in_force() -> None:
    broken = Entry("/apisix/upstreams/2", b"[]", 5, 5)
    async with open_port() as port:
        port.snapshot.apply([broken])
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


async def test_a_head_request_has_the_headers_of_get() -> None:
    async with open_port() as port:
        head, get = [await port.ask(method, "/readyz") for method in ("HEAD", "GET")]
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.content == b""


async def test_metrics_are_those_of_the_worker() -> None:
    async with open_port() as port:
        port.metrics.opened.inc()
        port.metrics.closed[CloseReason.NO_ROUTE].inc(3)
        answer = await port.ask("GET", "/metrics")
    lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "sniproxy_sessions_opened_total 1.0" in lines
    assert "sniproxy_sessions_active 7.0" in lines
    assert 'sniproxy_sessions_closed_total{reason="no_route"} 3.0' in lines
    assert sum("sniproxy_sessions_closed_total{" in line for line in lines) == len(CloseReason)


@pytest.mark.parametrize(
    ("sent", "starts"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 "),
        (b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", b"HTTP/1.1 405 "),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),  # no Host
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\0" * 100 + b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"x" * MAX_REQUEST * 2, b"HTTP/1.1 400 "),
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 400 "),  # and then the end
        (b"", b""),
    ],
)
async def test_whatever_is_sent_there_is_an_answer_or_an_end(sent: bytes, starts: bytes) -> None:
    async with open_port() as port:
        client = port.dial()
        await client.send(sent)
        await client.end()
        answer = await read_until_gone(client)
        assert answer.startswith(starts)
        assert bool(answer) == bool(starts)
        client.close()
        assert (await port.ask("GET", "/livez")).status_code == 200


async def test_a_request_in_single_bytes_is_a_request() -> None:
    async with open_port() as port:
        client = port.dial()
        for byte in b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n":
            await client.send(bytes([byte]))
        assert (await client.read_all()).endswith(b"\r\n\r\nok\n")
        client.close()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\n"])
async def test_a_client_that_does_not_ask_is_let_go(sent: bytes) -> None:
    async with open_port() as port:
        client = port.dial()
        since = trio.current_time()
        await client.send(sent)
        assert await client.read_all() == b""
        assert trio.current_time() - since == pytest.approx(REQUEST_TIMEOUT)
        client.close()


async def test_clients_that_reset_or_do_not_read_are_nobodys_trouble() -> None:
    async with open_port() as port:
        for sent in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"):
            client = port.dial()
            await client.send(sent)
            client.reset()
        assert (await port.ask("GET", "/readyz")).status_code == 503


async def test_more_clients_than_are_served_at_once_wait_for_their_turn() -> None:
    """Those who say nothing hold their places for the time of a request, no longer."""
    async with open_port() as port:
        silent = [port.dial() for _ in range(MAX_CLIENTS)]
        since = trio.current_time()
        answer = await port.ask("GET", "/livez", timeout=60)
        assert trio.current_time() - since == pytest.approx(REQUEST_TIMEOUT, abs=0.2)
        for client in silent:
            client.close()
    assert answer.status_code == 200


async def test_a_failing_accept_is_tried_again_and_takes_nobodys_place() -> None:
    """Out of descriptors, or gone again before it was let in."""
    async with open_port() as port:
        codes = [errno.EMFILE, errno.ECONNABORTED] * MAX_CLIENTS
        port.listening.failures = [OSError(code, "") for code in codes]
        assert (await port.ask("GET", "/livez", timeout=60)).status_code == 200
