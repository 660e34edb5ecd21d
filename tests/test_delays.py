"""The delays under which `make shake` runs the tests: in a process that is told of them, and in no other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKED = """
import anyio.to_thread, trio

async def main():
    print(await anyio.to_thread.run_sync(lambda: 7), await trio.to_thread.run_sync(pow, 2, 5))
    left, right = trio.socket.socketpair()
    with left, right:
        await left.send(b"x")
        print((await right.recv(1)).decode())

print(trio.to_thread.run_sync.__module__, trio._core.wait_readable.__module__)
trio.run(main)
"""


@pytest.mark.parametrize(("delay", "where"), [("0.001", "sitecustomize"), (None, "trio")])
def test_a_process_that_is_told_of_them_has_them(delay: str | None, where: str) -> None:
    folder = str(Path(__file__).with_name("delays"))
    env = {name: value for name, value in os.environ.items() if name != "DELAY"}
    env |= {"PYTHONPATH": folder} | ({"DELAY": delay} if delay else {})
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env=env, capture_output=True, text=True, check=True
    )
    modules, *answers = done.stdout.splitlines()
    assert {module.partition(".")[0] for module in modules.split()} == {where}
    assert answers == ["7 32", "x"]
