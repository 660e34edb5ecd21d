"""Crates join the list of parts."""

from typing import Any

import pytest

from image.sbom import join, linked

LOCK = """
[[package]]
name = "slab"
version = "0.4.12"
checksum = "aa"
[[package]]
name = "ours"
version = "0.1.0"
"""
PYTHON: dict[str, Any] = {
    "metadata": {"component": {"bom-ref": "root"}},
    "components": [{"bom-ref": "click", "purl": "pkg:pypi/click@8"}],
    "dependencies": [{"ref": "click"}, {"ref": "root", "dependsOn": ["click"]}],
}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["ours v0.1.0 (/src/relay)", "slab v0.4.12"], [("slab", "0.4.12")]),
        (["slab v0.4.12", "pyo3 v0.30.1", "slab v0.4.12 (*)"], [("pyo3", "0.30.1"), ("slab", "0.4.12")]),
        (["syn v3.0.9", "", "syn v2.0.1"], [("syn", "2.0.1"), ("syn", "3.0.9")]),
        ([], []),
    ],
)  # fmt: skip
def test_lines_of_cargo_tree(lines: list[str], expected: list[tuple[str, str]]) -> None:
    assert linked(lines) == expected


@pytest.mark.parametrize("line", ["error: no such file", "slab", "slab 0.4.12"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no line of cargo tree"):
        linked([line])


def test_crates_are_parts_of_the_root() -> None:
    found = join(PYTHON, [("slab", "0.4.12")], LOCK)
    purl = "pkg:cargo/slab@0.4.12"
    assert [one["bom-ref"] for one in found["components"]] == ["click", purl]
    assert found["components"][1]["hashes"] == [{"alg": "SHA-256", "content": "aa"}]
    assert {"ref": "root", "dependsOn": ["click", purl]} in found["dependencies"]
    assert {"ref": purl} in found["dependencies"]


def test_a_crate_that_is_not_locked() -> None:
    with pytest.raises(KeyError):
        join(PYTHON, [("other", "1")], LOCK)
