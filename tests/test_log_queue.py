"""The queue before the log's descriptor, on pipes and files: nobody waits, nothing is mixed, and what is lost is told."""

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from select import PIPE_BUF

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.log_queue import LineQueue, pieces
from sniproxy.logs import dropped_lines, open_log

ROOT = Path(__file__).parent.parent
SOON = 30.0  # seconds, for what is done in an instant where the machine has time
SMALL = 4 * PIPE_BUF  # bytes: a queue that is soon full


def about(lost: int) -> str:
    """The line that tells of a gap."""
    return f"lost {lost}"


class Pipe:
    """A pipe of one page, and both its ends."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BUF)
        self._ends = {self.reader, self.writer}

    def close(self, end: int) -> None:
        """One end, if it is still open."""
        if end in self._ends:
            self._ends.remove(end)
            os.close(end)

    def read_all(self) -> bytes:
        """Until nobody holds the writing end any more; ours is closed first."""
        self.close(self.writer)
        read = bytearray()
        while more := os.read(self.reader, 65536):
            read += more
        return bytes(read)

    def read_through(self, last: str) -> bytes:
        """Until a line has come that looks so."""
        read = bytearray()
        while not re.search(rb"^%s\n\Z" % last.encode(), read, re.MULTILINE):
            read += os.read(self.reader, 65536)
        return bytes(read)


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


FILLS_UP = """
import resource, sys
from sniproxy.logs import dropped_lines, open_log

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

log = open_log("proxy")
room(1000)
for number in range(100):
    log.info("session", number=number)
    assert log.flush(30)
room(1000_000)
lost = dropped_lines()
for number in range(100, 200):
    log.info("session", number=number)
assert log.flush(30)
print(lost, dropped_lines(), file=sys.stderr)
"""


def run(script: str, out: int, *arguments: str) -> subprocess.Popen[str]:
    """Python of its own, with that as stdout."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it said on stderr, once it has ended as it should."""
    _, said = process.communicate(timeout=SOON)
    assert process.returncode == 0, said
    return said


def test_a_disk_with_room_again_has_the_line_that_tells_of_the_gap(tmp_path: Path) -> None:
    """And the half line that came last does not take the next one with it."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        lost, altogether = ended(run(FILLS_UP, file.fileno())).split()
    assert lost == altogether
    texts = path.read_text().splitlines()
    torn = [text for text in texts if not text.endswith("}")]
    assert len(torn) == 1
    lines = [json.loads(text) for text in texts if text not in torn]
    numbers = [line["number"] for line in lines if line["event"] == "session"]
    assert numbers == [*range(100 - int(lost)), *range(100, 200)]
    told = [line["count"] for line in lines if line["event"] == "log lines dropped"]
    assert told == [int(lost)]


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


def log_threads() -> int:
    """How many queues have one."""
    return sum(thread.name == "log" for thread in threading.enumerate())


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
    assert log_threads() == before
    assert pipe.read_all() == b""


def test_an_end_that_could_not_wait_is_made_up_for(pipe: Pipe) -> None:
    queue = LineQueue(pipe.writer, about)
    queue.put(numbered(0, 1000), 1000)
    assert queue.flush(0.01) is False
    assert queue.close(0.01) is False
    assert account(pipe.read_all()) == (list(range(1000)), [])
    assert queue.flush(SOON)


LOGS_AND_ENDS = """
import sys
from sniproxy.logs import open_log

log = open_log("proxy")
for number in range(int(sys.argv[1])):
    log.info("session", number=number)
sys.exit(0 if sys.argv[2] == "well" else "it failed")
"""


@pytest.mark.parametrize(("how", "code"), [("well", 0), ("badly", 1)])
@pytest.mark.parametrize("count", [1, 20_000])
def test_a_process_that_ends_has_written_its_last_line(
    count: int, how: str, code: int, pipe: Pipe
) -> None:
    with run(LOGS_AND_ENDS, pipe.writer, str(count), how) as process:
        lines = [json.loads(line) for line in pipe.read_all().splitlines()]
        process.communicate(timeout=SOON)
    assert [line["number"] for line in lines] == list(range(count))
    assert process.returncode == code


def test_a_process_ends_though_nobody_reads(pipe: Pipe) -> None:
    with run(LOGS_AND_ENDS, pipe.writer, "5000", "well") as process:
        assert ended(process) == ""


def test_a_process_without_stdout_counts_what_it_logs() -> None:
    script = (
        "import sys; from sniproxy.logs import dropped_lines, open_log\n"
        "open_log('proxy').info('session'); print(dropped_lines(), file=sys.stderr)"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == "1\n"


# Several processes


SHARES = """
import random, sys
from sniproxy.logs import open_log

log = open_log(sys.argv[1])
chance = random.Random(sys.argv[1])
for number in range(3000):
    log.info("session", number=number, fill=sys.argv[1] * chance.randrange(0, 3900))
    if number == 1000:
        print("in the midst of it", file=sys.stderr, flush=True)
"""


def test_lines_of_processes_that_share_a_pipe_are_not_mixed(pipe: Pipe) -> None:
    """Of 100 to 4000 bytes, on a pipe that is full most of the time."""
    with run(SHARES, pipe.writer, "a") as one, run(SHARES, pipe.writer, "b") as other:
        for process in (one, other):
            assert process.stderr is not None
            assert process.stderr.readline() == "in the midst of it\n"
        texts = pipe.read_all().splitlines()
        assert (ended(one), ended(other)) == ("", "")
    assert min(map(len, texts)) < 150
    assert 3900 < max(map(len, texts)) < PIPE_BUF
    lines = [json.loads(text) for text in texts]
    for name in "ab":
        own = [line for line in lines if line["component"] == name]
        assert [line["number"] for line in own] == list(range(3000))
        assert all(set(line["fill"]) <= {name} for line in own)
    assert len(list(groupby(lines, itemgetter("component")))) > 2  # they did take turns


FORKS = """
import os
from io import StringIO
from sniproxy.logs import dropped_lines, open_log

closed = StringIO()
closed.close()
open_log("proxy", closed).info("lost")
assert dropped_lines() == 1
log = open_log("proxy")
for number in range(3000):
    log.info("parent", number=number)
child = os.fork()
if not child:
    for number in range(3000):
        log.info("child", number=number)
    log.flush(30)
    os._exit(dropped_lines())
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_logs_and_does_not_write_what_waited_in_its_parent(pipe: Pipe) -> None:
    with run(FORKS, pipe.writer) as process:
        lines = [json.loads(line) for line in pipe.read_all().splitlines()]
        assert ended(process) == ""
    for event in ("parent", "child"):
        numbers = [line["number"] for line in lines if line["event"] == event]
        assert numbers == list(range(3000))
