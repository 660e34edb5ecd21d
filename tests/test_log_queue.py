"""The queue before the log's descriptor, on pipes and files: nobody waits, nothing is mixed, and what is lost is told."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from select import PIPE_BUF

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.log_queue import LineQueue, pieces
from sniproxy.logs import dropped_lines, open_log
from tests.support.pipes import Pipe

SOON = 30.0  # seconds, for what is done in an instant where the machine has time
SMALL = 4 * PIPE_BUF  # bytes: a queue that is soon full


def about(lost: int) -> str:
    """The line that tells of a gap."""
    return f"lost {lost}"


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for end in (pipe.reader, pipe.writer):
        pipe.close(end)


def numbered(first: int, count: int, width: int = 100) -> bytes:
    """Lines of `width` bytes, each with its number."""
    return b"".join(b"%*d\n" % (width - 1, number) for number in range(first, first + count))


def account(text: bytes) -> tuple[list[int], list[int]]:
    """The numbers of the lines that came, and what the lines about gaps tell."""
    lines = text.decode().splitlines()
    gaps = [int(line.removeprefix("lost ")) for line in lines if line.startswith("lost ")]
    return [int(line) for line in lines if not line.startswith("lost ")], gaps


# How lines are joined


@given(st.lists(st.one_of(st.integers(0, 300), st.integers(0, 3 * PIPE_BUF)), max_size=60))
def test_what_is_written_at_once_is_whole_lines_that_a_pipe_does_not_mix(
    lengths: list[int],
) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    cut = list(pieces(data))
    assert b"".join(cut) == data
    for piece in cut:
        assert piece.endswith(b"\n")
        assert len(piece) <= PIPE_BUF or piece.count(b"\n") == 1
    for piece, following in pairwise(cut):  # no more of them than it takes
        assert len(piece) + following.index(b"\n") + 1 > PIPE_BUF


# A reader that stops


def test_a_reader_that_stops_costs_lines_and_nobody_waits(pipe: Pipe) -> None:
    count = 100_000
    before = dropped_lines()
    with open(pipe.writer, "w", closefd=False) as stream:
        log = open_log("proxy", stream)
    for number in range(count):
        log.info("session", number=number, sni="a" * 200)
    dropped = dropped_lines() - before
    assert 0 < dropped < count
    assert log.close(0) is False
    lines = [json.loads(line) for line in pipe.read_all().splitlines()]
    told = [line for line in lines if line["event"] == "log lines dropped"]
    assert [(line["level"], line["component"], line["count"]) for line in told] == [
        ("warning", "proxy", dropped)
    ]
    numbers = [line["number"] for line in lines if line["event"] == "session"]
    assert numbers == list(range(count - dropped))
    assert dropped_lines() == before + dropped


def test_after_a_gap_all_goes_on_behind_the_line_that_tells_of_it(pipe: Pipe) -> None:
    queue = LineQueue(pipe.writer, about, limit=SMALL)
    for number in range(1000):
        queue.put(numbered(number, 1), 1)
    read = pipe.read_through("lost [0-9]+")
    kept, gaps = account(read)
    assert kept == list(range(len(kept)))
    assert gaps == [1000 - len(kept)]
    assert SMALL - 100 < 100 * len(kept) <= SMALL + 3 * PIPE_BUF  # with what went into the pipe
    queue.put(numbered(1000, 5), 5)
    assert queue.close(SOON)
    assert account(pipe.read_all()) == (list(range(1000, 1005)), [])


def test_a_reader_that_is_slow_does_not_have_a_gap_for_each_line(pipe: Pipe) -> None:
    limit = 8 * PIPE_BUF
    queue = LineQueue(pipe.writer, about, limit=limit)
    queue.put(numbered(0, 1000), 1000)
    read = b"".join(os.read(pipe.reader, PIPE_BUF) for _ in range(2))
    queue.put(numbered(1000, 1), 1)  # there is room for it, but more than half has to be written
    queue.close(0)
    kept, gaps = account(read + pipe.read_all())
    assert (kept, gaps) == (list(range(limit // 100)), [1001 - limit // 100])


def test_of_many_lines_those_are_kept_that_there_is_room_for(pipe: Pipe) -> None:
    before = dropped_lines()
    queue = LineQueue(pipe.writer, about, limit=SMALL)
    queue.put(numbered(0, 1000), 1000)
    assert dropped_lines() == before + 1000 - SMALL // 100
    queue.close(0)
    numbers, gaps = account(pipe.read_all())
    assert (numbers, gaps) == (list(range(SMALL // 100)), [1000 - SMALL // 100])


def test_a_line_longer_than_the_queue_is_lost_and_told_with_the_next(pipe: Pipe) -> None:
    queue = LineQueue(pipe.writer, about, limit=SMALL)
    queue.put(b"x" * SMALL + b"\n", 1)
    queue.put(b"7\n", 1)
    assert queue.close(SOON)
    assert pipe.read_all() == b"lost 1\n7\n"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 300), st.integers(10, 2 * PIPE_BUF)),
            st.tuples(st.just("read"), st.integers(1, 4 * PIPE_BUF), st.just(0)),
        ),
        max_size=30,
    )
)
def test_every_line_comes_in_its_order_or_is_told_of(steps: list[tuple[str, int, int]]) -> None:
    """However the writer's and the reader's turns fall."""
    pipe = Pipe()
    os.set_blocking(pipe.reader, False)
    queue = LineQueue(pipe.writer, about, limit=SMALL)
    put, read, before = 0, b"", dropped_lines()
    for what, count, width in steps:
        if what == "put":
            queue.put(numbered(put, count, width), count)
            put += count
        else:
            with suppress(BlockingIOError):  # it is empty at the moment
                read += os.read(pipe.reader, count)
    queue.close(0)
    os.set_blocking(pipe.reader, True)
    numbers, gaps = account(read + pipe.read_all())
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(gaps) == put
    assert sum(gaps) == dropped_lines() - before
    pipe.close(pipe.reader)


def test_a_pipe_that_somebody_has_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    queue = LineQueue(pipe.writer, about)
    queue.put(numbered(0, 5000), 5000)
    queue.close(0)
    assert account(pipe.read_all()) == (list(range(5000)), [])


def test_it_does_not_make_the_pipe_non_blocking(pipe: Pipe) -> None:
    queue = LineQueue(pipe.writer, about)
    queue.put(b"1\n", 1)
    assert queue.flush(SOON)
    assert os.get_blocking(pipe.writer)
    assert queue.close(SOON)


# What takes nothing


def test_a_reader_that_is_gone_costs_lines(pipe: Pipe) -> None:
    before = dropped_lines()
    queue = LineQueue(pipe.writer, about)
    pipe.close(pipe.reader)
    for _ in range(3):
        queue.put(b"1\n2\n", 2)
        assert queue.flush(SOON)
    assert dropped_lines() == before + 6
    assert queue.close(SOON)


def test_a_full_disk_costs_lines() -> None:
    before = dropped_lines()
    with open("/dev/full", "w") as full:
        log = open_log("proxy", full)
        for _ in range(100):
            log.info("session")
        log.info_many("session", ['"number": 1}'] * 100)
        assert log.flush(SOON)
        assert dropped_lines() == before + 200
        assert log.close(SOON)


def test_a_descriptor_that_is_not_open_is_refused(pipe: Pipe) -> None:
    pipe.close(pipe.writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        LineQueue(pipe.writer, about)


def test_a_stream_that_is_closed_later_is_written_all_the_same(pipe: Pipe) -> None:
    """The number of its descriptor may be a socket's by then."""
    queue = LineQueue(pipe.writer, about)
    with open(os.devnull, "wb") as other:
        os.dup2(other.fileno(), pipe.writer)
    queue.put(b"1\n", 1)
    assert queue.close(SOON)
    assert pipe.read_all() == b"1\n"


