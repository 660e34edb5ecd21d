"""How many CPUs a cgroup allows, over the layouts that are met in the wild; what is not legible, and this machine."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.cgroup import cpus, machine_memory, memory_limit, memory_of, memory_used
from tests.support.cgroups import (
    CPUS,
    HASH,
    K8S_V1,
    K8S_V2,
    MACHINE,
    V2_BARE,
    Files,
    Tree,
    v1,
)

# CPUs: what /proc/self/cgroup says, the files, how many

CPU_TREES: dict[str, tuple[str | None, Files, int]] = {
    "no cgroups": (None, {}, CPUS),
    "empty": ("", {}, CPUS),
    # version 2
    "v2: machine without a limit": ("0::/", V2_BARE, CPUS),
    "v2: systemd service without a limit": (
        "0::/system.slice/sniproxy.service",
        V2_BARE | {"system.slice/sniproxy.service/cpu.max": "max 100000"},
        CPUS,
    ),
    "v2: systemd CPUQuota=150%": (
        "0::/system.slice/sniproxy.service",
        V2_BARE | {"system.slice/sniproxy.service/cpu.max": "150000 100000"},
        2,
    ),
    "v2: container of its own namespace": ("0::/", V2_BARE | {"cpu.max": "400000 100000"}, 4),
    "v2: half a CPU": ("0::/", V2_BARE | {"cpu.max": "50000 100000"}, 1),
    "v2: a thousandth": ("0::/", V2_BARE | {"cpu.max": "1000 1000000"}, 1),
    "v2: a bit more than two": ("0::/", V2_BARE | {"cpu.max": "200001 100000"}, 3),
    "v2: another period": ("0::/", V2_BARE | {"cpu.max": "30000 10000"}, 3),
    "v2: more than the machine has": ("0::/", V2_BARE | {"cpu.max": "9900000 100000"}, CPUS),
    "v2: quota without a period": ("0::/", V2_BARE | {"cpu.max": "200000"}, 2),
    "v2: pod seen from the host": (
        f"0::{K8S_V2}",
        V2_BARE | {f"{K8S_V2[1:]}/cpu.max": "300000 100000", "kubepods.slice/cpu.max": "max 1"},
        3,
    ),
    "v2: the pod's is tighter than the container's": (
        f"0::{K8S_V2}",
        V2_BARE
        | {
            f"{K8S_V2[1:]}/cpu.max": "800000 100000",
            str(Path(K8S_V2[1:]).parent / "cpu.max"): "200000 100000",
        },
        2,
    ),
    "v2: the container's is tighter": (
        "0::/a/b",
        V2_BARE | {"a/b/cpu.max": "100000 100000", "a/cpu.max": "800000 100000"},
        1,
    ),
    "v2: a slice far above": (
        "0::/a/b/c",
        V2_BARE | {"a/b/c/cpu.max": "max 100000", "a/cpu.max": "500000 100000"},
        5,
    ),
    "v2: path of the host, tree of the container": (
        f"0::/system.slice/docker-{HASH}.scope",
        V2_BARE | {"cpu.max": "200000 100000"},
        2,
    ),
    "v2: outside of the namespace's root": (
        "0::/../../other",
        V2_BARE | {"cpu.max": "200000 100000", "other/cpu.max": "100000 100000"},
        2,
    ),
    "v2: not ours": ("0::/a", V2_BARE | {"a/cpu.max": "max 1", "b/cpu.max": "100000 100000"}, CPUS),
    "v2: a colon in the name": ("0::/a:b", V2_BARE | {"a:b/cpu.max": "200000 100000"}, 2),
    "v2: nonsense": ("0::/", V2_BARE | {"cpu.max": "many of them"}, CPUS),
    "v2: nonsense as a period": ("0::/", V2_BARE | {"cpu.max": "200000 x"}, 2),
    "v2: no quota": ("0::/", V2_BARE | {"cpu.max": ""}, CPUS),
    "v2: zeros": ("0::/", V2_BARE | {"cpu.max": "0 0"}, CPUS),
    "v2: a period of zero": ("0::/", V2_BARE | {"cpu.max": "100000 0"}, CPUS),
    # version 1
    "v1: without a limit": (
        v1("/"),
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        CPUS,
    ),
    "v1: docker": (
        v1(f"/docker/{HASH}"),  # the host's path; what is mounted is the container's
        {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1: pod seen from the host": (
        v1(K8S_V1),
        {
            f"cpu,cpuacct{K8S_V1}/cpu.cfs_quota_us": "400000",
            f"cpu,cpuacct{K8S_V1}/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/kubepods/cpu.cfs_quota_us": "-1",
        },
        4,
    ),
    "v1: the pod's is tighter": (
        v1(K8S_V1),
        {
            f"cpu,cpuacct{K8S_V1}/cpu.cfs_quota_us": "400000",
            f"cpu,cpuacct{Path(K8S_V1).parent}/cpu.cfs_quota_us": "100000",
        },
        1,
    ),
    "v1: controllers in another order": (
        "3:cpuacct,cpu:/",
        {"cpu,cpuacct/cpu.cfs_quota_us": "200000"},
        2,
    ),
    "v1: a folder per controller": ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "200000"}, 2),
    "v1: cpuset is no cpu": ("2:cpuset:/", {"cpuset/cpu.cfs_quota_us": "200000"}, CPUS),
    "v1: nothing is mounted": (v1("/"), {}, CPUS),
    # both at once
    "mixed: the controller is in version 1": (
        v1("/x") + "\n0::/y",
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "200000",
            "unified/cgroup.controllers": "",
            "unified/y/cgroup.procs": "",
        },
        2,
    ),
    "mixed: the controller is in version 2": (
        "1:name=systemd:/\n0::/y",
        {"systemd/cgroup.procs": "", "unified/y/cpu.max": "200000 100000"},
        2,
    ),
}


@pytest.mark.parametrize(("own", "files", "expected"), CPU_TREES.values(), ids=CPU_TREES)
def test_cpus(tmp_path: Path, own: str | None, files: Files, expected: int) -> None:
    assert Tree(tmp_path, own, files).cpus() == expected


@pytest.mark.parametrize(("affinity", "expected"), [(1, 1), (2, 2), (3, 3), (4, 3), (0, 1)])
def test_the_affinity_is_a_limit_too(tmp_path: Path, affinity: int, expected: int) -> None:
    tree = Tree(tmp_path, "0::/", V2_BARE | {"cpu.max": "300000 100000"})
    assert tree.cpus(affinity) == expected


# What is not legible, and this machine


def test_what_may_not_be_read_is_no_limit(tmp_path: Path) -> None:
    """A folder where a file is expected: root reads everything else."""
    tree = Tree(tmp_path, "0::/", V2_BARE | {"memory.max/x": "", "cpu.max/x": ""})
    assert (tree.cpus(), tree.limit(), tree.used()) == (CPUS, None, None)
    assert cpus(tmp_path, tmp_path, CPUS) == CPUS


@given(own=st.text(), text=st.text())
def test_no_text_is_an_error(tmp_path_factory: pytest.TempPathFactory, own: str, text: str) -> None:
    folder = tmp_path_factory.mktemp("tree")
    files = dict.fromkeys(("cpu.max", "memory.max", "memory.current", "memory.stat"), text)
    tree = Tree(folder, None, files)
    for said in (own, "0::/"):
        tree.own.write_text(said, errors="replace")
        assert 1 <= tree.cpus() <= CPUS
        assert 0 <= (tree.limit() or 0) < MACHINE
        assert (tree.used() or 0) >= 0


def test_this_machine_is_read() -> None:
    assert 1 <= cpus() <= len(os.sched_getaffinity(0))
    machine = machine_memory()
    assert machine >= 64 * 2**20
    assert 0 < (memory_limit() or 1) < machine
    assert 0 <= (memory_used() or 0) <= machine
    before = memory_of([os.getpid()])
    block = bytearray(os.urandom(1)) * (32 * 2**20)
    grown = memory_of([os.getpid()]) - before
    assert len(block) // 2 < grown
