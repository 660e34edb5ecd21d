"""How etcd answers, as a client sees it."""

from typing import Any

import anyio
import httpx
import pytest

from sniproxy.errors import StoreUnavailable
from sniproxy.store.etcd_health import EtcdHealth
from tests.support.etcd_store import GOOD, LEADERLESS, answering, opened

pytestmark = pytest.mark.anyio


NONSENSE: tuple[object, ...] = (None, "", "x", -1, 1.5, [], "9" * 5000)


def header(term: object) -> dict[str, Any]:
    """An answer of that term."""
    return {"header": {"revision": "7", "raft_term": term}}


def test_each_later_term_is_another_leader() -> None:
    health = EtcdHealth()
    seen: list[tuple[object, int]] = [("2", 0), ("2", 0), (3, 1), ("2", 1), ("3", 1), ("9", 2)]
    for term, changes in seen:
        health.answered(0.1, header(term))
        assert (health.up, health.leader_changes) == (True, changes)
    assert sum(health.requests.counts) == 6


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"header": None},
        {"header": []},
        {"header": {}},
        *map(header, NONSENSE),
    ],
)
def test_nonsense_changes_nothing_but_that_it_was_answered(answer: dict[str, Any]) -> None:
    health = EtcdHealth()
    health.answered(0.1, answer)
    assert (health.up, health.leader_changes) == (True, 0)


async def test_who_was_not_asked_is_neither() -> None:
    transport = answering(etcd=GOOD)
    async with opened("http://etcd:1", transport=transport) as store:
        assert store.health.up is None


async def test_an_answer_a_refusal_and_silence() -> None:
    replies = {"etcd": GOOD}

    def handle(request: httpx.Request) -> httpx.Response:
        return replies[request.url.host]()

    async with opened("http://etcd:1", transport=httpx.MockTransport(handle)) as store:
        await store.get("/1")
        assert (store.health.up, sum(store.health.requests.counts)) == (True, 1)
        replies["etcd"] = LEADERLESS
        with pytest.raises(StoreUnavailable):
            await store.get("/1")
        assert (store.health.up, sum(store.health.requests.counts)) == (False, 2)
        replies["etcd"] = lambda: httpx.Response(
            400, json={"code": 7, "message": "permission denied"}
        )
        with pytest.raises(StoreUnavailable):
            await store.get("/1")
        assert store.health.up is True  # it has answered


async def test_a_call_that_is_given_up_says_nothing() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async with opened("http://etcd:1", transport=httpx.MockTransport(never)) as store:
        with anyio.move_on_after(0.01):
            await store.get("/1")
        assert store.health.up is None
