"""Other keys for what is at rest, under handshakes at a steady rate: not one of them fails."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from bench.rotation import Seen, visits
from sniproxy.keyring import Keyring
from sniproxy.keyring_file import KeyFile
from tests.support.crowds import until
from tests.support.echo import echo_process
from tests.support.etcd import find_etcd_binaries
from tests.support.keyrings import roll, set_keyring, sniproxy
from tests.support.players import pem_pair, trusting
from tests.support.stack import Stack, stores

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

RATE = 30.0  # handshakes a second
NAMES = [f"game-{number}.example.com" for number in range(15)]  # each with a certificate
THREE = "three.example.com"  # with three private keys
BROKEN = "sniproxy_config_broken_objects"
THEIRS = "a key of sixteen"


@asynccontextmanager
async def visited(stack: Stack, game: int, authority: trustme.CA) -> AsyncIterator[Seen]:
    """Certificates, routes, and players who come while the block lasts; not one of them was turned away."""
    for number, name in enumerate(NAMES):
        stack.put(f"/ssls/{number}", {"sni": name} | pem_pair(authority, name))
    pairs = [pem_pair(authority, THREE) for _ in range(2)]
    more = {"certs": [one["cert"] for one in pairs], "keys": [one["key"] for one in pairs]}
    stack.put("/ssls/three", {"sni": THREE} | pem_pair(authority, THREE) | more)
    route = {"sni": "*.example.com", "upstream": {"nodes": {f"127.0.0.1:{game}": 1}}}
    stack.put("/stream_routes/1?wait=all&timeout=60s", route)
    seen, names = Seen(), [*NAMES, THREE]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(visits, stack.port, trusting(authority), seen, RATE, names)
        await all_came(seen)
        yield seen
        await all_came(seen)
        nursery.cancel_scope.cancel()
    assert seen.failures == []
    assert stack.metrics()[BROKEN] == 0
    assert stack.proxy.lines("object skipped") == []


async def all_came(seen: Seen) -> None:
    """To every name once from now on."""
    before = len(seen.handshakes) + len(seen.failures)
    await until(lambda: len(seen.handshakes) + len(seen.failures) > before + len(NAMES) + RATE)


async def command(stack: Stack, *words: str) -> str:
    return await trio.to_thread.run_sync(partial(sniproxy, stack, *words))


def rows(status: str) -> list[list[str]]:
    """Of the keyring: id, form and how many private keys."""
    return [line.split()[:3] for line in status.splitlines()[1:-2]]


def fresh(authority: trustme.CA, name: str) -> dict[str, Any]:
    return {"sni": name} | pem_pair(authority, name)


async def test_a_new_key_on_one_machine(tmp_path: Path, authority: trustme.CA) -> None:
    with echo_process() as game, stores("sqlite", tmp_path) as (store, _):
        stack = Stack(tmp_path / "stack", store, workers=2)
        set_keyring(stack)
        with stack:
            file = KeyFile(tmp_path / "stack" / "state" / "keyring")
            async with visited(stack, game, authority) as seen:
                for keys in (2, 3):
                    said = await command(stack, "keyring", "rotate", "--new-key")
                    assert said.startswith("all 18 private keys are under key ")
                    assert len(file.read()) == keys
                    await all_came(seen)
                # the admin, which was not started anew either, writes under it
                stack.put("/ssls/0?wait=all&timeout=60s", fresh(authority, NAMES[0]))
                newest = Keyring(file.read()[:1]).writer.id
                status = rows(await command(stack, "keyring", "status"))
                assert status[0] == [newest, "aes256gcm", "18"]
                assert [count for *_, count in status] == ["18", "0", "0"]


@pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")
@pytest.mark.parametrize("form", ["apisix"])  # "aes256gcm" takes as long again
async def test_another_key_everywhere(tmp_path: Path, authority: trustme.CA, form: str) -> None:
    """In the order of docs/keyring.md; from a key of ours to another, or to an APISIX's."""
    old = base64.b64encode(os.urandom(32)).decode()
    new = base64.b64encode(os.urandom(32)).decode() if form == "aes256gcm" else THEIRS
    old_id, new_id = (Keyring([one]).writer.id for one in (old, new))
    with echo_process() as game, stores("etcd", tmp_path) as (store, _):
        stack = Stack(tmp_path / "stack", store, workers=2)
        set_keyring(stack, old)
        with stack:
            async with visited(stack, game, authority) as seen:
                for entries in ((old, new), (new, old)):
                    await trio.to_thread.run_sync(partial(roll, stack, *entries))
                    stack.put("/ssls/0?wait=all&timeout=60s", fresh(authority, NAMES[0]))
                    await all_came(seen)
                status = rows(await command(stack, "keyring", "status"))
                assert status == [[new_id, form, "1"], [old_id, "aes256gcm", "17"]]
                said = await command(stack, "keyring", "rotate")
                assert said == f"all 18 private keys are under key {new_id} ({form})\n"
                await trio.to_thread.run_sync(partial(roll, stack, new))
                await command(stack, "upgrade")  # workers that have never had the old one
                await all_came(seen)
