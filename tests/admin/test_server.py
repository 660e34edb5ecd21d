"""The process behind the API: real sockets, signals, and clients that do not go away or talk too much."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.admin.gateway import ADMIN_KEY, KEYS, NODES, ssl_object
from tests.admin.processes import PATIENCE, Process, start, wait_http
from tests.support import plain_http
from tests.support.ports import free_ports

MAX_BODY = 10_000
HEAD = (
    "{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-KEY: " + ADMIN_KEY + "\r\n"
    "User-Agent: curl/8.5.0\r\nAccept: */*\r\n{headers}\r\n"
)


class Server:
    """`sniproxy admin` on SQLite, set up through the environment alone."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        self.process: Process | None = None
        self.settings = {
            "SNIPROXY_STORE": f"sqlite://{folder}/config.db",
            "SNIPROXY_STATE_DIR": str(folder),
            "SNIPROXY_ADMIN__ADDRESS": f"127.0.0.1:{self.port}",
            "SNIPROXY_ADMIN__KEYS": json.dumps(KEYS),
            "SNIPROXY_ADMIN__MAX_BODY": str(MAX_BODY),
        }

    def start(self) -> None:
        self.process = start("admin", settings=self.settings)
        wait_http(f"http://127.0.0.1:{self.port}/apisix/admin", self.process)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """The exit code after a signal, and all that was printed."""
        assert self.process is not None
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        code = self.process.returncode
        self.process = None
        return code, out, err


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    server = Server(tmp_path)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for tests that do it no harm; at the end it must have said nothing it should not."""
    server = Server(tmp_path_factory.mktemp("shared"))
    server.start()
    yield server
    code, out, err = server.end(signal.SIGTERM)
    assert code == 0
    assert set(err.splitlines()) <= {"Invalid HTTP request received."}  # uvicorn's own words
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events[0] == "ready"
    assert set(events) <= {"ready", "object written"}


def request(method: str, path: str, headers: str = "") -> bytes:
    return HEAD.format(method=method, path=path, headers=headers).encode()


def answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status code, headers in lower case, body."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = sock.recv(65_536)
        assert chunk, received
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while len(body) < int(headers.get("content-length", "0")):
        body += sock.recv(65_536)
    return int(status.split()[1]), headers, body


def wait_ready(url: str, code: int) -> None:
    """Until /readyz says so."""
    give_up = time.monotonic() + PATIENCE
    while (answer := plain_http.get(url + "/readyz")).status_code != code:
        assert time.monotonic() < give_up, answer.text


# -- its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_whoever_is_connected(server: Server, number: signal.Signals) -> None:
    with ExitStack() as stack:
        idle, _, halfway = (stack.enter_context(server.connect()) for _ in range(3))
        idle.sendall(request("GET", "/apisix/admin/ssls"))
        assert answer(idle)[0] == 200  # and it stays, as a keep-alive client does
        halfway.sendall(request("GET", "/apisix/admin/ssls")[:30])
        code, out, err = server.end(number)
    assert (code, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["ready"]


def test_a_body_that_does_not_come_does_not_hold_the_end_up(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(request("PUT", "/apisix/admin/upstreams/1", "Content-Length: 50\r\n") + b"{")
        code, _, _ = server.end(signal.SIGTERM)
    assert code == 0


def test_a_second_signal_does_no_harm(server: Server) -> None:
    """While it ends, that is: a request holds that up until both were sent, however long that takes."""
    server.end(signal.SIGTERM)
    server.settings["SNIPROXY_ADMIN__SHUTDOWN_TIMEOUT"] = "60"
    server.start()
    assert server.process is not None
    with server.connect() as sock:
        sock.sendall(request("PUT", "/apisix/admin/upstreams/1", "Content-Length: 50\r\n") + b"{")
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
    _, err = server.process.communicate(timeout=PATIENCE)
    code, server.process = server.process.returncode, None
    assert (code, err) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nor_do_any_number_of_them_until_it_has_ended(
    server: Server, number: signal.Signals
) -> None:
    """Whoever loses patience need not take what comes of it for a crash."""
    assert server.process is not None
    while server.process.poll() is None:
        server.process.send_signal(number)
        time.sleep(0.002)
    _, err = server.process.communicate(timeout=PATIENCE)
    code, server.process = server.process.returncode, None
    assert (code, err) == (0, "")


def test_it_goes_on_until_load_balancers_have_heard_of_the_end(server: Server) -> None:
    """A second signal cuts that short."""
    server.end(signal.SIGTERM)
    server.settings["SNIPROXY_ADMIN__SHUTDOWN_DELAY"] = "600"
    server.start()
    assert server.process is not None
    url = f"http://127.0.0.1:{server.port}"
    wait_ready(url, 200)  # it answers before the store has answered it
    server.process.send_signal(signal.SIGTERM)
    wait_ready(url, 503)
    with server.connect() as late:
        late.sendall(request("GET", "/apisix/admin/ssls"))
        assert answer(late)[0] == 200
    assert server.end(signal.SIGTERM)[::2] == (0, "")


def test_it_ends_by_itself_after_that(server: Server) -> None:
    server.end(signal.SIGTERM)
    server.settings["SNIPROXY_ADMIN__SHUTDOWN_DELAY"] = "0.5"
    server.start()
    began = time.monotonic()
    assert server.end(signal.SIGTERM)[::2] == (0, "")
    assert time.monotonic() - began >= 0.5


def test_what_was_written_is_there_after_a_restart(server: Server) -> None:
    def client() -> httpx.Client:
        base = f"http://127.0.0.1:{server.port}/apisix/admin"
        return httpx.Client(
            base_url=base, headers={"X-API-KEY": ADMIN_KEY}, timeout=PATIENCE, verify=False
        )

    with client() as before:
        assert before.put("/ssls/1", json=ssl_object()).status_code == 201
        seen = before.get("/ssls/1").json()
    server.end(signal.SIGTERM)
    server.start()
    with client() as after:
        assert after.get("/ssls/1").json() == seen
        assert after.patch("/ssls/1", json={"desc": "x"}).status_code == 200  # the keyring was kept
    assert (server.folder / "keyring").stat().st_mode & 0o777 == 0o600
    assert (server.folder / "config.db").stat().st_mode & 0o777 == 0o600


# -- on the wire


def test_answers_say_nothing_of_the_server(shared: Server) -> None:
    for path in ("/apisix/admin/ssls", "/apisix/admin", "/", "/apisix/admin/none"):
        with shared.connect() as sock:
            sock.sendall(request("GET", path))
            _, headers, _ = answer(sock)
        assert set(headers) == {"date", "content-length", "content-type", "x-api-version"}
        assert headers["content-type"] == "application/json"


def test_it_may_be_told_to_look_like_another(tmp_path: Path) -> None:
    """Tools of APISIX read its version from there."""
    server = Server(tmp_path)
    server.settings["SNIPROXY_ADMIN__SERVER_HEADER"] = "APISIX/3.18.0"
    try:
        server.start()
        for path in ("/apisix/admin/routes", "/elsewhere"):
            answer = plain_http.get(f"http://127.0.0.1:{server.port}{path}")
            assert answer.headers.get_list("server") == ["APISIX/3.18.0"]
    finally:
        if server.process is not None:
            server.end(signal.SIGTERM)


def test_head_has_no_body_and_the_connection_lives_on(shared: Server) -> None:
    with shared.connect() as sock:
        for method, path, code in (
            ("HEAD", "/apisix/admin/ssls", 200),
            ("GET", "/apisix/admin/ssls/none", 404),
            ("OPTIONS", "/apisix/admin/ssls", 200),
            ("TRACE", "/apisix/admin/ssls", 404),
            ("GET", "/apisix/admin/ssls?api_key=wrong", 401),
            ("GET", "/admin/ssls", 200),
        ):
            sock.sendall(request(method, path))
            if method != "HEAD":
                assert answer(sock)[0] == code
                continue
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("length", ["Content-Length: 2000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("patient", [True, False])
def test_413_as_curl_sees_it(shared: Server, length: str, patient: bool) -> None:
    """curl announces a large body with `Expect: 100-continue`; others just send it."""
    expect = "Expect: 100-continue\r\n" if patient else ""
    with shared.connect() as sock:
        sock.sendall(request("PUT", "/apisix/admin/upstreams/1", f"{length}\r\n{expect}"))
        if patient and "chunked" in length:
            assert sock.recv(1000).startswith(b"HTTP/1.1 100 ")
        if not patient or "chunked" in length:
            piece = b" " * 4096
            if "chunked" in length:
                piece = b"1000\r\n" + piece + b"\r\n"
            for _ in range(4):
                sock.sendall(piece)
        code, headers, body = answer(sock)
    assert code == 413
    assert json.loads(body) == {"error_msg": "the request body is larger than 10000 bytes"}
    assert headers["x-api-version"] == "v3"


@pytest.mark.parametrize(("over", "code"), [(0, {200, 201}), (1, {413})])
@pytest.mark.parametrize("chunked", [True, False])
def test_the_limit_is_exact(shared: Server, over: int, code: set[int], chunked: bool) -> None:
    body = json.dumps({"nodes": NODES}).encode()
    body += b" " * (MAX_BODY - len(body) + over)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with shared.connect() as sock:
        sock.sendall(request("PUT", "/apisix/admin/upstreams/1", f"{length}\r\n") + body)
        assert answer(sock)[0] in code


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /apisix/admin/ssls/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /apisix/admin/ssls HTTP/1.1\r\nX: no host\r\n\r\n",
        b"PUT /apisix/admin/ssls HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT /apisix/admin/ssls HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\r\n\r\n nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400(shared: Server, raw: bytes) -> None:
    with shared.connect() as sock:
        sock.sendall(raw)
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400 ")
