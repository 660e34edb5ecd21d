"""Paths, and how errors become answers. Every path answers under /apisix/admin and under /admin."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from admin.allowing import AllowedOnly
from admin.asking import API_VERSION, Answer, Ask, NotOffered, Section
from admin.auth import Authenticator, Unauthorized
from admin.body import BadBody
from admin.configs import ConfigsSection
from admin.foreign import COLLECTIONS, foreign
from admin.kinds import KindSection
from admin.listing import BadPage
from admin.markers import write_markers
from admin.nodes import NodesSection
from admin.openapi import Description
from admin.plugins import PluginsSection
from admin.readiness import Readiness
from admin.resources import NotFound, RaceLost, Resources
from admin.schemas import SchemaSection
from admin.statistics import StatisticsSection
from admin.waiting import DataPlanes
from sniproxy.errors import KeyringError, ObjectRefused, StoreError
from sniproxy.forbidden import Forbidden, own_addresses
from sniproxy.keyring import Keyring, warn_of_published
from sniproxy.logs import Log
from sniproxy.networks import Networks
from sniproxy.objects import KINDS
from sniproxy.settings import Admin, EtcdUrl, Settings
from sniproxy.store import Store

PATHS = tuple(
    base + path
    for base in ("/apisix/admin", "/admin")
    for path in (
        "",
        "/",
        "/{section}",
        "/{section}/",
        "/{section}/{object_id}",
        "/{section}/{object_id}/{path:path}",
    )
)
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def create_app(
    settings: Settings,
    store: Store,
    keyring: Keyring,
    log: Log,
    version: str = "unknown",
    readiness: Readiness | None = None,
) -> Starlette:
    """The ASGI application, which says of itself that it is `version`. It closes the store when it stops."""
    warn_of_published(keyring, log)
    readiness = readiness or Readiness()
    prefix = settings.where.prefix
    data_planes = DataPlanes(store, prefix)
    forbidden = Forbidden(settings.proxy, own_addresses(settings))
    resources = Resources(store, prefix, keyring, forbidden=forbidden)
    description = Description(settings, version)
    sections: dict[str, Section] = {
        **{name: KindSection(kind, resources, log) for name, kind in KINDS.items()},
        **dict.fromkeys(COLLECTIONS, foreign),
        "nodes": NodesSection(data_planes),
        "statistics": StatisticsSection(store, prefix, settings.statistics, data_planes),
        "schema": SchemaSection(),
        "configs": ConfigsSection(keyring, forbidden),
        "plugins": PluginsSection(),
        "openapi.json": description.openapi,
        "docs": description.docs,
    }
    api = Api(settings.admin, sections, data_planes, log)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks, data_planes.followed():
            tasks.start_soon(readiness.reach, store, prefix, log)
            if isinstance(settings.where, EtcdUrl):  # no APISIX reads another store
                tasks.start_soon(write_markers, store, prefix, log)
            yield
            tasks.cancel_scope.cancel()
        await store.aclose()

    app = Starlette(
        routes=[
            *readiness.routes(),
            *(Route(path, api.endpoint, methods=METHODS) for path in PATHS),
        ],
        middleware=_allowed(settings.admin) + _cors(settings.admin),
        exception_handlers={404: _no_such_path, 405: _no_such_path},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be an answer to whoever has no key
    return app


class Api:
    """Answers requests: who asks, what for, and what came of it. `sections`: by the first step of the path."""

    def __init__(
        self,
        settings: Admin,
        sections: Mapping[str, Section],
        data_planes: DataPlanes,
        log: Log,
    ) -> None:
        self._settings = settings
        self._sections = sections
        self._data_planes = data_planes
        self._authenticator = Authenticator(settings.keys)
        self._log = log

    async def endpoint(self, request: Request) -> Response:
        """Every request comes through here."""
        answer = await self._answer(request)
        code, body, headers = answer.code, answer.body, API_VERSION | {**answer.headers}
        if answer.revision is not None:
            headers["X-Revision"] = str(answer.revision)
            if answer.wait is not None:
                reached = await self._data_planes.wait_for(answer.revision, answer.wait)
                headers["X-In-Force-On"] = str(len(reached.applied))
                if not reached.all:
                    stragglers = [one.model_dump() for one in reached.stragglers]
                    code, body = 202, body | {"revision": answer.revision, "stragglers": stragglers}
        if answer.media == "application/json":
            return JSONResponse(body, status_code=code, headers=headers)
        return Response(body, status_code=code, headers=headers, media_type=answer.media)

    async def _answer(self, request: Request) -> Answer:
        if (free := _answered_to_anybody(request)) is not None:
            return free
        try:
            key = self._authenticator.identify(request)
            with anyio.fail_after(self._settings.body_timeout + self._settings.store_timeout):
                return await self._dispatch(Ask(request, self._settings, key.name))
        except Unauthorized as error:
            return Answer(401, {"error_msg": "failed to check token", "description": str(error)})
        except NotFound:
            return Answer(404, {"message": "Key not found"})
        except NotOffered as error:
            return Answer(404, {"error_msg": str(error) or "not found"})
        except BadPage as error:
            return Answer(400, str(error), media="text/plain")
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

    async def _dispatch(self, ask: Ask) -> Answer:
        section = self._sections.get(ask.section)
        if section is None:
            raise NotOffered(f"Unsupported resource type: {ask.section}")
        return await section(ask)


def _allowed(settings: Admin) -> list[Middleware]:
    return [Middleware(AllowedOnly, networks=Networks(settings.allow))] if settings.allow else []


def _cors(settings: Admin) -> list[Middleware]:
    """For pages of other origins, such as a dashboard. None by default: a browser may hold a cookie with a key."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=METHODS,
            allow_headers=["X-API-KEY", "Content-Type"],
            expose_headers=["X-API-VERSION", "X-Revision", "X-In-Force-On"],
        )
    ]


def _answered_to_anybody(request: Request) -> Answer | None:
    """What needs no key, as it says nothing: whether there is an API, and what methods it knows."""
    if request.method == "OPTIONS":
        return Answer(200, b"", media="text/plain", headers={"Allow": ", ".join(METHODS)})
    if request.method == "HEAD" and not request.path_params.get("section"):
        return Answer(200, {})
    return None


async def _no_such_path(request: Request, _: Exception) -> Response:
    body = {"error_msg": "not found: the API is under /apisix/admin"}
    return JSONResponse(body, status_code=404, headers=API_VERSION)
