"""Prometheus and its promtool, and what expressions of theirs name."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from sniproxy.metrics.catalogue import Kind, Told
from tests.support.ports import free_ports

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


class Prometheus:
    """A real one on loopback, which scrapes and evaluates each second; `with` starts and stops it."""

    def __init__(
        self, folder: Path, scrape: dict[str, object], groups: Sequence[object] = ()
    ) -> None:
        """scrape: what is scraped, as in scrape_configs. groups: of rules."""
        self._folder = folder
        (self._port,) = free_ports(1)
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "sniproxy", **scrape}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{self._port}"
        self._api = httpx.Client(base_url=f"{self.url}/api/v1", timeout=10)

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    find_program("prometheus"),
                    f"--config.file={self._folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **query: str) -> Any:
        """`data` of an answer; httpx.HTTPError while it starts, and where it is refused."""
        answer = self._api.get(path, params=query)
        answer.raise_for_status()
        return answer.json()["data"]

    def firing(self) -> dict[str, dict[str, str]]:
        """The annotations of the alerts that fire now, by name."""
        return {
            one["labels"]["alertname"]: one["annotations"]
            for one in self.ask("/alerts")["alerts"]
            if one["state"] == "firing"
        }

    def annotations(self, alert: str, deadline: float) -> dict[str, str]:
        """What an alert says, once it fires; AssertionError when it does not within so many seconds."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):  # while it starts
                if found := self.firing().get(alert):
                    return found
            time.sleep(0.2)
        raise AssertionError(f"{alert} does not fire within {deadline} s")
