"""Objects in etcd that cannot be used: each is skipped and told once, and what was good before goes on serving."""

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from sniproxy.keyring import Keyring
from sniproxy.objects.secrets import map_secrets
from tests.support.etcd import EtcdServer, find_etcd_binaries
from tests.support.players import (
    Game,
    join,
    join_soon,
    pem_pair,
    say,
    trusting,
)
from tests.support.stack import Stack, retry_until, stores

pytestmark = pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")

BAR = 5.0  # seconds until a change is in force
PATIENCE = 60.0  # seconds for what has no bar
BROKEN = "sniproxy_config_broken_objects"


@dataclass(frozen=True)
class Site:
    """A stack on an etcd into which anybody writes."""

    stack: Stack
    etcd: EtcdServer
    games: tuple[Game, Game]
    authority: trustme.CA

    @property
    def keyring(self) -> Keyring:
        """That of the data plane."""
        return Keyring(json.loads(self.stack.config.read_text())["encryption"]["keyring"])

    def add(self, name: str) -> None:
        """A name with a certificate and a route of its own, to the first game server, by the admin API."""
        self.stack.put(f"/ssls/{name}", self.ssl(name))
        self.stack.put(f"/stream_routes/{name}", self.route(name, self.games[0]))
        join_soon(self.stack.port, host(name), trusting(self.authority)).close()

    def ssl(self, name: str) -> dict[str, Any]:
        return {"snis": [host(name)]} | pem_pair(self.authority, host(name))

    def route(self, name: str, game: Game) -> dict[str, Any]:
        return {"sni": host(name), "upstream": {"nodes": game.nodes}}

    def store(self, path: str, value: bytes) -> None:
        """Straight into etcd."""
        key, stored = (b64encode(one).decode() for one in (f"/apisix/{path}".encode(), value))
        self.etcd.call("/v3/kv/put", {"key": key, "value": stored})

    def plays_on(self, name: str) -> str:
        """The game server of a new session."""
        with join(self.stack.port, host(name), trusting(self.authority)) as player:
            return say(player, "x").removesuffix(" x").strip("[]")

    def broken(self, count: int) -> None:
        """So many objects are counted, within the bar."""
        for _ in retry_until(BAR, f"{count} broken objects"):
            if (found := self.stack.metrics()[BROKEN]) == count:
                return
        raise AssertionError(found)

    def skipped(self, path: str) -> list[dict[str, Any]]:
        """The log lines about an object."""
        lines = self.stack.proxy.lines("object skipped")
        return [line for line in lines if line["key"] == f"/apisix/{path}"]

    def told(self, path: str, times: int = 1) -> list[dict[str, Any]]:
        """The same, once there are so many: a line is written a moment after its object is counted."""
        for _ in retry_until(PATIENCE, f"{times} lines about {path}"):
            if len(lines := self.skipped(path)) >= times:
                return lines
        raise AssertionError("unreachable")


def host(name: str) -> str:
    """What a player asks for."""
    return f"{name}.broken.example.com"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, games: tuple[Game, Game]
) -> Iterator[Site]:
    """One for all: each test uses names of its own, and leaves nothing broken."""
    folder: Path = tmp_path_factory.mktemp("broken")
    with (
        stores("etcd", folder) as (store, etcd),
        Stack(folder / "stack", store, workers=1) as stack,
    ):
        assert etcd is not None
        made = Site(stack, etcd, games, authority)
        made.add("lives")
        yield made


Write = Callable[[Site, str], bytes]


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def foreign_key(site: Site, name: str) -> bytes:
    """An ssl object whose private key is under a key that the data plane does not have."""
    foreign = Keyring([b64encode(os.urandom(32)).decode()])
    return as_json(map_secrets("ssls", name, site.ssl(name), foreign.encrypt))


def moved_key(site: Site, name: str) -> bytes:
    """Under the right key, but for another object."""
    return as_json(map_secrets("ssls", f"not-{name}", site.ssl(name), site.keyring.encrypt))


def mismatch(site: Site, name: str) -> bytes:
    """A certificate, and the private key of another one."""
    value = site.ssl(name) | {"key": site.ssl(name)["key"]}
    return as_json(map_secrets("ssls", name, value, site.keyring.encrypt))


