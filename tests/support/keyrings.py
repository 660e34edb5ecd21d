"""A stack's keyring: set, changed while it runs, and asked for by the command."""

import json
import os
import signal
import subprocess
import sys

from tests.support.stack import Stack, retry_until

PATIENCE = 60.0  # seconds for a part to have other settings


def set_keyring(stack: Stack, *entries: str) -> None:
    """In the file; none: the one that is kept beside a store in SQLite."""
    settings = json.loads(stack.config.read_text())
    settings["encryption"] = {"keyring": entries}
    stack.config.write_text(json.dumps(settings))


def roll(stack: Stack, *entries: str) -> None:
    """Another keyring everywhere: the data plane reads it again, the admin is started anew."""
    set_keyring(stack, *entries)
    read = len(stack.proxy.lines("settings read again"))
    os.kill(stack.proxy.pid, signal.SIGHUP)
    for _ in retry_until(PATIENCE, "settings read again"):
        if len(stack.proxy.lines("settings read again")) > read:
            break
    assert stack.admin.stop() == 0
    stack.admin.start()
    stack.wait_admin()


def sniproxy(stack: Stack, *command: str) -> str:
    """What a command says that must succeed, with the stack's settings."""
    done = subprocess.run(
        [sys.executable, "-m", "sniproxy.cli", *command, "-c", str(stack.config)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
