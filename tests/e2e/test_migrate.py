"""The first look of docs/migrate-from-apisix.md, on an etcd that an APISIX has filled: it only looks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.e2e.test_apisix_compatibility import SECRET, everything, put
from tests.support.apisix import left_behind
from tests.support.eks import FOLDER, substituted
from tests.support.etcd import find_etcd_binaries
from tests.support.fenced import blocks, commands
from tests.support.players import pem_pair
from tests.support.stack import stores

PAGE = FOLDER / "docs" / "migrate-from-apisix.md"
SAYS = {
    "sniproxy keyring status -c look.yaml": "no key opens                        0",
    "sniproxy dump -c look.yaml -o from-apisix.yaml": "",
    "sniproxy explain gs-1.com -c look.yaml": "route",
}

pytestmark = pytest.mark.skipif(
    not (find_etcd_binaries() and shutil.which("bash")), reason="there is no etcd here"
)


def test_a_look(tmp_path: Path, authority: trustme.CA) -> None:
    names = ("old", "new", "new")
    old, new, more = (pem_pair(authority, f"{name}.example.com") for name in names)
    with stores("etcd", tmp_path) as (store, etcd):
        assert etcd is not None
        left = left_behind((old, new, more), 7777, SECRET)
        for key, value in left.items():
            put(etcd, f"/apisix/{key}", value)
        table = {
            "etcd://etcd.apisix.svc:2379/apisix": store,
            'etcd: {user: root, password: "..."}\n': "",  # nobody needs a password here
            "the key in apisix.data_encryption.keyring": SECRET,
        }
        (look,) = (one for one in blocks(PAGE, "yaml") if one.startswith("# look.yaml"))
        assert all(written in look for written in table)
        (tmp_path / "look.yaml").write_text(substituted(look, table))
        typed = [one for one in commands(PAGE) if one.startswith("sniproxy ")]
        assert typed == list(SAYS)
        for command in typed:
            line = substituted(
                command,
                {"sniproxy ": f"{sys.executable} -m sniproxy.cli ", "gs-1.com": "old.example.com"},
            )
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(FOLDER)},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, (command, done.stderr)
            assert SAYS[command] in done.stdout
        assert "PRIVATE KEY" not in (tmp_path / "from-apisix.yaml").read_text()
        assert everything(etcd) == left
