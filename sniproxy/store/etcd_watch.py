"""A watch on etcd: one endless answer cut into lines, lines made into batches, and the proof that etcd is still there.

Silence. etcd reports progress on a quiet watch only every ten minutes unless it is told otherwise, and a member that
hangs says nothing either. So a watch that heard nothing for half of `watch_silence` asks etcd for its revision, a read
that needs the quorum, and opens itself anew after the last revision it knows. If that fails, the watch is over: within
`watch_silence` in all; if not, that is a sign of life. Nothing is missed or repeated, because a watch is resumed by
revision. How long exactly it waits is left to chance: many watches that heard the same event shall not ask in step.

Compaction. Where nothing is written under the prefix while others write elsewhere, that revision would stay behind
until it is compacted, and each time a full list would be the way out. So now and then one transaction proves that
nothing happened: no key under the prefix was written after it, and there are as many keys as there were at it, so
none was deleted either. Then the revision of that answer is the new one. Silence alone proves nothing.

Restored from a backup. Whoever restores etcd stops all of it, so every watch is lost: a new one looks first whether the
history is still the one that was listed (`etcd_history`).

Large answers. etcd cuts an answer into fragments anywhere between events. All revisions but the last of a fragment
are whole; only the events of the last wait for the next fragment, so one transaction is held back, not the answer.
"""

import base64
import json
import random
from collections import deque
from contextlib import suppress
from typing import Any

import anyio

from sniproxy.errors import Compacted, StoreUnavailable
from sniproxy.store import Batch, Deleted, Entry, Event
from sniproxy.store.etcd_gateway import (
    MAX_ANSWER,
    MAX_REASON,
    Answer,
    Gateway,
    Json,
    Refused,
    TooLarge,
    understood,
)
from sniproxy.store.etcd_history import Landmarks, Lineage
from sniproxy.store.keys import decode, encode, prefix_end

PROVE_EVERY = 120.0  # seconds at most between two proofs; etcd keeps history for longer (Kubernetes: 5 to 10 minutes)
PROVE_SPREAD = 0.5  # of PROVE_EVERY at least: a proof costs etcd a look at every key
WAIT_SPREAD = 0.8  # of half of `watch_silence` at least
OUT_OF_RANGE = 11  # gRPC's code for a revision that etcd does not have, or not any more
EVERYTHING = b"\0"  # etcd's way to write the first key, and "no end" as the end of a range


def b64(raw: bytes) -> str:
    """Bytes as the gateway writes them."""
    return base64.b64encode(raw).decode("ascii")


def unb64(text: str) -> bytes:
    """Bytes as the gateway wrote them; ValueError for anything else."""
    return base64.b64decode(text, validate=True)


def key_range(prefix: bytes) -> Json:
    """The members `key` and `range_end` for all keys that start with `prefix`."""
    return {"key": b64(prefix or EVERYTHING), "range_end": b64(prefix_end(prefix) or EVERYTHING)}


def entry(kv: Json) -> Entry:
    """One KeyValue of etcd's; empty members are left out by the gateway."""
    return Entry(
        decode(unb64(kv["key"])),
        unb64(kv.get("value", "")),
        int(kv["create_revision"]),
        int(kv["mod_revision"]),
    )


def revision(answer: Json) -> int:
    """The revision in an answer's header. What has none is not etcd's answer, and never to be read as "nothing there"."""
    return int(answer["header"]["revision"])


class Lines:
    """Cuts bytes into lines of at most `limit` bytes, in time linear in the bytes."""

    def __init__(self, limit: int = MAX_ANSWER) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends. Raises TooLarge."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._hold(end)
            lines.append(b"".join(self._parts))
            self._parts, self._size = [], 0
        self._hold(rest)
        return lines

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise TooLarge(f"etcd sent a line of over {self._limit} bytes on a watch")
        if part:
            self._parts.append(part)


