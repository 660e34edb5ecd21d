"""The channel between parent and worker over a real socket pair: whole messages in order, or the end."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.channel import MAX_WAITING, MOST_OFFERED, Channel, Message

pytestmark = pytest.mark.anyio

DEADLINE = 60
BIG = "é" * 3_000_000  # 18 MB as JSON has it, of which the kernel takes a hundredth at once


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel, trio.Nursery]]:
    """Two ends that send what is queued, until the block is left."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            ends = Channel(ours), Channel(theirs)
            for end in ends:
                nursery.start_soon(end.run)
            yield *ends, nursery
            nursery.cancel_scope.cancel()
        for end in ends:
            end.close()


@asynccontextmanager
async def raw(unread: bytes | None = None) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """One end of ours, and the other as a plain socket that blocks."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(DEADLINE), theirs:
        async with trio.open_nursery() as nursery:
            channel = Channel(ours, unread)
            nursery.start_soon(channel.run)
            yield channel, theirs
            nursery.cancel_scope.cancel()
        channel.close()


def gone(channel: Channel) -> bool:
    """Asked anew each time."""
    return channel.gone


async def all_of(channel: Channel) -> list[Message]:
    """Until the end."""
    return [message async for message in channel]


async def test_messages_come_as_they_were_sent_and_in_order_both_ways() -> None:
    messages = [{"n": number, "text": '\n"\\é\ud800'} for number in range(500)]
    async with pair() as (one, other, _):
        for message in messages:
            one.send(message)
            other.send({"echo": message})
        assert [await anext(other) for _ in messages] == messages
        assert [await anext(one) for _ in messages] == [{"echo": message} for message in messages]


async def test_a_message_is_one_line() -> None:
    """Of ASCII: it may be cut anywhere and is still text."""
    async with raw() as (channel, theirs):
        channel.send({"text": BIG[:1000] + "\n"})
        channel.send({"b": None})
        await channel.flushed()
        said = theirs.recv(100_000)
    assert said.isascii()
    first, second, rest = said.split(b"\n")
    assert (json.loads(first), second, rest) == ({"text": BIG[:1000] + "\n"}, b'{"b":null}', b"")


async def test_messages_of_many_megabytes_hold_up_nobody_else() -> None:
    """The other side's are read and answered while ours is on its way."""
    async with pair() as (one, other, nursery):
        one.send({"big": BIG})
        one.send({"small": 1})
        turns: list[int] = []

        @nursery.start_soon
        async def play() -> None:
            while True:
                turns.append(1)
                await trio.lowlevel.checkpoint()

        other.send({"asked": True})
        assert await anext(one) == {"asked": True}
        assert await anext(other) == {"big": BIG}
        assert await anext(other) == {"small": 1}
        assert len(turns) > 20


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_a_message_may_come_in_pieces(size: int) -> None:
    said = b'{"a":[1,2]}\n{"b":"' + b"x" * 50 + b'"}\n{}\n'
    async with raw() as (channel, theirs):
        for start in range(0, len(said), size):
            theirs.sendall(said[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        theirs.close()
        assert await all_of(channel) == [{"a": [1, 2]}, {"b": "x" * 50}, {}]


@pytest.mark.parametrize("said", [b'{"n": 1}\n{"n": 2', b'{"n": 1}\n', b'{"n": 2', b""])
async def test_the_other_side_is_gone(said: bytes) -> None:
    """In the middle of a message too, of which nothing comes."""
    async with raw() as (channel, theirs):
        theirs.sendall(said)
        theirs.close()
        assert await all_of(channel) == [{"n": 1}] * said.count(b"\n")
        assert gone(channel)
        channel.send({"lost": 1})
        await channel.flushed()
        assert await all_of(channel) == []


async def test_the_other_side_is_gone_with_something_in_its_queue() -> None:
    """The kernel says reset."""
    async with raw() as (channel, theirs):
        channel.send({"never": "read"})
        await channel.flushed()
        theirs.close()
        assert await all_of(channel) == []
        assert gone(channel)


async def test_the_other_side_goes_while_a_message_is_on_its_way() -> None:
    async with raw() as (channel, theirs):
        channel.send({"big": BIG})
        await trio.testing.wait_all_tasks_blocked()
        assert not gone(channel)
        theirs.close()
        await channel.flushed()
        assert gone(channel)


async def test_a_side_that_takes_nothing_is_gone() -> None:
    """What waits for it is bounded."""
    async with raw() as (channel, theirs):
        channel.send({"big": BIG})
        await trio.testing.wait_all_tasks_blocked()
        for number in range(MAX_WAITING - 1):
            channel.send({"n": number})
        assert not gone(channel)
        channel.send({"one": "too many"})
        assert gone(channel)
        assert await all_of(channel) == []
        await channel.flushed()
        theirs.settimeout(DEADLINE)
        got = 0
        while more := theirs.recv(1 << 20):
            got += len(more)
        assert 0 < got < len(BIG)


async def test_what_is_said_again_and_again_makes_nobody_count_as_gone() -> None:
    """A worker reports each change; its parent may be away for a while, as in an upgrade."""
    async with raw() as (channel, theirs):
        channel.send({"big": BIG})
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2 * MAX_WAITING):
            channel.offer({"n": number})
        assert not gone(channel)
        theirs.setblocking(False)
        other = Channel(theirs)
        assert await anext(other) == {"big": BIG}
        assert [(await anext(other))["n"] for _ in range(MOST_OFFERED - 1)] == list(range(MOST_OFFERED - 1))  # fmt: skip
        await channel.flushed()
        channel.offer({"n": "later"})
        assert await anext(other) == {"n": "later"}


async def test_a_side_that_reads_again_in_time_gets_all() -> None:
    async with raw() as (channel, theirs):
        channel.send({"big": BIG})
        for number in range(MAX_WAITING - 1):
            channel.send({"n": number})
        await trio.testing.wait_all_tasks_blocked()
        theirs.setblocking(False)
        other = Channel(theirs)
        assert await anext(other) == {"big": BIG}
        assert [(await anext(other))["n"] for _ in range(MAX_WAITING - 1)] == list(range(MAX_WAITING - 1))  # fmt: skip
        assert not gone(channel)


async def test_flushed_waits_for_what_is_sent_meanwhile_too() -> None:
    """Also for somebody who has waited since before."""
    async with raw() as (channel, theirs):
        await channel.flushed()  # nothing was sent
        done = []

        async def wait() -> None:
            await channel.flushed()
            done.append(1)

        async with trio.open_nursery() as nursery:
            channel.send({"big": BIG})
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            channel.send({"more": 1})
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            theirs.setblocking(False)
            other = Channel(theirs)
            assert [await anext(other) for _ in range(2)] == [{"big": BIG}, {"more": 1}]
        assert done == [1, 1]


async def test_what_was_read_is_carried_over_to_the_next_process() -> None:
    async with raw() as (channel, theirs):
        theirs.sendall(b'{"n": 1}\n{"n": 2}\n{"n"')
        assert await anext(channel) == {"n": 1}
        left = channel.unread
        assert left == b'{"n": 2}\n{"n"'
        with socket.socket(fileno=socket.dup(channel.fileno())) as same:
            heir = Channel(same, left)
            theirs.sendall(b": 3}\n")
            assert [await anext(heir) for _ in range(2)] == [{"n": 2}, {"n": 3}]
            assert heir.unread == b""
            heir.close()


async def test_half_a_message_of_the_process_before_costs_none_of_its_heirs() -> None:
    """It has gone while the other side took nothing."""
    ours, theirs = socket.socketpair()
    with trio.fail_after(DEADLINE), ours:
        before, other = Channel(ours), Channel(theirs)
        before.send({"big": BIG})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(before.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        heir = Channel(ours, before.unread)
        heir.send({"leave": True})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heir.run)
            assert await anext(other) == {"leave": True}
            nursery.cancel_scope.cancel()
        other.close()


@pytest.mark.parametrize(
    "line", [b"", b'": 3}', b"[1]", b"7", b'{"n": \xff}', b"\0", b'{"n":1}{"n":2}']
)
async def test_a_line_that_is_no_message_is_left_out(line: bytes) -> None:
    """What was cut off when a process took the channel over costs that message, and not the worker."""
    async with raw() as (channel, theirs):
        theirs.sendall(b'{"n": 1}\n' + line + b'\n{"n": 2}\n')
        assert [await anext(channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]


async def test_a_message_without_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sniproxy.channel.MAX_MESSAGE", 1_000_000)
    async with raw() as (channel, theirs):
        theirs.setblocking(False)

        async def babble() -> None:
            while True:
                await trio.lowlevel.wait_writable(theirs)
                try:
                    theirs.send(b"x" * 100_000)
                except BlockingIOError:
                    continue
                except OSError:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(babble)
            assert await all_of(channel) == []
        assert len(channel.unread) < 2_000_000


async def test_who_closes_wakes_whoever_waits() -> None:
    async with pair() as (one, other, nursery):
        ended: list[list[Message]] = []

        @nursery.start_soon
        async def read() -> None:
            ended.append(await all_of(one))

        one.send({"big": BIG})
        await trio.testing.wait_all_tasks_blocked()
        one.close()
        one.close()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [[]]
        assert await all_of(other) == []


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
MESSAGES = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5)


@given(MESSAGES, st.integers(1, 40), st.data())
def test_any_messages_in_any_pieces(
    messages: list[Message], size: int, data: st.DataObject
) -> None:
    """With another process taking over after any of them."""
    at = data.draw(st.integers(0, len(messages)))

    async def run() -> list[Message]:
        async with raw() as (channel, theirs):
            theirs.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            theirs.shutdown(socket.SHUT_WR)
            got = [await anext(channel) for _ in range(at)]
            with socket.socket(fileno=socket.dup(channel.fileno())) as same:
                heir = Channel(same, channel.unread)
                got += await all_of(heir)
            return got

    with mock.patch("sniproxy.channel.CHUNK", size):
        assert trio.run(run) == messages