def test_where_no_thread_is_to_be_had_lines_wait_for_the_next(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue = LineQueue(pipe.writer, about)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        queue.put(b"1\n", 1)
        assert queue.flush(0) is False
    queue.put(b"2\n", 1)
    assert queue.close(SOON)
    assert pipe.read_all() == b"1\n2\n"


# The end


def log_threads() -> set[threading.Thread]:
    """Those of queues; one of another test may still be ending."""
    return {thread for thread in threading.enumerate() if thread.name == "log"}


def test_what_comes_after_the_end_is_lost(pipe: Pipe) -> None:
    before = dropped_lines()
    queue = LineQueue(pipe.writer, about)
    queue.put(b"1\n", 1)
    assert queue.close(SOON)
    assert queue.close(SOON)
    queue.put(b"2\n3\n", 2)
    assert queue.flush(0)
    assert dropped_lines() == before + 2
    assert pipe.read_all() == b"1\n"


def test_a_queue_that_nobody_used_ends_without_a_thread(pipe: Pipe) -> None:
    before = log_threads()
    queue = LineQueue(pipe.writer, about)
    assert queue.flush(0)
    assert queue.close(0)
    for _ in range(2):
        queue.put(b"1\n", 1)
    assert log_threads() <= before
    assert pipe.read_all() == b""


def test_an_end_that_could_not_wait_is_made_up_for(pipe: Pipe) -> None:
    queue = LineQueue(pipe.writer, about)
    queue.put(numbered(0, 1000), 1000)
    assert queue.flush(0.01) is False
    assert queue.close(0.01) is False
    assert account(pipe.read_all()) == (list(range(1000)), [])
    assert queue.flush(SOON)
