"""Private keys at rest: under a keyring, in a form of ours or in APISIX's.

    aes256gcm:KEYID:BASE64(nonce 12 bytes | ciphertext | tag 16 bytes)       under base64 of 32 bytes
    BASE64(AES-CBC, PKCS#7 padding, the IV being the key's first 16 bytes)   under 16 or 32 characters, as APISIX does

The first key of the keyring writes, all of them read. KEYID names the key without giving it away; the place where a value
stands ("ssls/1/key") is associated data, so a ciphertext that is moved to another object does not open. APISIX's form has
neither: which key it is under is found by trying, and it opens wherever it stands.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from sniproxy.errors import KeyFileUnread, KeyringError, NoKeyYet, SettingsError
from sniproxy.keyring_file import KeyFile
from sniproxy.logs import Log
from sniproxy.settings import EtcdUrl, Settings, keyring_secret

MARK = "aes256gcm:"
NONCE = 12  # bytes, NIST SP 800-38D section 8.2
BLOCK = 16  # bytes, of AES
DASHES = "---"  # in every PEM, in no encrypted value; APISIX takes what begins with them for a key in clear
PUBLISHED = frozenset({"qeddd145sfvddff3", "edd1c9f0985e76a2"})  # APISIX's defaults


class OurKey:
    """AES-256-GCM."""

    form = "aes256gcm"
    is_published = False

    def __init__(self, secret: bytes) -> None:
        self.id = _key_id(secret)
        self.ticket_secret = _ticket_secret(secret)
        self._aead = AESGCM(secret)

    def encrypt(self, text: str, place: str) -> str:
        """The value to store."""
        nonce = os.urandom(NONCE)
        sealed = nonce + self._aead.encrypt(nonce, text.encode(), place.encode())
        return f"{MARK}{self.id}:{base64.b64encode(sealed).decode()}"

    def decrypt(self, value: str, place: str) -> str:
        """The text of a value that names this key; KeyringError."""
        try:
            sealed = base64.b64decode(value.rpartition(":")[2], validate=True)
            return self._aead.decrypt(sealed[:NONCE], sealed[NONCE:], place.encode()).decode()
        except (InvalidTag, ValueError):  # binascii.Error is a ValueError
            raise KeyringError(f"{place}: the encrypted value was damaged or moved here") from None


class ApisixKey:
    """AES-CBC, which of one text always makes the same value."""

    form = "apisix"

    def __init__(self, secret: bytes) -> None:
        self.id = _key_id(secret)
        self.is_published = secret.decode() in PUBLISHED
        self.ticket_secret = _ticket_secret(secret)
        self._cipher = Cipher(algorithms.AES(secret), modes.CBC(secret[:BLOCK]))

    def encrypt(self, text: str, place: str) -> str:
        """The value to store, without what stands before the PEM; KeyringError for what is none."""
        _, dashes, rest = text.partition(DASHES)
        if not dashes:
            raise KeyringError(f"{place}: no PEM, and in APISIX's form nothing else can be kept")
        pad, encryptor = PKCS7(8 * BLOCK).padder(), self._cipher.encryptor()
        padded = pad.update((dashes + rest).encode()) + pad.finalize()
        return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()

    def decrypt(self, sealed: bytes) -> str | None:
        """The text; None when it is under another key."""
        unpad, decryptor = PKCS7(8 * BLOCK).unpadder(), self._cipher.decryptor()
        try:
            padded = decryptor.update(sealed) + decryptor.finalize()
            text = (unpad.update(padded) + unpad.finalize()).decode()
        except ValueError:
            return None
        return text if text.startswith(DASHES) else None


Key = OurKey | ApisixKey


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored value in clear, and the key that it is under; None: it stands in clear."""

    text: str = field(repr=False)
    key: Key | None


