"""The key file that grows under processes that use it."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sniproxy.errors import KeyringError, SettingsError
from sniproxy.keyring import Keyring, open_keyring
from sniproxy.keyring_file import KeyFile
from sniproxy.settings import Settings
from tests.test_keyring import APISIX_32, OTHER, OURS, PEM, PLACE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Made, with one key."""
    KeyFile(tmp_path / "keyring").make()
    return tmp_path / "keyring"


def opened(file: Path) -> Keyring:
    return open_keyring(Settings(state_dir=file.parent))


def test_a_new_key_comes_first_and_the_others_stay(file: Path) -> None:
    lines = [KeyFile(file).read()]
    for _ in range(3):
        KeyFile(file).add()
        lines.append(KeyFile(file).read())
        assert lines[-1][1:] == lines[-2]
        assert len(base64.b64decode(lines[-1][0])) == 32
    assert len(set(lines[-1])) == 4
    assert [one.name for one in file.parent.iterdir()] == ["keyring"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_the_file_keeps_its_mode(file: Path, mode: int) -> None:
    file.chmod(mode)
    KeyFile(file).add()
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_link_stays_and_the_file_that_it_leads_to_gets_the_new_key(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    kept = tmp_path / "kept" / "key"
    file.rename(kept)
    file.symlink_to("kept/key")
    (old,) = KeyFile(file).read()
    KeyFile(file).add()
    assert file.is_symlink()
    assert KeyFile(kept).read() == KeyFile(file).read()
    assert KeyFile(file).read()[1:] == [old]
    assert [one.name for one in kept.parent.iterdir()] == ["key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_the_file_keeps_its_owner(file: Path) -> None:
    os.chown(file, 1234, 4321)
    KeyFile(file).add()
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 4321)


def test_who_uses_it_writes_under_the_new_key_and_reads_what_others_have_written(
    file: Path,
) -> None:
    admin, proxy = opened(file), opened(file)
    old = admin.encrypt(PEM, PLACE)
    KeyFile(file).add()
    new = admin.encrypt(PEM, PLACE)
    assert new.split(":")[1] == opened(file).writer.id != old.split(":")[1]
    assert [proxy.decrypt(value, PLACE) for value in (new, old)] == [PEM, PEM]
    assert proxy.writer.id == admin.writer.id


def test_a_key_that_was_removed_reads_until_the_end_of_the_process(file: Path) -> None:
    """What is still under it may be read once more."""
    running = opened(file)
    old = running.encrypt(PEM, PLACE)
    file.write_text(OURS + "\n")
    new = running.encrypt(PEM, PLACE)
    assert Keyring([OURS]).decrypt(new, PLACE) == PEM
    assert running.decrypt(old, PLACE) == PEM
    with pytest.raises(KeyringError, match="which the keyring lacks"):
        opened(file).decrypt(old, PLACE)


DAMAGED = [
    "",
    "\n",
    "garbage\n",
    f"{OURS}\n{OTHER[:32]}\n",
    f"{APISIX_32}\n{OURS}\n",
    f"{OURS}{OTHER}\n",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_file_that_was_damaged_is_neither_added_to_nor_written_by(
    file: Path, content: str
) -> None:
    running = opened(file)
    value = running.encrypt(PEM, PLACE)
    file.write_text(content)
    for use in (KeyFile(file).add, KeyFile(file).read, lambda: opened(file)):
        with pytest.raises(
            SettingsError, match=r"^encryption\.keyring: the key file .* is damaged"
        ):
            use()
    with pytest.raises(KeyringError, match="is damaged"):
        running.encrypt(PEM, PLACE)
    assert file.read_text() == content
    assert running.decrypt(value, PLACE) == PEM


def test_a_file_that_is_gone_is_not_written_by(file: Path) -> None:
    running = opened(file)
    value = running.encrypt(PEM, PLACE)
    file.unlink()
    with pytest.raises(KeyringError, match="No such file"):
        running.encrypt(PEM, PLACE)
    with pytest.raises(KeyringError, match="No such file"):
        running.decrypt(Keyring([OTHER]).encrypt(PEM, PLACE), PLACE)
    assert running.decrypt(value, PLACE) == PEM
    assert not file.exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_that_fails_leaves_the_file_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = file.read_text()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(SettingsError, match="cannot be used: No space left on device"):
        KeyFile(file).add()
    assert file.read_text() == before
    assert [one.name for one in file.parent.iterdir()] == ["keyring"]


def test_the_keys_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def sync(number: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def rename(source: str, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    KeyFile(file).add()
    assert steps == ["file", "rename", "folder"]


def test_processes_that_add_at_once_lose_no_key(file: Path) -> None:
    program = (
        "import sys, pathlib, sniproxy.keyring_file as k; sys.stdin.read();"
        "[k.KeyFile(pathlib.Path(sys.argv[1])).add() for _ in range(5)]"
    )
    command = [sys.executable, "-c", program, str(file)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(set(KeyFile(file).read())) == 16
