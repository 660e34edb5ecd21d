"""Memory that is short: nobody is let in, who holds most goes, and everybody else plays on."""

import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.crowd import Crowd
from tests.support.crowds import NAME, crowd_at, crowded, heard, until
from tests.support.players import client_hello, connect
from tests.support.stack import Stack

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
PLENTY = 64 * 1024 * MIB
FLOOD = 32 * MIB  # more than the kernel keeps on the way


def allow(stack: Stack, memory: int) -> None:
    """Another `overload.max_memory`, in force with the next look."""
    settings: dict[str, Any] = json.loads(stack.config.read_text())
    stack.config.write_text(json.dumps(settings | {"overload": {"max_memory": memory}}))
    os.kill(stack.proxy.pid, signal.SIGHUP)


def slow_reader(port: int) -> socket.socket:
    """A player who says much, whose game server says it all back, and who reads nothing of it."""
    sock = connect(port)
    sock.sendall(client_hello(NAME))
    sock.setblocking(False)
    return sock


async def flood(sock: socket.socket) -> None:
    """Says so much that the relay has to keep some of it."""
    left = FLOOD
    with trio.move_on_after(2):
        while left:
            try:
                left -= sock.send(bytes(min(left, MIB)))
            except BlockingIOError:
                await trio.sleep(0.01)


def reasons(stack: Stack) -> Counter[str]:
    """How sessions have ended so far."""
    return Counter(line["reason"] for line in stack.proxy.lines("session"))


async def refused(crowd: Crowd) -> None:
    """The next one is."""
    with pytest.raises((OSError, EOFError, trio.BrokenResourceError)):
        await crowd.stay_one()


async def test_who_holds_most_goes_and_who_plays_stays(tmp_path: Path) -> None:
    with crowded(tmp_path, workers=2, refused_log_interval=0) as stack:
        async with crowd_at(stack, 20) as crowd:
            greedy = [slow_reader(stack.port) for _ in range(4)]
            try:
                async with trio.open_nursery() as nursery:
                    for sock in greedy:
                        nursery.start_soon(flood, sock)
                allow(stack, 64 * MIB)  # less than Python alone needs
                await until(lambda: stack.proxy.lines("memory short"))
                await until(lambda: reasons(stack)["shed"] == len(greedy))
                heard(stack)
                await refused(crowd)
                await crowd.play()
                assert not crowd.lost
                allow(stack, PLENTY)
                await until(lambda: stack.proxy.lines("memory no longer short"))
                heard(stack)
                await crowd.stay(10)
                await crowd.play()
                assert not crowd.lost
                metrics = stack.metrics()
            finally:
                for sock in greedy:
                    sock.close()
        assert metrics["sniproxy_memory_limit_bytes"] == PLENTY
        assert 64 * MIB < metrics["sniproxy_memory_used_bytes"] < 1024 * MIB
        await until(lambda: reasons(stack)["client_closed"] == 30)
        ended = reasons(stack)
        assert ended["memory_limit"] >= 1
        assert set(ended) == {"client_closed", "memory_limit", "shed"}
