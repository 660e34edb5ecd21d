"""dump and restore as an operator meets them: what is refused, exit codes, and what stderr says."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from tests.admin.gateway import NODES, ssl_object
from tests.test_cli import EMPTY, Settings, invoke, refused, settings

__all__ = ["settings"]
OBJECTS = {"ssls": [ssl_object(id=1)], "upstreams": [{"id": 2, "nodes": NODES}]}


def elsewhere(settings: Settings, folder: Path) -> Settings:
    """An empty store with the same keyring."""
    return settings | {"SNIPROXY_STORE": f"sqlite://{folder}/elsewhere.db"}


@pytest.fixture
def filled(settings: Settings) -> Settings:
    assert invoke(settings, "apply", "-f", "-", stdin=json.dumps(OBJECTS)).exit_code == 0
    return settings


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--every", "1h"], "--every, --keep and -o go together"),
        (["--keep", "3"], "--every, --keep and -o go together"),
        (["--every", "1h", "--keep", "3"], "--every, --keep and -o go together"),
        (["--every", "1h", "-o", "x"], "--every, --keep and -o go together"),
        (["--keep", "3", "-o", "x"], "--every, --keep and -o go together"),
        (["--every", "1h", "--keep", "3", "-o", "x", "--admin", "http://x", "--key", "x"],
         "not with --admin"),
        (["--every", "1h", "--keep", "0", "-o", "x"], "0 is not in the range"),
        *((["--every", text, "--keep", "3", "-o", "x"], f"{text!r}: expected such as 90s, 15m")
          for text in ("", "1", "h", "0s", "-1h", "1.5h", "1w", "1h30m", " 1h", "1H", "100000s")),
        (["-o", "/"], "Invalid value for '-o'"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(settings: Settings, options: list[str], why: str) -> None:
    result = invoke(settings, "dump", *options)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert why in result.stderr.replace("\n", " ")


def test_a_folder_that_is_not_there(settings: Settings) -> None:
    why = refused(invoke(settings, "dump", "-o", "/none/backup.yaml"))
    assert why == "--output: /none is no directory: make it first"


def test_a_file_instead_of_stdout(filled: Settings, tmp_path: Path) -> None:
    result = invoke(filled, "dump", "-o", str(tmp_path / "backup.yaml"))
    assert (result.exit_code, result.output) == (0, "")
    printed = invoke(filled, "dump").stdout.splitlines()
    assert (tmp_path / "backup.yaml").read_text().splitlines()[1:] == printed[1:]


def test_there_and_back_again(filled: Settings, tmp_path: Path) -> None:
    text = invoke(filled, "dump").stdout
    there = elsewhere(filled, tmp_path)
    for said in ("2 restored, 0 there already", "0 restored, 2 there already"):
        result = invoke(there, "restore", "-f", "-", stdin=text)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"2 objects: {said}\n"
    fresh = ("aes256gcm:", "# sniproxy ")
    lines, again = (
        [line for line in dump.splitlines() if not any(word in line for word in fresh)]
        for dump in (text, invoke(there, "dump").stdout)
    )
    assert again == lines
    assert re.search("^  create_time: [0-9]+$", text, re.MULTILINE)


def test_many_objects_show_how_far_it_is(settings: Settings) -> None:
    many = json.dumps({"upstreams": [{"id": n, "nodes": {}} for n in range(1, 251)]})
    result = invoke(settings, "restore", "-f", "-", stdin=many + "\n# end: 250 objects\n")
    assert result.stderr == "100 of 250 restored\n200 of 250 restored\n"
    assert result.stdout == "250 objects: 250 restored, 0 there already\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no whole backup: "),
        ("upstreams: [{id: 1, nodes: {}}]\n", "no whole backup: "),
        ("upstreams: [{id: 1, nodes: {}}]\n# end: 2 objects\n", "no whole backup: "),
        ("upstreams: [{id: 1}]\n# end: 1 objects\n", "upstreams[0] (id 1): invalid configuration: "),
        ("services: [{id: 1, upstream_id: 2}]\n# end: 1 objects\n", "services[0] (id 1): failed to "),
        (b"upstreams: [{id: 1, desc: \xff}]\n# end: 1 objects\n", "neither YAML nor JSON: "),
    ],
)  # fmt: skip
def test_files_that_are_refused(settings: Settings, text: str | bytes, why: str) -> None:
    assert invoke(settings, "keyring", "rotate").exit_code == 0  # makes a key and a store
    assert refused(invoke(settings, "restore", "-f", "-", stdin=text)).startswith(why)
    assert invoke(settings, "dump").stdout.endswith(EMPTY)


def test_a_store_that_is_not_empty(filled: Settings) -> None:
    before = invoke(filled, "dump").stdout.splitlines()[1:]  # the first line has the time
    why = refused(invoke(filled, "restore", "-f", "-", stdin=EMPTY))
    assert why.startswith("the store is not empty: 2 of its objects ")
    assert invoke(filled, "dump").stdout.splitlines()[1:] == before


def test_a_wrong_keyring(filled: Settings, tmp_path: Path) -> None:
    text = invoke(filled, "dump").stdout
    (tmp_path / "keyring").unlink()
    why = refused(invoke(elsewhere(filled, tmp_path), "restore", "-f", "-", stdin=text))
    assert why.startswith("ssls[0] (id 1): ssls/1/key: encrypted under key ")
    assert "add that key to encryption.keyring" in why


def test_a_store_that_cannot_be_used(settings: Settings) -> None:
    settings["SNIPROXY_STORE"] = "sqlite:///proc/none/config.db"
    why = refused(invoke(settings, "restore", "-f", "-", stdin=EMPTY), code=1)
    assert why.startswith("store file /proc/none/config.db: ")


def test_a_dump_without_an_object_says_so_and_has_the_others(
    filled: Settings, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "config.db") as database:
        database.execute("UPDATE kv SET value = x'7b' WHERE key = ?", (b"/apisix/upstreams/2",))
    database.close()
    result = invoke(filled, "dump", "-o", str(tmp_path / "backup.yaml"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "sniproxy: /apisix/upstreams/2 is no JSON object, so it is not in the file\n"
    )
    assert (tmp_path / "backup.yaml").read_text().endswith("\n# end: 1 objects\n")
