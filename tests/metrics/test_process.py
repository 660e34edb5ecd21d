"""What the kernel counts of a process."""

import os
import resource
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from sniproxy.metrics.process import Process, open_descriptors


def values(process: Process) -> dict[str, float]:
    """All that it tells."""
    registry = CollectorRegistry()
    registry.register(process)
    return {sample.name: sample.value for family in registry.collect() for sample in family.samples}


def test_it_is_this_process() -> None:
    now = values(Process())
    assert 0 < now["process_cpu_seconds_total"] <= time.process_time()
    assert 0 < now["process_resident_memory_bytes"] < now["process_virtual_memory_bytes"]
    assert time.time() - 24 * 3600 < now["process_start_time_seconds"] < time.time()
    assert now["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert now["sniproxy_fds_ratio"] == now["process_open_fds"] / now["process_max_fds"]


def test_descriptors_are_counted() -> None:
    before = open_descriptors()
    assert before is not None
    ends = os.pipe()
    assert open_descriptors() == before + 2
    for end in ends:
        os.close(end)
    assert open_descriptors() == before


def test_what_the_kernel_does_not_say_is_left_out(tmp_path: Path) -> None:
    told = values(Process(tmp_path / "self"))
    assert told.keys() == {"process_cpu_seconds_total", "process_max_fds"}


def test_an_old_kernel_has_its_descriptors_listed(tmp_path: Path) -> None:
    """Its directory has no size; a directory on a disk has one that says nothing, so this one is empty, too."""
    assert open_descriptors(tmp_path) is None
