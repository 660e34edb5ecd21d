"""A machine's cgroups, as a tree of files."""

from collections.abc import Mapping
from pathlib import Path

from sniproxy.cgroup import cpus, memory_limit, memory_used

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
