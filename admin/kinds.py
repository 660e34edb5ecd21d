"""The sections of the four kinds: what a request on ssls, stream_routes, upstreams or services asks for."""

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from admin.asking import Answer, Ask, NotOffered
from admin.resources import Resources
from sniproxy.errors import ObjectRefused
from sniproxy.logs import Log
from sniproxy.objects import Kind

T = TypeVar("T")


class KindSection:
    """Answers what is asked of one kind, and logs every write with who made it."""

    def __init__(self, kind: Kind, resources: Resources, log: Log) -> None:
        self._kind = kind
        self._resources = resources
        self._log = log

    async def __call__(self, ask: Ask) -> Answer:
        """Implements `admin.asking.Section`."""
        if ask.path and ask.method != "PATCH":
            raise NotOffered
        match ask.method:
            case "GET":
                return await self._read(ask)
            case "POST" | "PUT" | "PATCH":
                return await self._write(ask)
            case "DELETE":
                return await self._delete(ask)
        raise NotOffered

    async def _read(self, ask: Ask) -> Answer:
        if ask.object_id is None:
            return Answer(200, await timely(ask, self._resources.list(self._kind, ask.query)))
        return Answer(
            200, await timely(ask, self._resources.get(self._kind, ask.object_id, ask.query))
        )

    async def _delete(self, ask: Ask) -> Answer:
        if ask.object_id is None:
            raise ObjectRefused(f"missing {self._kind.title} id")
        wait = ask.wait
        force = ask.query.get("force") == "true"
        deleted = self._resources.delete(self._kind, ask.object_id, force=force)
        body, revision = await timely(ask, deleted)
        self._log.info("object deleted", key=body["key"], by=ask.who, revision=revision)
        return Answer(200, body, revision, wait)

    async def _write(self, ask: Ask) -> Answer:
        kind, object_id, wait, ttl = self._kind, ask.object_id, ask.wait, ask.ttl
        if ask.method == "PATCH":
            if object_id is None:
                raise ObjectRefused(f"missing {kind.title} id")
            change = await ask.json("missing new configuration")
            write = self._resources.patch(kind, object_id, ask.path, change, ttl)
        else:
            value = await ask.json()
            if not isinstance(value, dict):
                raise ObjectRefused("invalid request body: expected a JSON object")
            if ask.method == "PUT":
                write = self._resources.replace(kind, object_id, value, ttl)
            elif object_id is not None:
                raise ObjectRefused(f"wrong {kind.title} id, do not need it")
            else:
                write = self._resources.create(kind, value, ttl)
        written = await timely(ask, write)
        self._log.info("object written", key=written.key, by=ask.who, revision=written.revision)
        code = 201 if written.created and ask.method != "PATCH" else 200
        return Answer(code, written.body, written.revision, wait)


async def timely(ask: Ask, work: Awaitable[T]) -> T:
    """What is asked of the store, for as long as one request may take."""
    with anyio.fail_after(ask.settings.store_timeout):
        return await work
