"""What can be said of the Dockerfile where there is no Docker."""

import re
from pathlib import Path

import pytest

from sniproxy.settings import Settings
from tests.image.making import make
from tests.image.reading import FOLDER, instructions, project, stages

RUST, BUILD, SBOM, LAST = stages()
MAKE = (FOLDER / "image" / "image.mk").read_text()


def values(stage: str, name: str) -> list[str]:
    return [argument for one, argument in instructions(stage) if one == name]


def test_stages() -> None:
    heads = [stage.partition("\n")[0] for stage in (RUST, BUILD, SBOM, LAST)]
    # never --platform: each is built on the platform that it is for
    assert heads == [
        "FROM ${RUST_IMAGE} AS rust",
        "FROM ${PYTHON_IMAGE} AS build",
        "FROM scratch AS sbom",
        "FROM ${PYTHON_IMAGE}",
    ]


def test_bases_are_of_one_system_and_pinned_by_version() -> None:
    """The relay is linked in one stage and loaded in another; and the lock is for one Python."""
    text = (FOLDER / "Dockerfile").read_text()
    bases = dict(re.findall(r"^ARG (\w+)_IMAGE=(\S+)$", text, re.MULTILINE))
    python, rust = (
        re.fullmatch(rf"{name.lower()}:(\d+\.\d+)-slim-([a-z]+)", bases[name])
        for name in ("PYTHON", "RUST")
    )
    assert python is not None
    assert rust is not None
    assert python[2] == rust[2]
    assert f"IMAGE_PYTHON ?= python{python[1]}\n" in MAKE
    assert f"/usr/local/lib/python{python[1]} " in LAST
    crate = (FOLDER / "relay" / "Cargo.toml").read_text()
    least = re.search(r'rust-version = "1\.(\d+)"', crate)
    assert least is not None
    assert int(rust[1].partition(".")[2]) >= int(least[1])


def test_what_is_made_is_made_by_make() -> None:
    ours = [one for one in values(BUILD, "RUN") if "apt-get" not in one]
    called = [re.sub(r"--mount=\S+ ", "", one).split() for one in ours]
    assert called == [
        ["make", "image-tools"],
        ["make", "image-root", "sbom", "ROOT=/opt/sniproxy"],
    ]
    for words in called:
        for target in words[1:]:
            assert "=" in target or re.search(rf"^{target}: ", MAKE, re.MULTILINE), target
    assert "--require-hashes --no-deps" in MAKE


def test_make_does_with_what_is_copied_by_then(tmp_path: Path) -> None:
    """The makefile includes others, and not all of them are sent to the builder."""
    called = 0
    for name, argument in instructions(BUILD):
        if name == "COPY" and not argument.startswith("--from"):
            for source in argument.split()[:-1]:
                (tmp_path / source).symlink_to(FOLDER / source)
        elif name == "RUN" and "apt-get" not in argument:
            words = re.sub(r"--mount=\S+ ", "", argument).split()[1:]
            done = make("-C", str(tmp_path), "--dry-run", *words)
            assert done.returncode == 0, done.stderr
            called += 1
    assert called == 2


def test_what_runs() -> None:
    assert values(LAST, "USER") == ["10001:10001"]
    assert values(LAST, "ENTRYPOINT") == ['["sniproxy"]']
    assert values(LAST, "CMD") == ['["--help"]']
    assert values(LAST, "COPY") == ["--from=build /opt/sniproxy /opt/sniproxy"]
    assert "PATH=/opt/sniproxy/bin:$PATH" in values(LAST, "ENV")[0]
    # the only place that is made for it is where its settings put everything
    (made,) = re.findall(r"install --directory --owner 10001 --group 10001 --mode 0700 (\S+)", LAST)
    assert made == str(Settings().state_dir)
    # nothing that needs root, and no root, after the user is set
    after = instructions(LAST[LAST.index("USER ") :])
    assert {name for name, _ in after} == {"USER", "WORKDIR", "EXPOSE", "ENTRYPOINT", "CMD"}


def test_labels() -> None:
    (labels,) = values(LAST, "LABEL")
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert found == {
        "title": "sniproxy",
        "description": project()["project"]["description"],
        "licenses": project()["project"]["license"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
    }
    for name in ("VERSION", "REVISION"):
        assert name in values(LAST, "ARG")
        assert f"--build-arg {name}=" in MAKE


def test_what_is_sent_to_the_builder() -> None:
    """Everything is left out but what is copied, so a new folder, or a key that lies about, is never sent."""
    lines = (FOLDER / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = {
        source
        for argument in values(BUILD, "COPY")
        if not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert {"**/*.key", "**/*.pem", "**/*.so", "relay/target"} <= set(rules)
    for source in copied:
        assert (FOLDER / source).exists(), source


@pytest.mark.parametrize("needed", ["README.md", "LICENSE", "relay", "image", "Makefile"])
def test_what_the_build_reads_is_copied(needed: str) -> None:
    assert any(needed in argument.split() for argument in values(BUILD, "COPY"))


def test_every_package_is_copied() -> None:
    tops = project()["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = {argument.split()[0] for argument in values(BUILD, "COPY")}
    assert {top.rstrip("*") for top in tops} <= copied
