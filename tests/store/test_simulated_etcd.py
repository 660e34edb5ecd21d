"""The simulated etcd tells the truth: it and a real one are asked the same and answer the same."""

import json
from typing import Any

import anyio
import httpx
import pytest

from sniproxy.store.etcd_watch import b64, key_range
from tests.support.etcd import EtcdServer
from tests.support.simulated_etcd import SimulatedEtcd
from tests.support.stores import PATIENCE

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
OURS = key_range(b"/a/")


def key(name: str) -> Json:
    return {"key": b64(name.encode())}


def quiet_since(revision: int) -> Json:
    """The question whether nothing happened, as a watch asks it."""
    count = {**OURS, "count_only": True}
    return {
        "compare": [{**OURS, "target": "MOD", "result": "LESS", "mod_revision": str(revision + 1)}],
        "success": [
            {"request_range": count},
            {"request_range": {**count, "revision": str(revision)}},
        ],
    }


# A story from revision 1 on, and members that must be in the answer; None: it must not be there.
STORY: tuple[tuple[str, Json, Json], ...] = (
    ("kv/range", OURS, {"count": None, "kvs": None}),
    ("kv/txn", quiet_since(1), {"succeeded": True}),
    ("kv/put", key("/a/1") | {"value": b64(b"v")}, {}),  # 2
    ("kv/put", key("/a/2"), {}),
    ("kv/put", key("/a/3"), {}),  # 4
    ("kv/put", key("/b/1"), {}),
    ("kv/range", key("/a/1"), {"count": "1"}),
    ("kv/range", key("/c") | {"keys_only": True}, {"count": None}),
    ("kv/range", OURS | {"limit": "2"}, {"count": "3", "more": True}),
    # the count is of all keys, whatever is asked for
    ("kv/range", OURS | {"min_mod_revision": "4", "limit": "1"}, {"count": "3", "more": None}),
    ("kv/range", OURS | {"min_mod_revision": "5", "keys_only": True}, {"count": "3", "kvs": None}),
    ("kv/range", OURS | {"count_only": True, "revision": "3"}, {"count": "2", "kvs": None}),
    ("kv/range", OURS | {"revision": "99"}, {"code": 11}),
    ("kv/txn", quiet_since(5), {"succeeded": True}),
    ("kv/txn", quiet_since(4), {"succeeded": True}),
    ("kv/txn", quiet_since(3), {"succeeded": None}),  # one was written
    ("kv/deleterange", key("/a/2"), {"deleted": "1"}),  # 6
    ("kv/deleterange", key("/a/2"), {"deleted": None}),
    ("kv/txn", quiet_since(5), {"succeeded": True}),  # and the counts differ: one was deleted
    ("kv/txn", quiet_since(6), {"succeeded": True}),
    ("kv/put", key("/a/1") | {"value": b64(b"w")}, {}),  # 7
    ("kv/put", key("/a/2"), {}),
    ("kv/put", key("/b/1"), {}),  # 9
    ("kv/compaction", {"revision": "5"}, {}),
    ("kv/compaction", {"revision": "5"}, {"code": 11}),
    ("kv/compaction", {"revision": "99"}, {"code": 11}),
    ("kv/range", OURS | {"revision": "4"}, {"code": 11}),
    ("kv/range", OURS | {"revision": "5"}, {"count": "3"}),
    ("kv/txn", quiet_since(8), {"succeeded": True}),
    ("kv/txn", quiet_since(5), {"succeeded": None}),
    ("kv/deleterange", OURS, {"deleted": "3"}),  # 10, three keys at once
    ("kv/compaction", {"revision": "8"}, {}),
    ("kv/range", OURS, {"count": None}),
    ("kv/range", OURS | {"revision": "8"}, {"count": "3"}),
    ("kv/txn", quiet_since(7), {"succeeded": None}),  # a compare that fails comes before ...
    ("kv/txn", quiet_since(9), {"succeeded": True}),
)
# watches at the end of it: where from, and how many lines there are
WATCHES = ((9, 2), (10, 2), (11, 1), (8, 2), (3, 2), (0, 1))


def known(answer: Any) -> Any:
    """Without what differs from cluster to cluster, where numbers must be numbers, or by the version of etcd."""
    if isinstance(answer, list):
        return [known(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    for name in ("cluster_id", "member_id", "raft_term"):
        assert int(answer.pop(name, 1)) > 0
    return {name: known(value) for name, value in answer.items() if name != "error"}


async def lines(client: httpx.AsyncClient, after: int, count: int) -> list[Json]:
    """The first lines of a watch."""
    request = {"create_request": {**OURS, "start_revision": str(after), "progress_notify": True}}
    found: list[Json] = []
    with anyio.fail_after(PATIENCE):
        async with client.stream("POST", "/v3/watch", json=request) as answer:
            reading = answer.aiter_lines()
            while len(found) < count:
                found.append(known(json.loads(await anext(reading))["result"]))
            with anyio.CancelScope() as ending:  # ends the generators from the inside
                ending.cancel()
                await anext(reading)
    return found


async def test_it_answers_as_etcd_does(etcd: EtcdServer) -> None:
    simulated = SimulatedEtcd()
    async with (
        httpx.AsyncClient(base_url=etcd.url, trust_env=False, verify=False) as real,
        httpx.AsyncClient(base_url="http://simulated", transport=simulated) as ours,
    ):
        for path, question, wanted in STORY:
            answers = [
                known((await client.post(f"/v3/{path}", json=question)).json())
                for client in (real, ours)
            ]
            assert answers[0] == answers[1], (path, question)
            assert {name: answers[0].get(name) for name in wanted} == wanted, (path, question)
        for after, count in WATCHES:
            assert await lines(real, after, count) == await lines(ours, after, count), after
