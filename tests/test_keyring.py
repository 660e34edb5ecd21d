"""Private keys at rest: ours, those of an APISIX, and everything that must not open."""

import base64
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import example, given
from hypothesis import strategies as st

from sniproxy.errors import KeyringError, SettingsError
from sniproxy.keyring import (
    MARK,
    Keyring,
    is_encrypted,
    open_keyring,
    sealed_under,
    warn_of_published,
)
from sniproxy.logs import open_log
from sniproxy.settings import Encryption, Settings

PEM = "-----BEGIN PRIVATE KEY-----\nsesame öffne dich\n-----END PRIVATE KEY-----\n"
PLACE = "ssls/1/key"


def entry(number: int) -> str:
    """A keyring entry of ours."""
    return base64.b64encode(bytes([number]) * 32).decode()


OURS, OTHER = entry(1), entry(2)
APISIX_16, APISIX_32 = "qeddd145sfvddff3", "edd1c9f0985e76a2" * 2


def apisix(text: bytes, secret: str) -> str:
    """A value as APISIX stores it. CBC takes a block for its IV: of a key of 32 bytes that is the first half."""
    padding = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(secret.encode()), modes.CBC(secret.encode()[:16])).encryptor()
    padded = padding.update(text) + padding.finalize()
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def refusal(keyring: Keyring, value: str, place: str = PLACE) -> str:
    """Why a value does not open; the message tells the place and nothing of the value."""
    with pytest.raises(KeyringError) as refused:
        keyring.decrypt(value, place)
    assert "sesame" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    return str(refused.value)


@pytest.mark.parametrize("text", [PEM, "", "x", "ö\0\n", "k" * 65537])
def test_round_trip(text: str) -> None:
    keyring = Keyring([OURS])
    value = keyring.encrypt(text, PLACE)
    assert is_encrypted(value)
    assert not is_encrypted(text)
    assert keyring.decrypt(value, PLACE) == text


def test_the_same_text_is_never_the_same_value() -> None:
    keyring = Keyring([OURS])
    assert len({keyring.encrypt(PEM, PLACE) for _ in range(50)}) == 50


def test_the_form_of_a_value() -> None:
    mark, key_id, sealed = Keyring([OURS]).encrypt("abc", PLACE).split(":")
    assert mark + ":" == MARK
    assert len(key_id) == 8
    assert len(base64.b64decode(sealed)) == 12 + 3 + 16


def test_a_value_that_was_moved_does_not_open() -> None:
    keyring = Keyring([OURS])
    value = keyring.encrypt(PEM, PLACE)
    why = "ssls/2/key: the encrypted value was damaged or moved here"
    assert refusal(keyring, value, "ssls/2/key") == why


def test_no_byte_can_be_changed() -> None:
    keyring = Keyring([OURS])
    head, _, sealed = keyring.encrypt("sesame", PLACE).rpartition(":")
    raw = base64.b64decode(sealed)
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        value = f"{head}:{base64.b64encode(changed).decode()}"
        assert refusal(keyring, value) == f"{PLACE}: the encrypted value was damaged or moved here"


def test_no_length_opens_but_the_whole() -> None:
    keyring = Keyring([OURS])
    value = keyring.encrypt("sesame", PLACE)
    for end in range(len(value)):
        assert refusal(keyring, value[:end])


def test_the_first_key_writes_and_all_of_them_read() -> None:
    before, during, after = Keyring([OURS]), Keyring([OTHER, OURS]), Keyring([OTHER])
    old = before.encrypt(PEM, PLACE)
    new = during.encrypt(PEM, PLACE)
    assert during.decrypt(old, PLACE) == PEM
    assert after.decrypt(new, PLACE) == PEM
    key_id = old.split(":")[1]
    why = f"{PLACE}: encrypted under key {key_id}, which the keyring lacks: add that key to "
    assert refusal(after, old).startswith(why)
    assert sealed_under(old) == key_id


@pytest.mark.parametrize("secret", [APISIX_16, APISIX_32])
def test_values_of_an_apisix(secret: str) -> None:
    keyring = Keyring([OURS, "0123456789abcdef", "0123456789abcdef" * 2, secret])
    assert keyring.decrypt(apisix(PEM.encode(), secret), PLACE) == PEM


