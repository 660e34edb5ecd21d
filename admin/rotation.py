"""Which keys the private keys of a store are under, and how all of them come under the first one of the keyring.

Each object is one compare-and-write in which nothing but ciphertext changes, neither its times nor its time to live. A
rotation that broke off has left every object as it was or as it is to be: run again, it does the rest.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from admin.backup import stored_objects
from admin.resources import RACES, Resources
from admin.rules import decode, encode
from sniproxy.errors import Conflict, KeyringError, StoreUnavailable
from sniproxy.keyring import Keyring
from sniproxy.objects.secrets import map_secrets
from sniproxy.store import KEEP, Entry

CLEAR = ""  # in place of a key's id


@dataclass(slots=True)
class Survey:
    """The private keys of a store: how many under each key, by its id, and what becomes of them."""

    under: Counter[str] = field(default_factory=Counter)
    closed: dict[str, list[str]] = field(default_factory=dict)  # object -> why its keys do not open
    # that a rotation writes anew, in the order in which they were written: where two have one name, that must stay
    due: list[tuple[str, str, Entry]] = field(default_factory=list)
    due_keys: int = 0

    @property
    def closed_keys(self) -> int:
        return sum(map(len, self.closed.values()))


async def survey(resources: Resources) -> Survey:
    """All that is in the store at one revision. An object that is no JSON has no key that anybody could use; of one in JSON
    that we would not write, a data plane may use the keys, so it counts as closed.
    """
    found, keyring = Survey(), resources.keyring
    listing = await resources.store.list(f"{resources.prefix}/")
    for collection, object_id, entry in stored_objects(listing.entries, resources.prefix):
        value = decode(entry.value)
        if value is None:
            under, closed = list[str](), _keys_out_of_reach(collection, object_id, entry.value)
        else:
            under, closed = _keys_of(keyring, collection, object_id, value)
        found.under.update(under)
        if closed:
            found.closed[f"{collection}/{object_id}"] = closed
        elif others := len(under) - under.count(keyring.writer.id):
            found.due.append((collection, object_id, entry))
            found.due_keys += others
    found.due.sort(key=lambda one: one[2].mod_revision)
    return found


async def rotate(resources: Resources, progress: Callable[[int, int], None]) -> Survey:
    """Brings what opens under the first key; what is in the store after that. An object with a key that does not open
    is left alone. `progress` hears how many of how many objects are done.

    StoreUnavailable says how far it came.
    """
    due = (await survey(resources)).due
    for done, (collection, object_id, entry) in enumerate(due):
        progress(done, len(due))
        try:
            await _renew(resources, collection, object_id, entry)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{done} of {len(due)} objects done, then {collection}/{object_id}: {error}: "
                "run again: sniproxy keyring rotate"
            ) from error
    progress(len(due), len(due))
    return await survey(resources)


async def _renew(
    resources: Resources, collection: str, object_id: str, found: Entry | None
) -> None:
    """Writes one object, as it is by then. Who loses every race leaves it to the next rotation."""

    def renewed(text: str, place: str) -> str:
        opened = resources.keyring.open(text, place)
        under_first = opened.key is not None and opened.key.id == resources.keyring.writer.id
        return text if under_first else resources.keyring.encrypt(opened.text, place)

    for _ in range(RACES):
        value = decode(found.value) if found is not None else None
        if found is None or value is None:
            return
        try:
            sealed = map_secrets(collection, object_id, value, renewed)
        except KeyringError:  # since it was looked at
            return
        if sealed == value:
            return
        try:
            await resources.store.put(
                found.key, encode(sealed), expect=found.mod_revision, ttl=KEEP
            )
        except Conflict:
            found = await resources.store.get(found.key)
        else:
            return


def _keys_of(
    keyring: Keyring, collection: str, object_id: str, value: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """The ids of the keys that an object's private keys are under, and why others of them do not open."""
    under, closed = [], []

    def look(text: str, place: str) -> str:
        try:
            key = keyring.open(text, place).key
        except KeyringError as error:
            closed.append(str(error))
        else:
            under.append(CLEAR if key is None else key.id)
        return text

    map_secrets(collection, object_id, value, look)
    return under, closed


def _keys_out_of_reach(collection: str, object_id: str, raw: bytes) -> list[str]:
    """Why the private keys of an object cannot be encrypted anew that `decode` does not take."""
    found: list[str] = []

    def look(text: str, place: str) -> str:
        found.append(
            f"{place}: in JSON that cannot be written back: NaN, too deep, or half a character"
        )
        return text

    try:
        value = json.loads(raw)
        if isinstance(value, dict):
            map_secrets(collection, object_id, value, look)
    except (ValueError, RecursionError):
        return []
    return found
