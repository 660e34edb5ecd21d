"""etcd's JSON gateway in memory, for days of virtual time. `tests/store/test_simulated_etcd.py` holds it to a real one.

It knows what the store asks: range, put, deleterange, txn with compares of mod revisions, compaction and watch.
"""

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

Json = dict[str, Any]
EVERYTHING = b"\0"


@dataclass(frozen=True)
class Version:
    """What a key was from one revision on; value None: it was deleted."""

    key: bytes
    value: bytes | None
    created: int
    revision: int
    version: int


class Refusal(Exception):
    """An answer that is an error; its code is gRPC's."""

    def __init__(self, message: str, code: int = 11) -> None:
        super().__init__(message)
        self.code = code


COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


@dataclass
class SimulatedEtcd(httpx.AsyncBaseTransport):
    """One cluster. `asked` counts the questions by path; `hangs`: it answers nothing and says nothing any more."""

    cluster: int = 7
    term: int = 2
    revision: int = 1
    compacted: int = 0
    hangs: bool = False
    history: list[Version] = field(default_factory=list)  # by revision, as far as watches get it
    keys: dict[bytes, list[Version]] = field(default_factory=dict)  # all versions that are known
    asked: Counter[str] = field(default_factory=Counter)
    watching: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)

    # -- what a test does to it

    def put(self, key: str, value: bytes = b"") -> int:
        """Write a key; the revision."""
        return self._write([(key.encode(), value)])

    def delete(self, *keys: str) -> int:
        """Delete keys that are there, in one revision; the revision."""
        return self._write([(key.encode(), None) for key in keys])

    def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        if revision <= self.compacted:
            raise Refusal(COMPACTED)
        if revision > self.revision:
            raise Refusal(FUTURE)
        self.compacted = revision
        # etcd#18089: a deletion at the very revision is forgotten, and a watch from there is not told
        self.history = [
            one
            for one in self.history
            if one.revision > revision or (one.revision == revision and one.value is not None)
        ]
        for key, versions in list(self.keys.items()):
            kept = [one for one in versions if one.revision > revision]
            before = _at(versions, revision)
            self.keys[key] = ([before] if before and before.value is not None else []) + kept
            if not self.keys[key]:
                del self.keys[key]

    def _write(self, changes: list[tuple[bytes, bytes | None]]) -> int:
        self.revision += 1
        for key, value in changes:
            old = _at(self.keys.get(key, []), self.revision)
            alive = old is not None and old.value is not None
            assert alive or value is not None
            one = Version(
                key,
                value,
                old.created if old and alive else self.revision,
                self.revision,
                old.version + 1 if old and alive else 1,
            )
            self.keys.setdefault(key, []).append(one)
            self.history.append(one)
        self.changed.set()
        self.changed = anyio.Event()
        return self.revision

    # -- the gateway

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One question."""
        path = request.url.path
        body = json.loads(await request.aread())
        self.asked[path] += 1
        await anyio.lowlevel.checkpoint()
        if self.hangs:
            await anyio.sleep_forever()
        if path == "/v3/watch":
            return httpx.Response(200, stream=_Stream(self, body["create_request"]))
        answers: dict[str, Callable[[Json], Json]] = {
            "/v3/kv/range": self._range,
            "/v3/kv/put": self._put,
            "/v3/kv/deleterange": self._delete_range,
            "/v3/kv/txn": self._txn,
            "/v3/kv/compaction": self._compaction,
        }
        try:
            answer = answers[path](body)
        except Refusal as refusal:
            error = {"error": str(refusal), "code": refusal.code, "message": str(refusal)}
            return httpx.Response(400, json=error)
        return httpx.Response(200, json={"header": self.header(), **answer})

    def header(self) -> Json:
        """The header of every answer."""
        return {
            "cluster_id": str(self.cluster),
            "member_id": "1",
            "revision": str(self.revision),
            "raft_term": str(self.term),
        }

    def _found(self, body: Json) -> list[Version]:
        at = int(body.get("revision", 0))
        if at > self.revision:
            raise Refusal(FUTURE)
        if 0 < at < self.compacted:
            raise Refusal(COMPACTED)
        inside = _inside(body)
        versions = (
            _at(self.keys[key], at or self.revision) for key in sorted(self.keys) if inside(key)
        )
        return [one for one in versions if one is not None and one.value is not None]

    def _range(self, body: Json) -> Json:
        found = self._found(body)
        answer: Json = {"count": str(len(found))}  # of all keys, whatever the filter and the limit
        if not body.get("count_only"):
            least, limit = int(body.get("min_mod_revision", 0)), int(body.get("limit", 0))
            wanted = [one for one in found if one.revision >= least]
            shown = wanted[:limit] if limit else wanted
            answer["kvs"] = [_kv(one, with_value=not body.get("keys_only")) for one in shown]
            answer["more"] = len(shown) < len(wanted)
        return {name: value for name, value in answer.items() if value not in (False, "0", [])}

    def _put(self, body: Json) -> Json:
        self._write([(_unb64(body["key"]), _unb64(body.get("value", "")))])
        return {}

    def _delete_range(self, body: Json) -> Json:
        found = self._found(body)
        if not found:
            return {}
        self._write([(one.key, None) for one in found])
        return {"deleted": str(len(found))}

    def _txn(self, body: Json) -> Json:
        if not all(self._compare(one) for one in body.get("compare", ())):
            return {}
        # etcd looks at all revisions before it does anything
        responses = [self._range(one["request_range"]) for one in body["success"]]
        header = {"revision": str(self.revision)}
        return {
            "succeeded": True,
            "responses": [{"response_range": {"header": header, **one}} for one in responses],
        }

    def _compare(self, compare: Json) -> bool:
        assert compare["target"] == "MOD"
        bound = int(compare["mod_revision"])
        revisions = [one.revision for one in self._found(compare | {"revision": 0})] or [0]
        if compare["result"] == "LESS":
            return all(revision < bound for revision in revisions)
        assert compare["result"] == "EQUAL"
        return all(revision == bound for revision in revisions)

    def _compaction(self, body: Json) -> Json:
        self.compact(int(body["revision"]))
        return {}


class _Stream(httpx.AsyncByteStream):
    """The endless answer to one watch: `created`, what there was, what comes."""

    def __init__(self, etcd: SimulatedEtcd, request: Json) -> None:
        self._etcd = etcd
        self._inside = _inside(request)
        self._next = int(request.get("start_revision", 0)) or etcd.revision + 1
        self._begun = self._over = self._closed = False
        etcd.watching += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            await anyio.lowlevel.checkpoint()
            changed = self._etcd.changed
            if not self._etcd.hangs and (line := self._line()) is not None:
                return json.dumps({"result": line}).encode() + b"\n"
            await changed.wait()

    def _line(self) -> Json | None:
        etcd = self._etcd
        if not self._begun:
            self._begun = True
            return {"header": etcd.header(), "created": True}
        if self._over:
            return None
        if self._next < etcd.compacted:
            self._over = True
            header = {name: value for name, value in etcd.header().items() if name != "revision"}
            return {"header": header, "canceled": True, "compact_revision": str(etcd.compacted)}
        news = [one for one in etcd.history if one.revision >= self._next and self._inside(one.key)]
        self._next = etcd.revision + 1
        return {"header": etcd.header(), "events": list(map(_event, news))} if news else None

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._etcd.watching -= 1


def _at(versions: list[Version], revision: int) -> Version | None:
    return next((one for one in reversed(versions) if one.revision <= revision), None)


def _inside(body: Json) -> Callable[[bytes], bool]:
    first, end = _unb64(body["key"]), _unb64(body.get("range_end", ""))
    if not end:
        return lambda key: key == first
    return lambda key: key >= first and (end == EVERYTHING or key < end)


def _kv(one: Version, *, with_value: bool = True) -> Json:
    shown = {
        "key": _b64(one.key),
        "create_revision": str(one.created),
        "mod_revision": str(one.revision),
        "version": str(one.version),
    }
    return {**shown, "value": _b64(one.value)} if with_value and one.value else shown


def _event(one: Version) -> Json:
    if one.value is None:
        kv = {"key": _b64(one.key), "mod_revision": str(one.revision)}
        return {"type": "DELETE", "kv": kv}
    return {"kv": _kv(one)}


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text)
