"""The etcd of several members does what the faults need: what the suite says of sniproxy rests on it."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.etcd import find_etcd_binaries
from tests.support.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as running:
        yield running
    assert running.running == []


def put(cluster: EtcdCluster, key: str, value: str) -> None:
    pair = {"key": key, "value": value}
    coded = {name: base64.b64encode(text.encode()).decode() for name, text in pair.items()}
    cluster.call("/v3/kv/put", coded)


def values(cluster: EtcdCluster, prefix: str) -> dict[str, bytes]:
    return {key: value for key, (_, value) in cluster.state(prefix).items()}


def test_another_leader_after_a_kill_and_nothing_lost(cluster: EtcdCluster) -> None:
    put(cluster, "/kill/a", "1")
    first = cluster.wait_leader()
    cluster.kill(first)
    began = time.monotonic()
    assert cluster.wait_leader() != first
    assert time.monotonic() - began < 10
    put(cluster, "/kill/b", "2")
    cluster.start(first)
    cluster.wait_healthy()
    assert values(cluster, "/kill/") == {"/kill/a": b"1", "/kill/b": b"2"}


def test_another_leader_after_a_pause(cluster: EtcdCluster) -> None:
    first = cluster.wait_leader()
    cluster.pause(first)
    second = cluster.wait_leader()
    put(cluster, "/pause/a", "1")
    cluster.resume(first)
    cluster.wait_healthy()
    assert second != first
    assert values(cluster, "/pause/") == {"/pause/a": b"1"}


def test_a_snapshot_takes_back_what_was_written_since(cluster: EtcdCluster, tmp_path: Path) -> None:
    put(cluster, "/restore/a", "1")
    before, head = cluster.state("/restore/"), cluster.revision()
    cluster.save(tmp_path / "snapshot")
    put(cluster, "/restore/b", "2")
    assert cluster.revision() > head  # by more, where a member that was slow has written it too
    cluster.restore(tmp_path / "snapshot")
    assert cluster.state("/restore/") == before
    assert cluster.revision() == head
    put(cluster, "/restore/c", "3")


def test_history_is_forgotten(cluster: EtcdCluster) -> None:
    put(cluster, "/compact/a", "1")
    cluster.compact()
    old = {"key": base64.b64encode(b"/compact/a").decode(), "revision": "1"}
    with pytest.raises(httpx.HTTPStatusError, match="400 Bad Request"):
        cluster.call("/v3/kv/range", old)


def test_paused_and_killed_members_are_gone_at_the_end(tmp_path: Path) -> None:
    cluster = EtcdCluster(tmp_path)
    with cluster:
        cluster.kill(0)
        cluster.pause(1)
    assert cluster.running == []
