"""How to tell that etcd was restored from a backup: it may have reached our revision again, with another history.

It shows by another cluster id or a lower Raft term than before (`Lineage`), in the answers that need the quorum: only
these do not lag. Or, where the cluster had hardly lived longer than the backup's, by what is not as it was when we last
looked (`Landmarks`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from sniproxy.store import Deleted, Entry, Event

Json = dict[str, Any]


class Lineage:
    """Which history the answers are of, by what was heard so far."""

    def __init__(self) -> None:
        self._cluster = self._term = 0

    def continues(self, answer: Json) -> bool:
        """Whether an answer that needed the quorum is of the same history; remembers it if so."""
        header = answer["header"]
        cluster, term = int(header.get("cluster_id", 0)), int(header.get("raft_term", 0))
        if self._cluster and (cluster != self._cluster or term < self._term):
            return False
        self._cluster, self._term = cluster, term
        return True


@dataclass(frozen=True, slots=True)
class Landmarks:
    """What is under a prefix at a revision: how many keys, the last that was written and when, the last that was deleted.

    Another history that has all of this at the same revision has, but for deletions alone, the same writes.
    """

    count: int
    written: tuple[str, int] | None = None
    deleted: str | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Of a full list."""
        found = [(entry.mod_revision, entry.key) for entry in entries]
        revision, key = max(found, default=(0, ""))
        return cls(len(found), (key, revision) if found else None)

    def after(self, events: Iterable[Event]) -> "Landmarks":
        """Those after some events."""
        marks = self
        for event in events:
            marks = marks._after(event)
        return marks

    def _after(self, event: Event) -> "Landmarks":
        if isinstance(event, Deleted):
            lost = self.written is not None and self.written[0] == event.key
            written = None if lost else self.written
            return replace(self, count=self.count - 1, written=written, deleted=event.key)
        return Landmarks(
            count=self.count + (event.create_revision == event.mod_revision),
            written=(event.key, event.mod_revision),
            deleted=None if self.deleted == event.key else self.deleted,
        )
