"""What is done on a connection before anything of the client goes there: in the same time, else the next node."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.name_cache import Key, Outcome
from sniproxy.upstream import reach
from tests.support.files import open_files, settled_files
from tests.support.names import Resolver, open_names
from tests.support.upstreams import CONNECT_TIMEOUT, node, target, ways

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time jumps once nobody has anything to do for as long as loopback never takes."""
    return "trio", {"clock": MockClock(autojump_threshold=0.01)}


@pytest.fixture
def alive() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_who_does_not_get_through_the_greeting_has_failed(alive: int) -> None:
    """And is closed; the next node is greeted on a connection of its own."""
    greeted: list[tuple[str, int]] = []
    before = settled_files()

    async def greet(sock: socket.socket, host: str) -> None:
        greeted.append((host, sock.getpeername()[1]))
        if host == "127.0.0.1":
            raise SessionEnded(CloseReason.UPSTREAM_CERTIFICATE, "somebody else")

    both = target(node(alive), node(alive, "localhost", priority=-1))
    only = target(node(alive))
    async with open_names(Resolver({"localhost": ["127.0.0.1"]})) as names:
        connected = await reach(both, ways(names), default_port=1, greet=greet)
        with pytest.raises(SessionEnded) as caught:
            await reach(only, ways(names), default_port=1, greet=greet)
    assert (connected.node, connected.attempts) == (f"localhost:{alive}", 2)
    connected.sock.close()
    assert greeted == [("127.0.0.1", alive), ("localhost", alive), ("127.0.0.1", alive)]
    assert caught.value.reason is CloseReason.UPSTREAM_CERTIFICATE
    assert caught.value.detail == f"127.0.0.1:{alive}: somebody else"
    assert open_files() == before


class Slow(Resolver):
    """Takes most of the time that there is."""

    async def ask(self, key: Key) -> Outcome:
        await trio.sleep(CONNECT_TIMEOUT - 1)
        return await super().ask(key)


async def test_the_greeting_has_what_is_left_of_the_time(alive: int) -> None:
    """Of looking the name up, too."""
    before, since = settled_files(), trio.current_time()

    async def greet(_sock: socket.socket, _host: str) -> None:
        await trio.sleep_forever()

    async with open_names(Slow({"gs-1.example": ["127.0.0.1"]})) as names:
        with pytest.raises(SessionEnded) as caught:
            await reach(
                target(node(alive, "gs-1.example")), ways(names), default_port=1, greet=greet
            )
        assert caught.value.reason is CloseReason.UPSTREAM_TIMEOUT
        assert caught.value.detail == f"gs-1.example:{alive}: no TLS handshake in 3 s"
        assert trio.current_time() - since == pytest.approx(CONNECT_TIMEOUT)
        with trio.move_on_after(1) as scope:
            await reach(target(node(alive)), ways(names), default_port=1, greet=greet)
    assert scope.cancelled_caught
    assert open_files() == before
