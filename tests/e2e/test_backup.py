"""Backup as an operator does it: the README's commands, on both stores, and a schedule that is ended by a signal."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.admin.gateway import NODES, key_lines, ssl_object
from tests.admin.processes import PATIENCE, environment
from tests.support.stack import Stack, stores

ROOT = Path(__file__).parents[2]
SNIPROXY = f"{sys.executable} -m sniproxy.cli"


def backup_section() -> list[str]:
    """The commands of the README under "Backup"."""
    found = re.search(r"## Backup\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    commands = [line.partition("#")[0].strip() for line in found[1].splitlines()]
    assert [" ".join(line.split()[:2]) for line in commands] == [
        *("sniproxy dump", "sniproxy dump", "sniproxy restore")
    ]
    return commands


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """A command in a shell, as it stands."""
    return subprocess.Popen(
        ["bash", "-c", "exec " + command.replace("sniproxy ", SNIPROXY + " ", 1)],
        cwd=folder,
        env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, folder: Path) -> tuple[int, str, str]:
    """A command that ends by itself: exit code and what it said."""
    process = start(command, folder)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def settings(folder: Path, store: str, like: Path) -> None:
    """A sniproxy.yaml with the keyring of another one."""
    keyring = json.loads(like.read_text())["encryption"]
    written = {"store": store, "state_dir": str(folder), "encryption": keyring}
    (folder / "sniproxy.yaml").write_text(json.dumps(written))


def shown(stack: Stack) -> dict[str, Any]:
    """All that the API shows, but for revisions."""
    kinds = ("ssls", "upstreams", "services", "stream_routes")
    lists = {kind: stack.api.get(f"/{kind}").json()["list"] for kind in kinds}
    return {kind: [one["value"] for one in found] for kind, found in lists.items()}


def newest(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("backup-*.yaml"))


@pytest.mark.parametrize(
    ("kind", "other", "number"),
    [("sqlite", "etcd", signal.SIGTERM), ("etcd", "sqlite", signal.SIGINT)],
)
def test_the_readme_from_store_to_store(
    tmp_path: Path, kind: str, other: str, number: signal.Signals
) -> None:
    once, scheduled, restore = backup_section()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    with (
        stores(kind, ours) as (store, _),
        stores(other, theirs) as (empty, _),
        Stack(tmp_path / "first", store, workers=1) as stack,
        Stack(tmp_path / "second", empty, workers=1) as second,
    ):
        stack.put("/ssls/1", ssl_object())
        stack.put("/upstreams/2", {"nodes": NODES, "desc": "日本"})
        stack.put("/services/3", {"upstream_id": 2})
        stack.put("/stream_routes/4", {"sni": "play.example.com", "service_id": 3})
        settings(ours, store, stack.config)
        settings(theirs, empty, stack.config)

        assert run(once, ours) == (0, "", "")
        file = ours / "backup.yaml"
        assert not any(line in file.read_text() for line in key_lines("play.example.com"))
        assert file.read_text().endswith("\n# end: 4 objects\n")

        process = start(scheduled.replace("1h", "1s").replace("24", "2"), ours)
        try:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(3)]
            process.send_signal(number)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            _, err = process.communicate()
        assert err == ""
        assert [(line["event"], line["objects"], line["removed"]) for line in lines] == [
            ("dumped", 4, 0),
            ("dumped", 4, 0),
            ("dumped", 4, 1),
        ]
        assert len(newest(ours)) == 2

        restore = re.sub(r"backup-\S+\.yaml", newest(ours)[-1], restore)
        shutil.copy(ours / newest(ours)[-1], theirs)
        assert run(restore, theirs) == (0, "4 objects: 4 restored, 0 there already\n", "")
        assert run(restore, theirs) == (0, "4 objects: 0 restored, 4 there already\n", "")
        assert shown(second) == shown(stack)
