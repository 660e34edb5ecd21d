"""What the kernel counts of a process, under the names that Prometheus' clients have for it.

Unlike the library's own it lists no descriptors where the kernel knows their number: with 20 000 sessions a listing
takes milliseconds, in which no player is served.
"""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sniproxy.metrics.catalogue import help_of

OWN = Path("/proc/self")


class Process(Collector):
    """This process."""

    def __init__(self, own: Path = OWN) -> None:
        self._own = own
        self._page = resource.getpagesize()
        self._started = _started(own)

    def collect(self) -> Iterable[Metric]:
        yield _counter("process_cpu_seconds", time.process_time())
        sizes = _numbers(self._own / "statm")
        if len(sizes) > 1:
            yield _gauge("process_virtual_memory_bytes", sizes[0] * self._page)
            yield _gauge("process_resident_memory_bytes", sizes[1] * self._page)
        if self._started is not None:
            yield _gauge("process_start_time_seconds", self._started)
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield _gauge("process_max_fds", most)
        fds = open_descriptors(self._own)
        if fds is not None:
            yield _gauge("process_open_fds", fds)
            yield _gauge("sniproxy_fds_ratio", fds / most if most > 0 else 0.0)


def open_descriptors(own: Path = OWN) -> int | None:
    """How many this process has; None where the kernel does not say."""
    try:
        # Linux from 6.2 on; before that the size is 0.
        return os.stat(own / "fd").st_size or len(os.listdir(own / "fd"))
    except OSError:
        return None


def _started(own: Path) -> float | None:
    """In Unix seconds."""
    try:
        after_name = (own / "stat").read_text().rpartition(")")[2].split()
        ticks = float(after_name[19]) / os.sysconf("SC_CLK_TCK")
        for line in (own.parent / "stat").read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1]) + ticks
    except (OSError, ValueError, IndexError):
        pass
    return None


def _numbers(file: Path) -> list[int]:
    try:
        return [int(number) for number in file.read_text().split()]
    except (OSError, ValueError):
        return []


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_of(name), value=value)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_of(name), value=value)
