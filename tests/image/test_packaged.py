"""Everything that runs is in the package."""

import re
from pathlib import Path

from tests.image.reading import FOLDER, packaged, project

# What lies among the sources and is not for those who run them: for people, for Kubernetes, made here.
NOT_INSTALLED = {
    "examples/game_echo/README.md",
    "examples/game_echo/k8s/*.yaml",
    "examples/eks/*.yaml",
    "certs/*.pem",
    "certs/*.crt",
    "certs/*.key",
}


def left_out() -> list[Path]:
    """Files among the sources that are not installed; without what was compiled here."""
    tops = [
        one.rstrip("*") for one in project()["tool"]["setuptools"]["packages"]["find"]["include"]
    ]
    installed = set(packaged())
    every = (file.relative_to(FOLDER) for top in tops for file in (FOLDER / top).rglob("*"))
    return [
        file
        for file in every
        if (FOLDER / file).is_file()
        and file not in installed
        and file.suffix not in {".so", ".pyc"}
    ]


def test_no_file_is_left_out_unnoticed() -> None:
    assert [file for file in left_out() if not any(map(file.match, NOT_INSTALLED))] == []


def test_what_is_read_at_run_time_is_installed() -> None:
    """Files beside the code that it names."""
    found = {str(file) for file in packaged()}
    assert {"sniproxy/welcome.txt", "sniproxy/_relay.pyi", "sniproxy/corpus/hellos.jsonl"} <= found


def test_every_folder_with_code_is_a_package() -> None:
    folders = {file.parent for file in packaged() if file.suffix == ".py"}
    assert [folder for folder in folders if not (FOLDER / folder / "__init__.py").is_file()] == []


def test_the_version_is_one() -> None:
    code = (FOLDER / "sniproxy" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', code, re.MULTILINE) == [
        project()["project"]["version"]
    ]
