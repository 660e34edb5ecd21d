"""Where configuration lives: the contract that `sqlite.py` and `etcd.py` keep alike. Bytes and revisions, no objects.

A store is one ordered history. Every write gets a revision, greater than every one before it (strictly increasing by
any amount; revisions are the store's, not the key's). Keys are absolute paths such as `/apisix/ssls/1`; values are bytes.
Both stores run on trio and on asyncio and can be cancelled anywhere. `tests/store/test_contract.py` tests the contract.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stands: its value, the revision that created it and the revision that wrote it last."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries under a prefix in key order, and the store's revision at which that was true."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The entries under a prefix that were written since a list, in key order, and how many there are now.

    What is gone is not among them: whoever has more entries than there are lists anew.
    """

    entries: tuple[Entry, ...]
    count: int
    revision: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key that was deleted, or whose time to live ran out, at `mod_revision`."""

    key: str
    mod_revision: int


Event = Entry | Deleted


class Keep(Enum):
    """Says `KEEP` in place of a time to live."""

    KEEP = "what the key has"


KEEP: Final = Keep.KEEP
Ttl = int | Literal[Keep.KEEP] | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in order of revision; one revision is never split over two batches.

    `revision` is that of the last event: a watch that starts again after it misses nothing and repeats nothing.
    Without events it is a sign of life: everything up to `revision` was given out, and the store answers.
    """

    revision: int
    events: tuple[Event, ...]


class Store(Protocol):
    """A key-value store with revisions, compare-and-write, time to live and watch.

    Every method raises StoreUnavailable when the store does not answer within its limit. A read is tried on every
    endpoint before that; a write is tried again only while it is certain that nothing was sent.
    """

    async def get(self, key: str) -> Entry | None:
        """The entry, or None."""
        ...

    async def list(self, prefix: str) -> Listing:
        """Every entry whose key starts with `prefix`, from one revision."""
        ...

    async def changes(self, prefix: str, *, after: int) -> Changes:
        """What was written under `prefix` since it was listed at revision `after`.

        Raises Compacted when the history is not the one in which this prefix was listed last (a store restored from a
        backup), or it never was: list again.
        """
        ...

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        """Write and return the revision.

        expect: the mod_revision that the key must have now, 0 for a key that must not exist, None for any; else Conflict.
        ttl: seconds (>= 1) after which the key is deleted by itself, if not put again; None takes it away, KEEP leaves it as
        it is (of a key that must be there). A third of it may be gone already when the key was put not long ago.
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        """Delete and return the revision, or None when there was nothing to delete. `expect` as in `put`."""
        ...

    def watch(
        self, prefix: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Every event under `prefix` with a revision greater than `after`, in order, for ever.

        Between events come signs of life, batches without events: from etcd at least every `watch_silence` seconds
        while it can be reached, from SQLite every `poll` seconds. Their revision moves on where nothing happened under
        the prefix; that a key came and went between two of them may then go untold.

        Entering connects. Entering and iterating raise Compacted when that history is gone or is not the history that
        was listed (a store restored from a backup), StoreUnavailable when there is no connection, or it is lost or
        goes quiet for too long. Either way the watch is over: start another one.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections and files."""
        ...
