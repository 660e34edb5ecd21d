"""What a worker asks of the system before it serves."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from sniproxy.descriptors import raise_descriptor_limit
from sniproxy.orders import Begin
from sniproxy.settings import Settings
from tests.support.gateway import open_lines


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_descriptors_that_may_be_had_are_taken(limits: tuple[int, int]) -> None:
    _, most = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))

    async def run() -> list[dict[str, object]]:
        log, lines = open_lines()
        raise_descriptor_limit((most - 200) // 2, log)
        return lines.all

    assert trio.run(run) == []
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)


def test_too_few_of_them_are_named(limits: tuple[int, int]) -> None:
    _, most = limits

    async def run() -> list[dict[str, object]]:
        log, lines = open_lines()
        raise_descriptor_limit(most, log)
        return lines.all

    (line,) = trio.run(run)
    assert line["event"] == "few descriptors"
    assert (line["limit"], line["needed"]) == (most, 2 * most + 200)
    assert "proxy.max_sessions" in str(line["advice"])


def test_a_worker_that_fails_says_why_in_its_log(tmp_path: Path) -> None:
    """One line with the traceback, for whoever reads the log and not the terminal; then exit code 1."""
    ours, theirs = socket.socketpair()
    table = os.memfd_create("too small for what is to be counted")
    begin = Begin(
        worker=3,
        workers=4,
        settings=Settings(store=f"sqlite://{tmp_path / 'config.db'}", state_dir=tmp_path),
        copy=None,
        listening=[],
        table=table,
        drained=[],
        short=False,
    )
    ours.sendall(json.dumps({"begin": begin.encode()}).encode() + b"\n")
    done = subprocess.run(
        [sys.executable, "-m", "sniproxy.worker", str(theirs.fileno())],
        pass_fds=(theirs.fileno(), table),
        capture_output=True,
        text=True,
        timeout=30,
    )
    for one in (ours, theirs):
        one.close()
    os.close(table)
    (line,) = [json.loads(text) for text in done.stdout.splitlines()]
    assert (done.returncode, line["event"], line["level"]) == (1, "worker failed", "error")
    assert line["worker"] == 3
    assert "Traceback" in line["exception"]
    assert "mmap" in line["exception"]
