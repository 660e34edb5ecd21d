"""The requests on ssls, stream_routes, upstreams and services. Each write is one compare-and-write in the store.

Shapes, status codes and texts are APISIX 3.18's. What is stored is what was sent, plus id and times: defaults are never
stored, and private keys are stored and answered as ciphertext only.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import anyio.to_thread

from admin.body import MAX_DEPTH
from admin.catalog import Catalog, Item
from admin.details import Users, describe_ssl
from admin.listing import select
from admin.references import check_references, still_client
from admin.rules import (
    decode,
    encode,
    is_id,
    merge,
    merge_at,
    prepare,
    refuse_times,
    reveal,
)
from sniproxy.errors import Conflict, ObjectRefused
from sniproxy.forbidden import Forbidden
from sniproxy.keyring import Keyring
from sniproxy.objects import Kind
from sniproxy.objects.secrets import PRIVATE, drop_secrets, without_clear_keys
from sniproxy.store import Entry, Store

RACES = 5  # how often a write that lost a race is tried on the new value
IDS = 100  # that are tried for a new object
NO_QUERY: Mapping[str, str] = MappingProxyType({})


class NotFound(Exception):
    """404."""


class RaceLost(Exception):
    """503: others kept writing the same object."""


class _Taken(Exception):
    """The id of a new object is that of an old one."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write answers: APISIX's envelope without indexes, 201 for a new object."""

    key: str
    value: dict[str, Any]
    created: bool
    revision: int

    @property
    def body(self) -> dict[str, Any]:
        return {"key": self.key, "value": self.value}


@dataclass(frozen=True, slots=True)
class Resources:
    """The objects of one store under one prefix."""

    store: Store
    prefix: str
    keyring: Keyring
    now: Callable[[], float] = field(default=time.time)
    forbidden: Forbidden | None = None  # where nodes must not be
    catalog: Catalog = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalog", Catalog(self.store, self.prefix))

    def key(self, collection: str, object_id: str) -> str:
        """The key of an object in the store."""
        return f"{self.prefix}/{collection}/{object_id}"

    async def list(self, kind: Kind, query: Mapping[str, str] = NO_QUERY) -> dict[str, Any]:
        """The objects of a kind that the query asks for. BadPage, ObjectRefused."""
        collection = await self.catalog.collection(kind.collection)
        items, total = await select(collection, kind.collection, query)
        shown = [_envelope(kind, item.entry) for item in items]
        if _wants_detail(kind, query):
            await self._add_details(shown, items)
        return {"list": shown, "total": total}

    async def get(
        self, kind: Kind, object_id: str, query: Mapping[str, str] = NO_QUERY
    ) -> dict[str, Any]:
        """One object; NotFound."""
        entry = await self.store.get(self.key(kind.collection, object_id))
        value = decode(entry.value) if entry is not None and object_id else None
        if entry is None or value is None:
            raise NotFound
        shown = _envelope(kind, entry)
        if _wants_detail(kind, query):
            await self._add_details([shown], [Item.of(object_id, entry, value)])
        return shown

    async def _add_details(self, shown: Sequence[dict[str, Any]], items: Sequence[Item]) -> None:
        # The lists are made here: a collection may change while a thread goes through it.
        ssls = (await self.catalog.collection("ssls")).items()
        routes = (await self.catalog.collection("stream_routes")).items()

        def describe() -> None:
            users, now = Users(ssls, routes), self.now()
            for one, item in zip(shown, items, strict=True):
                one["detail"] = describe_ssl(item, one["value"], users, now)

        await anyio.to_thread.run_sync(describe)  # 50 us for each certificate

    async def create(self, kind: Kind, value: dict[str, Any], ttl: int | None) -> Written:
        """A new object under an id of ours: a revision of the store, so it sorts by age.

        In a store that was restored revisions begin anew, and an id may be taken: then the next one.
        """
        if "id" in value:
            raise ObjectRefused(f"wrong {kind.title} id, do not need it")
        refuse_times(value)
        prepare(kind.collection, "new", value | {"id": "new"}, self.keyring, self.forbidden)
        for _ in range(IDS):
            revision = await self.store.put(f"{self.prefix}/gen_id", b"1")
            object_id = f"{revision:020d}"
            try:
                return await self._write(kind, object_id, _new(object_id, value), ttl)
            except _Taken:
                continue
        raise RaceLost(f"{IDS} ids of new objects are taken, up to {object_id}: ask again")

    async def replace(
        self, kind: Kind, path_id: str | None, value: dict[str, Any], ttl: int | None
    ) -> Written:
        """Creates or replaces. The id stands in the path or in the body, or is the same in both."""
        object_id = _one_id(kind, path_id, value)
        refuse_times(value)
        value = {"id": object_id} | {m: v for m, v in value.items() if (m, v) != ("id", None)}

        def renewed(old: dict[str, Any] | None, now: int) -> dict[str, Any]:
            created = (old or {}).get("create_time", now)
            return value | {"create_time": created, "update_time": now}

        return await self._write(kind, object_id, renewed, ttl)

    async def patch(
        self, kind: Kind, object_id: str, path: str, change: Any, ttl: int | None
    ) -> Written:
        """Merges into an object, or replaces one member of it (`path` such as "upstream/nodes"). NotFound."""
        steps = [step for step in path.split("/") if step]
        if not steps and not isinstance(change, dict):
            raise ObjectRefused("invalid request body: expected a JSON object")
        if len(steps) > MAX_DEPTH:
            raise ObjectRefused("invalid configuration: nested too deeply")

        def patched(old: dict[str, Any] | None, now: int) -> dict[str, Any]:
            if old is None:
                raise NotFound
            clear = reveal(kind.collection, object_id, old, self.keyring)
            merged = merge_at(clear, steps, change) if steps else merge(clear, change or clear)
            if not is_id(merged.get("id"), object_id):
                raise ObjectRefused(f"wrong {kind.title} id")
            timed = "update_time" in change if not steps else steps == ["update_time"]
            result: dict[str, Any] = merged if timed else merged | {"update_time": now}
            return result

        return await self._write(kind, object_id, patched, ttl)

    async def delete(
        self, kind: Kind, object_id: str, *, force: bool
    ) -> tuple[dict[str, Any], int]:
        """Deletes; the answer and the revision. NotFound; ObjectRefused while it is in use, unless forced."""
        key = self.key(kind.collection, object_id)
        for _ in range(RACES):
            old = await self.store.get(key) if object_id else None
            if old is None:
                raise NotFound
            if not force:
                await self.catalog.check_unused(kind.collection, object_id)
            try:
                # Only what was there now: a store that was away may carry out late what it was asked long ago.
                revision = await self.store.delete(key, expect=old.mod_revision)
            except Conflict:
                continue
            if revision is not None:
                self.catalog.forget(kind.collection, key, revision)
                return {"deleted": "1", "key": key}, revision
        raise RaceLost("value changed before deleted")

    async def _write(
        self,
        kind: Kind,
        object_id: str,
        change: Callable[[dict[str, Any] | None, int], dict[str, Any]],
        ttl: int | None,
    ) -> Written:
        """Read, change, check, write if nobody else has written meanwhile, else again."""
        key = self.key(kind.collection, object_id)
        for _ in range(RACES):
            old = await self.store.get(key)
            before = decode(old.value) if old else None
            new = change(before, int(self.now()))
            stored = prepare(kind.collection, object_id, new, self.keyring, self.forbidden)
            await check_references(stored, self._find)
            if _is_for_clients(kind, before) and not _is_for_clients(kind, stored):
                await self.catalog.check_unused(kind.collection, object_id, still_client)
            expect = old.mod_revision if old else 0
            try:
                revision = await self.store.put(key, encode(stored), expect=expect, ttl=ttl)
            except Conflict:
                continue
            return Written(key, stored, created=old is None, revision=revision)
        raise RaceLost("value changed before overwritten")

    async def _find(self, collection: str, object_id: str) -> dict[str, Any] | None:
        entry = await self.store.get(self.key(collection, object_id))
        return decode(entry.value) if entry else None


