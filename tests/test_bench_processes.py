"""What the kernel says of a process and its descendants."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import (
    busy_seconds,
    cores,
    cpu_seconds,
    end,
    memory,
    own_seconds,
    spawn,
    tree,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=sys.stdout)
child.wait()
"""
BUSY = (
    "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(60)"
)
HOLDING = (
    "held = bytearray(b'x') * 20_000_000\nprint('done', flush=True)\nimport time; time.sleep(60)"
)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose child has done what the parameter says."""
    command = [sys.executable, "-c", PARENT, request.param]
    process = spawn(command, cores()[1], output=subprocess.PIPE, errors=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    children = tree(process.pid)[1:]
    yield process
    for child in children:
        os.kill(child, 9)
    end(process)


@pytest.mark.parametrize("running", [BUSY], indirect=True)
def test_time_of_descendants_counts(running: subprocess.Popen[bytes]) -> None:
    assert len(tree(running.pid)) == 2
    assert cpu_seconds(running.pid) >= 0.3


@pytest.mark.parametrize("running", [HOLDING], indirect=True)
def test_memory_of_descendants_counts(running: subprocess.Popen[bytes]) -> None:
    assert memory(running.pid) > 20_000


@pytest.mark.parametrize("running", [HOLDING], indirect=True)
def test_descendants_run_on_the_core_too(running: subprocess.Popen[bytes]) -> None:
    assert [os.sched_getaffinity(one) for one in tree(running.pid)] == [{cores()[1]}] * 2


def test_one_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", deaf]
    process = spawn(command, cores()[0], output=subprocess.PIPE, errors=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    begun = time.monotonic()
    end(process, patience=0.1)
    assert process.returncode == -9
    assert time.monotonic() - begun < 5


def test_what_we_and_ours_work_is_part_of_what_the_machine_works() -> None:
    machine, own = busy_seconds(), own_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"])
    assert own_seconds() - own >= 0.3
    assert busy_seconds() - machine >= 0.25  # in ticks of 10 ms
