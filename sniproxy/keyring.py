"""Private keys at rest: AES-256-GCM under a keyring, and the AES-CBC values of an APISIX for reading.

    aes256gcm:KEYID:BASE64(nonce 12 bytes | ciphertext | tag 16 bytes)

The first key writes, all of them read. KEYID names the key without giving it away; the place where a value stands
("ssls/1/key") is associated data, so a ciphertext that is moved to another object does not open.
APISIX (apisix.data_encryption) stores AES-CBC with PKCS#7 padding, the IV being the key itself, in bare base64.
"""

import base64
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from sniproxy.errors import KeyringError, SettingsError
from sniproxy.settings import EtcdUrl, Settings, keyring_secret

MARK = "aes256gcm:"
NONCE = 12  # bytes, NIST SP 800-38D section 8.2


class Keyring:
    """Encrypts with its first key, decrypts with whichever fits."""

    def __init__(self, entries: Iterable[str]) -> None:
        """entries: as in the setting `encryption.keyring`; ValueError when none of them can write."""
        secrets = [(entry, keyring_secret(entry)) for entry in entries]
        self._ours = {
            _key_id(secret): AESGCM(secret) for entry, secret in secrets if len(entry) > 32
        }
        self._apisix = [secret for entry, secret in secrets if len(entry) <= 32]
        if not self._ours:
            raise ValueError("the keyring needs a key that writes: openssl rand -base64 32")
        self._writer = next(iter(self._ours))

    def encrypt(self, text: str, place: str) -> str:
        """The value to store for `text` at `place`."""
        nonce = os.urandom(NONCE)
        sealed = nonce + self._ours[self._writer].encrypt(nonce, text.encode(), place.encode())
        return f"{MARK}{self._writer}:{base64.b64encode(sealed).decode()}"

    def decrypt(self, value: str, place: str) -> str:
        """The text of a stored value; a value in clear PEM is given back as it is. KeyringError if no key opens it."""
        if value.startswith("---"):
            return value
        if not value.startswith(MARK):
            return self._decrypt_apisix(value, place)
        key_id, _, sealed_text = value.removeprefix(MARK).partition(":")
        key = self._ours.get(key_id)
        if key is None:
            raise KeyringError(
                f"{place}: encrypted under key {key_id[:8]}, which the keyring lacks: add that key to "
                "encryption.keyring (of a store in SQLite it may lie in the file keyring in state_dir)"
            )
        try:
            sealed = base64.b64decode(sealed_text, validate=True)
            return key.decrypt(sealed[:NONCE], sealed[NONCE:], place.encode()).decode()
        except (InvalidTag, ValueError):  # binascii.Error is a ValueError
            raise KeyringError(f"{place}: the encrypted value was damaged or moved here") from None

    def _decrypt_apisix(self, value: str, place: str) -> str:
        try:
            sealed = base64.b64decode(value, validate=True)
        except ValueError:  # not base64, or not even ASCII
            raise KeyringError(f"{place}: neither PEM nor an encrypted value") from None
        for secret in self._apisix:
            try:
                decryptor = Cipher(algorithms.AES(secret), modes.CBC(secret[:16])).decryptor()
                unpad = PKCS7(128).unpadder()
                padded = decryptor.update(sealed) + decryptor.finalize()
                text = (unpad.update(padded) + unpad.finalize()).decode()
            except ValueError:
                continue
            if text.startswith("---"):
                return text
        raise KeyringError(f"{place}: no key of the keyring opens it")


def is_encrypted(value: str) -> bool:
    """Whether a value is one that `encrypt` made."""
    return value.startswith(MARK)


def sealed_under(value: str) -> str:
    """The id of the key that an encrypted value is under."""
    return value.removeprefix(MARK).partition(":")[0][:8]


def open_keyring(settings: Settings) -> Keyring:
    """The keyring of the settings. On one machine (SQLite) it is made and kept, mode 0600, in the state directory."""
    entries = settings.encryption.keyring
    if not entries and isinstance(settings.where, EtcdUrl):
        raise SettingsError(
            "encryption.keyring: not set: private keys in etcd are encrypted, and all machines need the same key. "
            'Make one with "openssl rand -base64 32" and set it in sniproxy.yaml or as '
            """SNIPROXY_ENCRYPTION__KEYRING='["..."]'"""
        )
    try:
        return Keyring(entries or [_kept_key(settings.state_dir / "keyring")])
    except ValueError as error:
        where = "" if entries else f"the key file {settings.state_dir / 'keyring'} is damaged: "
        raise SettingsError(f"encryption.keyring: {where}{error}") from None


def _kept_key(file: Path) -> str:
    """Reads the key file, or makes it: written aside and linked, so that of two processes one wins and both agree."""
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=file.parent, prefix=file.name) as draft:  # mode 0600
                draft.write(base64.b64encode(os.urandom(32)).decode() + "\n")
                draft.flush()
                os.fsync(draft.fileno())
                with suppress(FileExistsError):
                    os.link(draft.name, file)
        return file.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"state_dir: the key file {file} cannot be used: {error.strerror}; "
            "set state_dir to a directory that this user may write"
        ) from error


def _key_id(secret: bytes) -> str:
    return hashlib.sha256(b"sniproxy keyring id:" + secret).hexdigest()[:8]
