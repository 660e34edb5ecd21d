"""The status port over real sockets: what it answers, and to whom it does not listen long."""

import errno
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason
from sniproxy.following import Freshness
from sniproxy.metrics import Metrics
from sniproxy.refusals import Recorder, Refused
from sniproxy.snapshot import Snapshot
from sniproxy.status import MAX_CLIENTS, MAX_REQUEST, REQUEST_TIMEOUT, Status, serve_status
from sniproxy.store import Entry
from tests.support.gateway import fill
from tests.support.hellos import named
from tests.support.peers import Peer
from tests.support.stage import MIXED, open_stage

pytestmark = pytest.mark.anyio

BOUND = 10.0  # seconds without a sign of the store after which the configuration is stale
DEADLINE = 1000  # virtual seconds for one test
TEXT = "text/plain; charset=utf-8"
HOSTILE = 'a"\\\r\n\x1b[2J\0\u2028<script>\x7f\x85\ud800é'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


class Listening(socket.socket):
    """A listener whose accept fails with each of `failures` before it works."""

    failures: Sequence[OSError] = ()

    def accept(self) -> tuple[socket.socket, Any]:
        """As the kernel would."""
        if self.failures:
            first, *self.failures = self.failures
            raise first
        return super().accept()


class Port:
    """A status port."""

    def __init__(
        self,
        listening: "Listening",
        metrics: Metrics,
        status: Status,
        snapshot: Snapshot,
        freshness: Freshness,
    ) -> None:
        self.listening = listening
        self.snapshot = snapshot
        self.freshness = freshness
        self.address: tuple[str, int] = listening.getsockname()
        self.metrics = metrics
        self.status = status

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request of a real client."""
        host, port = self.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
            return await client.request(method, path, **more)

    def dial(self) -> Peer:
        """A client that has connected and said nothing."""
        sock = socket.create_connection(self.address)
        sock.setblocking(False)
        return Peer(sock)


@asynccontextmanager
async def open_port(recorder: Recorder | None = None) -> AsyncIterator[Port]:
    """A status port that serves until the block is left."""
    metrics = Metrics(lambda: 7)
    snapshot, freshness = fill({"upstreams/1": {"nodes": {}}}), Freshness(bound=BOUND)
    freshness.proven()
    status = Status(metrics.registry, recorder or Recorder(limit=10_000), snapshot, freshness)
    with trio.fail_after(DEADLINE), Listening() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        listening.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_status, listening, status)
            yield Port(listening, metrics, status, snapshot, freshness)
            nursery.cancel_scope.cancel()


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


async def read_until_gone(client: Peer) -> bytes:
    """All that comes; a reset after it is an end too, when not all that was sent was read."""
    data = bytearray()
    try:
        while more := await client.receive():
            data += more
    except ConnectionResetError:
        pass
    return bytes(data)


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


def refused(session: str = "5e55101", **members: Any) -> Refused:
    """A refused connection."""
    usual: dict[str, Any] = {
        "time": 1_800_000_000.25,
        "client": "192.0.2.7:4242",
        "listener": "0.0.0.0:8888",
        "reason": CloseReason.NO_ROUTE,
        "detail": "",
        "sni": "play.example.com",
        "flight": b"\x16\x03\x01 and so on \xff\0",
    }
    return Refused(session, **{**usual, **members})


def recorder(*kept: Refused) -> Recorder:
    """A recorder of those, the last the newest."""
    made = Recorder(limit=10_000)
    for one in kept:
        made.add(one)
    return made


@pytest.mark.parametrize("path", ["/refused", "/refused?since=yesterday"])
async def test_refused_lists_who_was_refused_newest_first(path: str) -> None:
    old = refused("01d", sni=None, reason=CloseReason.HELLO_BROKEN, detail="truncated: x")
    async with open_port(recorder(old, refused("2e3"))) as port:
        answer = await port.ask("GET", path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "refused": [
            {
                "session": "2e3",
                "time": 1_800_000_000.25,
                "client": "192.0.2.7:4242",
                "listener": "0.0.0.0:8888",
                "reason": "no_route",
                "detail": "",
                "sni": "play.example.com",
                "bytes": 16,
            },
            {
                "session": "01d",
                "time": 1_800_000_000.25,
                "client": "192.0.2.7:4242",
                "listener": "0.0.0.0:8888",
                "reason": "hello_broken",
                "detail": "truncated: x",
                "sni": None,
                "bytes": 16,
            },
        ]
    }


async def test_nobody_was_refused() -> None:
    async with open_port() as port:
        answer = await port.ask("GET", "/refused")
    assert (answer.status_code, answer.json()) == (200, {"refused": []})


@pytest.mark.parametrize(
    "path", ["/refused/5e55101", "/refused/5e55101.hello", "/refused/5e55101?x"]
)
async def test_a_first_flight_comes_as_it_came(path: str) -> None:
    flight = bytes(range(256)) * 20
    async with open_port(recorder(refused(flight=flight), refused("other"))) as port:
        answer = await port.ask("GET", path)
        head = await port.ask("HEAD", path)
    assert (answer.status_code, answer.content) == (200, flight)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (head.status_code, head.content, head.headers) == (200, b"", answer.headers)


async def test_head_of_the_list_has_the_headers_of_get() -> None:
    async with open_port(recorder(refused())) as port:
        head, get = [await port.ask(method, "/refused") for method in ("HEAD", "GET")]
    assert (head.status_code, head.content, head.headers) == (200, b"", get.headers)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/refused/5e5510", 404),
        ("GET", "/refused/5e551011", 404),
        ("GET", "/refused/5E55101", 404),
        ("GET", "/refused/5e55101.hello.hello", 404),
        ("GET", "/refused/5e55101/", 404),
        ("GET", "/refused/%35e55101", 404),
        ("GET", "/refused/.hello", 404),
        ("GET", "/refused/", 404),
        ("GET", "/refused/../livez", 404),
        ("GET", "/refusedly", 404),
        ("HEAD", "/refused/gone", 404),
        ("POST", "/refused", 405),
        ("DELETE", "/refused/5e55101", 405),
    ],
)
async def test_a_first_flight_that_is_not_there(method: str, path: str, code: int) -> None:
    async with open_port(recorder(refused())) as port:
        client = port.dial()
        await client.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        answer = await client.read_all()
        client.close()
        assert len(port.status.answer("/refused/5e55101")[2]) == 16  # still there
    assert answer.startswith(b"HTTP/1.1 %d " % code)
    assert b"content-type: text/plain; charset=utf-8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n") == (method == "HEAD")


@pytest.mark.parametrize(
    "path",
    [
        b"/refused/<script>alert(1)</script>",
        b"/refused/%0d%0aset-cookie:%20a=b",
        b'/refused/"}{',
        b"/refused/" + b"../" * 1000 + b"etc/passwd",
        b"/refused/\xff\x80",
        b"/refused/\x1b[2J",
        b"/refused/a\nset-cookie: a=b",
        b"http://x/refused/5e55101",
    ],
)
async def test_no_answer_repeats_what_was_asked_for(path: bytes) -> None:
    async with open_port(recorder(refused())) as port:
        client = port.dial()
        await client.send(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await read_until_gone(client)
        client.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))
    assert len(head.splitlines()) == 4
    assert body in (
        b"no such session: /refused lists those that are kept\n",
        b"there are /livez, /readyz, /metrics, /config and /refused\n",
        b"not an HTTP request\n",
    )


def assert_escaped(answer: httpx.Response) -> None:
    """One line of printable ASCII, however hostile what it tells of."""
    body = answer.content.removesuffix(b"\n")
    assert body.isascii()
    assert body.decode().isprintable()
    assert json.loads(body) == answer.json()


@pytest.mark.parametrize("member", ["detail", "sni", "client", "session"])
async def test_what_a_client_made_up_stands_escaped_in_the_list(member: str) -> None:
    async with open_port(recorder(refused(**{member: HOSTILE}))) as port:
        answer = await port.ask("GET", "/refused")
    assert_escaped(answer)
    assert answer.json()["refused"][0][member] == HOSTILE


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (named(b'a"\r\n\x1b[2J<script>\0\xff'), "hello_broken"),
        (named(b"<script>.example.com"), "hello_broken"),
        (named("spiel\u2028.example.com".encode()), "hello_broken"),
        (b"GET /<script>\x1b[2J\xff HTTP/1.1\r\nx: y\r\n\r\n", "hello_not_tls"),
        (b"\r\n\x1b]0;owned\x07", "hello_not_tls"),
        (named(b"nobody.example.com"), "no_route"),
    ],
)
async def test_from_a_hostile_player_to_the_list(says: bytes, reason: str) -> None:
    """Through a whole data plane; his bytes come out as they are only from where they are asked for by name."""
    async with open_stage(DEADLINE) as stage:
        gateway = await stage.open(MIXED, {})
        line = await stage.refused(says)
        async with open_port(gateway.worker.recorder) as port:
            answer = await port.ask("GET", "/refused")
            flight = await port.ask("GET", f"/refused/{line['session']}.hello")
    assert_escaped(answer)
    (one,) = answer.json()["refused"]
    assert (one["session"], one["reason"]) == (line["session"], reason)
    assert one["client"] == line["client"]
    assert one["bytes"] == len(says)
    assert flight.content == says
