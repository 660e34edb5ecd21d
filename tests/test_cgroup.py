"""What a cgroup allows and uses, over the layouts that are met in the wild, each a tree of files."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniproxy.cgroup import cpus, machine_memory, memory_limit, memory_of, memory_used

GIB = 2**30
MACHINE = 64 * GIB
CPUS = 16  # of the machine
NO_V1_LIMIT = "9223372036854771712"
HASH = "3f2a" * 16

Files = Mapping[str, str]  # by path below the root of the trees

V2_BARE = {"cgroup.controllers": "cpuset cpu io memory pids"}
K8S_V1 = f"/kubepods/burstable/pod1234/{HASH}"
K8S_V2 = (
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234.slice/cri-{HASH}.scope"
)


def v1(path: str) -> str:
    """What /proc/self/cgroup says where all of it is version 1."""
    return "\n".join(
        f"{number}:{names}:{path}"
        for number, names in ((9, "pids"), (4, "memory"), (3, "cpu,cpuacct"), (1, "name=systemd"))
    )


def v1_stat(inactive: int, active: int) -> str:
    """memory.stat of version 1: the cgroup's own pages first, then with those below it."""
    return (
        f"cache 1\nrss 2\ninactive_file 1\nactive_file 1\nhierarchical_memory_limit 7\n"
        f"total_cache 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    )


def v2_stat(inactive: int, active: int) -> str:
    """memory.stat of version 2."""
    return (
        f"anon 1\nfile 99\nshmem 5\ninactive_anon 3\ninactive_file {inactive}\n"
        f"active_file {active}\nslab_reclaimable 4\n"
    )


class Tree:
    """A machine's files."""

    def __init__(self, folder: Path, own: str | None, files: Files) -> None:
        self.own, self.root = folder / "cgroup", folder / "sys"
        if own is not None:
            self.own.write_text(own + "\n")
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    def cpus(self, affinity: int = CPUS) -> int:
        """As of this tree."""
        return cpus(self.own, self.root, affinity)

    def limit(self) -> int | None:
        """As of this tree."""
        return memory_limit(self.own, self.root, MACHINE)

    def used(self) -> int | None:
        """As of this tree."""
        return memory_used(self.own, self.root, MACHINE)


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


# Memory: what /proc/self/cgroup says, the files, the limit, what is used

MEMORY_TREES: dict[str, tuple[str | None, Files, int | None, int | None]] = {
    "no cgroups": (None, {}, None, None),
    # version 2
    "v2: machine": ("0::/", V2_BARE | {"memory.stat": v2_stat(1, 2)}, None, None),
    "v2: container": (
        "0::/",
        V2_BARE
        | {
            "memory.max": str(2 * GIB),
            "memory.current": str(GIB),
            "memory.stat": v2_stat(1000, 200),
        },
        2 * GIB,
        GIB - 1200,
    ),
    "v2: container without a limit": (
        "0::/",
        V2_BARE
        | {"memory.max": "max", "memory.current": "5000", "memory.stat": v2_stat(1000, 200)},
        None,
        3800,
    ),
    "v2: memory.high is none": (
        "0::/",
        V2_BARE | {"memory.max": "max", "memory.high": str(GIB)},
        None,
        None,
    ),
    "v2: as much as the machine has": ("0::/", V2_BARE | {"memory.max": str(MACHINE)}, None, None),
    "v2: a page less": (
        "0::/",
        V2_BARE | {"memory.max": str(MACHINE - 4096)},
        MACHINE - 4096,
        None,
    ),
    "v2: more cache than use": (
        "0::/",
        V2_BARE | {"memory.current": "100", "memory.stat": v2_stat(90, 20)},
        None,
        0,
    ),
    "v2: the slice's limit, and what all in it use": (
        "0::/players.slice/sniproxy.service",
        V2_BARE
        | {
            "players.slice/memory.max": str(GIB),
            "players.slice/memory.current": "9000",
            "players.slice/memory.stat": v2_stat(1000, 0),
            "players.slice/sniproxy.service/memory.max": "max",
            "players.slice/sniproxy.service/memory.current": "3000",
            "players.slice/sniproxy.service/memory.stat": v2_stat(0, 0),
        },
        GIB,
        8000,
    ),
    "v2: our own is the tighter": (
        "0::/a/b",
        V2_BARE
        | {
            "a/memory.max": str(2 * GIB),
            "a/memory.current": "9000",
            "a/memory.stat": v2_stat(0, 0),
            "a/b/memory.max": str(GIB),
            "a/b/memory.current": "3000",
            "a/b/memory.stat": v2_stat(500, 500),
        },
        GIB,
        2000,
    ),
    "v2: both say the same": (
        "0::/a/b",
        V2_BARE
        | {
            "a/memory.max": str(GIB),
            "a/memory.current": "9000",
            "a/b/memory.max": str(GIB),
            "a/b/memory.current": "3000",
            "a/b/memory.stat": v2_stat(0, 0),
        },
        GIB,
        3000,
    ),
    "v2: path of the host, tree of the container": (
        f"0::/system.slice/docker-{HASH}.scope",
        V2_BARE | {"memory.max": str(GIB)},
        GIB,
        None,
    ),
    "v2: what is cache is not known": (
        "0::/",
        V2_BARE | {"memory.max": str(GIB), "memory.current": "100", "memory.stat": "anon 3"},
        GIB,
        None,
    ),
    "v2: nonsense": (
        "0::/",
        V2_BARE | {"memory.max": "lots", "memory.current": "", "memory.stat": "\0 x y\n\n"},
        None,
        None,
    ),
    "v2: nothing at all": ("0::/", V2_BARE | {"memory.max": "0"}, 0, None),
    # version 1
    "v1: machine": (
        v1("/"),
        {
            "memory/memory.limit_in_bytes": NO_V1_LIMIT,
            "memory/memory.usage_in_bytes": "7000",
            "memory/memory.stat": v1_stat(1000, 500),
        },
        None,
        5500,
    ),
    "v1: docker": (
        v1(f"/docker/{HASH}"),
        {
            "memory/memory.limit_in_bytes": str(GIB),
            "memory/memory.usage_in_bytes": "7000",
            "memory/memory.stat": v1_stat(1000, 500),
        },
        GIB,
        5500,
    ),
    "v1: the pod's limit, seen from the host": (
        v1(K8S_V1),
        {
            f"memory{K8S_V1}/memory.limit_in_bytes": NO_V1_LIMIT,
            f"memory{K8S_V1}/memory.usage_in_bytes": "3000",
            f"memory{Path(K8S_V1).parent}/memory.limit_in_bytes": str(GIB),
            f"memory{Path(K8S_V1).parent}/memory.usage_in_bytes": "9000",
            f"memory{Path(K8S_V1).parent}/memory.stat": v1_stat(1000, 0),
            "memory/memory.limit_in_bytes": NO_V1_LIMIT,
        },
        GIB,
        8000,
    ),
    "v1: no limit of an older kernel": (
        v1("/"),
        {"memory/memory.limit_in_bytes": "9223372036854775807"},
        None,
        None,
    ),
    "v1: nothing is mounted": (v1("/"), {}, None, None),
    # both at once
    "mixed: memory is in version 1": (
        "4:memory:/x\n0::/",
        {
            "unified/cgroup.controllers": "",
            "memory/x/memory.limit_in_bytes": str(GIB),
            "memory/x/memory.usage_in_bytes": "2000",
            "memory/x/memory.stat": v1_stat(0, 0),
        },
        GIB,
        2000,
    ),
    "mixed: memory is in version 2": (
        "1:name=systemd:/\n0::/y",
        {
            "systemd/cgroup.procs": "",
            "unified/y/memory.max": str(GIB),
            "unified/y/memory.current": "2000",
            "unified/y/memory.stat": v2_stat(0, 1),
        },
        GIB,
        1999,
    ),
    "v2: a cgroup that is named as mixed trees are": (
        "0::/",
        V2_BARE | {"memory.max": str(GIB), "unified/memory.max": "1"},
        GIB,
        None,
    ),
}


@pytest.mark.parametrize(("own", "files", "limit", "used"), MEMORY_TREES.values(), ids=MEMORY_TREES)
def test_memory(
    tmp_path: Path, own: str | None, files: Files, limit: int | None, used: int | None
) -> None:
    tree = Tree(tmp_path, own, files)
    assert (tree.limit(), tree.used()) == (limit, used)


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


# The memory of processes


def status(**members: str) -> str:
    """/proc/PID/status, with these among its members."""
    lines = {"Name": "sni: proxy", "VmRSS": "9999 kB", **members}
    return "".join(f"{name}:\t{value}\n" for name, value in lines.items())


def test_memory_of_processes(tmp_path: Path) -> None:
    texts = {
        "1": status(RssAnon="  100 kB", RssFile="5000 kB", RssShmem="  20 kB"),
        "2": status(RssAnon="1 kB", RssFile="7 kB"),
        "3": status(State="Z (zombie)"),
        "4": "",
        "5": status(RssAnon="lots", RssShmem="3 kB"),
    }
    for pid, text in texts.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "status").write_text(text)
    held = {pid: memory_of([int(pid)], tmp_path) for pid in (*texts, "999")}
    assert held == {"1": 120 * 1024, "2": 1024, "3": 0, "4": 0, "5": 3 * 1024, "999": 0}
    assert memory_of(map(int, held), tmp_path) == 124 * 1024
    assert memory_of([]) == 0


# This machine


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
