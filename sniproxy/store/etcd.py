"""The store in etcd 3.4 and later, over its JSON gateway. Keeps the contract of the package.

The parts: `etcd_gateway` asks and hears (endpoints, deadlines, tokens, TLS), `etcd_watch` follows, and this file says what
the contract's words are in etcd's: `expect` is a compare on the key's mod revision, `ttl` a lease of that key alone, which
later puts with the same time to live renew: one that is renewed often leaves no leases behind.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import httpx

from sniproxy.errors import Compacted, Conflict, StoreUnavailable
from sniproxy.store import KEEP, Batch, Changes, Entry, Listing, Ttl
from sniproxy.store.etcd_config import EtcdConfig
from sniproxy.store.etcd_gateway import (
    MAYBE,
    NOT_FOUND,
    Gateway,
    Json,
    Refused,
    TooLarge,
    understood,
)
from sniproxy.store.etcd_health import EtcdHealth
from sniproxy.store.etcd_history import Landmarks, Lineage
from sniproxy.store.etcd_watch import (
    EVERYTHING,
    EtcdWatch,
    b64,
    entry,
    key_range,
    revision,
    unb64,
)
from sniproxy.store.keys import check_ttl, encode

__all__ = ["EtcdConfig", "EtcdStore"]

PAGE = 1000  # entries asked for at once in a list; fewer when they are large
PAGE_SHRINK = 8  # by how much to divide the page when an answer was too large
REVOKE_TIME = 1.0  # seconds for giving back a lease that was not used
MAX_LANDMARKS = 64  # places where a watch may go on that are remembered
MAX_LEASES = 1024  # that are remembered; those beyond end by themselves
FRESH = 1 / 3  # of a time to live: for so long after it was renewed a lease is as good as new


@dataclass(frozen=True, slots=True)
class _Lease:
    """A lease of one key; `renewed_at` is of the loop's clock."""

    id: str
    ttl: int
    renewed_at: float


