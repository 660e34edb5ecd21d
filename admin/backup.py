"""dump and restore: everything in a store as one file, and that file as a store.

    # sniproxy 0.1.0 at 2026-11-24T18:00:00Z, store revision 4711
    # private keys are encrypted; encryption.keyring must have 1a2b3c4d
    ssls: [...]
    # end: 12 objects

A dump is of one revision. It holds objects as they are stored, times too, private keys encrypted; `apply` takes it as well.
The last line is how a file that was cut off is known: YAML without its second half is YAML too. What restore would refuse is
told when the dump is made, not when it is needed. A time to live is not in it: what is restored stays.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from admin.bulk import ApiDestination, check_item, read_items
from admin.reading import Item
from admin.references import Find
from admin.resources import Resources
from admin.rules import check, decode, encode, is_id, reveal
from sniproxy.errors import Conflict, KeyringError, ObjectRefused, StoreUnavailable
from sniproxy.keyring import MARK, Keyring, is_clear, sealed_under
from sniproxy.objects import KINDS
from sniproxy.objects.secrets import map_secrets, without_clear_keys
from sniproxy.store import Entry

Lists = dict[str, list[dict[str, Any]]]  # by collection


@dataclass(frozen=True, slots=True)
class Dump:
    """The file's text, how many objects are in it, and what is wrong with it as a backup."""

    text: str
    count: int
    problems: list[str]


# -- out of a store


async def dump_store(resources: Resources, version: str) -> Dump:
    """All of a store at one revision. `version` is ours, for the first line."""
    listing = await resources.store.list(f"{resources.prefix}/")
    lists: Lists = {collection: [] for collection in KINDS}
    problems = []
    key_ids: set[str] = set()

    def seal(text: str, place: str) -> str:
        sealed, key_id = _sealed(resources.keyring, text, place)
        key_ids.add(key_id)
        return sealed

    for collection, object_id, entry in stored_objects(listing.entries, resources.prefix):
        value = decode(entry.value)
        if value is None:
            problems.append(f"{entry.key} is no JSON object, so it is not in the file")
            continue
        value = {"id": object_id} | value
        if not is_id(value["id"], object_id):  # it goes back to where it stood, so the key decides
            value["id"] = object_id
        sealed = map_secrets(collection, object_id, value, seal)
        clean = without_clear_keys(sealed)
        if clean != sealed:
            problems.append(
                f"{entry.key} has a private key where it stands in clear: it was left out"
            )
        lists[collection].append(clean)
    problems += await _refusals(lists, resources.keyring)
    about = [f"{_origin(version, resources.now())}, store revision {listing.revision}"]
    # Whoever wrote the store wrote these: nothing in them may end the comment.
    if names := ", ".join(sorted(filter(str.isalnum, key_ids))):
        about.append(f"private keys are encrypted; encryption.keyring must have {names}")
    return _dump(lists, about, problems)


async def dump_api(api: ApiDestination, version: str, now: float) -> Dump:
    """All that an admin API gives out: no private keys, and one list after the other."""
    lists = {kind.collection: await api.objects(kind) for kind in KINDS.values()}
    return _dump(lists, [f"{_origin(version, now)}, from an admin API: no private keys"], [])


def stored_objects(entries: Iterable[Entry], prefix: str) -> Iterator[tuple[str, str, Entry]]:
    """(collection, id, entry) of what is ours: not other collections, nor `ssls/`, APISIX's mark of a directory."""
    for entry in entries:
        collection, _, object_id = entry.key.removeprefix(f"{prefix}/").partition("/")
        if collection in KINDS and object_id:
            yield collection, object_id, entry


def _sealed(keyring: Keyring, text: str, place: str) -> tuple[str, str]:
    """A private key encrypted, and the id of the key that it is under. One that says it, or does not open, stays so."""
    if text.startswith(MARK) and not is_clear(text):
        return text, sealed_under(text)
    try:
        clear = keyring.decrypt(text, place)
    except KeyringError:
        return text, ""
    return keyring.encrypt(clear, place), keyring.writer.id