class Decoder:
    """Watch answers to batches. `after` is the revision up to which everything was given out."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._held: list[Event] = []

    def feed(self, line: bytes) -> Batch | None:
        """The batch that one line completes; without events for a sign of life. Raises Compacted, StoreUnavailable."""
        with understood("a line of a watch"):
            message = json.loads(line)
            if "error" in message:
                raise StoreUnavailable(f"etcd ended the watch: {_message(message['error'])}")
            return self._result(message["result"])

    def _result(self, result: Json) -> Batch | None:
        if result.get("canceled"):
            if compacted := int(result.get("compact_revision", 0)):
                raise Compacted(compacted)
            reason = str(result.get("cancel_reason") or "no reason given")
            raise StoreUnavailable(f"etcd ended the watch: {reason[:MAX_REASON]}")
        self._held += map(_event, result.get("events", ()))
        fragment = bool(result.get("fragment"))
        if self._held:
            return self._whole(fragment=fragment)
        if fragment:
            return None
        if not result.get("created"):
            # progress: nothing more comes up to this revision
            self.after = max(self.after, revision(result))
        return Batch(self.after, ())

    def _whole(self, *, fragment: bool) -> Batch | None:
        """What may be given out of the held events: all, or all but the last revision's."""
        last = self._held[-1].mod_revision
        ready = [e for e in self._held if e.mod_revision != last] if fragment else self._held
        self._held = [e for e in self._held if e.mod_revision == last] if fragment else []
        if not ready:
            return None
        self.after = ready[-1].mod_revision
        return Batch(self.after, tuple(ready))


