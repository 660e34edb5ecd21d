"""The relay of the tests does to connections what it says."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.echo import echo_process
from tests.support.tcp_relay import TcpRelay

DEADLINE = 5.0  # seconds for what must come
SILENCE = 0.2  # seconds in which nothing may come


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with echo_process() as port:
        yield port


@pytest.fixture
def relay(echo: int) -> Iterator[TcpRelay]:
    with TcpRelay(echo) as running:
        yield running


def connect(relay: TcpRelay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=DEADLINE)


def works(sock: socket.socket, data: bytes = b"hello") -> bool:
    sock.sendall(data)
    return answered(sock, data)


def answered(sock: socket.socket, data: bytes) -> bool:
    got = b""
    while len(got) < len(data) and (piece := sock.recv(65_536)):
        got += piece
    return got == data


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(SILENCE)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(DEADLINE)
    return False


def test_the_target_hears_the_greeting_first(echo: int) -> None:
    with TcpRelay(echo, greeting=b"before ") as relay, connect(relay) as sock:
        sock.sendall(b"hello")
        assert answered(sock, b"before hello")


def test_bytes_and_the_end_go_both_ways(relay: TcpRelay) -> None:
    with connect(relay) as sock:
        assert works(sock)
        assert (relay.accepted, relay.open, relay.bytes_up, relay.bytes_down) == (1, 1, 5, 5)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    end = time.monotonic() + DEADLINE
    while relay.open and time.monotonic() < end:
        time.sleep(0.001)
    assert relay.open == 0


def test_more_than_any_buffer_holds(relay: TcpRelay) -> None:
    data = bytes(range(256)) * 40_000
    with connect(relay) as sock:
        for start in range(0, len(data), 100_000):
            assert works(sock, data[start : start + 100_000])
    assert relay.bytes_up == relay.bytes_down == len(data)


def test_cut_resets_and_refuses_until_it_is_healed(relay: TcpRelay) -> None:
    with connect(relay) as sock:
        assert works(sock)
        relay.cut()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    relay.heal()
    with connect(relay) as sock:
        assert works(sock)


def test_whoever_comes_right_after_a_cut_is_refused(relay: TcpRelay) -> None:
    for _ in range(500):
        with connect(relay) as sock:
            assert works(sock)
            relay.cut()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with suppress(ConnectionRefusedError), connect(relay):
            pytest.fail("the relay still listened")
        relay.heal()


def test_what_is_frozen_goes_on_where_it_stood(relay: TcpRelay) -> None:
    with connect(relay) as old:
        assert works(old)
        relay.freeze()
        old.sendall(b"old")
        with connect(relay) as new:
            new.sendall(b"new")
            assert is_silent(old)
            assert is_silent(new)
            relay.heal()
            assert answered(old, b"old")
            assert answered(new, b"new")


def test_half_open_connections_stay_silent_for_ever(relay: TcpRelay) -> None:
    with connect(relay) as old:
        assert works(old)
        relay.freeze(existing_only=True)
        old.sendall(b"old")
        with connect(relay) as new:
            assert works(new)
            relay.heal()
            assert works(new)
        assert is_silent(old)


def test_a_server_that_is_gone_is_a_reset(relay: TcpRelay) -> None:
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        relay.target_port = unused.getsockname()[1]
        # the reset may come before connect has returned
        with pytest.raises(ConnectionResetError), connect(relay) as sock:
            sock.recv(1)
