"""HTTP in small over real sockets: what is a request, and to whom nobody listens long."""

import errno
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.small_http import JSON, MAX_CLIENTS, MAX_REQUEST, REQUEST_TIMEOUT, TEXT, Answer
from tests.support.gateway import open_lines
from tests.support.http_port import open_http, read_until_gone
from tests.support.proxy_headers import NLB_HEALTH_CHECK, v2

pytestmark = pytest.mark.anyio
ASKED = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


async def echo(method: str, target: str) -> Answer:
    """What was asked."""
    return 200, TEXT, f"{method} {target}\n".encode()


async def never(method: str, target: str) -> Answer:
    """An answer that does not come."""
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/", "GET /\n"),
        ("GET", "/a/b?c=d&e", "GET /a/b?c=d&e\n"),
        ("GET", "/%00%ff", "GET /%00%ff\n"),
        ("POST", "/x", "POST /x\n"),
        ("DELETE", "/x", "DELETE /x\n"),
        ("HEAD", "/x", ""),
    ],
)
async def test_requests_and_their_answers(method: str, path: str, body: str) -> None:
    async with open_http(echo) as port:
        answer = await port.ask(method, path)
    assert (answer.status_code, answer.text) == (200, body)
    assert dict(answer.headers) == {
        "content-type": TEXT,
        "content-length": str(len(body or f"GET {path}\n")),
        "connection": "close",
    }


async def test_a_header_may_come_in_pieces() -> None:
    async with open_http(echo) as port:
        for cut in range(1, len(NLB_HEALTH_CHECK) + 2):
            client = port.dial()
            await client.send((NLB_HEALTH_CHECK + ASKED)[:cut])
            await trio.sleep(0.1)
            await client.send((NLB_HEALTH_CHECK + ASKED)[cut:])
            assert (await read_until_gone(client)).endswith(b"GET /livez\n")
            client.close()


async def test_a_defect_costs_one_answer() -> None:
    """And not the data plane, whose parent answers here."""

    async def answer(method: str, target: str) -> Answer:
        return await echo(method, target) if target == "/" else (200, TEXT, b"x"[target])  # type: ignore[call-overload]

    log, lines = open_lines()
    async with open_http(answer, log=log) as port:
        broken = await port.ask("GET", "/broken?x")
        assert (await port.ask("GET", "/")).text == "GET /\n"
    assert (broken.status_code, broken.text) == (500, "a defect of ours: the log has it\n")
    (line,) = lines.all
    assert (line["level"], line["event"], line["target"]) == ("error", "no answer", "/broken?x")
    assert "TypeError" in line["exception"]


async def test_an_answer_comes_as_it_was_given() -> None:
    body = bytes(range(256)) * 20_000  # more than the kernel takes at once

    async def answer(method: str, target: str) -> Answer:
        await trio.sleep(1)
        return 418, JSON, body

    async with open_http(answer) as port:
        got = await port.ask("GET", "/")
    assert (got.status_code, got.headers["content-type"], got.content) == (418, JSON, body)


@pytest.mark.parametrize(
    ("sent", "starts"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET \xff\x80 HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 400 "),
        (b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", b"HTTP/1.1 200 "),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),  # no Host
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\0" * 100 + b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"x" * MAX_REQUEST * 2, b"HTTP/1.1 400 "),
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n", b"HTTP/1.1 400 "),  # and then the end
        (NLB_HEALTH_CHECK + ASKED, b"HTTP/1.1 200 "),
        (v2() + ASKED, b"HTTP/1.1 200 "),
        (NLB_HEALTH_CHECK * 2 + ASKED, b"HTTP/1.1 400 "),
        (NLB_HEALTH_CHECK[:-1] + b"?" + ASKED, b"HTTP/1.1 400 "),  # another checksum
        (NLB_HEALTH_CHECK, b""),
        (NLB_HEALTH_CHECK[:20], b""),
        (b"\r\n\r\n" + ASKED, b"HTTP/1.1 400 "),
        (b"", b""),
    ],
)
async def test_whatever_is_sent_there_is_an_answer_or_an_end(sent: bytes, starts: bytes) -> None:
    async with open_http(echo) as port:
        client = port.dial()
        await client.send(sent)
        await client.end()
        answer = await read_until_gone(client)
        assert answer.startswith(starts)
        assert bool(answer) == bool(starts)
        client.close()
        assert (await port.ask("GET", "/livez")).status_code == 200


async def test_a_request_in_single_bytes_is_a_request() -> None:
    async with open_http(echo) as port:
        client = port.dial()
        for byte in b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n":
            await client.send(bytes([byte]))
        assert (await client.read_all()).endswith(b"\r\n\r\nGET /livez\n")
        client.close()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\n"])
async def test_a_client_that_does_not_ask_is_let_go(sent: bytes) -> None:
    async with open_http(echo) as port:
        client = port.dial()
        since = trio.current_time()
        await client.send(sent)
        assert await client.read_all() == b""
        assert trio.current_time() - since == pytest.approx(REQUEST_TIMEOUT)
        client.close()


@pytest.mark.parametrize(("more", "seconds"), [({}, REQUEST_TIMEOUT), ({"within": 60.0}, 60)])
async def test_nobody_is_kept_waiting_for_an_answer_that_does_not_come(
    more: dict[str, float], seconds: float
) -> None:
    async with open_http(never, **more) as port:
        client = port.dial()
        since = trio.current_time()
        await client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await client.read_all() == b""
        assert trio.current_time() - since == pytest.approx(seconds)
        client.close()


async def test_clients_that_reset_or_do_not_read_are_nobodys_trouble() -> None:
    async with open_http(echo) as port:
        for sent in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"):
            client = port.dial()
            await client.send(sent)
            client.reset()
        assert (await port.ask("GET", "/readyz")).status_code == 200


async def test_more_clients_than_are_served_at_once_wait_for_their_turn() -> None:
    """Those who say nothing hold their places for the time of a request, no longer."""
    async with open_http(echo) as port:
        silent = [port.dial() for _ in range(MAX_CLIENTS)]
        since = trio.current_time()
        answer = await port.ask("GET", "/livez", timeout=60)
        assert trio.current_time() - since == pytest.approx(REQUEST_TIMEOUT, abs=0.2)
        for client in silent:
            client.close()
    assert answer.status_code == 200


async def test_a_failing_accept_is_tried_again_and_takes_nobodys_place() -> None:
    """Out of descriptors, or gone again before it was let in."""
    async with open_http(echo) as port:
        codes = [errno.EMFILE, errno.ECONNABORTED] * MAX_CLIENTS
        port.listening.failures = [OSError(code, "") for code in codes]
        assert (await port.ask("GET", "/livez", timeout=60)).status_code == 200
