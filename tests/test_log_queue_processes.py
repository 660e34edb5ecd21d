"""The log of whole processes: what they have written when they end, on a full disk, and on a pipe that several share."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from select import PIPE_BUF

import pytest

from tests.support.pipes import Pipe

ROOT = Path(__file__).parent.parent
SOON = 30.0  # seconds, for what is done in an instant where the machine has time
# Put before what a process runs whose every line is looked for: its end waits for a reader that has little time.
PATIENT = f"""
import sniproxy.log_queue
sniproxy.log_queue.END_WAIT = {SOON}
"""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for end in (pipe.reader, pipe.writer):
        pipe.close(end)


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


# The end


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
    with run(PATIENT + LOGS_AND_ENDS, pipe.writer, str(count), how) as process:
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
    script = PATIENT + SHARES
    with run(script, pipe.writer, "a") as one, run(script, pipe.writer, "b") as other:
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
    with run(PATIENT + FORKS, pipe.writer) as process:
        lines = [json.loads(line) for line in pipe.read_all().splitlines()]
        assert ended(process) == ""
    for event in ("parent", "child"):
        numbers = [line["number"] for line in lines if line["event"] == event]
        assert numbers == list(range(3000))


# A full disk


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