class Keyring:
    """Encrypts with its first key, decrypts with whichever fits. A key that it once had it keeps for reading."""

    def __init__(
        self, entries: Iterable[str], read_again: Callable[[], Sequence[str]] | None = None
    ) -> None:
        """entries: as in the setting `encryption.keyring`; ValueError when there is none, or one that is no key.

        read_again: the entries as they are by then, where somebody else may add one; SettingsError.
        """
        self._keys: dict[str, Key] = {}  # by id; the first one writes
        self._read_again = read_again
        self._take(map(_key, entries))
        if not self._keys:
            raise ValueError("the keyring needs a key that writes: openssl rand -base64 32")

    @property
    def writer(self) -> Key:
        """The first key."""
        return next(iter(self._keys.values()))

    @property
    def keys(self) -> tuple[Key, ...]:
        """All of them, in order."""
        return tuple(self._keys.values())

    def ticket_secrets(self) -> tuple[bytes, ...]:
        """What TLS tickets are sealed under, the one that writes first: 32 bytes, from which no key can be told.

        None of a key that everybody knows.
        """
        return tuple(key.ticket_secret for key in self.keys if not key.is_published)

    def encrypt(self, text: str, place: str) -> str:
        """The value to store for `text` at `place`. KeyringError."""
        self._refresh()
        return self.writer.encrypt(text, place)

    def decrypt(self, value: str, place: str) -> str:
        """The text of a stored value; one in clear is given back as it is. KeyringError if no key opens it."""
        return self.open(value, place).text

    def open(self, value: str, place: str) -> Opened:
        """As `decrypt`, with the key that it is under."""
        if is_clear(value):
            return Opened(value, None)
        if value.startswith(MARK):
            key = self._named(sealed_under(value), place)
            return Opened(key.decrypt(value, place), key)
        sealed = _from_base64(value)
        if sealed is None:
            raise KeyringError(f"{place}: neither PEM nor an encrypted value")
        for other in self._keys.values():
            if isinstance(other, ApisixKey) and (text := other.decrypt(sealed)) is not None:
                return Opened(text, other)
        raise KeyringError(f"{place}: no key of the keyring opens it")

    def refreshes(self) -> bool:
        """Takes what is in the key file, if there is one, and tells whether it could be read."""
        try:
            self._refresh()
        except KeyringError:
            return False
        return True

    def succeed(self, other: "Keyring") -> None:
        """Goes on as another one: writes with its first key, and reads with all of both."""
        self._read_again = other._read_again
        self._take(other._keys.values())

    def _named(self, key_id: str, place: str) -> OurKey:
        if key_id not in self._keys:
            self._refresh()
        key = self._keys.get(key_id)
        if isinstance(key, OurKey):
            return key
        raise KeyringError(
            f"{place}: encrypted under key {key_id}, which the keyring lacks: add that key to "
            "encryption.keyring (of a store in SQLite it may lie in the file keyring in state_dir)"
        )

    def _refresh(self) -> None:
        if self._read_again is None:
            return
        try:
            self._take(map(_key, self._read_again()))
        except SettingsError as error:
            raise KeyFileUnread(str(error)) from None

    def _take(self, keys: Iterable[Key]) -> None:
        """Those come first; of what is still under another one, some may be read a moment later."""
        self._keys = {key.id: key for key in keys} | self._keys


def is_clear(value: str) -> bool:
    """Whether a value is a key in clear: PEM, or what its owner takes for it."""
    return DASHES in value


def is_encrypted(value: str) -> bool:
    """Whether a value has the form of an encrypted one, ours or APISIX's, whatever it is under."""
    if value.startswith(MARK):
        return True
    sealed = _from_base64(value)
    return sealed is not None and len(sealed) > 0 and len(sealed) % BLOCK == 0


def sealed_under(value: str) -> str:
    """The id of the key that a value in our form is under; of any other "" or nonsense."""
    return value.removeprefix(MARK).partition(":")[0][:8]


def open_keyring(settings: Settings, *, make: bool = True) -> Keyring:
    """The keyring of the settings. On one machine (SQLite) it is made and kept, mode 0600, in the state directory.

    make: False for who only looks, perhaps as another user than sniproxy runs as, which could not read the file then.
    SettingsError; NoKeyYet where there is none to look at.
    """
    entries = settings.encryption.keyring
    if not entries and isinstance(settings.where, EtcdUrl):
        raise SettingsError(
            "encryption.keyring: not set: private keys in etcd are encrypted, and all machines need the same key. "
            'Make one with "openssl rand -base64 32" and set it in sniproxy.yaml or as '
            """SNIPROXY_ENCRYPTION__KEYRING='["..."]'"""
        )
    if entries:
        return Keyring(entries)
    file = key_file(settings)
    if make:
        file.make()
    elif not file.is_there():
        raise NoKeyYet(
            f"there is no key yet: no file {settings.state_dir / 'keyring'}: it is made when sniproxy first starts"
        )
    return Keyring(file.read(), file.read)


def key_file(settings: Settings) -> KeyFile:
    """Where the keyring is kept if none is set."""
    return KeyFile(settings.state_dir / "keyring")


def warn_of_published(keyring: Keyring, log: Log) -> None:
    """A line if the key that writes is one that everybody knows."""
    if keyring.writer.is_published:
        log.warning(
            "private keys are encrypted under a default key of APISIX, which everybody knows",
            key=keyring.writer.id,
            advice="put a key of your own first in encryption.keyring, then run: sniproxy keyring rotate",
        )


def _key(entry: str) -> Key:
    secret = keyring_secret(entry)
    return OurKey(secret) if len(entry) > 32 else ApisixKey(secret)


def _from_base64(value: str) -> bytes | None:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return None


def _key_id(secret: bytes) -> str:
    return hashlib.sha256(b"sniproxy keyring id:" + secret).hexdigest()[:8]


def _ticket_secret(secret: bytes) -> bytes:
    return hmac.digest(secret, b"sniproxy tickets", "sha256")
