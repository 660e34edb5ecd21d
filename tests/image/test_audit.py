"""`make audit` is red for what is known, and for whatever could not be asked about."""

import datetime
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.image.making import make, pinned
from tests.image.pypi import PyPI, serving
from tests.image.reading import FOLDER, pins

PACKAGE = "click"  # one that is in the lock, and a crate that is in the other
CRATE = "slab"
VULNERABILITY: dict[str, Any] = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1234", "GHSA-aaaa-bbbb-cccc"],
    "fixed_in": ["99.0"],
    "summary": "A hole.",
}


def day(number: int) -> datetime.date:
    """Today is 0. Asked in the test: midnight may lie between that and when the tests were read."""
    return datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=number)


def tool(name: str) -> Path:
    """As the makefile has built it. pip-audit takes seconds and CI has it; cargo-audit takes minutes."""
    found = FOLDER / ".cache" / f"{name}-{pinned(name)}" / "bin" / name
    if not found.exists():
        if name == "pip-audit" and os.environ.get("CI"):
            pytest.fail(
                "there is no pip-audit, and CI must not leave out its tests: make pip-audit"
            )
        pytest.skip(f"there is no {name}: `make audit` installs it")
    return found


def audit_python(
    pypi: PyPI, authority: trustme.CA, folder: Path, accepted: str = ""
) -> subprocess.CompletedProcess[str]:
    tool("pip-audit")
    (folder / "accepted").write_text(accepted)
    with serving(pypi, authority, folder) as environment:
        return make("audit-python", f"ACCEPTED={folder / 'accepted'}", environment=environment)


def test_nothing_is_known(authority: trustme.CA, tmp_path: Path) -> None:
    """Green, and each pin of both locks was asked about."""
    pypi = PyPI()
    done = audit_python(pypi, authority, tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = [*pins("requirements").items(), *pins("build").items()]
    assert sorted(pypi.asked) == sorted(wanted)


def test_vulnerabilities(authority: trustme.CA, tmp_path: Path) -> None:
    """One in each lock, and the second is told, too."""
    found = {PACKAGE: [VULNERABILITY], "setuptools-rust": [VULNERABILITY]}
    done = audit_python(PyPI(found), authority, tmp_path)
    assert done.returncode != 0
    for package in found:
        assert re.search(rf"^{package} .* PYSEC-2026-1 ", done.stdout, re.MULTILINE), done.stdout


def test_a_package_that_is_not_known(authority: trustme.CA, tmp_path: Path) -> None:
    """A mirror that has no advisories says so of each."""
    done = audit_python(PyPI(unknown=frozenset({PACKAGE})), authority, tmp_path)
    assert done.returncode != 0
    assert f"{PACKAGE}: Dependency not found on PyPI and could not be audited" in done.stderr


def test_a_service_that_is_broken(authority: trustme.CA, tmp_path: Path) -> None:
    done = audit_python(PyPI(broken=True), authority, tmp_path)
    assert done.returncode != 0
    assert "image/build.lock: has vulnerabilities, or could not be audited" in done.stderr


def test_a_service_that_is_away(authority: trustme.CA, tmp_path: Path) -> None:
    tool("pip-audit")
    with serving(PyPI(), authority, tmp_path) as environment:
        pass  # from here on nobody listens there
    done = make("audit-python", environment=environment)
    assert done.returncode != 0
    assert "image/build.lock: has vulnerabilities, or could not be audited" in done.stderr


# Package -> a line for its vulnerability, and whether it accepts it.
LINES = {
    "click": ("{alias} until:{tomorrow}", True),
    "h11": ("{id} until:{today}", True),
    "trio": ("{id} until:{yesterday}", False),
    "httpx": ("# {id} until:{tomorrow}", False),
    "anyio": ("{id}", False),
    "rich": ("{id} until:ever", False),
    "idna": ("{id} {tomorrow}", False),
    "attrs": ("{id}0 until:{tomorrow}", False),  # another one
}


def test_what_is_accepted(authority: trustme.CA, tmp_path: Path) -> None:
    """By any of its names, and up to its day."""
    days = {"today": day(0), "tomorrow": day(1), "yesterday": day(-1)}
    known, accepted = {}, ["# why"]
    for number, (package, (line, _)) in enumerate(LINES.items()):
        names = {"id": f"PYSEC-2026-{number}", "alias": f"CVE-2026-{number}"}
        known[package] = [VULNERABILITY | {"id": names["id"], "aliases": [names["alias"]]}]
        accepted.append(line.format(**names, **days))
    done = audit_python(PyPI(known), authority, tmp_path, "\n".join([*accepted, ""]))
    assert done.returncode != 0
    for package, (line, green) in LINES.items():
        assert bool(re.search(rf"^{package} ", done.stdout, re.MULTILINE)) is not green, line


def test_nothing_else_is_known(authority: trustme.CA, tmp_path: Path) -> None:
    """Green, if all that is known is accepted."""
    accepted = f"CVE-2026-1234 until:{day(0)}\n"
    done = audit_python(PyPI({PACKAGE: [VULNERABILITY]}), authority, tmp_path, accepted)
    assert done.returncode == 0, done.stderr


def test_each_accepted_finding_has_a_reason_and_a_day() -> None:
    before = ""
    for line in (FOLDER / "image" / "accepted-findings").read_text().splitlines():
        if not line.startswith("#"):
            name, until = line.split()
            datetime.date.fromisoformat(until.removeprefix("until:"))
            assert before.startswith("# "), f"{name}: no reason stands above it"
        before = line


def advisories(folder: Path, informational: str = "") -> Path:
    """A database of one advisory, as RustSec's repository is laid out."""
    file = folder / "db" / "crates" / CRATE / "RUSTSEC-2026-0001.md"
    file.parent.mkdir(parents=True)
    file.write_text(
        "```toml\n[advisory]\n"
        f'id = "RUSTSEC-2026-0001"\npackage = "{CRATE}"\ndate = "2026-01-01"\n'
        f"{informational}\n"
        '[versions]\npatched = [">= 99.0.0"]\n```\n\n# A hole\n\nIt is there.\n'
    )
    return folder / "db"


def audit_crates(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    tool("cargo-audit")
    return make("audit-crates", f"AUDIT_CRATES_FLAGS=--db {folder} --no-fetch", *words)


@pytest.mark.parametrize("informational", ["", 'informational = "unsound"'])
def test_a_crate_with_an_advisory(tmp_path: Path, informational: str) -> None:
    done = audit_crates(advisories(tmp_path, informational))
    assert done.returncode != 0
    assert "RUSTSEC-2026-0001" in done.stdout + done.stderr
    assert CRATE in done.stdout + done.stderr


def test_a_crate_with_an_advisory_that_is_accepted(tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    accepted.write_text(f"CVE-2026-1234 until:{day(1)}\nRUSTSEC-2026-0001 until:{day(1)}\n")
    done = audit_crates(advisories(tmp_path), f"ACCEPTED={accepted}")
    assert done.returncode == 0, done.stderr


def test_no_crate_with_an_advisory(tmp_path: Path) -> None:
    done = audit_crates(advisories(tmp_path, 'informational = "unmaintained"'))
    assert done.returncode == 0, done.stderr


def test_no_database_of_advisories(tmp_path: Path) -> None:
    done = audit_crates(tmp_path / "none")
    assert done.returncode != 0
    assert "advisory database" in done.stderr
