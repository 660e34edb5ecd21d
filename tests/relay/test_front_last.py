"""The native relay's front lets go of a listening socket: what becomes of those who wait in the kernel's queue."""

import socket
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from sniproxy.relay import Accepted, Played
from sniproxy.relay.native import BUILT, open_native_relay
from sniproxy.settings import Listener, Proxy
from tests.support.relaying import BUFFER, DEADLINE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
]

BACKLOG = 16


class Host:
    """Keeps whoever arrives."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def arrived(self, accepted: Accepted) -> None:
        self.sockets.append(accepted.sock)

    def played(self, sessions: list[Played]) -> None:
        assert not sessions

    def paused(self, cause: str) -> None:
        raise AssertionError(cause)


@pytest.mark.parametrize("empty", [False, True])
async def test_whoever_has_come_by_then_is_served_or_left_to_others(empty: bool) -> None:
    """The engine accepts on its own meanwhile; once the call has returned, it does so no more."""
    host = Host()
    with trio.fail_after(DEADLINE), ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(BACKLOG)
        listening.setblocking(False)
        async with open_native_relay(buffer_size=BUFFER) as relay:
            listener = Listener(address="127.0.0.1:0", tls_passthrough=True)
            settings = Proxy(backlog=BACKLOG, accept_batch=1)
            assert relay.front is not None
            number = relay.front.open(listening, listener, host, settings)
            players = [
                stack.enter_context(socket.create_connection(listening.getsockname()))
                for _ in range(BACKLOG + 1)
            ]
            relay.front.close(number, empty=empty)
            accepted = relay.front.accepted
            assert accepted == len(players) or not empty
            for player in players:
                player.sendall(b"GET / HTTP/1.1\r\n\r\n")  # nobody's plan
            while len(host.sockets) < accepted:
                await trio.testing.wait_all_tasks_blocked()
        left = 0
        while True:
            try:
                stack.enter_context(listening.accept()[0])
            except BlockingIOError:
                break
            left += 1
        for sock in host.sockets:
            sock.close()
    assert accepted + left == len(players)
