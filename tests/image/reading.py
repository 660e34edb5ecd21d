"""What the files of the image say: its locks, the Dockerfile, and what belongs into the package."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2]

PIN = re.compile(
    r"^([a-z0-9][a-z0-9.-]*)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((FOLDER / "pyproject.toml").read_text())


def lock(name: str) -> str:
    """The text of a lock."""
    return (FOLDER / "image" / f"{name}.lock").read_text()


def pins(name: str) -> dict[str, str]:
    """The version of each package in a lock."""
    return {found[1]: found[2] for found in PIN.finditer(lock(name))}


def asked_for(name: str, source: str) -> set[str]:
    """The packages of a lock that `source` itself wants, as the lock says."""
    found = set()
    for block in re.split(r"\n(?=[a-z0-9])", lock(name)):
        if re.search(rf"^    # +(via )?{re.escape(source)}$", block, re.MULTILINE):
            found.add(block.partition("==")[0])
    return found


def packaged() -> list[Path]:
    """Every file that is installed with the package, as seen from the project's folder."""
    setuptools = project()["tool"]["setuptools"]
    tops = [one.rstrip("*") for one in setuptools["packages"]["find"]["include"]]
    files = [
        file.relative_to(FOLDER)
        for top in tops
        for file in sorted((FOLDER / top).rglob("*"))
        if file.is_file()
    ]
    data = {
        f"{package}/{pattern}"
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
    }
    return [
        file
        for file in files
        if file.suffix == ".py" or any(fnmatch(str(file), pattern) for pattern in data)
    ]


def stages() -> list[str]:
    """The stages of the Dockerfile, each with its lines joined and without comments."""
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    return [
        re.sub(" +", " ", one).strip() for one in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)
    ][1:]


def instructions(stage: str) -> list[tuple[str, str]]:
    """Name and argument of each: ("USER", "10001:10001")."""
    found = [line.split(" ", 1) for line in stage.splitlines() if line]
    return [(name, argument) for name, argument in found]
