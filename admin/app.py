"""Paths, and how errors become answers. Every path answers under /apisix/admin and under /admin."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from admin.auth import Authenticator, Unauthorized
from admin.body import BadBody, read_json
from admin.resources import NotFound, RaceLost, Resources
from admin.waiting import DataPlanes, read_wait
from sniproxy.errors import KeyringError, ObjectRefused, StoreError
from sniproxy.keyring import Keyring
from sniproxy.logs import Log
from sniproxy.objects import KINDS, Kind
from sniproxy.settings import Settings
from sniproxy.store import Store

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
API_VERSION = {"X-API-VERSION": "v3"}
NODES = "nodes"  # what the data planes say of themselves: read only, and no kind of object
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def create_app(settings: Settings, store: Store, keyring: Keyring, log: Log) -> Starlette:
    """The ASGI application. It closes the store when it stops."""
    prefix = settings.where.prefix
    data_planes = DataPlanes(store, prefix)
    api = Api(settings, Resources(store, prefix, keyring), data_planes, log)
    routes = [
        Route(base + path, api.endpoint, methods=METHODS)
        for base in ("/apisix/admin", "/admin")
        for path in (
            "",
            "/",
            "/{collection}",
            "/{collection}/",
            "/{collection}/{object_id}",
            "/{collection}/{object_id}/{path:path}",
        )
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with data_planes.followed():
            yield
        await store.aclose()

    app = Starlette(
        routes=routes,
        exception_handlers={404: _no_such_path, 405: _no_such_path},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be an answer to whoever has no key
    return app


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered. `revision`: of the write that was made. `wait`: seconds, to see it in force."""

    code: int
    body: dict[str, Any]
    revision: int | None = None
    wait: float | None = None


class Api:
    """Answers requests: who asks, what for, and what came of it."""

    def __init__(
        self, settings: Settings, resources: Resources, data_planes: DataPlanes, log: Log
    ) -> None:
        self._settings = settings.admin
        self._resources = resources
        self._data_planes = data_planes
        self._authenticator = Authenticator(settings.admin.keys)
        self._log = log

    async def endpoint(self, request: Request) -> Response:
        """Every request comes through here."""
        answer = await self._answer(request)
        code, body, headers = answer.code, answer.body, API_VERSION
        if answer.revision is not None:
            headers = headers | {"X-Revision": str(answer.revision)}
            if answer.wait is not None:
                reached = await self._data_planes.wait_for(answer.revision, answer.wait)
                headers = headers | {"X-In-Force-On": str(len(reached.applied))}
                if not reached.all:
                    stragglers = [one.model_dump() for one in reached.stragglers]
                    code, body = 202, body | {"revision": answer.revision, "stragglers": stragglers}
        return JSONResponse(body, status_code=code, headers=headers)

    async def _answer(self, request: Request) -> Answer:
        try:
            key = self._authenticator.identify(request)
            with anyio.fail_after(self._settings.body_timeout + self._settings.store_timeout):
                return await self._dispatch(request, key.name)
        except Unauthorized as error:
            return Answer(401, {"error_msg": "failed to check token", "description": str(error)})
        except NotFound:
            return Answer(404, {"message": "Key not found"})
        except BadBody as error:
            return Answer(error.code, {"error_msg": str(error)})
        except ObjectRefused as error:
            return Answer(400, {"error_msg": str(error)})
        except (RaceLost, KeyringError) as error:
            return Answer(503, {"error_msg": str(error)})
        except (StoreError, TimeoutError) as error:
            cause = str(error) or f"the store did not answer in {self._settings.store_timeout:g} s"
            self._log.warning("store failed", path=request.url.path, cause=cause)
            return Answer(503, {"error_msg": cause})

    async def _dispatch(self, request: Request, who: str) -> Answer:
        collection = request.path_params.get("collection", "")
        object_id = request.path_params.get("object_id")
        path = request.path_params.get("path", "").strip("/")
        if collection == NODES and request.method in ("GET", "HEAD") and not path:
            return await self._nodes(object_id)
        kind = KINDS.get(collection)
        if kind is None:
            return Answer(404, {"error_msg": f"Unsupported resource type: {collection}"})
        if path and request.method != "PATCH":
            return Answer(404, {"error_msg": "not found"})
        match request.method:
            case "GET" | "HEAD" if object_id is None:
                return Answer(200, await self._timely(self._resources.list(kind)))
            case "GET" | "HEAD":
                return Answer(200, await self._timely(self._resources.get(kind, object_id or "")))
            case "POST" | "PUT" | "PATCH":
                return await self._write(request, kind, object_id, path, who)
            case "DELETE" if object_id is not None:
                return await self._delete(request, kind, object_id, who)
        return Answer(404, {"error_msg": "not found"})

    async def _nodes(self, node: str | None) -> Answer:
        if node is not None:
            found = await self._timely(self._data_planes.find(node))
            if found is None:
                raise NotFound
            return Answer(200, found.model_dump())
        nodes = await self._timely(self._data_planes.list())
        return Answer(200, {"list": [one.model_dump() for one in nodes], "total": len(nodes)})

    async def _delete(self, request: Request, kind: Kind, object_id: str, who: str) -> Answer:
        wait = self._wait(request)
        force = request.query_params.get("force") == "true"
        deleted = self._resources.delete(kind, object_id, force=force)
        body, revision = await self._timely(deleted)
        self._log.info("object deleted", key=body["key"], by=who, revision=revision)
        return Answer(200, body, revision, wait)

    async def _write(
        self, request: Request, kind: Kind, object_id: str | None, path: str, who: str
    ) -> Answer:
        wait = self._wait(request)
        value = await read_json(
            request, max_bytes=self._settings.max_body, seconds=self._settings.body_timeout
        )
        ttl = _ttl(request)
        if request.method == "PATCH":
            if object_id is None:
                raise ObjectRefused(f"missing {kind.title} id")
            write = self._resources.patch(kind, object_id, path, value, ttl)
        elif not isinstance(value, dict):
            raise ObjectRefused("invalid request body: expected a JSON object")
        elif request.method == "PUT":
            write = self._resources.replace(kind, object_id, value, ttl)
        elif object_id is not None:
            raise ObjectRefused(f"wrong {kind.title} id, do not need it")
        else:
            write = self._resources.create(kind, value, ttl)
        written = await self._timely(write)
        self._log.info("object written", key=written.key, by=who, revision=written.revision)
        code = 201 if written.created and request.method != "PATCH" else 200
        return Answer(code, written.body, written.revision, wait)

    def _wait(self, request: Request) -> float | None:
        asked = request.query_params
        return read_wait(asked.get("wait"), asked.get("timeout"), self._settings.max_wait)

    async def _timely(self, work: Awaitable[T]) -> T:
        with anyio.fail_after(self._settings.store_timeout):
            return await work


def _ttl(request: Request) -> int | None:
    text = request.query_params.get("ttl")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= 10**9:
        raise ObjectRefused("invalid argument ttl: should be a number")
    return int(text)


async def _no_such_path(request: Request, _: Exception) -> Response:
    body = {"error_msg": "not found: the API is under /apisix/admin"}
    return JSONResponse(body, status_code=404, headers=API_VERSION)
