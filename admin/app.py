"""Paths, and how errors become answers. Every path answers under /apisix/admin and under /admin."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from admin.auth import Authenticator, Unauthorized
from admin.body import BadBody, read_json
from admin.resources import NotFound, RaceLost, Resources, Written
from sniproxy.errors import KeyringError, ObjectRefused, StoreError
from sniproxy.keyring import Keyring
from sniproxy.logs import Log
from sniproxy.objects import KINDS, Kind
from sniproxy.settings import Settings
from sniproxy.store import Store

Endpoint = Callable[[Request], Awaitable[Response]]
API_VERSION = {"X-API-VERSION": "v3"}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def create_app(settings: Settings, store: Store, keyring: Keyring, log: Log) -> Starlette:
    """The ASGI application. It closes the store when it stops."""
    api = Api(settings, Resources(store, settings.where.prefix, keyring), log)
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
        yield
        await store.aclose()

    app = Starlette(
        routes=routes,
        exception_handlers={404: _no_such_path, 405: _no_such_path},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be an answer to whoever has no key
    return app


class Api:
    """Answers requests: who asks, what for, and what came of it."""

    def __init__(self, settings: Settings, resources: Resources, log: Log) -> None:
        self._settings = settings.admin
        self._resources = resources
        self._authenticator = Authenticator(settings.admin.keys)
        self._log = log

    async def endpoint(self, request: Request) -> Response:
        """Every request comes through here."""
        code, body = await self._answer(request)
        return JSONResponse(body, status_code=code, headers=API_VERSION)

    async def _answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        try:
            key = self._authenticator.identify(request)
            with anyio.fail_after(self._settings.body_timeout + self._settings.store_timeout):
                return await self._dispatch(request, key.name)
        except Unauthorized as error:
            return 401, {"error_msg": "failed to check token", "description": str(error)}
        except NotFound:
            return 404, {"message": "Key not found"}
        except BadBody as error:
            return error.code, {"error_msg": str(error)}
        except ObjectRefused as error:
            return 400, {"error_msg": str(error)}
        except (RaceLost, KeyringError) as error:
            return 503, {"error_msg": str(error)}
        except (StoreError, TimeoutError) as error:
            cause = str(error) or f"the store did not answer in {self._settings.store_timeout:g} s"
            self._log.warning("store failed", path=request.url.path, cause=cause)
            return 503, {"error_msg": cause}

    async def _dispatch(self, request: Request, who: str) -> tuple[int, dict[str, Any]]:
        collection = request.path_params.get("collection", "")
        kind = KINDS.get(collection)
        if kind is None:
            return 404, {"error_msg": f"Unsupported resource type: {collection}"}
        object_id = request.path_params.get("object_id")
        path = request.path_params.get("path", "").strip("/")
        if path and request.method != "PATCH":
            return 404, {"error_msg": "not found"}
        match request.method:
            case "GET" | "HEAD" if object_id is None:
                return 200, await self._timely(self._resources.list(kind))
            case "GET" | "HEAD":
                return 200, await self._timely(self._resources.get(kind, object_id or ""))
            case "POST" | "PUT" | "PATCH":
                return await self._write(request, kind, object_id, path, who)
            case "DELETE" if object_id is not None:
                force = request.query_params.get("force") == "true"
                deleted = self._resources.delete(kind, object_id, force=force)
                body = await self._timely(deleted)
                self._log.info("object deleted", key=body["key"], by=who)
                return 200, body
        return 404, {"error_msg": "not found"}

    async def _write(
        self, request: Request, kind: Kind, object_id: str | None, path: str, who: str
    ) -> tuple[int, dict[str, Any]]:
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
        written: Written = await self._timely(write)
        self._log.info("object written", key=written.key, by=who, revision=written.revision)
        return (201 if written.created and request.method != "PATCH" else 200), written.body

    async def _timely(self, work: Awaitable[Any]) -> Any:
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
