"""The start of the data plane's parent: its first record in the store comes before its first player."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from sniproxy.objects.node_record import records_prefix
from sniproxy.settings import Encryption, Etcd
from sniproxy.store import Listing
from sniproxy.store.mirror import Mirror, Origin
from tests.support.crews import PATIENCE, until
from tests.support.planes import House, house_of
from tests.support.stores import opened_sqlite

pytestmark = pytest.mark.anyio


@contextmanager
def taking_nothing(folder: Path) -> Iterator[None]:
    """The store can be read, and nothing written."""
    with closing(sqlite3.connect(folder / "config.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def records(house: House) -> list[str]:
    """Whom `?wait=all` waits for."""
    async with opened_sqlite(house.settings.state_dir / "config.db") as store:
        prefix = records_prefix(house.settings.where.prefix)
        return [entry.key for entry in (await store.list(prefix)).entries]


async def test_who_lets_players_in_is_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a write that comes then would not be waited for, and a player be routed as before it."""
    monkeypatch.setattr("sniproxy.presence.INTRODUCTION", PATIENCE)
    async with house_of(tmp_path) as house:
        with ExitStack() as meanwhile:
            meanwhile.enter_context(taking_nothing(tmp_path))
            async with house.version() as plane:
                await until(plane.parent.crew.first_ready.is_set)
                await trio.testing.wait_all_tasks_blocked()
                assert await plane.readiness() == 503
                with pytest.raises(ConnectionRefusedError):
                    plane.dial()
                meanwhile.close()
                await plane.ready()
                assert len(await records(house)) == 1
                assert await plane.readiness() == 200
                (player,) = await plane.join(1)
                player.close()


async def test_a_store_that_takes_nothing_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sniproxy.presence.INTRODUCTION", 0.2)
    async with house_of(tmp_path) as house:
        with ExitStack() as meanwhile:
            meanwhile.enter_context(taking_nothing(tmp_path))
            async with house.version() as plane:
                await plane.ready()
                assert await plane.readiness() == 200
                assert await records(house) == []
                (player,) = await plane.join(1)
                player.close()
                meanwhile.close()


async def test_a_store_that_is_known_to_be_away_is_not_waited_for(
    tmp_path: Path, deaf: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Players who are served by the copy of last time need not wait for a record that will not come."""
    monkeypatch.setattr("sniproxy.presence.INTRODUCTION", 10 * PATIENCE)
    host, port = deaf
    away: dict[str, Any] = {
        "store": f"etcd://{host}:{port}/apisix",
        "etcd": Etcd(timeout=10 * PATIENCE),
        "encryption": Encryption(keyring=("A" * 43 + "=",)),
    }
    mirror = Mirror(tmp_path / "mirror.db", Origin("/apisix", frozenset({f"http://{host}:{port}"})))
    mirror.take_over(Listing((), 7), time.time())
    mirror.close()
    async with house_of(tmp_path, store_wait=0.2) as house:
        house.settings = house.settings.model_copy(update=away)
        async with house.version() as plane:
            await plane.ready()
            assert (await plane.look("/readyz")).text.startswith("ok, but config_stale")
            plane.dial().close()
