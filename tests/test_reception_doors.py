"""Who lets players in, and when not any more: a door that is opened, closed with its queue or without, and opened anew."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from sniproxy.listener import bind, listen
from sniproxy.reception import Reception
from tests.support.gateway import Gateway
from tests.support.peers import Peer
from tests.support.stage import PLAIN, Stage, open_stage

pytestmark = pytest.mark.anyio


class Door:
    """One more listener of a data plane: its socket is a parent's, who goes on when the worker does not."""

    def __init__(self, stage: Stage, gateway: Gateway, listening: socket.socket) -> None:
        self.reception = Reception(gateway.worker, gateway.nursery)
        self.listening = listening
        self.gateway = gateway
        self._stage = stage

    def open(self) -> None:
        self.reception.open(self.listening, PLAIN)

    def dial(self) -> Peer:
        """A player who has connected here."""
        sock = socket.create_connection(self.listening.getsockname())
        sock.setblocking(False)
        return Peer(sock)

    async def join(self, *players: Peer) -> None:
        """They play, in whichever order they have reached the game server."""
        for number, player in enumerate(players):
            await player.send(bytes([number]))
        for _ in players:
            server = await self._stage.accept()
            await server.send(await server.read(1))
        for number, player in enumerate(players):
            assert await player.read(1) == bytes([number])
        assert self._stage.nobody_came()

    async def waits(self, player: Peer) -> None:
        """Nobody lets him in, and nobody sends him away."""
        await player.send(b"x")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert self._stage.nobody_came()
        with pytest.raises(BlockingIOError):
            player.sock.recv(1)


@asynccontextmanager
async def door(**settings: Any) -> AsyncIterator[Door]:
    async with open_stage() as stage:
        gateway = await stage.open(PLAIN, **settings)
        with bind("127.0.0.1:0", "x") as listening:
            listen(listening, "x", backlog=100)
            yield Door(stage, gateway, listening)


async def test_until_it_is_open_players_wait() -> None:
    async with door() as here:
        player = here.dial()
        await here.waits(player)
        here.open()
        server = await here._stage.accept()
        assert await server.read(1) == b"x"
        player.close()


async def test_closed_nobody_is_let_in_and_who_plays_plays_on() -> None:
    """They wait for another worker."""
    async with door() as here:
        here.open()
        playing, comes = here.dial(), None
        await here.join(playing)
        here.reception.close(here.listening)
        comes = here.dial()
        await here.waits(comes)
        await playing.send(b"more")
        here.open()
        server = await here._stage.accept()
        assert await server.read(1) == b"x"
        playing.close()
        comes.close()
        assert here.gateway.counted()["opened"] == 2


@pytest.mark.parametrize("batch", [1, 64])
async def test_closed_for_good_whoever_waits_is_let_in_before(batch: int) -> None:
    """However many come in one turn of the loop."""
    async with door(accept_batch=batch) as here:
        here.open()
        players = [here.dial() for _ in range(20)]
        here.reception.close(here.listening, empty=True)
        await here.join(*players)
        late = here.dial()
        await here.waits(late)
        for player in (*players, late):
            player.close()
        assert here.gateway.counted()["opened"] == 20


async def test_closed_before_its_first_turn() -> None:
    async with door() as here:
        here.open()
        here.reception.close(here.listening)
        here.open()
        here.reception.close(here.listening, empty=True)
        player = here.dial()
        await here.waits(player)
        player.close()


async def test_opened_and_closed_again_and_again_each_player_is_let_in_once() -> None:
    async with door() as here:
        players = []
        for turn in range(50):
            here.open()
            players.append(here.dial())
            if turn % 3:
                await trio.lowlevel.checkpoint()
            here.reception.close(here.listening, empty=turn % 2 == 0)
        here.open()
        await here.join(*players)
        for player in players:
            player.close()
        assert here.gateway.counted()["opened"] == 50


async def test_the_socket_may_be_closed_as_soon_as_nobody_is_let_in_there() -> None:
    """Another process has it too."""
    async with door() as here:
        copy = socket.socket(fileno=socket.dup(here.listening.fileno()))
        with copy:
            copy.setblocking(False)
            here.reception.open(copy, PLAIN)
            players = [here.dial() for _ in range(3)]
            await trio.testing.wait_all_tasks_blocked()
            here.reception.close(copy)
        players += [here.dial()]
        await trio.testing.wait_all_tasks_blocked()
        here.open()
        await here.join(*players)
        for player in players:
            player.close()


async def test_when_memory_is_short_nobody_is_let_in_and_who_plays_plays_on() -> None:
    async with door() as here:
        here.open()
        playing = here.dial()
        await here.join(playing)
        here.gateway.worker.short_of_memory = True
        refused = here.dial()
        assert await refused.read_all() == b""
        assert (await here.gateway.lines.next())["reason"] == "memory_limit"
        here.gateway.worker.short_of_memory = False
        late = here.dial()
        await here.join(late)
        assert here.gateway.counted()["active"] == 2
        for player in (playing, refused, late):
            player.close()
