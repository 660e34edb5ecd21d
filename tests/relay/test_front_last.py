"""The native relay's front lets go of a listening socket: what becomes of those who wait in the kernel's queue."""

import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from sniproxy.forbidden import Forbidden
from sniproxy.plan import plan_for
from sniproxy.relay import Accepted, Played, Terms
from sniproxy.relay.front import NativeFront
from sniproxy.relay.native import BUILT, open_native_relay, read_end
from sniproxy.relay.native_tls import Handshakes
from sniproxy.settings import Listener, Proxy
from tests.support.certificates import NAME
from tests.support.gateway import fill, route
from tests.support.relaying import BUFFER, DEADLINE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILT, reason="the native relay is not built"),
]

BACKLOG = 16
SYN_RECV = "03"  # of /proc/net/tcp


class Host:
    """Keeps whoever arrives."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def arrived(self, accepted: Accepted) -> None:
        self.sockets.append(accepted.sock)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def played(self, sessions: list[Played]) -> None:
        assert not sessions

    def paused(self, cause: str) -> None:
        raise AssertionError(cause)


def on_the_way(port: int) -> bool:
    """Whether the last word of somebody's TCP handshake is to come there: he has connected, and is not in the queue yet."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == SYN_RECV for row in rows)


@pytest.mark.parametrize("empty", [False, True])
async def test_whoever_has_come_by_then_is_served_or_left_to_others(empty: bool) -> None:
    """The engine accepts on its own meanwhile; once the call has returned, it does so no more."""
    host = Host()
    with trio.fail_after(DEADLINE), closing(host), ExitStack() as stack:
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
            if empty:
                while on_the_way(listening.getsockname()[1]):  # noqa: ASYNC110 - no event for it
                    await trio.sleep(0.001)
            relay.front.close(number, empty=empty)
            relay.front.playing()  # answered in the thread's next turn: what came of this one has been told
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
    assert accepted + left == len(players)


class Engine:
    """Notes for which listeners it has learned something."""

    def __init__(self) -> None:
        self.listeners = 0
        self.learned: list[int] = []

    def listen(self, *_: Any) -> int:
        self.listeners += 1
        return self.listeners - 1

    def unlisten(self, *_: Any) -> None:
        pass

    def learn(self, number: int, *_: Any) -> None:
        self.learned.append(number)


def test_a_listener_that_was_closed_learns_no_plans() -> None:
    """A worker closes and opens its sockets whenever another one dies or comes back; plans have a most."""
    listener, settings, engine = (
        Listener(address="127.0.0.1:0", tls_passthrough=True),
        Proxy(),
        Engine(),
    )
    front = NativeFront(cast("Any", engine), read_end, 300, Handshakes(cast("Any", engine), tuple))
    plan = plan_for(
        fill({"stream_routes/1": route(9, sni=NAME)}),
        listener,
        settings,
        NAME,
        1,
        Forbidden(settings),
    )
    assert plan is not None
    with socket.socket() as one, socket.socket() as other:
        front.open(other, listener, Host(), settings)
        for _ in range(3):
            front.close(front.open(one, listener, Host(), settings))
        front.open(one, listener, Host(), settings)
        front.learn(plan, Terms(1, 1))
    assert engine.learned == [0, 4]
