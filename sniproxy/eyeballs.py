"""Several addresses of one game server: which to try in what order, and the first that answers (RFC 8305).

An address that is silent costs ATTEMPT_DELAY and no more, and one that refuses costs nothing.
"""

import socket
from collections.abc import Sequence
from typing import Any

import trio

from sniproxy.networks import family_of
from sniproxy.relay.sockets import close, connect

ATTEMPT_DELAY = 0.25  # seconds before the next address is tried beside those that have not answered

MOST_ADDRESSES = 16  # of a name that are tried for one session


def in_order(addresses: Sequence[str], turn: int) -> list[str]:
    """IPv6 and IPv4 in turns, IPv6 first; within a family it is another one's turn each time, so that players spread.

    MOST_ADDRESSES of them.
    """
    families: list[list[str]] = []
    for version in (socket.AF_INET6, socket.AF_INET):
        family = [address for address in addresses if family_of(address) == version]
        if family:
            first = turn % len(family)
            families.append(family[first:] + family[:first])
    longest = max(map(len, families), default=0)
    order = [family[i] for i in range(longest) for family in families if i < len(family)]
    return order[:MOST_ADDRESSES]


async def connect_first(
    addresses: Sequence[str], port: int, *, keepalive_idle: int
) -> socket.socket:
    """A connection to one of these addresses, at least one; OSError of the last that failed if none answers.

    Whoever connects after the first is closed, and so is everything when the caller gives up.
    """
    if len(addresses) == 1:
        return await _connect(addresses[0], port, keepalive_idle)
    race = _Race(port, keepalive_idle)
    try:
        await race.run(addresses)
    except BaseException as error:
        if race.winner is not None:
            close(race.winner)
        if isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[1] is None:
            await trio.lowlevel.checkpoint()  # is cancelled, with one exception for all of them
        raise
    if race.winner is None:
        raise OSError(*race.failure)
    return race.winner


class _Race:
    """Attempts beside each other."""

    def __init__(self, port: int, keepalive_idle: int) -> None:
        self.winner: socket.socket | None = None
        self.failure: tuple[Any, ...] = ()  # of the last that failed: not the error, which knows us
        self._port = port
        self._keepalive_idle = keepalive_idle

    async def run(self, addresses: Sequence[str]) -> None:
        """Until there is a winner, or everybody has failed."""
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(self._attempt, address, failed, nursery.cancel_scope)
                with trio.move_on_after(ATTEMPT_DELAY):
                    await failed.wait()

    async def _attempt(self, address: str, failed: trio.Event, others: trio.CancelScope) -> None:
        try:
            sock = await _connect(address, self._port, self._keepalive_idle)
        except OSError as error:
            self.failure = error.args
            failed.set()
            return
        if self.winner is not None:  # in the same instant
            close(sock)
            return
        self.winner = sock
        others.cancel()


async def _connect(address: str, port: int, keepalive_idle: int) -> socket.socket:
    family = family_of(address)
    assert family is not None
    return await connect(family, (address, port), keepalive_idle=keepalive_idle)
