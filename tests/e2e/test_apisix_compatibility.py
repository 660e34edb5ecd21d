"""An etcd that an APISIX has filled, with real processes of ours on it, and what is in it after that."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from sniproxy.keyring import Keyring
from tests.support.apisix import DIRECTORIES, LISTED, left_behind
from tests.support.etcd import EtcdServer, find_etcd_binaries, prefix_range
from tests.support.keyrings import set_keyring, sniproxy
from tests.support.players import Game, join_soon, pem_pair, say, trusting
from tests.support.stack import Stack, retry_until, stores
from tests.test_keyring import apisix

pytestmark = pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")

SECRET = "qeddd145sfvddff3"  # as it comes out of the box
PUBLIC = "private keys are encrypted under a default key of APISIX, which everybody knows"


def put(etcd: EtcdServer, key: str, value: bytes) -> None:
    named, stored = (base64.b64encode(one).decode() for one in (key.encode(), value))
    etcd.call("/v3/kv/put", {"key": named, "value": stored})


def everything(etcd: EtcdServer) -> dict[str, bytes]:
    """All keys under the prefix, by what follows it."""
    found = etcd.call("/v3/kv/range", prefix_range("/apisix/"))["kvs"]
    decoded = {base64.b64decode(one["key"]): base64.b64decode(one["value"]) for one in found}
    return {key.decode().removeprefix("/apisix/"): value for key, value in decoded.items()}


def plays(stack: Stack, authority: trustme.CA, name: str) -> None:
    """A player by that name gets to a game."""
    with join_soon(stack.port, name, trusting(authority)) as player:
        assert say(player, "hello").endswith(" hello")


def test_an_etcd_of_an_apisix(
    tmp_path: Path, authority: trustme.CA, games: tuple[Game, Game]
) -> None:
    old, new, more = (pem_pair(authority, f"{name}.example.com") for name in ("old", "new", "new"))
    left = left_behind((old, new, more), games[0].port, SECRET)
    with stores("etcd", tmp_path) as (store, etcd):
        assert etcd is not None
        for key, value in left.items():
            put(etcd, f"/apisix/{key}", value)
        stack = Stack(tmp_path / "stack", store, workers=1)
        set_keyring(stack, SECRET)
        with stack:
            for name in ("old", "new"):
                plays(stack, authority, f"{name}.example.com")
            assert everything(etcd) == left  # nothing of it was touched by looking at it
            listed = stack.api.get("/ssls").json()
            assert [one["value"]["id"] for one in listed["list"]] == [LISTED, 1]
            late: dict[str, Any] = pem_pair(authority, "late.example.com")
            written = stack.api.post("/ssls", json={"sni": "late.example.com"} | late)
            assert written.status_code == 201
            plays(stack, authority, "late.example.com")
            stack.api.patch("/ssls/1", json={"desc": "seen"}).raise_for_status()
            plays(stack, authority, "old.example.com")
            stored = everything(etcd)
            key = written.json()["key"].removeprefix("/apisix/")
            for one, clear in ((key, late["key"]), ("ssls/1", old["key"])):
                assert json.loads(stored[one])["key"] == apisix(clear.encode(), SECRET)
            assert stored.keys() - left.keys() == {key}
            for part in (stack.admin, stack.proxy):
                (line,) = part.lines(PUBLIC)
                assert line["level"] == "warning"
                assert line["key"] == Keyring([SECRET]).writer.id
            dump = sniproxy(stack, "dump")
            assert dump.endswith("\n# end: 8 objects\n")
            assert "init_dir" not in dump


def test_an_etcd_that_began_as_ours_has_the_marks_of_an_apisix(tmp_path: Path) -> None:
    """Also where it was away when the admin started, which served meanwhile as well as it could."""
    with stores("etcd", tmp_path) as (store, etcd):
        assert etcd is not None
        etcd.stop()
        stack = Stack(tmp_path / "stack", store, parts=["admin"])
        try:
            stack.admin.start()
            for _ in retry_until(60, "told that the store is away"):
                if stack.admin.lines("marks of an APISIX not written yet"):
                    break
            etcd.start()
            stack.wait_admin()
            for _ in retry_until(60, "the marks"):
                stored = everything(etcd) if stack.put("/upstreams/1", {"nodes": {}}) else {}
                if len(stored) > len(DIRECTORIES):
                    break
        finally:
            stack.__exit__()
        stored.pop("upstreams/1")
        assert stored == {f"{name}/": b"init_dir" for name in DIRECTORIES}
