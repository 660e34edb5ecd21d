"""What the image is made of is pinned, and is what pyproject.toml asks for."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image.reading import FOLDER, PIN, asked_for, lock, pins, project

EXTRAS = re.findall(
    r"^IMAGE_EXTRAS :=(.*)$", (FOLDER / "image" / "image.mk").read_text(), re.MULTILINE
)
RUN_TIME = [
    *project()["project"]["dependencies"],
    *(
        one
        for extra in EXTRAS[0].split()
        for one in project()["project"]["optional-dependencies"][extra]
    ),
]
LOCKS = {
    "requirements": (RUN_TIME, "sniproxy (pyproject.toml)"),
    "build": (project()["dependency-groups"]["image"], "sniproxy (pyproject.toml:image)"),
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_in_step(name: str) -> None:
    """Whoever changes a dependency runs `make lock`."""
    wanted, source = LOCKS[name]
    requirements = [Requirement(one) for one in wanted]
    pinned = pins(name)
    for one in requirements:
        version = pinned[canonicalize_name(one.name)]
        assert one.specifier.contains(version, prereleases=True), f"{one}: {version} is pinned"
    assert asked_for(name, source) == {canonicalize_name(one.name) for one in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_has_a_version_and_hashes(name: str) -> None:
    lines = [line for line in lock(name).splitlines() if not line.lstrip().startswith("#")]
    # whatever is no pin with its hashes: another index, an option, a URL, a version that is open
    assert re.sub(r"\n+", "", PIN.sub("", "\n".join([*lines, ""]))) == ""
    assert len(pins(name)) == len([line for line in lines if "==" in line])


@pytest.mark.parametrize("broken", [
    "click==8.5.1\n",
    "click>=8 \\\n    --hash=sha256:" + "a" * 64 + "\n",
    "click==8.5.1 \\\n    --hash=md5:" + "a" * 32 + "\n",
    "--extra-index-url https://example.com\n",
])  # fmt: skip
def test_what_is_no_pin_is_seen(broken: str) -> None:
    assert PIN.sub("", broken) != ""


def test_what_builds_here_builds_there() -> None:
    """The wheel of the image is made without isolation, so its tools are those of the lock."""
    wanted = project()["build-system"]["requires"]
    assert set(wanted) <= set(project()["dependency-groups"]["image"])


def test_crates_are_locked() -> None:
    assert (FOLDER / "relay" / "Cargo.lock").is_file()
    (module,) = project()["tool"]["setuptools-rust"]["ext-modules"]
    assert "--locked" in module["args"]