class EtcdStore:
    """The contract on etcd. Connects at the first call; raises SettingsError for a configuration that cannot be used.

    transport: speaks HTTP instead of the network, for tests.
    """

    def __init__(
        self, config: EtcdConfig, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._config = config
        self._gateway = Gateway(config, transport)
        self._leases: dict[str, _Lease] = {}  # by key, of its last put with a time to live
        self._lineage = Lineage()  # of the last list, and of the watches since
        self._listed: dict[str, Lineage] = {}  # by prefix, of its last list
        self._landmarks: dict[tuple[str, int], Landmarks] = {}  # by prefix and revision

    @property
    def health(self) -> EtcdHealth:
        """How etcd answers."""
        return self._gateway.health

    async def get(self, key: str) -> Entry | None:
        """The entry, or None. Raises StoreUnavailable."""
        body = {"key": b64(encode(key))}
        answer = await self._gateway.read("/v3/kv/range", body, self._gateway.deadline())
        with understood("a range"):
            revision(answer)
            return next(map(entry, answer.get("kvs", ())), None)

    async def list(self, prefix: str) -> Listing:
        """Every entry under `prefix` in key order, from one revision. Raises StoreUnavailable."""
        page = await self._range(prefix)
        if not self._lineage.continues(page):
            # another object: the watches of before keep theirs, and notice
            self._lineage = Lineage()
            self._lineage.continues(page)
        self._listed[prefix] = self._lineage
        with understood("a range"):
            at, entries = revision(page), tuple(map(entry, page["kvs"]))
        self._keep_landmarks(prefix, at, Landmarks.of(entries))
        return Listing(entries, at)

    async def changes(self, prefix: str, *, after: int) -> Changes:
        """What was written since a list. Raises Compacted, StoreUnavailable."""
        # Where nothing was written anywhere counting says so, for a tenth of what etcd's search for revisions costs.
        page = await self._range(prefix, {"count_only": True})
        if revision(page) != after:
            page = await self._range(prefix, {"min_mod_revision": str(after + 1)})
        with understood("a range"):
            at, entries = revision(page), tuple(map(entry, page["kvs"]))
            lineage = self._listed.get(prefix)
            if at < after or lineage is None or not lineage.continues(page):
                raise Compacted(at)
            return Changes(entries, int(page.get("count", 0)), at)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, ttl: Ttl = None
    ) -> int:
        """Write and return the revision. Raises Conflict, StoreUnavailable, ValueError for a ttl below 1 second.

        A time to live of one second may last two: etcd has a shortest lease of its own.
        """
        check_ttl(ttl)
        deadline = self._gateway.deadline()
        put = {"key": b64(encode(key)), "value": b64(value)}
        if ttl is None:
            return await self._put(key, put, expect, deadline)
        if ttl is KEEP:
            return await self._put(key, {**put, "ignore_lease": True}, expect, deadline)
        if (lease := await self._renewed(key, ttl, deadline)) is not None:
            try:
                return await self._put(key, {**put, "lease": lease.id}, expect, deadline)
            except Refused as refused:
                if refused.code != NOT_FOUND:  # it has ended meanwhile, and nothing was written
                    raise
        lease = await self._grant(ttl, deadline)
        try:
            written = await self._put(key, {**put, "lease": lease.id}, expect, deadline)
        except (Conflict, Refused):
            # after any other failure the key may have been written: the lease must live, and ends by itself
            await self._revoke(lease.id)
            raise
        self._remember(key, lease)
        return written

    async def delete(self, key: str, *, expect: int | None = None) -> int | None:
        """Delete; the revision, or None when there was nothing. Raises Conflict, StoreUnavailable."""
        deadline = self._gateway.deadline()
        body = {"key": b64(encode(key))}
        if expect is None:
            answer = await self._gateway.write("/v3/kv/deleterange", body, deadline)
            done = answer
        else:
            answer = await self._txn(key, expect, {"request_delete_range": body}, deadline)
            with understood(f"a transaction: {MAYBE}"):
                done = answer["responses"][0]["response_delete_range"]
        with understood(f"a deletion: {MAYBE}"):
            deleted_at = revision(answer)
            return deleted_at if int(done.get("deleted", 0)) else None

    @asynccontextmanager
    async def watch(self, prefix: str, *, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """Every event under `prefix` after revision `after`. Raises Compacted and StoreUnavailable.

        An etcd that was restored from a backup since the last list means Compacted as well.
        """
        watch = EtcdWatch(
            self._gateway,
            encode(prefix),
            after,
            self._config.watch_silence,
            self._lineage,
            self._landmarks.pop((prefix, after), None),
        )
        try:
            await watch.begin()
            yield watch
        finally:
            await watch.aclose()
            if watch.landmarks is not None:
                self._keep_landmarks(prefix, watch.given, watch.landmarks)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._gateway.aclose()

    async def _range(self, prefix: str, only: Json | None = None) -> Json:
        """The answer to a range of a prefix in key order; `kvs` of all its pages, which are from one revision."""
        wanted = {**key_range(encode(prefix)), **(only or {})}
        found: list[Json] = []
        first, limit, more = None, PAGE, True
        while more:
            at = 0 if first is None else revision(first)
            body = {**wanted, "limit": str(limit), "revision": str(at)}
            try:
                page = await self._gateway.read("/v3/kv/range", body, self._gateway.deadline())
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // PAGE_SHRINK)
                continue
            with understood("a range"):
                revision(page)
                first = first or page
                found += page.get("kvs", ())
                more = bool(page.get("more"))
                if more:
                    wanted["key"] = b64(unb64(page["kvs"][-1]["key"]) + EVERYTHING)
        assert first is not None
        return {**first, "kvs": found}

    def _keep_landmarks(self, prefix: str, at: int, landmarks: Landmarks) -> None:
        """For the watch that goes on from there."""
        if len(self._landmarks) >= MAX_LANDMARKS:
            del self._landmarks[next(iter(self._landmarks))]  # nobody goes on from the oldest
        self._landmarks[prefix, at] = landmarks

    async def _put(self, key: str, put: Json, expect: int | None, deadline: float) -> int:
        if expect is None:
            answer = await self._gateway.write("/v3/kv/put", put, deadline)
        else:
            answer = await self._txn(key, expect, {"request_put": put}, deadline)
        with understood(f"a put: {MAYBE}"):
            return revision(answer)

    async def _txn(self, key: str, expect: int, operation: Json, deadline: float) -> Json:
        """Do it if the key's mod revision is `expect`, which is 0 for an absent key; else Conflict."""
        compare = {
            "key": b64(encode(key)),
            "target": "MOD",
            "result": "EQUAL",
            "mod_revision": str(expect),
        }
        body = {"compare": [compare], "success": [operation]}
        answer = await self._gateway.write("/v3/kv/txn", body, deadline)
        if not answer.get("succeeded"):
            raise Conflict(f"{key}: not at the expected revision {expect}")
        return answer

    async def _grant(self, ttl: int, deadline: float) -> _Lease:
        """A new lease. Asked again freely: one that nobody uses ends by itself."""
        begun = anyio.current_time()
        answer = await self._gateway.read("/v3/lease/grant", {"TTL": str(ttl)}, deadline)
        with understood("a lease"):
            return _Lease(str(int(answer["ID"])), ttl, begun)

    async def _renewed(self, key: str, ttl: int, deadline: float) -> _Lease | None:
        """The key's lease of last time, with all of its time before it; None when there is none, or it has ended."""
        lease = self._leases.pop(key, None)
        if lease is None or lease.ttl != ttl:
            return None
        begun = anyio.current_time()
        if begun - lease.renewed_at > ttl * FRESH:
            answer = await self._gateway.read("/v3/lease/keepalive", {"ID": lease.id}, deadline)
            with understood("a lease that was renewed"):
                if not int(answer["result"].get("TTL", 0)):
                    return None
            lease = _Lease(lease.id, ttl, begun)
        self._remember(key, lease)
        return lease

    def _remember(self, key: str, lease: _Lease) -> None:
        if len(self._leases) >= MAX_LEASES:
            del self._leases[next(iter(self._leases))]  # the one that was used longest ago
        self._leases[key] = lease

    async def _revoke(self, lease: str) -> None:
        deadline = anyio.current_time() + REVOKE_TIME
        # the lease ends by itself in any case, and the caller is to hear of the first failure
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._gateway.write("/v3/lease/revoke", {"ID": lease}, deadline)
