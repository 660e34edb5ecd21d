"""What the runbooks tell people to type, and to look for, is there."""

import re
from pathlib import Path

import pytest

from sniproxy.cli import COMMANDS
from sniproxy.errors import CloseReason
from sniproxy.metrics.catalogue import BY_NAME
from sniproxy.settings import Settings
from sniproxy.status import KNOWN
from tests.support.prometheus import ROOT, samples_of

TEXT = (ROOT / "docs" / "runbooks.md").read_text()
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
OF_THE_SYSTEM = ("etcdctl", "kubectl", "nf_conntrack", "sysctl")  # not ours to say
MEMBERS = {
    "ca_certs",
    "pass_host",
    "sessions_lost",
    "state_dir",
    "upstream_id",
}  # of objects, lines and settings


def found(pattern: str) -> list[str]:
    """All that a pattern finds, once each."""
    return sorted(set(re.findall(pattern, TEXT)))


def logged() -> set[str]:
    """Every text in the sources of the data plane."""
    sources = Path(ROOT / "sniproxy").glob("**/*.py")
    return {text for file in sources for text in re.findall(r'"([^"\n]*)"', file.read_text())}


@pytest.mark.parametrize("command", found(r"(?<![\w/-])sniproxy ([a-z]+) (?:-|NAME)"))
def test_the_command_is_there(command: str) -> None:
    assert command in COMMANDS


@pytest.mark.parametrize("path", found(r"127\.0\.0\.1:7085(/[a-z0-9]+(?:/healthcheck)?)"))
def test_the_status_port_answers_it(path: str) -> None:
    assert path.encode() in KNOWN


def test_events_are_those_of_the_log() -> None:
    """In quotes, of several words in small letters: such as `worker died`."""
    events = {text for text in QUOTED if re.fullmatch(r"[a-z]+( [a-z]+)+", text)}
    assert "worker died" in events
    assert {one for one in events if not one.startswith(OF_THE_SYSTEM)} <= logged()


def test_settings_and_reasons_are_there() -> None:
    settings = Settings().model_dump()
    for text in QUOTED:
        if match := re.fullmatch(r"(proxy|overload|drain|status)\.([a-z_.]+)(: auto)?", text):
            value = settings[match[1]]
            for member in match[2].split("."):
                assert member in value, text
                value = value[member]
        elif re.fullmatch(r"[a-z]+_[a-z]+", text):
            assert text in MEMBERS or text in set(CloseReason), text


def test_metrics_are_exported() -> None:
    ours = {sample for told in BY_NAME.values() for sample in samples_of(told)}
    assert set(found(r"\bsniproxy_[a-z_]*[a-z]\b")) <= ours


def test_links_lead_somewhere() -> None:
    anchors = {title.lower() for title in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    assert set(found(r"\]\(#([a-z]+)\)")) <= anchors
    assert (ROOT / "docs" / found(r"\]\((\.\.[^)]+)\)")[0]).exists()
