"""From one version to the next in one process: what is left arrives, and no signal is lost or ends it on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from sniproxy.errors import UpgradeRefused
from sniproxy.upgrade import (
    CHECK,
    LEFT,
    SIGNALS,
    Estate,
    OldWorker,
    check_new_version,
    command,
    held_addresses,
)

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "support" / "heir.py"
PATIENCE = 60.0


class Heir:
    """A program that becomes itself, and the other end of its channel."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                text=True,
            )
        self.port = self.told()["port"]

    def told(self) -> dict[str, Any]:
        """The next line that it writes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.wait(PATIENCE)
        members: dict[str, Any] = json.loads(line)
        return members

    def do(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> dict[str, Any]:
        """What it tells of that."""
        self.do(word)
        return self.told()

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def heir() -> Iterator[Heir]:
    """Whatever a test does, nothing of it runs on."""
    made = Heir()
    yield made
    made.close()


def test_what_is_left_is_there_in_the_same_process(heir: Heir) -> None:
    for generation in range(3):
        found = heir.ask("leave")
        assert found == {
            "pid": heir.process.pid,
            "version": f"v{generation}",
            "address": "127.0.0.1:0",
            "status": "127.0.0.1:7085",
            "worker": [3, 12345],
            "drained": ["7"],
            "unhealthy": ["10.0.0.5:1/x"],
            "counted": [{"name": "sessions"}],
            "statistics": {"seen": {"7": [1, 2, 3, 4]}},
            "generation": generation + 1,
            "again": True,
            "inheritable": [False] * 3,
            "argv": [found["argv"][0]],
        }
    heir.do("end")
    assert heir.process.wait(PATIENCE) == 0


def test_who_waits_in_the_queue_is_let_in_by_the_next_version(heir: Heir) -> None:
    with socket.create_connection(("127.0.0.1", heir.port)) as player:
        player.sendall(b"hello")
        heir.ask("leave")
        assert heir.ask("accept") == {"said": "hello"}


def test_messages_go_on_where_they_were_cut_off(heir: Heir) -> None:
    heir.channel.sendall(b'{"n": 1}\n{"n": 2}\n{"tex')
    assert heir.ask("read") == {"message": {"n": 1}}
    heir.ask("leave")
    assert heir.ask("read") == {"message": {"n": 2}}
    heir.ask("leave")
    heir.channel.sendall(b't": "\xc3\xa9"}\n')
    assert heir.ask("read") == {"message": {"text": "é"}}


def test_signals_that_come_meanwhile_wait_until_somebody_hears_them(heir: Heir) -> None:
    heir.ask("leave")
    for one in SIGNALS:
        heir.process.send_signal(one)
    assert heir.ask("hear") == {"heard": sorted(SIGNALS)}
    assert heir.ask("hear") == {"heard": sorted(SIGNALS)}  # each once


def test_signals_that_come_before_it_leaves_are_heard_by_the_next_version(heir: Heir) -> None:
    """Nobody listens any more, and another thread may get them."""
    heir.ask("hold")
    for one in SIGNALS:
        heir.process.send_signal(one)
    heir.ask("leave")
    assert heir.ask("hear") == {"heard": sorted(SIGNALS)}


def test_signals_that_come_at_the_last_moment_are_heard_by_the_next_version(heir: Heir) -> None:
    """When nothing of the old program's runs any more, another thread may still get them."""
    heir.ask("hold")
    heir.ask("late")
    assert heir.ask("hear") == {"heard": sorted(SIGNALS)}


def test_signals_that_come_before_anybody_hears_are_heard(heir: Heir) -> None:
    heir.ask("hold")
    for one in SIGNALS:
        heir.process.send_signal(one)
    assert heir.ask("hold") == {"held": True}
    assert heir.ask("hear") == {"heard": sorted(SIGNALS)}


def test_signals_all_the_way_through_many_versions(heir: Heir) -> None:
    """Whenever they come, nothing ends it."""
    for _ in range(10):
        heir.ask("hold")
        heir.do("leave")
        for _ in range(5):
            for one in SIGNALS:
                heir.process.send_signal(one)
        heir.told()
        assert heir.ask("hear")["heard"]
    heir.do("end")
    assert heir.process.wait(PATIENCE) == 0


def left(**members: Any) -> Estate:
    """An estate without sockets, as another version has written it."""
    usual: dict[str, Any] = {
        "version": "1",
        "doors": {},
        "status": ["127.0.0.1:1", 0],
        "workers": [],
    }
    number = os.memfd_create("estate")
    os.write(number, json.dumps({**usual, **members}).encode())
    os.environ[LEFT] = str(number)
    estate = Estate.inherited()
    assert estate is not None
    return estate


def test_what_another_version_leaves_is_understood() -> None:
    """One that knew less, and one that knows more: it may have been put back."""
    with socket.socket() as sock:
        number = sock.fileno()
        worker = {"worker": 1, "pid": 2, "channel": number, "unread": "x"}
        old = left(status=["127.0.0.1:1", number], workers=[worker])
        assert (old.drained, old.generation, old.unhealthy) == ([], 0, [])
        new = left(status=["127.0.0.1:1", number], workers=[{**worker, "new": 1}], more={"a": 1})
        assert new.workers == [OldWorker(**worker)]  # type: ignore[arg-type]
    assert Estate.inherited() is None


# Whether the new version could run


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit(0)", None),
        ("import sys; sys.exit(0 if sys.argv[-1] == '--check' else 7)", None),
        (
            "raise SystemExit('sniproxy: proxy.listners: no such setting')",
            "proxy.listners: no such setting",
        ),
        ("import sys; sys.exit(3)", "it ended with exit code 3"),
        ("import sys; sys.stderr.buffer.write(b'\\xff'); sys.exit(2)", "\ufffd"),
        ("import os; os.kill(os.getpid(), 9)", "it ended with exit code -9"),
        ("import time; time.sleep(1000)", "it did not start within 0.5 s"),
    ],
)
def test_a_version_that_could_not_run_is_refused_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, program: str, why: str | None
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", program])
    if "time.sleep" in program:
        monkeypatch.setattr("sniproxy.upgrade.CHECK_WITHIN", 0.5)
    if why is None:
        trio.run(check_new_version, [])
        return
    with pytest.raises(UpgradeRefused) as caught:
        trio.run(check_new_version, [])
    assert str(caught.value) == why


def test_what_will_be_its_need_not_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    held = ["127.0.0.1:8888", "[::]:9"]
    program = (
        "from sniproxy.upgrade import held_addresses; raise SystemExit(repr(held_addresses()))"
    )
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", program])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(UpgradeRefused) as caught:
        trio.run(check_new_version, held)
    assert str(caught.value) == repr(held)
    assert held_addresses() is None


def test_the_same_interpreter_runs_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "orig_argv", ["python3", "-m", "sniproxy.cli", "proxy", "-c", "x.yaml"]
    )
    same = [sys.executable, "-m", "sniproxy.cli", "proxy", "-c", "x.yaml"]
    assert command() == same
    assert command(CHECK) == [*same, CHECK]
    assert signal.SIGKILL not in SIGNALS
