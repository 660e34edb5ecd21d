"""`make` as a test calls it: targets of image/*.mk, with nothing of the make that has started the tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from tests.image.reading import FOLDER

PATIENCE = 100  # seconds for one run of make


def make(
    *words: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Targets and variables, with `environment` over that of the tests."""
    program = shutil.which("make")
    assert program is not None
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    }
    return subprocess.run(
        [program, *words],
        cwd=FOLDER, env={**kept, **(environment or {})}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip


def pinned(tool: str) -> str:
    """The version of it in image/release.mk."""
    text = (FOLDER / "image" / "release.mk").read_text()
    found = re.search(rf"^{tool.upper().replace('-', '_')}_VERSION := (\S+)$", text, re.MULTILINE)
    assert found is not None, tool
    return found[1]
