"""The API as its own description has it: requests made up from the document, and answers held against it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.generation import GenerationMode
from schemathesis.openapi.checks import (
    JsonSchemaError,
    UndefinedContentType,
    UndefinedStatusCode,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from admin.foreign import COLLECTIONS
from admin.openapi import document
from sniproxy.store.sqlite import SqliteStore
from tests.admin.gateway import NODES, Gateway, settings_on, ssl_object

EXAMPLES = 8  # of each operation, right and wrong ones
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FIRST: dict[str, dict[str, Any]] = {
    "ssls": ssl_object(),
    "upstreams": {"nodes": NODES, "name": "lobby", "labels": {"game": "one"}},
    "services": {"upstream_id": "1"},
    "stream_routes": {"sni": "play.example.com", "service_id": "1"},
}
DOCUMENT = document(settings_on("sqlite:///unused"), "0")
ALIKE = tuple(f"/{collection}" for collection in COLLECTIONS[1:])  # as the first one of them
described = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}}),
)


def operations() -> Iterator[tuple[str, str, GenerationMode]]:
    """Path, method, and whether what is sent is right; nothing can be wrong about some."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if path.startswith(ALIKE):
                continue
            yield path, method, GenerationMode.POSITIVE
            if path != "/nodes/{id}" and {"parameters", "requestBody"} & operation.keys():
                yield path, method, GenerationMode.NEGATIVE


class Asked:
    """The API over a real store on an event loop of its own, asked by those who know of none."""

    def __init__(self, gateway: Gateway, portal: BlockingPortal) -> None:
        self._gateway = gateway
        self._portal = portal

    def send(self, method: str, url: str, **parts: Any) -> httpx.Response:
        """What the application raises is raised here, so no test can miss a 500."""
        return self._portal.call(partial(self._send, method, url, **parts))

    async def _send(self, method: str, url: str, **parts: Any) -> httpx.Response:
        async with self._gateway.client() as client:
            return await client.request(method, url, **parts)

    def keys(self) -> list[str]:
        """Every key in the store."""
        listing = self._portal.call(self._gateway.store.list, "")
        return [entry.key for entry in listing.entries]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """After all tests nothing lies in the store but under our prefixes."""
    database = tmp_path_factory.mktemp("store") / "config.db"
    gateway = Gateway(settings_on(f"sqlite://{database}"), SqliteStore(database))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(gateway.running()):
        asked = Asked(gateway, portal)
        yield asked
        keys = asked.keys()
        assert keys
        assert [key for key in keys if not key.startswith(("/apisix/", "/sniproxy/"))] == []


@pytest.fixture
def api(running: Asked) -> Asked:
    """With one object of each kind, whatever earlier tests did to them."""
    for collection, value in FIRST.items():
        assert running.send("PUT", f"/{collection}/1", json=value).is_success
    return running


@pytest.mark.parametrize(("path", "method", "mode"), tuple(operations()))
def test_it_answers_as_it_says(api: Asked, path: str, method: str, mode: GenerationMode) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(described[path][method].as_strategy(generation_mode=mode), st.booleans())
    def ask(case: schemathesis.Case[Any], known: bool) -> None:
        if known and "{id}" in path:
            case.path_parameters["id"] = "1"
        parts = case.as_transport_kwargs(base_url="http://admin/apisix/admin")
        del parts["cookies"]  # the API wants none but a key
        if "data" in parts:
            parts["content"] = parts.pop("data")
        case.validate_response(api.send(**parts), checks=CHECKS)

    ask()


def described_as(code: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {code: {"description": "", "content": {media: {"schema": schema}}}}


@pytest.mark.parametrize(
    ("responses", "failure"),
    [
        (described_as("404", "application/json", {}), UndefinedStatusCode),
        (described_as("200", "text/html", {}), UndefinedContentType),
        (described_as("200", "application/json", {"required": ["x"]}), JsonSchemaError),
    ],
)
def test_a_document_that_lies_is_found_out(
    api: Asked, responses: dict[str, Any], failure: type[Failure]
) -> None:
    path = "/upstreams/{id}"
    lying = DOCUMENT | {"paths": {path: {"get": {"responses": responses}}}}
    case = schemathesis.openapi.from_dict(lying)[path]["get"].Case(path_parameters={"id": "1"})
    with pytest.RaisesGroup(failure):
        case.validate_response(api.send("GET", "/upstreams/1"), checks=CHECKS)
