"""What the machine, or the cgroup that we run in, lets us have, and what is used of it: CPUs and memory.

Both kinds of cgroup are read, and machines that mix them. A limit of a cgroup above ours holds for us too, as far as it can
be seen: in a container the tree usually begins with the container's own cgroup. What cannot be read is no limit.

`own`: what /proc/self/cgroup says, a line per hierarchy: `0::/path` for version 2, `4:memory:/path` for version 1.
`root`: where the trees are mounted: version 2 at the root itself (or, beside version 1, in `unified`), version 1 in a folder
per set of controllers (`memory`, `cpu,cpuacct`).
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
_PERIOD = 100_000  # microseconds: the kernel's own, where a quota stands without one
_V2, _V1 = "", "memory"  # how `own` names the hierarchies that count memory
_LIMIT = {_V2: "memory.max", _V1: "memory.limit_in_bytes"}
_USED = {_V2: "memory.current", _V1: "memory.usage_in_bytes"}
# Page cache, which the kernel takes back when it needs room. What tmpfs and shared memory hold is not in these.
_CACHE = {
    _V2: ("inactive_file", "active_file"),
    _V1: ("total_inactive_file", "total_active_file"),  # with those of the cgroups below
}


def cpus(own: Path = OWN, root: Path = ROOT, affinity: int | None = None) -> int:
    """How many CPUs we may use at once, 1 at least: part of one is one. `affinity`: by default, of this process."""
    allowed = _affinity() if affinity is None else affinity
    for group in _groups(own, root, ""):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        allowed = min(allowed, _share(_number(quota), _number(period)))
    for group in _groups(own, root, "cpu"):
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        allowed = min(allowed, _share(_number(quota), _number(period)))
    return max(allowed, 1)


def memory_limit(own: Path = OWN, root: Path = ROOT, machine: int | None = None) -> int | None:
    """Bytes that the cgroup may hold; None: all that the machine has. `machine`: its bytes, by default of this one.

    At the limit the kernel kills. `memory.high` is none: beyond that it only slows down.
    """
    tightest = _tightest(own, root, machine_memory() if machine is None else machine)
    return tightest and tightest[0]


def memory_used(own: Path = OWN, root: Path = ROOT, machine: int | None = None) -> int | None:
    """Bytes that the cgroup holds and cannot give back: all but page cache. None where it is not known.

    Of the cgroup that `memory_limit` is the limit of, others in it included; without a limit, of our own.
    """
    tightest = _tightest(own, root, machine_memory() if machine is None else machine)
    if tightest is not None:
        _, kind, group = tightest
        return _used(kind, group)
    for kind in (_V2, _V1):
        for group in islice(_groups(own, root, kind), 1):
            used = _used(kind, group)
            if used is not None:
                return used
    return None


def memory_of(pids: Iterable[int], proc: Path = PROC) -> int:
    """Bytes of memory that these processes hold and no file backs; those that are gone hold none."""
    return sum(_resident(proc / str(pid) / "status") for pid in pids)


def machine_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(quota: int | None, period: int | None) -> int:
    """How many CPUs a quota comes to, in whole ones; both in microseconds. No end of them where there is none (max, -1)."""
    period = _PERIOD if period is None else period
    return sys.maxsize if quota is None or quota <= 0 or period <= 0 else -(-quota // period)


def _tightest(own: Path, root: Path, machine: int) -> tuple[int, str, Path] | None:
    """The lowest limit of memory that is one on this machine, the kind of its hierarchy, and whose it is."""
    limits = [
        (limit, kind, group)
        for kind in (_V2, _V1)
        for group in _groups(own, root, kind)
        # Version 1 has a huge number for "no limit", and is not always asked on the machine that it was set for.
        if (limit := _number(_text(group / _LIMIT[kind]))) is not None and 0 <= limit < machine
    ]
    return min(limits, key=lambda found: found[0], default=None)


def _used(kind: str, group: Path) -> int | None:
    used = _number(_text(group / _USED[kind]))
    members = dict(line.split(" ", 1) for line in _lines(group / "memory.stat") if " " in line)
    cache = [_number(members.get(name, "")) for name in _CACHE[kind]]
    if used is None or None in cache:
        return None
    return max(used - sum(filter(None, cache)), 0)  # the two were not read at the same instant


def _groups(own: Path, root: Path, controller: str) -> Iterator[Path]:
    """Our cgroup in the hierarchy of a controller ("": version 2), then those above it, as far as they can be seen."""
    for line in _lines(own):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            tree = _tree(root, controller)
            # A path that leads out of what is mounted, as seen from within a namespace: only its root is there.
            steps = PurePosixPath(path.lstrip("/"))
            inside = steps if ".." not in steps.parts else PurePosixPath()
            for step in (inside, *inside.parents):
                if (tree / step).is_dir():
                    yield tree / step


def _tree(root: Path, controller: str) -> Path:
    """Where a hierarchy is mounted; a path that leads nowhere if it is not."""
    if controller:
        try:
            mounted = sorted(root.iterdir())
        except OSError:
            mounted = []
        named = (one for one in mounted if controller in one.name.split(","))
        return next(named, root / controller)
    beside = root / "unified"
    mixed = beside.is_dir() and not (root / "cgroup.controllers").exists()
    return beside if mixed else root


def _resident(status: Path) -> int:
    members = dict(line.split(":", 1) for line in _lines(status) if ":" in line)
    return sum(
        1024 * (_number(members.get(name, "").removesuffix("kB").strip()) or 0)
        for name in ("RssAnon", "RssShmem")
    )


def _lines(file: Path) -> list[str]:
    return _text(file).splitlines()


def _text(file: Path) -> str:
    """What a file says; "" where it says nothing, or is not there (any more), or is not ours to read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """None where it is none, such as `max`."""
    try:
        return int(text)
    except ValueError:
        return None
