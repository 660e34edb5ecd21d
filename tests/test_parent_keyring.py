"""A keyring that is another one at SIGHUP, in a data plane whose workers are processes."""

import json
import signal
from pathlib import Path

import pytest
import trio

from sniproxy.keyring import Keyring
from sniproxy.objects.secrets import map_secrets
from sniproxy.settings import Encryption
from sniproxy.store.sqlite import SqliteStore
from tests.support.crews import PATIENCE, until
from tests.support.gateway import certificate
from tests.support.planes import Plane, house_of
from tests.test_keyring import APISIX_16, OTHER

pytestmark = pytest.mark.anyio

BROKEN = "config_broken_objects"


async def write(folder: Path, keyring: Keyring) -> None:
    """A certificate under a keyring, straight into the store."""
    value = map_secrets("ssls", "1", certificate(), keyring.encrypt)
    store = SqliteStore(folder / "config.db")
    await store.put("/apisix/ssls/1", json.dumps(value).encode())
    await store.aclose()


async def until_broken(plane: Plane, count: int) -> None:
    """So many objects cannot be used."""
    with trio.fail_after(PATIENCE):
        while await plane.metric(BROKEN) != count:  # noqa: ASYNC110  # of another process
            await trio.sleep(0.02)


async def test_what_did_not_open_is_in_force_once_a_signal_has_brought_its_key(
    tmp_path: Path,
) -> None:
    async with house_of(tmp_path, workers=1) as house, house.version() as plane:
        await plane.ready()
        await write(tmp_path, Keyring([OTHER]))
        await until_broken(plane, 1)
        encryption = Encryption(keyring=(APISIX_16, OTHER))
        house.settings = house.settings.model_copy(update={"encryption": encryption})
        plane.send(signal.SIGHUP)
        await until_broken(plane, 0)
        (line,) = plane.logged("settings read again")
        assert line["need_upgrade"] == []
        (line,) = plane.logged(
            "private keys are encrypted under a default key of APISIX, which everybody knows"
        )
        assert APISIX_16 not in json.dumps(line)


async def test_a_key_file_that_was_damaged_changes_nothing(tmp_path: Path) -> None:
    async with house_of(tmp_path, workers=1) as house, house.version() as plane:
        await plane.ready()
        (tmp_path / "keyring").write_text("damaged\n")
        plane.send(signal.SIGHUP)
        await until(lambda: plane.logged("settings not used"))
        (line,) = plane.logged("settings not used")
        assert "is damaged: expected base64 of 32 bytes on each line" in line["cause"]
        for player in await plane.join(1):
            player.close()
