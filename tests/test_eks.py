"""What docs/eks.md and docs/migrate-from-apisix.md name is there; tests/e2e/test_eks.py runs what can run here."""

import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniproxy import __version__
from tests.support.eks import FOLDER, NAMED, NEEDS_A_CLUSTER, PAGE, RUN, named, runs
from tests.support.fenced import blocks, commands

EVERY = commands(PAGE)
PAGES = {page.stem: page for page in (PAGE, FOLDER / "docs" / "migrate-from-apisix.md")}
KUBECTL = [one for one in EVERY if "kubectl" in one]


@functools.cache
def help_of(*words: str) -> str:
    """What kubectl says of a command."""
    done = subprocess.run(["kubectl", *words, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_page_is_long_enough_to_be_read_right() -> None:
    assert len(EVERY) > 40


@pytest.mark.parametrize("command", EVERY)
def test_each_command_is_run_or_known_to_need_a_cluster(command: str) -> None:
    runs(command)


def test_no_row_of_the_tables_is_for_nothing() -> None:
    for one in (*RUN, *NEEDS_A_CLUSTER):
        assert any(command.startswith(one) for command in EVERY), one
    used = set().union(*map(named, KUBECTL))
    assert set(NAMED) - used == set()


@pytest.mark.parametrize("unknown", ["rm -rf /", "kubectl -n sniproxy apply -f new.yaml", "helm repo add x y"])  # fmt: skip
def test_an_unknown_command_is_seen(unknown: str) -> None:
    with pytest.raises(AssertionError, match="put it into one table"):
        runs(unknown)


@pytest.mark.parametrize("command", KUBECTL)
def test_what_kubectl_is_asked_for_is_there(command: str) -> None:
    assert named(command) <= set(NAMED)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")
@pytest.mark.parametrize("command", KUBECTL)
def test_what_kubectl_is_told_it_knows(command: str) -> None:
    """Its words up to where another program's begin."""
    text = re.search(r"kubectl( -n \w+)? (.*)", command)
    assert text is not None
    words = re.split(r" -- | [|>]|\)$| &$", text[2])[0].split()
    subcommand = words[:2] if words[0] in {"rollout", "create"} else words[:1]
    told = help_of(*subcommand) + help_of("options")
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            assert re.search(rf"(^|\s|, ){re.escape(name)}(=|,|\s|$)", told), (subcommand, word)


@pytest.mark.parametrize("page", PAGES)
def test_files_are_there(page: str) -> None:
    """Those of the project: whatever begins with one of its folders."""
    text = PAGES[page].read_text()
    paths = set(re.findall(r"(?<![\w/.-])(?:charts|docs|examples|tests|bench)/[\w./*-]+", text))
    for path in paths:
        assert list(FOLDER.glob(path.rstrip("."))), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGES[page].parent / link).exists(), link


def test_make_has_the_targets() -> None:
    made = (FOLDER / "image" / "image.mk").read_text()
    for command in EVERY:
        if command.startswith("make "):
            words = shlex.split(command)
            assert re.search(rf"^{words[1]}:", made, re.MULTILINE)
            for word in words[2:]:
                assert f"$({word.partition('=')[0]})" in made


def test_versions_are_ours() -> None:
    """Where the page names the image that it has built."""
    found = re.findall(r"\$\{IMAGE\}:([\w.]+)", PAGE.read_text())
    assert found
    assert set(found) == {__version__}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def read_snapshot() -> dict[str, Any]:
    """The pod's spec."""
    pod = yaml.safe_load((FOLDER / "examples" / "eks" / "read-snapshot.yaml").read_text())
    assert (pod["kind"], pod["metadata"]["name"]) == ("Pod", "read-snapshot")
    spec: dict[str, Any] = pod["spec"]
    return spec


def test_the_pod_that_reads_a_snapshot_may_do_nothing_else() -> None:
    spec = read_snapshot()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(spec):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        mounts = {one["name"] for one in container["volumeMounts"]}
        assert mounts <= {one["name"] for one in spec["volumes"]}


def test_values_of_the_page_are_yaml() -> None:
    mine, certificates = map(yaml.safe_load, blocks(PAGE, "yaml"))
    assert mine["image"]["repository"] in next(one for one in EVERY if "IMAGE=" in one)
    assert set(certificates) == {"certificates"}


def test_pages_are_linked() -> None:
    readme = (FOLDER / "README.md").read_text()
    for page in PAGES.values():
        assert f"(docs/{Path(page).name})" in readme