async def _refusals(lists: Lists, keyring: Keyring) -> list[str]:
    """What restore would say of each object."""
    items = [
        Item(KINDS[collection], str(value["id"]), value, index)
        for collection, values in lists.items()
        for index, value in enumerate(values)
    ]
    find = _finder(items)
    found = []
    for item in items:
        try:
            await check_item(item, _check_under(keyring), find)
        except ObjectRefused as refused:
            found.append(f"restore would refuse {refused}")
    return found


def _origin(version: str, now: float) -> str:
    return f"sniproxy {version} at {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _dump(lists: Lists, about: list[str], problems: list[str]) -> Dump:
    count = sum(map(len, lists.values()))
    body = yaml.dump(lists, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    head = "".join(f"# {line}\n" for line in about)
    return Dump(f"{head}{body}# end: {count} objects\n", count, problems)


class _Dumper(yaml.SafeDumper):
    """PEM text as block scalars, so that a dump can be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


# -- into a store


def read_backup(text: str) -> list[Item]:
    """The objects of a dump; ObjectRefused when it is not whole."""
    end = re.fullmatch(r"# end: ([0-9]{1,9}) objects", text.rstrip().rpartition("\n")[2])
    if end is None:
        raise ObjectRefused(
            "no whole backup: the last line is not '# end: N objects', with which a dump ends: the file was cut off, "
            "so take another; what is not from dump goes into a store with `sniproxy apply`"
        )
    items = read_items(text)
    if len(items) != int(end[1]):
        raise ObjectRefused(
            f"no whole backup: the last line says {end[1]} objects, and there are {len(items)}: take another file, "
            "or put the number right if it was you who changed this one"
        )
    return items


async def restore(
    items: list[Item], resources: Resources, progress: Callable[[int, int], None]
) -> int:
    """Writes what is not there yet; how many that were. `progress` hears how many of how many are done.

    ObjectRefused before the first write; Conflict and StoreUnavailable say how far it came. It can be run again.
    """
    find = _finder(items)
    keyring = resources.keyring
    wanted = {}
    for item in items:
        await check_item(item, _check_under(keyring), find)
        place = item.kind.collection, item.object_id
        wanted[place] = reveal(*place, item.value, keyring)
    held = await _held(resources)
    strange = [
        place for place, value in held.items() if value is None or wanted.get(place) != value
    ]
    if strange:
        raise ObjectRefused(
            f"the store is not empty: {len(strange)} of its objects are not in the file, or are different there, such as "
            f"{'/'.join(strange[0])}; restore into an empty store, or write over this one with `sniproxy apply`"
        )
    missing = [place for place in wanted if place not in held]
    for done, place in enumerate(missing):
        progress(done, len(missing))
        sealed = map_secrets(*place, wanted[place], keyring.encrypt)
        try:
            await resources.store.put(resources.key(*place), encode(sealed), expect=0)
        except Conflict:
            raise Conflict(
                f"{done} of {len(missing)} restored, then somebody else wrote {'/'.join(place)}, which was left so: end "
                "whoever writes into this store, empty it, and restore again"
            ) from None
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{done} of {len(missing)} restored, then {'/'.join(place)}: {error}: run the same command again"
            ) from error
    progress(len(missing), len(missing))
    return len(missing)


async def _held(resources: Resources) -> dict[tuple[str, str], dict[str, Any] | None]:
    """What is in the store, keys in clear, by collection and id; None for what cannot be read."""
    listing = await resources.store.list(f"{resources.prefix}/")
    held = {}
    for collection, object_id, entry in stored_objects(listing.entries, resources.prefix):
        value = decode(entry.value)
        try:
            clear = value and reveal(collection, object_id, value, resources.keyring)
        except KeyringError:
            clear = None
        held[collection, object_id] = clear
    return held


def _finder(items: list[Item]) -> Find:
    """Looks objects up in the file: a whole store refers to nothing outside."""
    named = {(item.kind.collection, item.object_id): item.value for item in items}

    async def find(collection: str, object_id: str) -> dict[str, Any] | None:
        return named.get((collection, object_id))

    return find


def _check_under(keyring: Keyring) -> Callable[[Item], None]:
    """Checks an object whose private keys this keyring must open."""

    def check_alone(item: Item) -> None:
        collection, object_id = item.kind.collection, item.object_id
        try:
            check(collection, reveal(collection, object_id, item.value, keyring))
        except KeyringError as error:
            raise ObjectRefused(str(error)) from None

    return check_alone
