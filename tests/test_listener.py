"""Listening sockets: errors that help, batches, and what happens when descriptors run out."""

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from sniproxy.errors import SettingsError
from sniproxy.listener import (
    LOG_EVERY,
    PAUSE,
    PauseLog,
    accept_forever,
    accept_waiting,
    bind,
    bind_group,
    listen,
    stop_listening,
    widen,
)
from sniproxy.metrics import Metrics
from tests.support.files import open_files, settled_files
from tests.support.gateway import Lines, open_lines

pytestmark = pytest.mark.anyio

DEADLINE = 1000  # virtual seconds for one test
SETTING = "proxy.listeners.3.address"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.mark.parametrize(
    ("address", "family"),
    [
        ("127.0.0.1:0", socket.AF_INET),
        ("0.0.0.0:0", socket.AF_INET),
        ("localhost:0", socket.AF_INET),
        ("[::1]:0", socket.AF_INET6),
        ("[::]:0", socket.AF_INET6),
    ],
)
def test_a_bound_socket_lets_nobody_in_before_it_listens(
    address: str, family: socket.AddressFamily
) -> None:
    with bind(address, SETTING) as sock:
        assert sock.family == family
        assert not sock.getblocking()
        target = ("127.0.0.1" if family == socket.AF_INET else "::1", sock.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(target)
        listen(sock, SETTING, backlog=1)
        socket.create_connection(target).close()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_taken_port_is_named_with_its_setting(taken: int) -> None:
    with pytest.raises(SettingsError) as caught:
        bind(f"127.0.0.1:{taken}", SETTING)
    assert str(caught.value) == (
        f"{SETTING}: port {taken} is taken (127.0.0.1:{taken}): "
        "end the program that uses it, or choose another port"
    )


def test_a_port_that_was_taken_after_it_was_bound() -> None:
    """Two programs may bind while neither listens; the second to listen is told."""
    with bind("127.0.0.1:0", SETTING) as first:
        port = first.getsockname()[1]
        with bind(f"127.0.0.1:{port}", SETTING) as second:
            listen(second, SETTING, backlog=1)
            with pytest.raises(SettingsError, match=f"{SETTING}: port {port} is taken"):
                listen(first, SETTING, backlog=1)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.1:8888", "cannot listen on 192.0.2.1:8888: Cannot assign requested address"),
        ("[2001:db8::1]:8888", r"cannot listen on \[2001:db8::1\]:8888: "),
        ("no.such.name.invalid:8888", "cannot listen on no.such.name.invalid:8888: "),
    ],
)
def test_an_address_that_is_not_of_this_machine(
    address: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(host: str) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if "invalid" in address:
        monkeypatch.setattr(socket, "gethostbyname", unknown)
    before = settled_files()
    with pytest.raises(SettingsError, match=f"^{SETTING}: {words}"):
        bind(address, SETTING)
    assert open_files() == before


def test_a_port_that_needs_a_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, so the kernel's word for it is put into its mouth."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refused)
    with pytest.raises(SettingsError, match=r"port 443 needs a privilege \(127.0.0.1:443\)"):
        bind("127.0.0.1:443", SETTING)


def test_a_group_is_bound_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before, left = settled_files(), [3]
    real = socket.socket.bind

    def scarce(sock: socket.socket, address: object) -> None:
        if not left[0]:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        left[0] -= 1
        real(sock, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "bind", scarce)
    with pytest.raises(SettingsError, match=f"^{SETTING}: port [0-9]+ is taken"):
        bind_group("127.0.0.1:0", SETTING, 4)
    assert open_files() == before


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_a_group_can_be_made_larger(address: str) -> None:
    for count, wanted, size in ((2, 4, 4), (4, 2, 4), (1, 4, 4)):
        group = bind_group(address, SETTING, count)
        widen(group, SETTING, wanted)
        assert len(group) == size
        assert len({sock.getsockname() for sock in group}) == 1
        assert not any(sock.getblocking() for sock in group)
        for sock in group:
            sock.close()


def test_who_stops_listening_lets_nobody_in_and_may_listen_again() -> None:
    with bind("127.0.0.1:0", SETTING) as sock:
        stop_listening(sock)  # it has not begun
        for _ in range(3):
            listen(sock, SETTING, backlog=10)
            with socket.create_connection(sock.getsockname()):
                server, _ = sock.accept()
                server.setblocking(False)
                with server, pytest.raises(BlockingIOError):
                    server.recv(1)  # it has said nothing, and not ended
            waits = socket.create_connection(sock.getsockname())
            stop_listening(sock)
            stop_listening(sock)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(sock.getsockname())
            with waits, pytest.raises(ConnectionResetError):
                waits.recv(1)
    stop_listening(sock)  # closed


@asynccontextmanager
async def accepting(
    listening: socket.socket, on_accept: Callable[[socket.socket, object], None], *, batch: int
) -> AsyncIterator[tuple[Metrics, Lines]]:
    """`accept_forever` at work, and what it counts and logs."""
    metrics = Metrics()
    log, lines = open_lines()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept() -> None:
                pauses = PauseLog(metrics, log)
                await accept_forever(listening, on_accept, batch=batch, pauses=pauses)

            yield metrics, lines
            nursery.cancel_scope.cancel()


class Queue:
    """Players who have connected already, and who of them was let in."""

    def __init__(self, listening: socket.socket, size: int) -> None:
        address = listening.getsockname()
        self.players = [socket.create_connection(address) for _ in range(size)]
        self.let_in: list[socket.socket] = []

    def on_accept(self, sock: socket.socket, peer: object) -> None:
        """Takes one in."""
        assert not sock.getblocking()
        assert peer == self.players[len(self.let_in)].getsockname()
        self.let_in.append(sock)

    def close(self) -> None:
        """All of them leave."""
        for sock in (*self.players, *self.let_in):
            sock.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listener on loopback."""
    with bind("127.0.0.1:0", SETTING) as sock:
        listen(sock, SETTING, backlog=100)
        yield sock


@pytest.mark.parametrize("batch", [1, 4, 100])
async def test_everybody_in_the_queue_is_let_in_in_order(
    listening: socket.socket, batch: int
) -> None:
    queue = Queue(listening, 10)
    async with accepting(listening, queue.on_accept, batch=batch):
        await trio.testing.wait_all_tasks_blocked()
        assert len(queue.let_in) == 10
    queue.close()


async def test_a_batch_leaves_a_turn_to_the_others(listening: socket.socket) -> None:
    """However long the queue is."""
    queue = Queue(listening, 9)
    seen: list[int] = []
    async with accepting(listening, queue.on_accept, batch=3):
        while len(queue.let_in) < 9:
            seen.append(len(queue.let_in))
            await trio.lowlevel.checkpoint()
    queue.close()
    assert all(count % 3 == 0 for count in seen)
    assert {3, 6} & set(seen)


async def test_out_of_descriptors_accepting_pauses_and_goes_on(listening: socket.socket) -> None:
    """A real limit. One line per second says so; nobody in the queue is lost."""
    queue = Queue(listening, 3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with accepting(listening, queue.on_accept, batch=64) as (metrics, lines):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no new ones
        try:
            with trio.move_on_after(LOG_EVERY * 2.5):
                await trio.sleep_forever()
            assert queue.let_in == []
            paused = metrics.registry.get_sample_value("sniproxy_accept_paused_total")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await trio.sleep(2 * PAUSE)
        assert len(queue.let_in) == 3
    queue.close()
    assert paused == pytest.approx(LOG_EVERY * 2.5 / PAUSE, abs=2)
    assert [line["event"] for line in lines.all] == ["accepting pauses"] * 3
    assert lines.all[0]["cause"] == "Too many open files"
    assert lines.all[0]["level"] == "warning"


class Failing(socket.socket):
    """A listener whose accept fails with each of `codes` before it works."""

    codes: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        """As the kernel would."""
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, os.strerror(code))
        return super().accept()


@pytest.mark.parametrize(
    ("code", "pauses"),
    [
        (errno.EMFILE, 1),
        (errno.ENFILE, 1),
        (errno.ENOMEM, 1),
        (errno.ENOBUFS, 1),
        (errno.ECONNABORTED, 0),
        (errno.EINTR, 0),
        (errno.EAGAIN, 0),
    ],
)
async def test_what_accept_may_fail_with(listening: socket.socket, code: int, pauses: int) -> None:
    failing = Failing(fileno=listening.detach())
    failing.codes = [code]
    queue = Queue(failing, 2)
    async with accepting(failing, queue.on_accept, batch=64) as (metrics, _):
        await trio.sleep(2 * PAUSE)
        assert len(queue.let_in) == 2
        assert metrics.registry.get_sample_value("sniproxy_accept_paused_total") == pauses
    queue.close()
    failing.close()


async def test_any_other_failure_is_fatal(listening: socket.socket) -> None:
    failing = Failing(fileno=listening.detach())
    failing.codes = [errno.EBADF]
    queue = Queue(failing, 1)
    log, _ = open_lines()
    pauses = PauseLog(Metrics(), log)
    with trio.fail_after(DEADLINE), pytest.raises(OSError, match="Bad file descriptor"):
        await accept_forever(failing, queue.on_accept, batch=64, pauses=pauses)
    queue.close()
    failing.close()


async def test_a_socket_that_its_other_owner_has_shut_is_left_alone(
    listening: socket.socket,
) -> None:
    """As a parent does whose worker was too slow to answer: that is no reason to end its sessions."""
    log, _ = open_lines()
    queue = Queue(listening, 1)
    other = socket.socket(fileno=os.dup(listening.fileno()))
    with other, trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept() -> None:
                pauses = PauseLog(Metrics(), log)
                await accept_forever(listening, queue.on_accept, batch=4, pauses=pauses)

            await trio.testing.wait_all_tasks_blocked()
            assert len(queue.let_in) == 1
            stop_listening(other)  # and the nursery is left
    queue.close()


def test_everybody_who_waits_is_let_in_before_nobody_is(listening: socket.socket) -> None:
    queue = Queue(listening, 50)
    accept_waiting(listening, queue.on_accept)
    assert len(queue.let_in) == 50
    accept_waiting(listening, queue.on_accept)
    queue.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EINVAL, errno.EBADF])
def test_who_waits_and_cannot_be_let_in_is_no_reason_to_fail(
    listening: socket.socket, code: int
) -> None:
    """Whoever came before the failure is in."""
    failing = Failing(fileno=listening.detach())
    failing.codes = [errno.ECONNABORTED, code]
    queue = Queue(failing, 1)
    accept_waiting(failing, queue.on_accept)
    assert queue.let_in == []
    accept_waiting(failing, queue.on_accept)
    assert len(queue.let_in) == 1
    queue.close()
    failing.close()


@pytest.mark.parametrize("turn", range(20))  # which of the two runs first is left to chance
async def test_nobody_is_accepted_from_a_socket_that_was_closed(turn: int) -> None:
    """Although somebody had come by then: the loop had woken the task already that was to let him in."""
    sock = bind("127.0.0.1:0", SETTING)
    listen(sock, SETTING, backlog=10)
    scope = trio.CancelScope()
    ours, theirs = socket.socketpair()
    queue = Queue(sock, 0)

    async def leave() -> None:
        await trio.lowlevel.wait_readable(theirs)
        scope.cancel()
        sock.close()

    async def accept() -> None:
        log, _ = open_lines()
        with scope:
            pauses = PauseLog(Metrics(), log)
            await accept_forever(sock, queue.on_accept, batch=4, pauses=pauses)

    with ours, theirs, trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            player = socket.create_connection(sock.getsockname())
            queue.players.append(player)
            ours.send(b"x")  # both are ready at once
    queue.close()