def test_what_apisix_would_write_for_a_key_that_is_known() -> None:
    """Of the command line, so that this file and the keyring cannot be wrong together:

    printf -- '---sesame' | openssl enc -aes-128-cbc -K $(printf qeddd145sfvddff3 | xxd -p) -iv $(same) -base64
    """
    keyring = Keyring([OURS, APISIX_16])
    assert keyring.decrypt("VJ1rPTffD3JhJmSdZhaO/Q==", PLACE) == "---sesame"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (apisix(PEM.encode(), APISIX_32), "no key of the keyring opens it"),
        (apisix(b"sesame, not PEM", APISIX_16), "no key of the keyring opens it"),
        (apisix(b"---\xff\xff", APISIX_16), "no key of the keyring opens it"),
        ("", "no key of the keyring opens it"),
        ("AAAA", "no key of the keyring opens it"),
        ("not base64", "neither PEM nor an encrypted value"),
        ("sesame öffne dich", "neither PEM nor an encrypted value"),
        ("$secret://vault/1/key", "neither PEM nor an encrypted value"),
        ("\ud800", "neither PEM nor an encrypted value"),
    ],
)
def test_what_does_not_open(value: str, why: str) -> None:
    assert refusal(Keyring([OURS, APISIX_16]), value) == f"{PLACE}: {why}"


def test_clear_pem_is_given_back() -> None:
    assert Keyring([OURS]).decrypt(PEM, PLACE) == PEM


VALUES = st.one_of(
    st.text(),
    st.binary().map(lambda raw: base64.b64encode(raw).decode()),
    st.binary(max_size=80).map(
        lambda raw: (
            Keyring([OURS]).encrypt("", "").rpartition(":")[0]
            + ":"
            + base64.b64encode(raw).decode()
        )
    ),
    st.text().map(lambda text: MARK + text),
)


@given(VALUES, st.text(max_size=5))
@example("é", PLACE)
@example(f"{MARK}", PLACE)
@example(Keyring([OURS]).encrypt("x", PLACE), "\ud800")
def test_garbage_is_refused_and_nothing_else(value: str, place: str) -> None:
    keyring = Keyring([OURS, APISIX_16, APISIX_32])
    try:
        text = keyring.decrypt(value, place)
    except KeyringError:
        return
    assert "---" in text


def test_a_keyring_that_cannot_write() -> None:
    why = r"^the keyring needs a key that writes: openssl rand -base64 32$"
    with pytest.raises(ValueError, match=why):
        Keyring([])


# In APISIX's form


@pytest.mark.parametrize(
    ("secret", "cipher"), [(APISIX_16, "aes-128-cbc"), (APISIX_32, "aes-256-cbc")]
)
def test_an_apisix_key_that_comes_first_writes_as_an_apisix_does(secret: str, cipher: str) -> None:
    """OpenSSL opens it, which knows nothing of us."""
    value = Keyring([secret, OURS]).encrypt(PEM, PLACE)
    assert value == apisix(PEM.encode(), secret)
    assert is_encrypted(value)
    key, vector = secret.encode().hex(), secret.encode()[:16].hex()
    command = ["openssl", "enc", "-d", f"-{cipher}", "-K", key, "-iv", vector, "-a", "-A"]
    assert subprocess.run(command, input=value.encode(), capture_output=True).stdout.decode() == PEM


@pytest.mark.parametrize("entries", [[APISIX_16], [APISIX_32, APISIX_16], [APISIX_16, OURS]])
def test_the_first_key_writes_whatever_its_form(entries: list[str]) -> None:
    keyring = Keyring(entries)
    opened = keyring.open(keyring.encrypt(PEM, PLACE), PLACE)
    assert (opened.text, opened.key) == (PEM, keyring.writer)
    assert keyring.writer.form == "apisix"
    assert "sesame" not in repr(opened)


def test_each_value_tells_which_key_opens_it() -> None:
    entries = [OURS, APISIX_16, OTHER, APISIX_32]
    keyring = Keyring(entries)
    found = [keyring.open(Keyring([one]).encrypt(PEM, PLACE), PLACE).key for one in entries]
    assert found == list(keyring.keys)
    assert keyring.open(PEM, PLACE).key is None
    assert len({key.id for key in keyring.keys}) == 4


