"""How much memory a cgroup may hold and holds, over the layouts that are met in the wild; and what processes hold."""

from pathlib import Path

import pytest

from sniproxy.cgroup import memory_of
from tests.support.cgroups import (
    GIB,
    HASH,
    K8S_V1,
    MACHINE,
    NO_V1_LIMIT,
    V2_BARE,
    Files,
    Tree,
    v1,
    v1_stat,
    v2_stat,
)

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