class EtcdWatch:
    """An iterator of batches that may be cancelled anywhere and iterated again; see the contract for what it raises.

    given: the revision up to which batches were given out. landmarks: what is known of the history at it.
    """

    def __init__(
        self,
        gateway: Gateway,
        prefix: bytes,
        after: int,
        silence: float,
        lineage: Lineage,
        landmarks: Landmarks | None,
    ) -> None:
        self.given = after
        self.landmarks = landmarks
        self._gateway = gateway
        self._prefix = prefix
        self._lineage = lineage
        self._patience = silence / 2  # seconds of silence before asking, and for the answer
        self._ready: deque[Batch] = deque()
        self._answer: Answer | None = None
        self._lines = Lines()
        self._decoder = Decoder(after)
        self._heard = False
        self._prove_at = _soon()

    def __aiter__(self) -> "EtcdWatch":
        return self

    async def __anext__(self) -> Batch:
        try:
            while not self._ready:
                await self._fill()
        except BaseException:
            await self.aclose()
            raise
        batch = self._ready.popleft()
        self.given = batch.revision
        if self.landmarks is not None:
            self.landmarks = self.landmarks.after(batch.events)
        return batch

    async def begin(self) -> None:
        """Open the watch for the first time. Raises Compacted and StoreUnavailable."""
        if self.landmarks is not None:
            await self._look_for(self.landmarks)
        await self._open()

    async def aclose(self) -> None:
        """Close the connection. Iterating again opens another, where this one left off."""
        if self._answer is not None:
            answer, self._answer = self._answer, None
            await answer.aclose()

    async def _fill(self) -> None:
        """Wait for the next bytes; open anew as needed."""
        if self._answer is None:
            await self._open()
        assert self._answer is not None
        with anyio.move_on_after(self._patience * random.uniform(WAIT_SPREAD, 1)) as waiting:
            chunk = await self._answer.read()
        if waiting.cancelled_caught:
            endpoint = self._answer.endpoint
            await self.aclose()
            if not self._heard:
                raise StoreUnavailable(f"etcd at {endpoint}: a watch began and said nothing")
            return
        if not chunk:
            raise StoreUnavailable(f"etcd at {self._answer.endpoint}: the watch came to its end")
        self._heard = True
        for line in self._lines.feed(chunk):
            before = self._decoder.after
            if batch := self._decoder.feed(line):
                self._ready.append(batch)
            if self._decoder.after > before:
                self._prove_at = _soon()

    async def _look_for(self, marks: Landmarks) -> None:
        """Compacted unless all is as it was at the revision that the watch begins after."""
        keys: list[Json] = [{**key_range(self._prefix), "count_only": True}]
        keys += [{"key": b64(encode(marks.written[0])), "keys_only": True}] if marks.written else []
        keys += [{"key": b64(encode(marks.deleted)), "keys_only": True}] if marks.deleted else []
        at = {"revision": str(self.given)}
        question = {"success": [{"request_range": {**one, **at}} for one in keys]}
        answer = await self._ask("/v3/kv/txn", question, self._deadline())
        with understood("what was there before"):
            total, *found = (one["response_range"] for one in answer["responses"])
            seen = [int(kv["mod_revision"]) for one in found for kv in one.get("kvs", ())]
            wanted = [marks.written[1]] if marks.written else []
            if (int(total.get("count", 0)), seen) != (marks.count, wanted):
                raise Compacted(revision(answer))

    def _deadline(self) -> float:
        return min(self._gateway.deadline(), anyio.current_time() + self._patience)

    async def _open(self) -> None:
        deadline = self._deadline()
        after = await self._check_history(self._decoder.after, deadline)
        request = {
            **key_range(self._prefix),
            "start_revision": str(after + 1),
            "progress_notify": True,
            "fragment": True,
        }
        self._lines, self._decoder, self._heard = Lines(), Decoder(after), False
        self._answer = await self._gateway.stream(
            "/v3/watch", {"create_request": request}, deadline
        )

    async def _check_history(self, after: int, deadline: float) -> int:
        """The revision to go on from: `after`, or a later one up to which nothing happened. Raises Compacted.

        That is for history that is gone, and for an etcd that was restored from a backup. The `created` answer of a
        watch has a header too, but that of one member, which may lag behind.
        """
        # As of `after`, so that etcd says if it does not know that revision any more. The watch itself may begin at the
        # very revision of the compaction, and many an etcd has forgotten the deletions of that one (etcd#18089).
        question = {**self._one_key(), "revision": str(after)}
        answer = await self._ask("/v3/kv/range", question, deadline)
        with understood("the revision of a range"):
            now = revision(answer)
            if now < after or not self._lineage.continues(answer):
                raise Compacted(now)
        if now > after and anyio.current_time() >= self._prove_at:
            self._prove_at = _soon()
            return await self._prove_quiet(after, deadline)
        return after

    async def _prove_quiet(self, after: int, deadline: float) -> int:
        """The revision of etcd's answer if nothing was written or deleted after `after`, which it is otherwise."""
        keys = key_range(self._prefix)
        count = {**keys, "count_only": True}
        question = {
            "compare": [
                {**keys, "target": "MOD", "result": "LESS", "mod_revision": str(after + 1)}
            ],
            "success": [
                {"request_range": count},
                {"request_range": {**count, "revision": str(after)}},
            ],
        }
        answer = await self._ask("/v3/kv/txn", question, deadline)
        with understood("a proof that nothing happened"):
            found = answer.get("responses", ())  # none when a key was written
            counts = {int(one["response_range"].get("count", 0)) for one in found}
            return revision(answer) if len(counts) == 1 else after

    def _one_key(self) -> Json:
        """The least that a reader of the prefix may ask for."""
        return {"key": b64(self._prefix or EVERYTHING), "keys_only": True}

    async def _ask(self, path: str, body: Json, deadline: float) -> Json:
        """The answer to a question about a revision; Compacted when etcd does not have that one."""
        try:
            return await self._gateway.read(path, body, deadline)
        except Refused as refused:
            if refused.code != OUT_OF_RANGE:
                raise
        answer = await self._gateway.read("/v3/kv/range", self._one_key(), deadline)
        with understood("the revision of a range"):
            raise Compacted(revision(answer))


def _soon() -> float:
    """When to prove next."""
    return anyio.current_time() + PROVE_EVERY * random.uniform(PROVE_SPREAD, 1)


def _event(event: Json) -> Event:
    kv = event["kv"]
    if event.get("type") == "DELETE":
        return Deleted(decode(unb64(kv["key"])), int(kv["mod_revision"]))
    return entry(kv)


def _message(error: Any) -> str:
    with suppress(AttributeError):
        error = error.get("message", error)
    return str(error)[:MAX_REASON]
