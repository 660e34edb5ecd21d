"""kill -9 during writes loses no write that was acknowledged, and what serves goes on serving."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from tests.support.players import Game, join_soon, pem_pair, say, trusting
from tests.support.stack import Stack, retry_until, stores

KILLS = 3
WRITERS = 4
WRITE_PAUSE = 0.005  # seconds of each writer, so that they leave the admin some of the machine
PER_KILL = 25  # acknowledged writes between two kills


class Writer(threading.Thread):
    """Writes upstreams one after the other and notes each that was acknowledged, with its value."""

    def __init__(self, stack: Stack, number: int) -> None:
        super().__init__(name=f"writer-{number}")
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self.unexpected: list[str] = []
        self.over = threading.Event()
        self._number = number
        self._url = f"http://127.0.0.1:{stack.admin_port}/apisix/admin/upstreams"
        self._headers = dict(stack.api.headers)

    def run(self) -> None:
        count = 0
        while not self.over.wait(WRITE_PAUSE):
            count += 1
            object_id = f"w{self._number}-{count % 20}"  # creates first, replaces later
            value = {"nodes": {"127.0.0.1:1": count}}
            try:
                answer = httpx.put(
                    f"{self._url}/{object_id}", json=value, headers=self._headers, verify=False
                )
            except httpx.TransportError:
                self.refused += 1
                continue
            if answer.is_success:
                self.acknowledged[object_id] = count
            elif answer.status_code == 503:
                self.refused += 1
            else:
                self.unexpected.append(answer.text)


@contextmanager
def writing(stack: Stack) -> Iterator[list[Writer]]:
    writers = [Writer(stack, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.over.set()
        for writer in writers:
            writer.join()


def wait_for_writes(writers: list[Writer]) -> None:
    """Until that many more were acknowledged."""
    before = [max(writer.acknowledged.values(), default=0) for writer in writers]
    for _ in retry_until(60, "writes go through"):
        now = [max(writer.acknowledged.values(), default=0) for writer in writers]
        if sum(now) - sum(before) >= PER_KILL:
            return


def check(stack: Stack, writers: list[Writer]) -> None:
    """Every acknowledged write is there, or a later one of the same writer whose answer was lost."""
    stored = {
        one["key"].rpartition("/")[2]: one["value"]["nodes"]["127.0.0.1:1"]
        for one in stack.api.get("/upstreams").json()["list"]
    }
    for writer in writers:
        assert not writer.unexpected
        assert writer.acknowledged
        for object_id, count in writer.acknowledged.items():
            assert stored[object_id] >= count


@pytest.mark.parametrize("kind", ["sqlite", "etcd"])
def test_kill_of_the_admin(kind: str, tmp_path: Path) -> None:
    with stores(kind, tmp_path) as (store, _), Stack(tmp_path / "stack", store, workers=1) as stack:
        with writing(stack) as writers:
            for _ in range(KILLS):
                wait_for_writes(writers)
                stack.admin.kill()
                stack.admin.start()
                stack.wait_admin()
            wait_for_writes(writers)
        check(stack, writers)


def test_kill_of_etcd(tmp_path: Path, authority: trustme.CA, games: tuple[Game, Game]) -> None:
    name = "lives.example.com"
    with (
        stores("etcd", tmp_path) as (store, server),
        Stack(tmp_path / "stack", store, workers=1) as stack,
    ):
        assert server is not None
        stack.put("/ssls/lives", {"sni": name} | pem_pair(authority, name))
        stack.put("/stream_routes/lives", {"sni": name, "upstream": {"nodes": games[0].nodes}})
        context = trusting(authority)
        with join_soon(stack.port, name, context) as staying, writing(stack) as writers:
            for _ in range(KILLS):
                wait_for_writes(writers)
                server.kill()
                answer = stack.api.put("/upstreams/away", json={"nodes": {}})
                assert answer.status_code == 503
                assert answer.json()["error_msg"]
                # The data plane needs no store to serve: a session that runs, and a new one.
                assert say(staying, "x") == f"[{games[0].name}] x"
                with join_soon(stack.port, name, context) as player:
                    assert say(player, "y") == f"[{games[0].name}] y"
                server.start()
                stack.wait_admin()
            wait_for_writes(writers)
        check(stack, writers)
        assert stack.api.get("/upstreams/away").status_code == 404  # nothing half-written
        # The watch came back by itself.
        stack.put("/stream_routes/lives", {"sni": name, "upstream": {"nodes": games[1].nodes}})
        for _ in retry_until(60, "a change after the return of etcd"):
            with join_soon(stack.port, name, context) as player:
                if say(player, "z") == f"[{games[1].name}] z":
                    break
