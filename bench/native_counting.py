"""What counting costs the native relay's thread for a message: sessions that count and sessions that do not, in turns."""

import socket
import statistics
import time
from contextlib import ExitStack, closing

from bench.processes import thread_clock
from sniproxy.relay import Flow, Relay, Terms
from sniproxy.relay.meters import Meter
from sniproxy.relay.native import open_native_relay
from tests.support.peers import tcp_pair

SESSIONS = 64  # of each kind; one message of each lies ready when the thread gets to them
TURN = 10  # messages of each session
PIECE = bytes(100)
HOUR = 3600.0

Ends = list[tuple[socket.socket, socket.socket]]  # of the player and of the game server


async def measure(turns: int) -> tuple[float, float]:
    """CPU microseconds for a message, which goes from one side to the other, with counting and without.

    Both are medians: of what it costs without, and of what a turn with counting costs more than the one beside it.
    """
    async with open_native_relay(buffer_size=1 << 16) as relay:
        with ExitStack() as stack:
            bare = _begin(relay, stack, meter=None)
            counting = _begin(relay, stack, meter=Meter())
            for each in (bare, counting):
                _play(each)  # what is made at first use, the thread's name among it
            clock = thread_clock("relay")
            costs, more = [], []
            for number in range(turns):
                if number % 2:
                    with_it, without = _turn(counting, clock), _turn(bare, clock)
                else:
                    without, with_it = _turn(bare, clock), _turn(counting, clock)
                costs.append(without)
                more.append(with_it - without)
    whole = statistics.median(costs)
    return whole + statistics.median(more), whole


def _begin(relay: Relay, stack: ExitStack, *, meter: Meter | None) -> Ends:
    found = []
    for _ in range(SESSIONS):
        (player, client), (server, upstream) = tcp_pair(), tcp_pair()
        for sock in (player, server):
            sock.setblocking(True)
            stack.enter_context(closing(sock))
        relay.start(Flow(client, upstream, b"", Terms(HOUR, HOUR, meter=meter)), lambda _: None)
        found.append((player, server))
    return found


def _turn(ends: Ends, clock: int) -> float:
    """CPU microseconds of the relay's thread for each message."""
    begun = time.clock_gettime(clock)
    _play(ends)
    return (time.clock_gettime(clock) - begun) / len(ends) / TURN * 1e6


def _play(ends: Ends) -> None:
    for _ in range(TURN):
        for player, _ in ends:
            player.send(PIECE)
        for _, server in ends:
            server.recv(len(PIECE), socket.MSG_WAITALL)
