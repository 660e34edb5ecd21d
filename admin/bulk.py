"""apply: a file of objects into a configuration.

    upstreams: [{id: lobby, nodes: {"10.0.0.5:7777": 1}}]
    stream_routes: [{id: lobby, sni: lobby.example.com, upstream_id: lobby}]

Everything is checked before the first object is written: schema, certificates, and that what is referred to stands in the
file or at the destination already. Objects that the file does not name are left alone. Times that stand in the file (a dump
has them) are left out: when an object was written is the destination's to say.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import anyio
import httpx

from admin.reading import Item, read_yaml, sort_out
from admin.references import Find, check_references
from admin.resources import NotFound, RaceLost, Resources
from admin.rules import check_new, prepare
from sniproxy.errors import ObjectRefused, SettingsError, StoreUnavailable, os_cause
from sniproxy.forbidden import Forbidden, own_addresses
from sniproxy.keyring import is_encrypted, open_keyring
from sniproxy.objects import KINDS, OLD_TIMES, Kind
from sniproxy.objects.secrets import map_secrets
from sniproxy.settings import Settings
from sniproxy.store.opening import open_store

TIMES = ("create_time", "update_time", *OLD_TIMES)


class Destination(Protocol):
    """Where objects go: the admin API or a store."""

    def check(self, item: Item) -> None:
        """ObjectRefused if the object cannot be written there."""
        ...

    async def find(self, collection: str, object_id: str) -> dict[str, Any] | None:
        """An object that is there already."""
        ...

    async def write(self, item: Item) -> bool:
        """Creates or replaces; whether it is new."""
        ...


def read_items(text: str) -> list[Item]:
    """The objects of a YAML or JSON file, in the order in which they can be written; ObjectRefused."""
    data = read_yaml(text)
    if not isinstance(data, dict):
        raise ObjectRefused(f"expected lists named {', '.join(KINDS)}")
    items, problems = sort_out(data)
    if problems:
        raise ObjectRefused(str(problems[0]))
    return items


async def check_item(item: Item, check_alone: Callable[[Item], None], find: Find) -> None:
    """One object by itself, then what it refers to; ObjectRefused with its place in the file."""
    try:
        check_alone(item)
        await check_references(item.value, find)
    except ObjectRefused as refused:
        raise ObjectRefused(f"{item.place} (id {item.object_id}): {refused}") from None


async def apply(
    items: list[Item], destination: Destination, progress: Callable[[str], None]
) -> None:
    """Checks all, then writes all. ObjectRefused before the first write; StoreUnavailable names how far it came."""
    items = [replace(item, value=_without_times(item.value)) for item in items]
    named = {(item.kind.collection, item.object_id): item.value for item in items}

    async def find(collection: str, object_id: str) -> dict[str, Any] | None:
        return named.get((collection, object_id)) or await destination.find(collection, object_id)

    for item in items:
        await check_item(item, destination.check, find)
    for done, item in enumerate(items):
        try:
            created = await destination.write(item)
        except (ObjectRefused, StoreUnavailable, RaceLost) as error:
            raise StoreUnavailable(
                f"{done} of {len(items)} written, then {item.place}: {error}"
            ) from error
        progress(f"{'created' if created else 'replaced'} {item.kind.collection}/{item.object_id}")


def _without_times(value: dict[str, Any]) -> dict[str, Any]:
    """Also without those of an inline upstream."""
    kept = {member: content for member, content in value.items() if member not in TIMES}
    upstream = kept.get("upstream")
    return kept | {"upstream": _without_times(upstream)} if isinstance(upstream, dict) else kept


class StoreDestination:
    """Straight into the store, with the keyring at hand. Implements `Destination`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def check(self, item: Item) -> None:
        prepare(
            item.kind.collection,
            item.object_id,
            item.value,
            self._resources.keyring,
            self._resources.forbidden,
        )

    async def find(self, collection: str, object_id: str) -> dict[str, Any] | None:
        try:
            found = await self._resources.get(KINDS[collection], object_id)
        except NotFound:
            return None
        value: dict[str, Any] = found["value"]
        return value

    async def write(self, item: Item) -> bool:
        written = await self._resources.replace(item.kind, item.object_id, item.value, None)
        return written.created


@asynccontextmanager
async def open_resources(settings: Settings, *, make: bool = True) -> AsyncIterator[Resources]:
    """The store of the settings with its keyring. SettingsError when the keyring cannot be used.

    make: both, where they are on this machine and not there. Else NoKeyYet, and StoreUnavailable at the first call.
    """
    keyring = open_keyring(settings, make=make)
    store = open_store(settings, make=make)
    try:
        forbidden = Forbidden(settings.proxy, own_addresses(settings))
        yield Resources(store, settings.where.prefix, keyring, forbidden=forbidden)
    finally:
        with anyio.CancelScope(shield=True):
            await store.aclose()


class ApiDestination:
    """Through the admin API. Implements `Destination`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """client: with `base_url` ending in /apisix/admin and the X-API-KEY header."""
        self._client = client

    def check(self, item: Item) -> None:
        sealed = False

        def look(text: str, _: str) -> str:
            nonlocal sealed
            sealed = sealed or is_encrypted(text)
            return text

        map_secrets(item.kind.collection, item.object_id, item.value, look)
        if not sealed:  # only who holds the keyring can check a pair whose key is encrypted
            check_new(item.kind.collection, item.value)

    async def find(self, collection: str, object_id: str) -> dict[str, Any] | None:
        response = await self._request("GET", f"/{collection}/{object_id}")
        if response.status_code == 404:
            return None
        found: dict[str, Any] = _checked(response)["value"]
        return found

    async def write(self, item: Item) -> bool:
        path = f"/{item.kind.collection}/{item.object_id}"
        response = await self._request("PUT", path, json=item.value)
        _checked(response)
        return response.status_code == 201

    async def objects(self, kind: Kind) -> list[dict[str, Any]]:
        """All objects of a kind, without private keys."""
        listed = _checked(await self._request("GET", f"/{kind.collection}"))["list"]
        return [{"id": one["key"].rpartition("/")[2]} | one["value"] for one in listed]

    async def _request(self, method: str, path: str, json: Any = None) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=json)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            where = self._client.base_url
            cause = os_cause(error) or str(error) or type(error).__name__
            raise StoreUnavailable(f"{where}: {cause}") from error


@asynccontextmanager
async def open_api(url: str, key: str | None) -> AsyncIterator[ApiDestination]:
    """The admin API at an address, with or without its path. SettingsError when the key cannot be used."""
    if key is None:
        raise SettingsError("--key: not set: the admin API wants one; set SNIPROXY_KEY")
    if not key.isascii() or not key.isprintable():
        raise SettingsError("--key: a character that no header can carry; set SNIPROXY_KEY anew")
    base = url.rstrip("/").removesuffix("/apisix/admin") + "/apisix/admin"
    async with httpx.AsyncClient(base_url=base, headers={"X-API-KEY": key}, timeout=30) as client:
        yield ApiDestination(client)


def _checked(response: httpx.Response) -> dict[str, Any]:
    if "X-API-VERSION" not in response.headers:
        raise StoreUnavailable(f"HTTP {response.status_code}: no answer of an admin API")
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    if response.status_code in (400, 404, 413):
        raise ObjectRefused(body.get("error_msg") or f"HTTP {response.status_code}")
    if not response.is_success:
        cause = body.get("description") or body.get("error_msg") or "no reason given"
        raise StoreUnavailable(f"HTTP {response.status_code}: {cause}")
    return body