def test_what_stands_before_a_pem_would_hide_it_from_an_apisix() -> None:
    keyring = Keyring([APISIX_16])
    value = keyring.encrypt(f"Bag Attributes\n{PEM}", PLACE)
    assert keyring.decrypt(value, PLACE) == PEM
    with pytest.raises(KeyringError, match=r"^ssls/1/key: no PEM, and in APISIX's form "):
        keyring.encrypt("sesame", PLACE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (apisix(b"x", APISIX_16), True),
        (MARK, True),
        (PEM, False),
        ("", False),
        ("AAAA", False),
        ("$env://KEY", False),
        (apisix(b"x", APISIX_16)[:-4], False),
    ],
)
def test_the_form_of_an_encrypted_value(value: str, expected: bool) -> None:
    assert is_encrypted(value) is expected


@pytest.mark.parametrize(
    ("entries", "warned"),
    [
        (["qeddd145sfvddff3", OURS], True),
        (["edd1c9f0985e76a2"], True),
        ([OURS, "qeddd145sfvddff3"], False),
        ([APISIX_32], False),
    ],
)
def test_a_key_that_everybody_knows(entries: list[str], warned: bool) -> None:
    lines = io.StringIO()
    warn_of_published(Keyring(entries), open_log("admin", lines))
    assert ("which everybody knows" in lines.getvalue()) is warned
    assert not any(one in lines.getvalue() for one in entries)


# The keyring of the settings


def on_one_machine(state_dir: Path) -> Settings:
    """SQLite, no keyring set."""
    return Settings(state_dir=state_dir)


def test_on_one_machine_a_key_is_made_and_kept(tmp_path: Path) -> None:
    settings = on_one_machine(tmp_path / "made" / "on demand")
    value = open_keyring(settings).encrypt(PEM, PLACE)
    assert open_keyring(settings).decrypt(value, PLACE) == PEM
    (file,) = settings.state_dir.iterdir()
    assert file.name == "keyring"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(base64.b64decode(file.read_text())) == 32


def test_a_keyring_that_is_set_needs_no_file(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, encryption=Encryption(keyring=(OURS,)))
    value = open_keyring(settings).encrypt(PEM, PLACE)
    assert Keyring([OURS]).decrypt(value, PLACE) == PEM
    assert list(tmp_path.iterdir()) == []


def test_a_rival_that_was_faster_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process keeps its key while this one has still to link its own."""
    fsync = os.fsync

    def rival(fd: int) -> None:
        (tmp_path / "keyring").write_text(OTHER + "\n")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", rival)
    value = open_keyring(on_one_machine(tmp_path)).encrypt(PEM, PLACE)
    assert Keyring([OTHER]).decrypt(value, PLACE) == PEM
    assert [file.name for file in tmp_path.iterdir()] == ["keyring"]


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, sniproxy.keyring as k, sniproxy.settings as s;"
        "settings = s.Settings(state_dir=pathlib.Path(sys.argv[1]));"
        "sys.stdin.read(); print(k.open_keyring(settings).encrypt('sesame', 'x'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "new")]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:  # all of them have their imports behind them, or soon
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    values = [process.communicate(timeout=60)[0].strip() for process in started]
    keyring = open_keyring(on_one_machine(tmp_path / "new"))
    assert [keyring.decrypt(value, "x") for value in values] == ["sesame"] * 4
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["keyring"]


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError) as refused:
        open_keyring(on_one_machine(file / "state"))
    assert str(refused.value) == (
        f"state_dir: the key file {file}/state/keyring cannot be used: Not a directory; "
        "set state_dir to a directory that this user may write"
    )


@pytest.mark.parametrize("content", ["", "garbage", APISIX_16, "ÿ" * 44])
def test_a_key_file_that_holds_no_key(tmp_path: Path, content: str) -> None:
    (tmp_path / "keyring").write_text(content)
    with pytest.raises(SettingsError, match=r"^encryption\.keyring: "):
        open_keyring(on_one_machine(tmp_path))


def test_etcd_without_a_keyring_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^encryption\.keyring: not set: .*openssl rand"):
        open_keyring(Settings(store="etcd://h:2379", state_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []
    settings = Settings(store="etcd://h:2379", encryption=Encryption(keyring=(OURS,)))
    assert open_keyring(settings).decrypt(PEM, PLACE) == PEM


def test_a_keyring_of_an_apisix_alone() -> None:
    settings = Settings(store="etcd://h:2379", encryption=Encryption(keyring=(APISIX_16,)))
    assert open_keyring(settings).encrypt(PEM, PLACE) == apisix(PEM.encode(), APISIX_16)
