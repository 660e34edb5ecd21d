"""The load generator of relay/src/bin/load: how it is built and spoken to."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

from bench.processes import cpu_seconds, end, spawn

CRATE = Path(__file__).parents[1] / "relay"
BUILD = ("cargo", "build", "--release", "--locked", "--no-default-features", "--features", "load")
BINARY = CRATE / "target" / "release" / "load"
PATIENCE = 180  # seconds for one piece of work


class Missing(Exception):
    """What is not there, in words for whoever runs the benchmark."""


def build() -> Path:
    """The binary, made anew where its sources have changed; Missing where it cannot be."""
    if shutil.which("cargo") is None:
        raise Missing("cargo is not installed: the load generator is written in Rust")
    done = subprocess.run(BUILD, cwd=CRATE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Missing(f"the load generator cannot be built:\n{done.stderr[-2000:]}")
    return BINARY


@dataclass(frozen=True)
class Target:
    """Where players go and how their sessions begin."""

    port: int
    way: tuple[str, ...]  # --hello FILE or --tls NAME

    @property
    def options(self) -> tuple[str, ...]:
        return ("--to", f"127.0.0.1:{self.port}", *self.way)


class Failed(Exception):
    """Sessions that broke: no figure may come of them."""


class Generator:
    """Players on one core, or on any."""

    def __init__(self, binary: Path, core: int | None) -> None:
        self._binary = binary
        self._core = core
        self.cpu = 0.0  # seconds that players have used so far

    @contextmanager
    def echo(self, ports: list[int], kind: str = "echo") -> Iterator[int]:
        """The game server; its process id. kind: `source` is one that sends as fast as it can."""
        process = self._start(kind, *map(str, ports))
        try:
            self._read(process)
            yield process.pid
        finally:
            end(process)

    def run(self, work: str, target: Target, **options: float) -> dict[str, Any]:
        """Work that begins at once, to its end."""
        process = self._start(work, *target.options, *_flags(options))
        try:
            result = self._read(process)
        finally:
            end(process)
        return _sound(work, result)

    @contextmanager
    def standing(self, work: str, target: Target, **options: float) -> Iterator["Standing"]:
        """Sessions that stand; they are closed when the block ends."""
        process = self._start(work, *target.options, *_flags(options))
        try:
            _sound(work, self._read(process))
            yield Standing(self, process, work)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)
        finally:
            end(process)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command: list[str | Path] = [self._binary, *arguments]
        return spawn(command, self._core, commands=pipe, output=pipe, errors=pipe)

    def _read(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(process.stderr.read().decode().strip() or "the load generator died")
        result: dict[str, Any] = json.loads(line)
        return result


class Standing:
    """Sessions in the generator's hands."""

    def __init__(self, generator: Generator, process: subprocess.Popen[bytes], work: str) -> None:
        self._generator = generator
        self._process = process
        self._work = work

    def go(self, meanwhile: Callable[[], None] | None = None, every: float = 5.0) -> dict[str, Any]:
        """Does the work once on the sessions that stand; `meanwhile` is called every so many seconds until it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = cpu_seconds(self._process.pid)
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        while meanwhile and not select([self._process.stdout], [], [], every)[0]:
            meanwhile()
        result = _sound(self._work, self._generator._read(self._process))
        self._generator.cpu += cpu_seconds(self._process.pid) - before
        return result


def wait_for(generator: Generator, target: Target, patience: float) -> None:
    """Until a session through the proxy works; Failed with the last reason why it does not."""
    deadline = time.monotonic() + patience
    while True:
        try:
            generator.run("connections", target, count=1, deadline=2)
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _flags(options: dict[str, float]) -> list[str]:
    return [
        text
        for name, value in options.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]


def _sound(work: str, result: dict[str, Any]) -> dict[str, Any]:
    if result["failed"]:
        raise Failed(f"{work}: {result['failed']} failed: {result['failures']}")
    return result