def _new(
    object_id: str, value: dict[str, Any]
) -> Callable[[dict[str, Any] | None, int], dict[str, Any]]:
    """A change for `_write` that makes an object where there is none; _Taken."""

    def made(old: dict[str, Any] | None, now: int) -> dict[str, Any]:
        if old is not None:
            raise _Taken
        return {"id": object_id} | value | {"create_time": now, "update_time": now}

    return made


def _is_for_clients(kind: Kind, value: dict[str, Any] | None) -> bool:
    return kind.collection == "ssls" and value is not None and value.get("type") == "client"


def _wants_detail(kind: Kind, query: Mapping[str, str]) -> bool:
    return kind.collection == "ssls" and query.get("detail") == "true"


def _envelope(kind: Kind, entry: Entry) -> dict[str, Any]:
    value = drop_secrets(kind.collection, json.loads(entry.value))
    if (
        PRIVATE.encode() in entry.value
    ):  # written by somebody else, perhaps where none is looked for
        value = without_clear_keys(value)
    return {
        "key": entry.key,
        "value": value,
        "createdIndex": entry.create_revision,
        "modifiedIndex": entry.mod_revision,
    }


def _one_id(kind: Kind, path_id: str | None, value: dict[str, Any]) -> str:
    body_id = value.get("id")
    if path_id is None and body_id is None:
        raise ObjectRefused(f"missing {kind.title} id")
    if path_id is not None and body_id is not None and str(body_id) != path_id:
        raise ObjectRefused(f"wrong {kind.title} id")
    return path_id if path_id is not None else str(body_id)
