"""A real etcd of several members on loopback, whose members are killed, paused, compacted and restored by number."""

import base64
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.etcd import START_TRIES, EtcdMember, find_etcd_binaries, prefix_range

ASK_TIMEOUT = 1.0  # seconds for one member's answer, before another is asked
PATIENCE = 15.0  # seconds in which some member must answer, or a quorum be healthy
TOOL_TIMEOUT = 30.0  # seconds for etcdctl and etcdutl


class EtcdCluster:
    """`with` starts the members, and ends those that run, paused or not, whatever happened inside."""

    def __init__(self, folder: Path, members: int = 3) -> None:
        self._binary = find_etcd_binaries()[0]
        self._folder = folder
        self.members = [
            EtcdMember(self._binary, folder / f"m{number}", name=f"m{number}")
            for number in range(members)
        ]
        self._paused: set[int] = set()

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.running:
            self.kill(number)  # in good order it would hand over leadership first, for seconds

    @property
    def urls(self) -> tuple[str, ...]:
        """The client URLs, by number; the same for ever."""
        return tuple(member.url for member in self.members)

    @property
    def ports(self) -> tuple[int, ...]:
        """The same as ports of 127.0.0.1."""
        return tuple(int(url.rpartition(":")[2]) for url in self.urls)

    @property
    def quorum(self) -> int:
        """How many members it takes to write."""
        return len(self.members) // 2 + 1

    @property
    def running(self) -> list[int]:
        """The numbers of members that have a process, paused or not."""
        return [number for number, member in enumerate(self.members) if member.runs]

    def kill(self, number: int) -> None:
        """SIGKILL, and wait until it is gone. Its data stay."""
        self._paused.discard(number)
        self.members[number].kill()

    def start(self, number: int) -> None:
        """Start one that was killed, with its data, and do not wait."""
        self.members[number].launch(self._initial)

    def pause(self, number: int) -> None:
        """SIGSTOP: its connections stay open, nothing is answered."""
        self._paused.add(number)
        self.members[number].pause()

    def resume(self, number: int) -> None:
        """SIGCONT."""
        self._paused.discard(number)
        self.members[number].resume()

    def leader(self) -> int | None:
        """The leader's number, as the members see it that answer."""
        found: list[tuple[int, int]] = []
        for number in self._answering():
            with suppress(httpx.HTTPError):
                path = "/v3/maintenance/status"
                status = self.members[number].call(path, {}, timeout=ASK_TIMEOUT)
                if status.get("leader", "0") == status["header"]["member_id"]:
                    found.append((int(status["raftTerm"]), number))
        return max(found)[1] if found else None  # one that was paused may not know of its successor

    def wait_leader(self) -> int:
        """The leader's number, as soon as there is one."""
        end = time.monotonic() + PATIENCE
        while (leader := self.leader()) is None:
            if time.monotonic() > end:
                raise RuntimeError(self._told("no leader"))
            time.sleep(0.01)
        return leader

    def wait_healthy(self, count: int | None = None) -> None:
        """Until so many members, or all of them, take part: /health makes a linearizable read."""
        wanted = len(self.members) if count is None else count
        end = time.monotonic() + PATIENCE
        while True:
            healthy = 0
            for number in self._answering():
                with suppress(httpx.HTTPError):
                    url = f"{self.members[number].url}/health"
                    healthy += httpx.get(
                        url, timeout=ASK_TIMEOUT, trust_env=False, verify=False
                    ).is_success
            if healthy >= wanted:
                return
            if time.monotonic() > end:
                raise RuntimeError(self._told(f"{healthy} healthy members, not {wanted}"))
            time.sleep(0.01)

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request that may be repeated, to whichever member answers it."""
        end = time.monotonic() + PATIENCE
        cause: Exception | None = None
        while time.monotonic() < end:
            for number in self._answering():
                try:
                    return self.members[number].call(path, body, timeout=ASK_TIMEOUT)
                except httpx.HTTPStatusError as error:
                    if error.response.is_client_error:
                        raise
                    cause = error
                except httpx.HTTPError as error:
                    cause = error
            time.sleep(0.01)
        raise RuntimeError(self._told(f"{path}: {cause!r}"))

    def state(self, prefix: str) -> dict[str, tuple[int, bytes]]:
        """All keys under `prefix` with their mod revision and value, by a linearizable range."""
        return {
            base64.b64decode(one["key"]).decode(): (
                int(one["mod_revision"]),
                base64.b64decode(one.get("value", "")),
            )
            for one in self.call("/v3/kv/range", dict(prefix_range(prefix))).get("kvs", ())
        }

    def revision(self) -> int:
        """The head: the revision of the last write of all."""
        answer = self.call("/v3/kv/range", prefix_range("/") | {"count_only": True})
        return int(answer["header"]["revision"])

    def compact(self) -> None:
        """Forget all history before the head. What was forgotten at the first try, whose answer was lost, is refused."""
        revision = str(self.revision())
        try:
            self.call("/v3/kv/compaction", {"revision": revision, "physical": True})
        except httpx.HTTPStatusError as error:
            if "compacted" not in error.response.text:
                raise

    def save(self, path: Path) -> None:
        """A snapshot of the leader's data: a follower's may lack the latest writes."""
        url = self.members[self.wait_leader()].url
        self._run("etcdctl", "--endpoints", url, "snapshot", "save", str(path))

    def restore(self, path: Path) -> None:
        """Stop all members, put the snapshot in place of their data, and start them: what was written since is gone."""
        for number in self.running:
            self.kill(number)
        for member in self.members:
            shutil.rmtree(member.data)
            self._run(
                "etcdutl", "snapshot", "restore", str(path), "--name", member.name,
                "--data-dir", str(member.data), "--initial-advertise-peer-urls", member.peer_url,
                "--initial-cluster", self._initial,
            )  # fmt: skip
        for number in range(len(self.members)):
            self.start(number)
        self.wait_healthy()

    @property
    def _initial(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def _answering(self) -> list[int]:
        return [number for number in self.running if number not in self._paused]

    def _start_all(self) -> None:
        for tries_left in reversed(range(START_TRIES)):
            for member in self.members:
                shutil.rmtree(member.data, ignore_errors=True)
                member.choose_ports()
            for number in range(len(self.members)):
                self.start(number)
            try:
                self.wait_healthy()
            except RuntimeError:
                if not tries_left:
                    raise
                for number in self.running:
                    self.kill(number)
            else:
                return

    def _run(self, tool: str, *arguments: str) -> None:
        """One of the tools that lie beside the binary."""
        done = subprocess.run(
            [self._binary.with_name(tool), *arguments],
            env=os.environ | {"ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} {' '.join(arguments)}:\n{done.stderr[-2000:]}")

    def _told(self, what: str) -> str:
        logs = "\n".join(f"{member.name}: {member.last_words}" for member in self.members)
        return f"{what}; members that run: {self.running}, paused: {sorted(self._paused)}\n{logs}"
