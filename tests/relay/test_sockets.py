"""Non-blocking sockets: each primitive on real sockets, and what the kernel's words become."""

import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from sniproxy.relay.sockets import (
    Lost,
    close,
    connect,
    receive,
    receive_into,
    send_all,
    shut_writing,
    spread_keepalive,
    tune,
)
from tests.support.files import open_files, settled_files
from tests.support.peers import Peer, tcp_pair

pytestmark = pytest.mark.anyio

DEADLINE = 10  # seconds for one test, for when something hangs

Pair = tuple[socket.socket, Peer]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A socket under test and who is at its other end."""
    ours, theirs = tcp_pair(kernel_buffer=16 * 1024)
    with ours, theirs:
        yield ours, Peer(theirs)


async def _receive(sock: socket.socket) -> bytes:
    return await receive(sock, 10)


async def _receive_into(sock: socket.socket) -> bytes:
    buffer = bytearray(10)
    return bytes(buffer[: await receive_into(sock, memoryview(buffer))])


reading = pytest.mark.parametrize("read", [_receive, _receive_into])
Read = Callable[[socket.socket], Awaitable[bytes]]


@reading
async def test_reading_gives_what_is_there_up_to_the_size_and_then_the_end(
    pair: Pair, read: Read
) -> None:
    sock, peer = pair
    with trio.fail_after(DEADLINE):
        await peer.send(b"twelve bytes")
        await peer.end()
        assert [await read(sock) for _ in range(4)] == [b"twelve byt", b"es", b"", b""]


@reading
async def test_reading_waits_for_bytes(pair: Pair, read: Read) -> None:
    sock, peer = pair
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def late() -> None:
                await trio.testing.wait_all_tasks_blocked()
                await peer.send(b"late")

            assert await read(sock) == b"late"


@reading
async def test_reading_from_a_reset_socket_is_lost(pair: Pair, read: Read) -> None:
    sock, peer = pair
    peer.reset()
    with trio.fail_after(DEADLINE), pytest.raises(Lost, match="Connection reset by peer") as lost:
        await read(sock)
    assert lost.value.sock is sock


async def test_bytes_that_are_there_come_without_a_turn_of_the_loop(pair: Pair) -> None:
    sock, peer = pair
    turns: list[str] = []
    with trio.fail_after(DEADLINE):
        await peer.send(b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note, turns)
            assert await receive(sock, 1) == b"a"
            assert turns == []
    assert turns == ["ran"]


async def _note(turns: list[str]) -> None:
    turns.append("ran")


async def test_what_was_given_to_send_may_be_overwritten_meanwhile(pair: Pair) -> None:
    sock, peer = pair
    buffer = bytearray(b"a" * (1 << 20))
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, sock, memoryview(buffer))
            await trio.testing.wait_all_tasks_blocked(0.01)  # the kernel has taken what it takes
            buffer[:] = b"b" * len(buffer)
            assert await peer.read(len(buffer)) == b"a" * len(buffer)


@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_sending_to_a_reset_socket_is_lost(pair: Pair, size: int) -> None:
    sock, peer = pair
    peer.reset()
    with trio.fail_after(DEADLINE), pytest.raises(Lost, match="reset by peer") as lost:
        await send_all(sock, bytes(size))
    assert lost.value.sock is sock


async def test_a_reset_while_the_rest_waits_is_lost(pair: Pair) -> None:
    sock, peer = pair
    with trio.fail_after(DEADLINE), pytest.RaisesGroup(pytest.RaisesExc(Lost, match="reset")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, sock, bytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked(0.01)
            peer.reset()


async def test_eof_is_sent_once_and_who_has_left_is_heard_of_by_reading(pair: Pair) -> None:
    sock, peer = pair
    shut_writing(sock)
    with trio.fail_after(DEADLINE):
        assert await peer.read_all() == b""
        peer.reset()
        await trio.lowlevel.wait_readable(sock)
        shut_writing(sock)
        with pytest.raises(Lost, match="reset"):
            await receive(sock, 1)


def test_eof_for_a_socket_that_is_none_of_ours_is_an_error() -> None:
    with socket.socket() as sock:
        sock.close()
        with pytest.raises(Lost, match="Bad file descriptor"):
            shut_writing(sock)


@pytest.mark.parametrize("reset", [False, True])
async def test_closing_wakes_who_waits_and_tells_the_other_side(pair: Pair, reset: bool) -> None:
    sock, peer = pair
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await receive(sock, 1)

            await trio.testing.wait_all_tasks_blocked()
            close(sock, reset=reset)
            close(sock, reset=reset)  # once is enough, twice is harmless
        if reset:
            with pytest.raises(ConnectionResetError):
                await peer.receive()
        else:
            assert await peer.receive() == b""
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
async def test_connecting(family: int, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listening, trio.fail_after(DEADLINE):
        sock = await connect(family, listening.getsockname()[:2], keepalive_idle=77)
        with sock:
            assert not sock.getblocking()
            assert sock.getpeername() == listening.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert 62 <= sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 77


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
async def test_connecting_fails_as_the_kernel_says(family: int, host: str) -> None:
    """A port that is bound and does not listen is refused, and nobody else can take it."""
    before = settled_files()
    with socket.socket(family) as bound, trio.fail_after(DEADLINE):
        bound.bind((host, 0))
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            await connect(family, bound.getsockname()[:2], keepalive_idle=300)
    assert open_files() == before


async def test_connecting_can_be_given_up(deaf: tuple[str, int]) -> None:
    before = settled_files()
    with trio.move_on_after(0.05) as scope:
        await connect(socket.AF_INET, deaf, keepalive_idle=300)
    assert scope.cancelled_caught
    assert open_files() == before


async def test_sessions_that_began_together_are_not_asked_together(pair: Pair) -> None:
    sock, _ = pair
    found = set()
    for _ in range(400):
        spread_keepalive(sock, 300)
        found.add(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
    assert min(found) >= 240
    assert max(found) <= 300
    assert len(found) > 30
    spread_keepalive(sock, 1)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1


async def test_tuning_asks_for_no_delay_and_for_keepalive(pair: Pair) -> None:
    sock, _ = pair
    tune(sock, keepalive_idle=123)
    options = {
        "no delay": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        "keepalive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        "idle": sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    }
    assert options == {"no delay": 1, "keepalive": 1, "idle": 123}
