"""All objects as the store has them, kept at hand: for lists, and for who refers to what.

Nothing is followed in the background. Whoever asks has the store say what was written since the last time, which is as
exact as a full list and costs a fraction of it; a collection is listed anew only where objects are gone that somebody else
deleted, or where the store has another history than before.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio

from admin.references import REFERRERS, Reference, references, still_used
from admin.rules import decode
from sniproxy.errors import Compacted, ObjectRefused
from sniproxy.objects import KINDS
from sniproxy.store import Entry, Listing, Store


@dataclass(frozen=True, slots=True)
class Item:
    """An object, and what it is looked for by. Its value is decoded when it is shown."""

    object_id: str
    entry: Entry
    name: str | None
    labels: frozenset[str]
    references: tuple[Reference, ...]
    # lower-case server names that an ssl object, or a route, ends TLS for
    tls_names: tuple[str, ...]
    wants_client: bool  # an ssl object that clients have to show a certificate for
    written: tuple[int, int]  # the larger, the later: of two ssl objects for one name the last wins

    @classmethod
    def of(cls, object_id: str, entry: Entry, value: dict[str, Any]) -> "Item":
        name, labels, updated = (value.get(one) for one in ("name", "labels", "update_time"))
        return cls(
            object_id,
            entry,
            name if isinstance(name, str) else None,
            frozenset(labels if isinstance(labels, dict) else ()),
            tuple(references(value)),
            _tls_names(value),
            value.get("client") is not None,
            (updated if isinstance(updated, int) else 0, entry.mod_revision),
        )


def _tls_names(value: dict[str, Any]) -> tuple[str, ...]:
    if value.get("type") == "client" or value.get("status") == 0 or value.get("tls_passthrough"):
        return ()
    names = value.get("snis")
    texts = [value.get("sni")] if names is None else names if isinstance(names, list) else ()
    return tuple(one.lower().removesuffix(".") for one in texts if isinstance(one, str))


def _can_be_told(object_id: str) -> bool:
    """False for APISIX's marker, and for a key that is no UTF-8: no answer could name it, and nobody ask for it."""
    try:
        object_id.encode()
    except UnicodeEncodeError:
        return False
    return object_id != ""


class Collection:
    """One kind of objects: equal to the store's after each `refresh`."""

    def __init__(self, store: Store, prefix: str) -> None:
        """prefix: that of its keys, with the slash at its end."""
        self._store = store
        self._prefix = prefix
        self._turn = anyio.Lock()
        self._begun = 0  # refreshes
        self._good = 0  # the number of the last one that succeeded
        self._revision: int | None = None  # None before the first list
        self._keys: set[str] = set()  # also of what is no object, such as APISIX's markers
        self._items: dict[str, Item] = {}  # by key
        self._by_key: list[Item] | None = None
        self._by_age: list[Item] | None = None
        self._users: dict[Reference, dict[str, Item]] = {}  # by what they refer to, and by key

    def items(self) -> list[Item]:
        """In key order."""
        if self._by_key is None:
            self._by_key = sorted(self._items.values(), key=lambda item: item.entry.key)
        return self._by_key

    def items_by_age(self) -> list[Item]:
        """The oldest first."""
        if self._by_age is None:
            self._by_age = sorted(self._items.values(), key=lambda item: item.entry.create_revision)
        return self._by_age

    def user_of(self, reference: Reference) -> Item | None:
        """An object that refers to this one: the first in key order."""
        users = self._users.get(reference)
        return users[min(users)] if users else None

    async def refresh(self) -> None:
        """As the store was when this was called, or later. StoreUnavailable.

        Of all who ask while one asks the store the first asks it once more, and the others have its answer.
        """
        begun = self._begun
        async with self._turn:
            if self._good <= begun:
                self._begun += 1
                await self._catch_up()
                self._good = self._begun

    def forget(self, key: str, revision: int) -> None:
        """An object was deleted, at that revision: by us, so that nobody needs to find out by a full list."""
        item = self._items.get(key)
        if item is not None and item.entry.mod_revision < revision:
            self._keys.discard(key)
            self._remove(key)

    async def _catch_up(self) -> None:
        if self._revision is not None:
            try:
                changes = await self._store.changes(self._prefix, after=self._revision)
            except Compacted:
                pass
            else:
                self._take(changes.entries)
                if len(self._keys) == changes.count:
                    self._revision = changes.revision
                    return
        self._load(await self._store.list(self._prefix))

    def _load(self, listing: Listing) -> None:
        present = {entry.key for entry in listing.entries}
        for key in self._keys - present:
            self._remove(key)
        self._keys &= present
        self._take(listing.entries)
        self._revision = listing.revision

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            known = self._items.get(entry.key)
            if known is not None and known.entry == entry:
                continue
            self._keys.add(entry.key)
            self._remove(entry.key)
            object_id = entry.key.removeprefix(self._prefix)
            value = decode(entry.value) if _can_be_told(object_id) else None
            if value is not None:
                self._add(Item.of(object_id, entry, value))

    def _add(self, item: Item) -> None:
        self._items[item.entry.key] = item
        self._by_key = self._by_age = None
        for reference in item.references:
            self._users.setdefault(reference, {})[item.entry.key] = item

    def _remove(self, key: str) -> None:
        item = self._items.pop(key, None)
        if item is None:
            return
        self._by_key = self._by_age = None
        for reference in item.references:
            users = self._users.get(reference, {})
            users.pop(key, None)
            if not users:
                self._users.pop(reference, None)


class Catalog:
    """The collections of all kinds, under one prefix of a store."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._collections = {name: Collection(store, f"{prefix}/{name}/") for name in KINDS}

    async def collection(self, name: str) -> Collection:
        """As the store has it now. StoreUnavailable."""
        found = self._collections[name]
        await found.refresh()
        return found

    async def check_unused(
        self,
        collection: str,
        object_id: str,
        why: Callable[[str, str, str], ObjectRefused] = still_used,
    ) -> None:
        """ObjectRefused while another object refers to this one. (APISIX forgets upstreams of stream routes here.)"""
        for referrer in REFERRERS[collection]:
            user = (await self.collection(referrer)).user_of((collection, object_id))
            if user is not None:
                raise why(collection, referrer, user.object_id)

    def forget(self, collection: str, key: str, revision: int) -> None:
        """An object was deleted by us."""
        self._collections[collection].forget(key, revision)
