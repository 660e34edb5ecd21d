"""Where figures come from: a line to print beside them."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe_machine() -> str:
    """CPU, cores, kernel and versions."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}, trio {version('trio')}, sniproxy {version('sniproxy')}"
    )


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
