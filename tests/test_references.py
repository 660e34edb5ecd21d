"""What references name: files and variables, and which files have changed since they were read."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sniproxy.references import MAX_BYTES, TICK, References
from tests.support.secret_mount import SecretMount

SECRET = "what nobody may see"


def later() -> int:
    """A clock long after any file of these tests was written."""
    return 2**62


@pytest.fixture
def references() -> References:
    """With variables of each kind."""
    environ = {
        "PLAIN": SECRET,
        "EMPTY": "",
        "MOST": "m" * MAX_BYTES,
        "TOO_MUCH": SECRET.ljust(MAX_BYTES + 1),
        "NOT_UTF8": SECRET + "\udcff",
        "JSON": f'{{"cert": "{SECRET}", "a/b": "slash", "": "", "number": 1}}',
        "LIST": f'["{SECRET}"]',
        "DEEP": "[" * 50_000,
    }
    return References(environ, later)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("-----BEGIN", "-----BEGIN"),
        ("$env:PLAIN", "$env:PLAIN"),
        ("$env://PLAIN", SECRET),
        ("$ENV://PLAIN", SECRET),
        ("$env://EMPTY", ""),
        ("$env://MOST", "m" * MAX_BYTES),
        ("$env://JSON/cert", SECRET),
        ("$env://JSON/a/b", "slash"),
    ],
)
def test_what_it_names(references: References, text: str, expected: str) -> None:
    assert references.resolve(text) == expected


NO_TEXT = "the variable holds no JSON object with a text"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$env://plain", "no such variable in the environment"),  # names have cases
        ("$env://TOO_MUCH", "larger than 65536 bytes"),
        ("$env://NOT_UTF8", "not UTF-8"),
        ("$env://PLAIN/cert", "the variable does not hold JSON"),
        ("$env://DEEP/cert", "the variable does not hold JSON"),
        ("$env://JSON/key", f"{NO_TEXT} key"),
        ("$env://JSON/number", f"{NO_TEXT} number"),
        ("$env://LIST/0", f"{NO_TEXT} 0"),
        ("$file:///dev/zero", "not a regular file"),
        ("$file:///dev/null", "not a regular file"),
        ("$file:///proc", "Is a directory"),
        ("$file:///nowhere/tls.crt", "No such file or directory"),
        ("$file:///dev/null/tls.crt", "Not a directory"),
        ("$file:///" + "n" * 300, "File name too long"),
        ("$secret://vault/1/key", "no secret manager can be asked here; use $env:// or $file://"),
    ],
)
def test_what_names_nothing_is_told_by_its_name(
    references: References, text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=r"^[$]") as refused:
        references.resolve(text)
    assert str(refused.value) == f"{text}: {why}"
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("text", ["$env://", "$file://relative", "$env://A B"])
def test_what_is_malformed(references: References, text: str) -> None:
    with pytest.raises(ValueError, match=r"^a reference "):
        references.resolve(text)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (SECRET.encode().ljust(MAX_BYTES + 1), "larger than 65536 bytes"),
        (SECRET.encode() + b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used(
    references: References, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "tls.crt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^[$]file://{path}: {why}$"):
        references.resolve(f"$file://{path}")


def test_a_pipe_holds_nobody_up(references: References, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"not a regular file$"):
        references.resolve(f"$file://{tmp_path / 'pipe'}")


def test_what_is_no_file_is_not_even_opened(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watchdog's device begins to count, a tape winds back, and who waits to write into a pipe goes on."""
    os.mkfifo(tmp_path / "pipe")
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path))
    with pytest.raises(ValueError, match=r"not a regular file$"):
        references.resolve(f"$file://{tmp_path / 'pipe'}")
    assert opened == []


def test_a_file_with_nothing_to_say_yet(
    references: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as /proc/kmsg. It passes for a regular file; a pipe that is held open stands in for it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr(stat, "S_ISREG", lambda mode: True)
    held = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(ValueError, match=f"^[$]file://{path}: nothing to read at once$"):
            references.resolve(f"$file://{path}")
    finally:
        os.close(held)


@pytest.fixture
def mount(tmp_path: Path) -> SecretMount:
    """One file in it."""
    return SecretMount(tmp_path / "tls", {"tls.crt": "same"})


def rename(mount: SecretMount) -> None:
    """A new file with the same bytes over the old one."""
    (mount.folder / "new").write_text("same")
    (mount.folder / "new").rename(mount / "tls.crt")


CHANGES: dict[str, Callable[[SecretMount], object]] = {
    "link above it": lambda mount: mount.swap({"tls.crt": "same"}),
    "renamed over": rename,
    "written into": lambda mount: Path(mount / "tls.crt").write_text("other"),
    "same size, older": lambda mount: os.utime(mount / "tls.crt", ns=(1, 1)),
    "gone": lambda mount: Path(mount / "tls.crt").unlink(),
    "link to nowhere": lambda mount: Path(mount / "..data").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_told_once(
    references: References, mount: SecretMount, change: Callable[[SecretMount], object]
) -> None:
    path = mount / "tls.crt"
    assert references.resolve(f"$file://{path}") == "same"
    assert references.changed({path}) == set()
    change(mount)
    assert references.changed({path}) == {path}
    try:
        references.resolve(f"$file://{path}")
    except ValueError:
        assert not Path(path).exists()
    assert references.changed({path}) == set()


def test_a_file_that_appears(references: References, mount: SecretMount) -> None:
    path = mount / "late.crt"
    with pytest.raises(ValueError, match=r"No such file or directory$"):
        references.resolve(f"$file://{path}")
    assert references.changed({path}) == set()
    Path(path).write_text("here")
    assert references.changed({path}) == {path}


def test_a_change_is_told_though_another_has_read_the_file_since(
    references: References, mount: SecretMount
) -> None:
    path = mount / "tls.crt"
    references.resolve(f"$file://{path}")  # for one object
    mount.swap({"tls.crt": "same"})
    references.resolve(f"$file://{path}")  # for another one
    assert references.changed({path}) == {path}


def test_what_could_not_be_read_is_told_until_it_is(
    references: References, mount: SecretMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there are too many open files: nothing about the file tells that they are fewer by now."""
    path = mount / "tls.crt"
    references.resolve(f"$file://{path}")
    with monkeypatch.context() as short:
        short.setattr(os, "open", too_many_files)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"tls[.]crt: Too many open files$"):
                references.resolve(f"$file://{path}")
            short.undo()
            references.resolve(f"$file://{path}")  # for another object
            assert references.changed({path}) == {path}
            short.setattr(os, "open", too_many_files)
    references.resolve(f"$file://{path}")
    assert references.changed({path}) == set()


def too_many_files(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_what_was_not_read_is_told_and_what_nobody_names_is_forgotten(
    references: References, mount: SecretMount
) -> None:
    path, other = mount / "tls.crt", mount / "..data/tls.crt"
    references.resolve(f"$file://{path}")
    assert references.changed({path, other}) == {other}
    assert references.changed(()) == set()
    assert references.changed({path}) == {path}


def test_two_writes_within_one_tick_are_not_taken_for_one(mount: SecretMount) -> None:
    """The second one may leave no trace but the bytes: so what was just written is looked at once more."""
    path = mount / "tls.crt"
    written = now = Path(path).stat().st_ctime_ns
    references = References({}, lambda: now)
    for moment, told in ((0, {path}), (TICK, {path}), (TICK + 1, set())):
        now = written + moment
        references.resolve(f"$file://{path}")
        assert references.changed({path}) == told
