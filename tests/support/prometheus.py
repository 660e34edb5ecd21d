"""Prometheus and its promtool, and what expressions of theirs name."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from sniproxy.metrics.catalogue import Kind, Told

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "charts" / "sniproxy" / "files" / "alerts.yaml"
# What is no metric in an expression: texts, selectors, ranges, and the labels of a grouping.
_NO_METRICS = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)'
)
_WORD = re.compile(r"(?<!\w)[A-Za-z_:][\w:]*(?![\w:]|\s*\()")  # no function, no duration
_OPERATORS = {"and", "or", "unless", "offset", "bool"}


def find_program(name: str) -> Path:
    """That `make prometheus` has put beside our Python, or one on PATH. Skips, where it is not: in CI it must be there."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        tell = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        tell(f"there is no {name}: see `make prometheus`")
    return Path(found)


def metrics_in(expression: str) -> set[str]:
    """The names of series that it reads."""
    return set(_WORD.findall(_NO_METRICS.sub(" ", expression))) - _OPERATORS


def rules() -> list[dict[str, str]]:
    """All of our rules, alerts and records, flat."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def samples_of(told: Told) -> set[str]:
    """The names of the series that a metric is scraped as."""
    endings = {Kind.COUNTER: ["_total"], Kind.HISTOGRAM: ["_bucket", "_sum", "_count"]}
    return {told.name + ending for ending in endings.get(told.kind, [""])}
