"""Dumps as files: never a torn one, on time, and the newest are kept. Time is virtual."""

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from admin.backup import Dump
from admin.backup_files import NotWritten, dump_every, write_whole
from sniproxy.errors import KeyringError, SettingsError, StoreUnavailable
from sniproxy.logs import open_log

START = 1_795_543_200.0  # 2026-11-24 18:00:00 UTC
DUMP = Dump("upstreams: []\n# end: 0 objects\n", 0, [])
AWAY = StoreUnavailable("http://127.0.0.1:2379: connection refused")
HOUR = 3600.0


# -- one file


def test_a_file_is_for_its_owner_alone_and_what_was_there_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text("old")
    file.chmod(0o644)
    write_whole(file, "schön\n")
    assert file.read_bytes() == "schön\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["backup.yaml"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_what_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(
        NotWritten, match=r"backup\.yaml cannot be written: No space left on device"
    ):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["backup.yaml"]


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\ud800")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["backup.yaml"]


@pytest.mark.parametrize("name", ["none/backup.yaml", "file/backup.yaml", "folder"])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotWritten, match=" cannot be written: "):
        write_whole(tmp_path / name, "x")
    assert sorted(tmp_path.rglob("*")) == before


# -- one after the other


def kept(folder: Path) -> list[str]:
    """The times of day in the names."""
    names = sorted(name for name in os.listdir(folder) if name.startswith("backup-20261124T"))
    return [name.removeprefix("backup-20261124T").removesuffix("Z.yaml") for name in names]


def run(
    folder: Path,
    outcomes: list[Any],
    *,
    keep: int = 24,
    takes: float = 0,
    now: Callable[[], float] | None = None,
) -> list[dict[str, Any]]:
    """Hourly dumps until `outcomes` (dumps, or what is raised) are used up; the log."""
    log = io.StringIO()
    left = list(outcomes)

    async def make() -> Dump:
        if not left:
            scope.cancel()
            await trio.lowlevel.checkpoint()
        await trio.sleep(takes)
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, Dump)
        return outcome

    async def main() -> None:
        start = trio.current_time()
        clock = now or (lambda: START + trio.current_time() - start)
        with scope:
            await dump_every(HOUR, make, folder / "backup.yaml", keep, open_log("dump", log), clock)

    scope = trio.CancelScope()
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert len(lines) == len(outcomes)
    return lines


def test_one_at_once_and_then_each_hour(tmp_path: Path) -> None:
    lines = run(tmp_path, [DUMP] * 3)
    assert kept(tmp_path) == ["180000", "190000", "200000"]
    assert {line["event"] for line in lines} == {"dumped"}
    assert {line["level"] for line in lines} == {"info"}
    assert lines[0]["file"] == str(tmp_path / "backup-20261124T180000Z.yaml")
    assert all((tmp_path / name).read_text() == DUMP.text for name in os.listdir(tmp_path))


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    others = [
        "backup.yaml",
        "backup-20260101T000000Z.json",
        "backup-20260101T000000Z.yaml.bak",
        "xbackup-20260101T000000Z.yaml",
        "backup-2026-01-01.yaml",
    ]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "backup-20200101T000000Z.yaml").touch()
    lines = run(tmp_path, [DUMP] * 5, keep=2)
    assert kept(tmp_path) == ["210000", "220000"]
    assert [line["removed"] for line in lines] == [0, 1, 1, 1, 1]
    assert len(os.listdir(tmp_path)) == len(others) + 2


def test_a_dump_is_never_removed_at_once(tmp_path: Path) -> None:
    """A clock that was wrong once left files that look newer."""
    for year in (2030, 2031, 2032):
        (tmp_path / f"backup-{year}0101T000000Z.yaml").touch()
    run(tmp_path, [DUMP], keep=1)
    assert os.listdir(tmp_path) == ["backup-20261124T180000Z.yaml"]


def test_a_store_that_is_away_is_tried_again_at_the_next_time(tmp_path: Path) -> None:
    lines = run(tmp_path, [AWAY, DUMP, AWAY, AWAY, DUMP], keep=1)
    assert [line["event"] for line in lines] == [
        *("dump failed", "dumped", "dump failed", "dump failed", "dumped")
    ]
    assert (lines[0]["level"], lines[0]["cause"]) == ("error", str(AWAY))
    assert kept(tmp_path) == ["220000"]


def test_a_key_file_that_cannot_be_read_is_tried_again_at_the_next_time(tmp_path: Path) -> None:
    """It is read before a key in clear, or in APISIX's form, is encrypted on its way into the file."""
    damaged = KeyringError("encryption.keyring: the key file is damaged")
    lines = run(tmp_path, [damaged, DUMP])
    assert [line["event"] for line in lines] == ["dump failed", "dumped"]
    assert lines[0]["cause"] == str(damaged)


def test_failures_remove_nothing(tmp_path: Path) -> None:
    run(tmp_path, [DUMP, AWAY, AWAY, AWAY], keep=1)
    assert kept(tmp_path) == ["180000"]


def test_a_folder_that_is_gone_is_logged(tmp_path: Path) -> None:
    (line,) = run(tmp_path / "none", [DUMP])
    assert line["event"] == "dump failed"
    assert "backup-20261124T180000Z.yaml cannot be written: No such file" in line["cause"]


def test_what_is_wrong_with_a_dump_is_a_warning(tmp_path: Path) -> None:
    (line,) = run(tmp_path, [Dump(DUMP.text, 0, ["/apisix/ssls/1 is no JSON object"])])
    assert (line["level"], line["problems"]) == ("warning", ["/apisix/ssls/1 is no JSON object"])
    assert kept(tmp_path) == ["180000"]


@pytest.mark.parametrize(
    ("takes", "times"),
    [(60, ["180000", "190000", "200000"]), (2 * HOUR, ["180000", "200000", "220000"])],
)
def test_a_slow_dump_does_not_shift_the_others(
    tmp_path: Path, takes: float, times: list[str]
) -> None:
    run(tmp_path, [DUMP] * 3, takes=takes)
    assert kept(tmp_path) == times


def test_a_setting_that_cannot_be_used_ends_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        run(tmp_path, [SettingsError("encryption.keyring: ")])
