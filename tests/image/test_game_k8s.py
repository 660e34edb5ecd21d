"""The game servers that the walk-through puts on a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from examples.game_echo.__main__ import main
from tests.image.reading import FOLDER

FILES = sorted((FOLDER / "examples" / "game_echo" / "k8s").glob("*.yaml"))


def objects(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The Deployment and the Service of a file."""
    deployment, service = yaml.safe_load_all(file.read_text())
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    return deployment, service


def test_there_are_two() -> None:
    assert [file.name for file in FILES] == ["gs-1.yaml", "gs-2.yaml"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pod_may_do_nothing_that_it_need_not(file: Path) -> None:
    deployment, _ = objects(file)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,  # who it is in the image
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_players_come_to_it(file: Path) -> None:
    deployment, service = objects(file)
    name, template = file.stem, deployment["spec"]["template"]
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == name
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert labels["app.kubernetes.io/instance"] == name
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    (offered,) = service["spec"]["ports"]
    assert (offered["port"], offered["targetPort"]) == (9001, port["name"])
    assert str(port["containerPort"]) in container["command"]
    assert f"test-server-{name[-1]}" in container["command"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_command_can_be_run(file: Path) -> None:
    """Every word of it is one that the example takes."""
    deployment, _ = objects(file)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[:3] == ["python", "-m", "examples.game_echo"]
    with main.make_context("game_echo", words[3:]) as context:
        assert context.params["host"] == "0.0.0.0"
    refused = CliRunner().invoke(main, [*words[3:], "--no-such-option"])
    assert refused.exit_code == 2
