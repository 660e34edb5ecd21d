"""What docs/release.md names is there: targets of make, their variables, versions, flags of others, values of the chart."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sniproxy import __version__
from tests.support.charts import EXAMPLES, with_values
from tests.support.fenced import commands

FOLDER = Path(__file__).parents[1]
PAGE = FOLDER / "docs" / "release.md"
EVERY = commands(PAGE)
MAKEFILES = [
    FOLDER / "Makefile",
    *sorted((FOLDER / "image").glob("*.mk")),
    *sorted((FOLDER / "tests").rglob("*.mk")),
]
MADE = "\n".join(file.read_text() for file in MAKEFILES)
# What is not ours, by how it begins. tests/image/test_signing.py runs cosign with the flags of the page.
OTHERS = (
    "cargo update --manifest-path relay/Cargo.toml",
    "git commit --all --message ",
    "git tag --sign ",
    "git push origin ",
    "export IMAGE=",
    "export DIGEST=",
    "export PATH=$PWD/.cache/",
    "export PYTHON_IMAGE=python:",
    "export RUST_IMAGE=rust:",
    "cosign generate-key-pair",
    "cosign signing-config create --out ",
    "cosign verify --key ",
    "cosign verify-attestation --key ",
    "helm install sniproxy dist/sniproxy-",
)


def test_each_command_is_known() -> None:
    assert len(EVERY) > 20
    for command in EVERY:
        assert command.startswith(("make ", *OTHERS)), command
    for one in OTHERS:
        assert any(command.startswith(one) for command in EVERY), one


@pytest.mark.parametrize("command", [one for one in EVERY if one.startswith("make ")])
def test_make_has_the_targets_and_uses_the_variables(command: str) -> None:
    _, target, *variables = shlex.split(command)
    assert re.search(rf"^([a-z-]+ )*{target}[: ].*##", MADE, re.MULTILINE), target
    for name in (variable.partition("=")[0] for variable in variables):
        assert f"$({name})" in MADE, name


def test_what_is_named_in_the_text_is_there() -> None:
    text = PAGE.read_text()
    for target in re.findall(r"`make ([a-z0-9-]+)`", text):
        assert re.search(rf"^{target}:.*##", MADE, re.MULTILINE), target
    for name in re.findall(r"`([A-Z_]+)=", text):
        assert f"$({name})" in MADE, name
    for path in re.findall(r"`((?:image|sniproxy|charts|docs)/[\w./-]+)`", text):
        assert (FOLDER / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGE.parent / link).exists(), link


def test_versions_of_ours_are_the_same_wherever_the_page_says_that_they_stand() -> None:
    said = re.search(r"The version stands in (.*?);", PAGE.read_text(), re.DOTALL)
    assert said is not None
    files = re.findall(r"`([^`]+)`", said[1])
    assert len(files) == 4
    for file in (*files, PAGE.relative_to(FOLDER)):
        assert __version__ in (FOLDER / file).read_text(), file
    chart = yaml.safe_load((FOLDER / "charts" / "sniproxy" / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__}
    text = "\n".join(EVERY)
    assert set(re.findall(r"\b(?:v|sniproxy-|Release )(\d+\.\d+\.\d+)\b(?!:)", text)) == {
        __version__
    }


def test_bases_are_those_of_the_dockerfile() -> None:
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE))  # fmt: skip
    for name, base in defaults.items():
        (command,) = (one for one in EVERY if one.startswith(f"export {name}="))
        assert re.findall(r"[a-z]+:[\w.-]+", command.partition(" --format")[0]) == [base, base]
        (image,) = (one for one in EVERY if one.startswith("make image "))
        assert f"--build-arg {name}=${name}" in image


def test_tools_are_those_that_are_pinned() -> None:
    (path,) = (one for one in EVERY if one.startswith("export PATH="))
    version = re.search(r"^COSIGN_VERSION := (\S+)$", MADE, re.MULTILINE)
    assert version is not None
    assert path == f"export PATH=$PWD/.cache/cosign-{version[1]}:$PATH"


def test_what_is_installed_is_what_was_verified() -> None:
    """The page's own values, over those of a cluster: each image of ours is by the digest."""
    (command,) = (one for one in EVERY if one.startswith("helm install "))
    given = dict(re.findall(r"--set image\.(\w+)=(\S+)", command))
    assert given == {"repository": "$IMAGE", "digest": "$DIGEST"}
    (digest,) = (one.partition("=")[2] for one in EVERY if one.startswith("export DIGEST="))
    mine = {
        "image": {"repository": "r.example/sniproxy", "digest": digest},
        "balancerNetworks": ["10.0.0.0/16"],
        "etcd": {"persistence": {"storageClass": "gp3"}, "snapshots": {"storageClass": "efs"}},
    }
    done = with_values(mine, EXAMPLES / "eks-nlb.yaml")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"image: (r\.example/\S+)", done.stdout)) == {
        f"r.example/sniproxy@{digest}"
    }


def test_no_key_is_taken_into_the_project() -> None:
    assert "cosign.key" in (FOLDER / ".gitignore").read_text().splitlines()


def test_the_page_is_linked() -> None:
    assert "(docs/release.md)" in (FOLDER / "README.md").read_text()
    assert "(release.md)" in (FOLDER / "docs" / "eks.md").read_text()
