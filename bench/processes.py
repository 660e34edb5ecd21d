"""What the kernel knows of processes: CPU time, memory, where they may run. Linux only."""

import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CPUCLOCK_SCHED = 2  # of <linux/posix-timers.h>: what the scheduler counts, in nanoseconds
CPUCLOCK_PERTHREAD = 4


def cores() -> tuple[int, int]:
    """One for the proxy, one for the load; the same where there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def descriptors() -> int:
    """How many a process of ours may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def spawn(
    command: Sequence[str | Path],
    core: int | None,
    *,
    output: IO[bytes] | int,
    errors: IO[bytes] | int,
    commands: int = subprocess.DEVNULL,
    env: dict[str, str] | None = None,
    most: int | None = None,
) -> subprocess.Popen[bytes]:
    """A process that runs on that core only, if one is given. most: descriptors; as many as it may have by default."""
    most = most or descriptors()

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return subprocess.Popen(
        command, stdin=commands, stdout=output, stderr=errors, env=env, preexec_fn=prepare
    )


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:  # it has ended meanwhile
        return found
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has ended meanwhile
            continue
        for child in children:
            found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads and its descendants so far, to the nanosecond."""
    return sum(time.clock_gettime((~one << 3) | CPUCLOCK_SCHED) for one in tree(pid))


def thread_clock(name: str) -> int:
    """The clock of the CPU time of a thread of this process, see clock_getcpuclockid(3)."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return (~int(task.name) << 3) | CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD
    raise AssertionError(f"no thread {name}")


def busy_seconds() -> float:
    """What all cores of the machine have worked so far, for whomever."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """What this process and those that it has started and seen end have worked so far."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory(pid: int) -> float:
    """KiB of a process and its descendants; pages that several share are counted in parts (PSS)."""
    return sum(_rolled_up(one, "Pss") for one in tree(pid))


def allocated(pid: int) -> float:
    """KiB of that which are no file's: whoever else maps the same files does not change them."""
    return sum(_rolled_up(one, "Pss_Anon") for one in tree(pid))


def resident(pid: int) -> float:
    """KiB of one process, pages that it shares with others counted whole (RSS)."""
    return _rolled_up(pid, "Rss")


def all_resident(pid: int) -> float:
    """The same of a process and its descendants: what they share is counted as often as there are processes."""
    return sum(map(resident, tree(pid)))


def _rolled_up(pid: int, what: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {what} of {pid}")


def end(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """SIGTERM, then SIGKILL, and wait."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
