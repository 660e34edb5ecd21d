"""/refused on the status port: who was refused, and the first flights of the latest."""

import json
from typing import Any

import httpx
import pytest
from trio.testing import MockClock

from sniproxy.errors import CloseReason
from sniproxy.refusals import Recorder, Refused
from tests.support.hellos import named
from tests.support.http_port import DEADLINE, read_until_gone
from tests.support.stage import MIXED, open_stage
from tests.support.status_port import HOSTILE, open_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


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


async def test_those_whom_several_workers_have_refused_stand_in_one_list() -> None:
    """By time, whoever of them it was."""
    one = recorder(refused("a", time=1.0), refused("c", time=3.0))
    other = recorder(refused("b", time=2.0), refused("d", time=4.0, flight=b"of d"))
    async with open_port(recorder(), one, other) as port:
        listed = (await port.ask("GET", "/refused")).json()["refused"]
        flights = [(await port.ask("GET", f"/refused/{name}")) for name in "adx"]
    assert [line["session"] for line in listed] == ["d", "c", "b", "a"]
    assert [flight.status_code for flight in flights] == [200, 200, 404]
    assert [flight.content for flight in flights[:2]] == [refused().flight, b"of d"]


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
        assert len((await port.status.answer("GET", "/refused/5e55101"))[2]) == 16  # still there
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
        b"there are /livez, /readyz, /metrics, /config, /sessions, /refused and /v1/healthcheck\n",
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