# By name: the collection, what is written, and what the log must give as the reason.
KINDS: dict[str, tuple[str, Write, str]] = {
    "bad-json": ("stream_routes", lambda *_: b'{"sni": ', "Expecting"),
    "no-utf-8": ("stream_routes", lambda *_: b'{"sni": "\xff"}', "decode"),
    "no-object": ("stream_routes", lambda *_: b"[]", "expected a JSON object"),
    "type-of-a-member": ("stream_routes", lambda *_: as_json({"sni": 5}), "sni"),
    "unknown-member": (
        "stream_routes",
        lambda site, name: as_json(site.route(name, site.games[1]) | {"of_version_9": 1}),
        "of_version_9",
    ),
    "foreign-key": ("ssls", foreign_key, "keyring lacks"),
    "moved-key": ("ssls", moved_key, "damaged or moved"),
    "mismatch": ("ssls", mismatch, "does not belong"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_object_is_skipped(kind: str, site: Site) -> None:
    """One where there was none before, and one over a good one; the others never notice."""
    collection, write, why = KINDS[kind]
    names = [f"{kind}-old", f"{kind}-new"]
    good, new = (f"{collection}/{name}" for name in names)
    site.add(names[0])
    if collection == "ssls":  # all but what is broken is there
        site.stack.put(f"/stream_routes/{names[1]}", site.route(names[1], site.games[0]))
    else:
        site.stack.put(f"/ssls/{names[1]}", site.ssl(names[1]))
    with join(site.stack.port, host("lives"), trusting(site.authority)) as staying:
        for name, path in zip(names, (good, new), strict=True):
            site.store(path, write(site, name))
        site.broken(2)
        for path, kept in ((good, "in force"), (new, "none")):
            (line,) = site.told(path)
            assert why in line["cause"]
            assert line["last_good_version"] == kept
        assert site.plays_on(names[0]) == site.games[0].name
        with pytest.raises(OSError, match=r"(?i)ssl|reset"):
            site.plays_on(names[1])
        assert say(staying, "y") == f"[{site.games[0].name}] y"
        assert site.plays_on("lives") == site.games[0].name
        # Others change while these are broken.
        site.stack.put("/stream_routes/lives", site.route("lives", site.games[1]))
        for _ in retry_until(BAR, "a change of another object"):
            if site.plays_on("lives") == site.games[1].name:
                break
        site.stack.put("/stream_routes/lives", site.route("lives", site.games[0]))

    site.stack.api.delete(f"/{new}")
    site.broken(1)
    site.stack.put(f"/ssls/{names[0]}", site.ssl(names[0]))
    site.stack.put(f"/stream_routes/{names[0]}", site.route(names[0], site.games[1]))
    site.broken(0)
    for _ in retry_until(BAR, "the repaired object"):
        if site.plays_on(names[0]) == site.games[1].name:
            break
    assert [len(site.skipped(path)) for path in (good, new)] == [1, 1]


def test_an_unknown_collection_is_nobodys_business(site: Site) -> None:
    """APISIX keeps more under the prefix than we follow."""
    site.store("things/1", b"{not JSON")
    site.stack.put("/upstreams/after-it", {"nodes": {}})
    for _ in retry_until(BAR, "what was written after it"):
        if site.stack.api.get("/nodes").json()["list"][0]["revision"] >= written(site, "after-it"):
            break
    assert site.skipped("things/1") == []
    assert site.stack.metrics()[BROKEN] == 0


def written(site: Site, upstream: str) -> int:
    return int(site.stack.api.get(f"/upstreams/{upstream}").json()["modifiedIndex"])


def test_a_start_with_broken_objects(site: Site) -> None:
    """All the others are served from the start."""
    site.store("stream_routes/at-start", b"{")
    site.broken(1)
    site.stack.proxy.stop()
    site.stack.proxy.start()
    site.stack.wait_ready()
    site.broken(1)
    assert site.plays_on("lives") == site.games[0].name
    assert len(site.told("stream_routes/at-start", 2)) == 2  # once for each start
    site.stack.api.delete("/stream_routes/at-start")
    site.broken(0)
