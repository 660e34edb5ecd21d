"""A few requests over HTTP/1.1, small enough for a loop with other work: status port and control socket."""

import socket
import traceback
from collections.abc import Awaitable, Callable
from functools import partial

import h11
import trio

from sniproxy.logs import Log
from sniproxy.proxy_protocol import BrokenHeader, ProxyHeaderReader
from sniproxy.relay.sockets import Lost, close, receive, send_all

REQUEST_TIMEOUT = 5.0  # seconds, request and answer together, unless it is said otherwise
MAX_REQUEST = 16 * 1024  # bytes of a request's head
MAX_CLIENTS = 64  # at once; more wait in the kernel's queue

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BYTES = "application/octet-stream"
Answer = tuple[int, str, bytes]  # status code, content type, body
Answers = Callable[[str, str], Awaitable[Answer]]  # of method and target


async def serve_http(
    listening: socket.socket,
    answers: Answers,
    within: float = REQUEST_TIMEOUT,
    log: Log | None = None,
) -> None:
    """Never returns. within: seconds for one request, its answer included. log: hears of answers that failed."""
    clients = trio.CapacityLimiter(MAX_CLIENTS)
    async with trio.open_nursery() as nursery:
        while True:
            token = object()
            await clients.acquire_on_behalf_of(token)
            await trio.lowlevel.wait_readable(listening)
            try:
                sock, _ = listening.accept()
            except OSError:  # gone again, or out of descriptors: sessions come first
                clients.release_on_behalf_of(token)
                await trio.sleep(0.1)
                continue
            sock.setblocking(False)
            done = partial(clients.release_on_behalf_of, token)
            nursery.start_soon(_serve_client, sock, partial(_try, answers, log), within, done)


async def _try(answers: Answers, log: Log | None, method: str, target: str) -> Answer:
    """A defect of ours costs this answer alone."""
    try:
        return await answers(method, target)
    except Exception:
        if log is not None:
            log.error("no answer", target=target, exception=traceback.format_exc().rstrip())
        return 500, TEXT, b"a defect of ours: the log has it\n"


async def _serve_client(
    sock: socket.socket, answers: Answers, within: float, done: partial[None]
) -> None:
    try:
        with trio.move_on_after(within):
            await _answer_one(sock, answers)
    except Lost:
        pass  # a monitor that does not wait for its answer
    finally:
        close(sock)
        done()


async def _answer_one(sock: socket.socket, answers: Answers) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
    method = b"GET"
    try:
        connection.receive_data(await _first_of_request(sock))
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await receive(sock, MAX_REQUEST))
        if not isinstance(event, h11.Request):
            return  # closed before it asked
        method = event.method
        target = event.target.decode("ascii", "replace")
        answer = await answers("GET" if method == b"HEAD" else method.decode("ascii"), target)
    except (h11.RemoteProtocolError, BrokenHeader):
        answer = 400, TEXT, b"not an HTTP request\n"
    await send_all(sock, _encode(connection, answer, with_body=method != b"HEAD"))


async def _first_of_request(sock: socket.socket) -> bytes:
    """The first bytes of a request. An NLB that says PROXY to the players' ports says it in its health checks too, whatever
    port they go to; nobody is believed by it here, so it is read and dropped. Raises BrokenHeader."""
    data = await receive(sock, MAX_REQUEST)
    if data[:1] != b"\r":  # of the header's second version; a request begins with a letter
        return data
    header = ProxyHeaderReader()
    while header.feed(data) is None:
        if not (data := await receive(sock, MAX_REQUEST)):
            return b""
    return header.rest or await receive(sock, MAX_REQUEST)


def _encode(connection: h11.Connection, answer: Answer, *, with_body: bool) -> bytes:
    code, kind, body = answer
    headers = [
        ("content-type", kind),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    head = connection.send(h11.Response(status_code=code, headers=headers)) or b""
    return head + body if with_body else head
