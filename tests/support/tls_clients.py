"""Players who are programs of others: found here, run here, one line echoed to each."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import trio

from tests.support.certificates import NAME

ROOT = Path(__file__).parents[2]
SAID = "over TLS"
GNUTLS = ROOT / ".cache" / "gnutls" / "usr"


def find(name: str, *built: Path) -> str:
    """A program that `make tls-clients` has brought, else the one on PATH.

    Without it CI fails, and anybody else goes on without.
    """
    for path in built:
        if path.exists():
            return str(path)
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") and sys.platform == "linux":
            pytest.fail(
                f"there is no {name}, and CI must not leave out its tests: make tls-clients"
            )
        pytest.skip(f"there is no {name}: make tls-clients")
    return found


async def by_openssl(port: int, authority: Path, *options: str) -> str:
    """What `openssl s_client` prints of a session in which a line comes back."""
    command = [find("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME]
    command += ["-CAfile", str(authority), "-verify_return_error", "-verify_hostname", NAME]
    return await _talk([*command, *options])


async def by_gnutls(port: int, authority: Path, priority: str) -> str:
    """The same of `gnutls-cli`."""
    program = find("gnutls-cli", GNUTLS / "bin" / "gnutls-cli")
    command = [program, "--x509cafile", str(authority), "--sni-hostname", NAME]
    command += ["--verify-hostname", NAME, "--priority", priority, "-p", str(port), "127.0.0.1"]
    libraries = os.pathsep.join(map(str, GNUTLS.glob("lib/*")))
    return await _talk(command, {"LD_LIBRARY_PATH": libraries})


async def by_go(port: int, authority: Path, **options: object) -> dict[str, Any]:
    """What tests/support/tls_client tells of a session in which a line comes back."""
    command = [find("tls_client", ROOT / ".cache" / "tls_client"), "-name", NAME]
    command += [f"-{name}={value}" for name, value in options.items()]
    command += ["-ca", str(authority), f"127.0.0.1:{port}"]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.pop("echoed") == f"{SAID}\n"
    return told


async def _talk(command: Sequence[str], env: dict[str, str] | None = None) -> str:
    """It says a line once it prints that it may, and its standard input ends once the line has come back."""
    run = partial(
        trio.run_process, stdin=PIPE, stdout=PIPE, check=False, env={**os.environ, **(env or {})}
    )
    printed = b""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(run, command, stderr=-2))
        await process.stdin.send_all(f"{SAID}\n".encode())
        async for more in process.stdout:
            printed += more
            if f"\n{SAID}\n".encode() in printed:
                await process.stdin.aclose()
    text = printed.decode(errors="replace")
    assert process.returncode == 0, text
    return text
