"""The whole tree of the image, run as in the image. `make image-check` makes it and says where it is.

`make image-check-arm64` does so for the other platform, and emulates all that runs of it.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme

from tests.image.jail import SLOWER, UID, Jail, outside
from tests.image.reading import FOLDER, packaged, pins
from tests.support.etcd import find_etcd_binaries
from tests.support.players import join_soon, pem_pair, say, trusting
from tests.support.ports import free_ports
from tests.support.stack import Stack, retry_until, stores

ROOT = os.environ.get("SNIPROXY_IMAGE_ROOT")

pytestmark = [
    pytest.mark.skipif(ROOT is None, reason="only in make image-check and make image-check-arm64"),
    pytest.mark.timeout(120 * SLOWER),
]


@pytest.fixture
def tree() -> Path:
    assert ROOT is not None
    return Path(ROOT)


def test_what_is_installed_is_what_is_pinned(tree: Path, tmp_path: Path) -> None:
    code = """if True:
        import json
        from importlib.metadata import distributions
        print(json.dumps([(one.metadata["Name"], one.version) for one in distributions()]))
    """
    done = Jail(tree, tmp_path / "jail", {}).run("python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    names = {re.sub("[-_.]+", "-", name).lower(): version for name, version in found}
    assert names.pop("sniproxy")
    assert names == pins("requirements")


def test_everything_that_runs_is_there_and_compiled(tree: Path) -> None:
    (site,) = outside(tree).glob("lib/python3*/site-packages")
    for file in packaged():
        there = site / file
        assert there.read_bytes() == (FOLDER / file).read_bytes()
        if there.suffix == ".py":
            assert list(there.parent.glob(f"__pycache__/{there.stem}.cpython-3*.pyc")), file
    assert (site / "sniproxy" / "_relay.abi3.so").is_file()


def test_the_list_of_parts_names_each(tree: Path) -> None:
    listed = json.loads((outside(tree) / "share" / "sniproxy.cdx.json").read_text())
    found = {one["purl"] for one in listed["components"] if "purl" in one}
    wanted = {f"pkg:pypi/{name}@{version}" for name, version in pins("requirements").items()}
    assert wanted <= found
    crates = {purl.partition("@")[0] for purl in found if purl.startswith("pkg:cargo/")}
    assert {"pkg:cargo/pyo3", "pkg:cargo/rustix", "pkg:cargo/slab"} <= crates


def test_nothing_else_can_be_written(tree: Path, tmp_path: Path) -> None:
    jail = Jail(tree, tmp_path / "jail", {})
    places = ["/", "/usr/local", str(tree), str(jail.config), "/etc", "/var/lib"]
    code = f"""if True:
        import os, sys
        assert os.getpid() == 1 and os.getuid() == os.getgid() == {UID}
        for place in {places}:
            try:
                open(place + "/new", "w")
            except OSError:
                continue
            sys.exit(place)
        open("/tmp/new", "w"), open("/var/lib/sniproxy/new", "w")
    """
    done = jail.run("python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert (jail.kept / "new").stat().st_uid == UID


@pytest.mark.skipif(not find_etcd_binaries(), reason="there is no etcd here")
def test_a_session_from_end_to_end(tree: Path, tmp_path: Path, authority: trustme.CA) -> None:
    """Admin, data plane and game server, each in a container of its own; then they are stopped, and everybody says 0."""
    (port,) = free_ports(1)
    with stores("etcd", tmp_path) as (store, _):
        plan = Stack(tmp_path / "plan", store)  # never started: for its settings and its client
        settings = json.loads(plan.config.read_text())
        del settings["state_dir"]  # the default: what the image has made
        game, admin, proxy = (Jail(tree, tmp_path / name, settings) for name in "gap")
        game.start("python", "-m", "examples.game_echo", str(port), "test-server-1")
        admin.start("sniproxy", "admin", "-c", str(admin.file))
        proxy.start("sniproxy", "proxy", "-c", str(proxy.file))
        try:
            for one, up in ((game, "listening"), (proxy, '"event": "ready"')):
                for _ in retry_until(30 * SLOWER, f"{one.folder} is up"):
                    if up in one.log.read_text():
                        break
            for _ in retry_until(30 * SLOWER, "the admin is up"):
                with suppress(httpx.TransportError):
                    if plan.api.get("/ssls").is_success:
                        break
            plan.put("/ssls/1", pem_pair(authority, "gs-1.com") | {"snis": ["gs-1.com"]})
            upstream = {"nodes": {f"127.0.0.1:{port}": 1}}
            plan.put("/stream_routes/1?wait=all", {"sni": "gs-1.com", "upstream": upstream})
            with join_soon(plan.port, "gs-1.com", trusting(authority)) as player:
                assert say(player, "hello") == "[test-server-1] hello"
            for _ in retry_until(30 * SLOWER, "the session is over"):
                if '"reason": "client_truncated"' in proxy.log.read_text():
                    break
        finally:
            plan.api.close()
            codes = [one.stop() for one in (proxy, admin, game)]
        said = proxy.log.read_text()
        assert codes == [0, 0, 0], said
        assert '"relay": "native"' in said
        assert "Traceback" not in said + admin.log.read_text()
        assert (proxy.kept / "mirror.db").stat().st_uid == UID
