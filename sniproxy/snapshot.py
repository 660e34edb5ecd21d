"""The configuration in force: all objects by key, and the indexes that answer a connection's questions. Pure.

A change touches only its own entries, so its cost does not grow with what is loaded. Objects are read first, which may fail
and takes what time there is to take, and then put in force together, which cannot and does not: the worker's loop never sees
half of a revision, may turn while a large one is read, and an object that is broken leaves its last good version in force.
References (upstream_id, service_id) are looked up when a connection asks, so a
changed upstream costs nothing on the routes that name it. What an ssl object refers to elsewhere (a file, a variable) is
resolved when the object is read, and held from then on like an object that had it inside, its keys encrypted.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from sniproxy.access import Plugins, enable
from sniproxy.balancer import Target
from sniproxy.errors import KeyFileUnread, KeyringError
from sniproxy.keyring import Keyring
from sniproxy.objects import (
    KINDS,
    OLD_TIMES,
    InlineUpstream,
    Service,
    Ssl,
    StreamRoute,
    describe,
    read,
)
from sniproxy.objects.references import files, is_reference, map_texts, may_refer
from sniproxy.objects.secrets import map_secrets
from sniproxy.router import Route, Router
from sniproxy.store import Deleted, Entry, Event, Listing
from sniproxy.tls import Certificate, Certificates, Closed
from sniproxy.upstream_tls import ClientTls

# Stand among the files of an object that needed the key file when that could not be read, or whose own files hung. Nobody
# has read a file of such a name, so each look at files finds it changed, and the object is tried again.
KEY_FILE = "keyring"
LATE = "late"


@dataclass(frozen=True, slots=True)
class Broken:
    """An object in the store that cannot be used, and why."""

    key: str
    revision: int
    why: str
    kept: bool  # its last good version stays in force


@dataclass(frozen=True, slots=True)
class Change:
    """An event that was read, not in force yet: what it brings, or why that cannot be used; neither for a deletion."""

    event: Event
    kind: str
    object_id: str
    new: Any = None
    why: str | None = None
    files: frozenset[str] = frozenset()  # that it names


class _Service:
    """A service's own upstream, the one that it refers to, and its plugins."""

    __slots__ = ("plugins", "target", "upstream_id")

    def __init__(self, service: Service, open_key: Callable[[str], str]) -> None:
        self.target = None if service.upstream is None else Target(service.upstream, open_key)
        self.upstream_id = service.upstream_id
        self.plugins = enable(service.plugins)


def _refuse(text: str) -> str:
    if is_reference(text):
        raise ValueError(f"{text}: no references are resolved here")
    return text


class Snapshot:
    """The objects under one prefix of a store."""

    def __init__(
        self, prefix: str, keyring: Keyring, resolve: Callable[[str], str] = _refuse
    ) -> None:
        """resolve: gives what a reference names, and any other text as it is; ValueError."""
        self._prefix = prefix + "/"
        self._keyring = keyring
        self._resolve = resolve
        self._seen: dict[
            str, tuple[int, int | None]
        ] = {}  # every key that was looked at, broken ones too
        self._loaded: dict[str, Any] = {}  # the last good version by key
        self._closed: dict[str, Closed] = {}  # names of broken ssl objects by key
        self._on_files: dict[str, tuple[Entry, frozenset[str]]] = {}  # ssl objects that name some
        self._upstreams: dict[str, Target] = {}
        self._services: dict[str, _Service] = {}
        self.router = Router()
        self.certificates = Certificates()
        self.broken: dict[str, Broken] = {}
        self.probed: dict[str, Target] = {}  # those whose nodes are to be probed, by key
        self.probed_edition = 0  # another whenever that has changed
        self.unhealthy: frozenset[str] = frozenset()  # what probes have found
        self.revision = 0
        self.behind = False  # something may open by now that did not: a full list tells
        # called with every change, once it is in force
        self.on_change: Callable[[], None] = lambda: None

    @property
    def in_force(self) -> Mapping[str, Any]:
        """The last good version of each object, by key."""
        return self._loaded

    def has(self, kind: str, object_id: str) -> bool:
        """Whether such an object is in force."""
        return f"{self._prefix}{kind}/{object_id}" in self._loaded

    def target(self, route: Route) -> Target | None:
        """A route's upstream: its own, the one it names, its service's own, the one that names; or None.

        None too when its service is not there: nobody knows what access rules that had.
        """
        found = route.target or self._upstream(route.upstream_id)
        if route.service_id is None:
            return found
        service = self._services.get(str(route.service_id))
        if service is None:
            return None
        return found or service.target or self._upstream(service.upstream_id)

    def client_tls(self, target: Target) -> ClientTls | None:
        """How TLS is spoken to a target's game servers, with the client certificate as it is now; None: it is not.

        SessionEnded NO_UPSTREAM when that certificate cannot be shown.
        """
        if target.tls is None:
            return None
        named = target.tls.client_cert_id
        shown = None if named is None else self._loaded.get(f"{self._prefix}ssls/{named}")
        return target.tls.client_tls(shown)

    def plugins(self, route: Route) -> Plugins:
        """A route's plugins over those of its service, name by name."""
        service = self._services.get(str(route.service_id))
        if service is None or not service.plugins:
            return route.plugins
        return {**service.plugins, **route.plugins}

    def hear(self, unhealthy: frozenset[str]) -> None:
        """What probes have found by now: the names of those that are not well, also for what is read later."""
        self.unhealthy = unhealthy
        for target in self.probed.values():
            target.hear(unhealthy)

    def revisions(self) -> dict[str, int]:
        """Every key that was looked at, broken ones too, with the revision that wrote it."""
        return {key: revision for key, (revision, _) in self._seen.items()}

    @property
    def files(self) -> frozenset[str]:
        """Every file that an ssl object names, be it broken or not."""
        return frozenset().union(*(named for _, named in self._on_files.values()))

    def take_keys(self, keyring: Keyring) -> None:
        """Reads with these keys, too, from now on. What could not be used is read again with the next full list."""
        self._keyring.succeed(keyring)
        for key in self.broken:
            self._seen[key] = (self._seen[key][0], None)
            self.behind = True

    def load(self, listing: Listing) -> list[Broken]:
        """Takes over a full list: what is not in it goes, what has changed is read, the rest is left alone."""
        return self.enforce([*self.read(self.difference(listing))], listing.revision)

    def apply(self, events: Iterable[Event]) -> list[Broken]:
        """Puts changes in force, in order; returns the objects among them that could not be used."""
        events = list(events)
        revision = max((event.mod_revision for event in events), default=0)
        return self.enforce([*self.read(events)], max(self.revision, revision))

    def difference(self, listing: Listing) -> list[Event]:
        """What must happen for us to be equal to a full list."""
        present = {entry.key for entry in listing.entries}
        gone = [Deleted(key, listing.revision) for key in self._seen if key not in present]
        changed = [one for one in listing.entries if self._seen.get(one.key) != _version(one)]
        return [*gone, *changed]

    def read(self, events: Iterable[Event]) -> Iterator[Change]:
        """Reads what changes bring, one for each step of the iterator. Nothing of it is in force."""
        for event in events:
            kind, _, object_id = event.key.removeprefix(self._prefix).partition("/")
            # Other collections are not ours; `{collection}/` is APISIX's marker of an empty directory.
            if kind in KINDS and object_id and event.key.startswith(self._prefix):
                yield self._read(kind, object_id, event)

    def names_files(self, event: Event) -> bool:
        """Whether whoever reads it may have to wait for a disk."""
        ours = event.key.startswith(f"{self._prefix}ssls/")
        return ours and isinstance(event, Entry) and bool(_files(event))

    def late(self, event: Event) -> Change:
        """What `read` would give of an object that names files, when they could not be read in time."""
        kind, _, object_id = event.key.removeprefix(self._prefix).partition("/")
        named = _files(event) if isinstance(event, Entry) else frozenset()
        why = f"not read in time: {', '.join(sorted(named))}"
        return Change(event, kind, object_id, None, why, named | {LATE})

    def naming(self, changed: Iterable[str]) -> list[Entry]:
        """The ssl objects that name one of these files."""
        given = set(changed)
        if KEY_FILE in given and not self._keyring.refreshes():
            given.remove(KEY_FILE)  # asked once, and not by each of many objects
        return [entry for entry, named in self._on_files.values() if not named.isdisjoint(given)]

    def is_known(self, change: Change) -> bool:
        """Whether an object was as it is now when it was read last."""
        broken = self.broken.get(change.event.key)
        if broken is not None or change.why is not None:
            return broken is not None and broken.why == change.why
        held: Certificate = self._loaded[change.event.key]
        new: Certificate = change.new
        return held.content == new.content

    def enforce(self, changes: Sequence[Change], revision: int) -> list[Broken]:
        """Puts what was read in force, in order and in one step; returns the objects that cannot be used."""
        found = [problem for one in changes if (problem := self._put(one)) is not None]
        self.revision = revision
        return found

    def _read(self, kind: str, object_id: str, event: Event) -> Change:
        if isinstance(event, Deleted):
            return Change(event, kind, object_id)
        named = _files(event) if kind == "ssls" else frozenset[str]()
        new = why = None
        try:
            new = _READERS[kind](self, object_id, event)
        except ValidationError as error:
            why = describe(error)
        except KeyFileUnread as error:
            why, named = str(error), named | {KEY_FILE}
        except (ValueError, RecursionError, KeyringError) as error:
            why = str(error)
        return Change(event, kind, object_id, new, why, named)

    def _put(self, change: Change) -> Broken | None:
        event, kind = change.event, change.kind
        self.broken.pop(event.key, None)
        self._on_files.pop(event.key, None)
        if (closed := self._closed.pop(event.key, None)) is not None:
            self.certificates.remove(closed)
        if isinstance(event, Deleted):
            self._seen.pop(event.key, None)
        else:
            self._seen[event.key] = _version(event)
            if change.files:
                self._on_files[event.key] = event, change.files
            if change.why is not None:
                kept = event.key in self._loaded
                if kind == "ssls" and not kept:
                    self._close(change.object_id, event)
                problem = Broken(event.key, event.mod_revision, change.why, kept=kept)
                self.broken[event.key] = problem
                return problem
        self._swap(kind, event.key, change.object_id, change.new)
        return None

    def _close(self, object_id: str, entry: Entry) -> None:
        """Keeps the names of a broken ssl object from wider certificates, if it wants client certificates."""
        try:
            value = _json_object(entry.value)
        except (ValueError, RecursionError):
            return  # nobody knows its names
        served = value.get("status") != 0 and value.get("type") != "client"
        if served and value.get("client") is not None:
            names = value.get("snis")
            names = names if isinstance(names, list) else [value.get("sni")]
            texts = (name for name in names if isinstance(name, str))
            readable = tuple(name.lower().removesuffix(".") for name in texts)
            time = value.get("update_time")
            closed = Closed(
                object_id, entry.mod_revision, readable, time if isinstance(time, int) else None
            )
            self._closed[entry.key] = closed
            self.certificates.add(closed)

    def _swap(self, kind: str, key: str, object_id: str, new: Any) -> None:
        """The one place where what is in force changes."""
        old = self._loaded.pop(key, None)
        if new is not None:
            self._loaded[key] = new
        if kind == "ssls":
            _exchange(self.certificates.add, self.certificates.remove, old, new)
        elif kind == "stream_routes":
            _exchange(self.router.add, self.router.remove, old, new)
        else:
            where: dict[str, Any] = self._upstreams if kind == "upstreams" else self._services
            where.pop(object_id, None)
            if new is not None:
                where[object_id] = new
        if kind != "ssls":
            self._swap_probed(key, new if kind == "upstreams" or new is None else new.target)
        self.on_change()

    def _swap_probed(self, key: str, new: Target | None) -> None:
        if self.probed.pop(key, None) is not None:
            self.probed_edition += 1
        if new is not None and new.probed:
            new.hear(self.unhealthy)
            self.probed[key] = new
            self.probed_edition += 1

    def _upstream(self, object_id: str | int | None) -> Target | None:
        return None if object_id is None else self._upstreams.get(str(object_id))

    def _read_ssl(self, object_id: str, entry: Entry) -> Certificate:
        stored = self._filled_in(object_id, entry.value) if may_refer(entry.value) else entry.value
        return Certificate(
            object_id, entry.mod_revision, partial(self._open_ssl, object_id, stored)
        )

    def _filled_in(self, object_id: str, stored: bytes) -> bytes:
        """An object with what it refers to inside, so that what is opened later is what was checked."""
        clear = map_secrets("ssls", object_id, _json_object(stored), self._keyring.decrypt)
        filled = map_texts(clear, self._resolve)
        return json.dumps(map_secrets("ssls", object_id, filled, self._keyring.encrypt)).encode()

    def _open_ssl(self, object_id: str, stored: bytes) -> Ssl:
        value = _json_object(stored)
        for member in OLD_TIMES:
            value.pop(member, None)
        value = map_secrets("ssls", object_id, value, self._keyring.decrypt)
        ssl = read("ssls", value)
        assert isinstance(ssl, Ssl)
        return ssl

    def _read_route(self, object_id: str, entry: Entry) -> Route:
        route = read("stream_routes", _json_object(entry.value))
        assert isinstance(route, StreamRoute)
        return Route(object_id, route, self._opening(f"stream_routes/{object_id}/upstream"))

    def _read_upstream(self, object_id: str, entry: Entry) -> Target:
        upstream = read("upstreams", _json_object(entry.value))
        assert isinstance(upstream, InlineUpstream)
        return Target(upstream, self._opening(f"upstreams/{object_id}"))

    def _read_service(self, object_id: str, entry: Entry) -> _Service:
        service = read("services", _json_object(entry.value))
        assert isinstance(service, Service)
        return _Service(service, self._opening(f"services/{object_id}/upstream"))

    def _opening(self, upstream: str) -> Callable[[str], str]:
        """Opens the private key of an upstream that stands there."""
        return partial(self._keyring.decrypt, place=f"{upstream}/tls/client_key")


_READERS: dict[str, Callable[[Snapshot, str, Entry], Any]] = {
    "ssls": Snapshot._read_ssl,
    "stream_routes": Snapshot._read_route,
    "upstreams": Snapshot._read_upstream,
    "services": Snapshot._read_service,
}


def _exchange(
    add: Callable[[Any], None], remove: Callable[[Any], None], old: Any, new: Any
) -> None:
    if old is not None:
        remove(old)
    if new is not None:
        add(new)


def _version(entry: Entry) -> tuple[int, int]:
    """What tells two writes of a key apart. In a store that was restored a revision may be another value than it was."""
    return entry.mod_revision, hash(entry.value)


def _files(entry: Entry) -> frozenset[str]:
    """What an ssl object names, sound or not, so that it can be tried again."""
    try:
        return files(_json_object(entry.value)) if may_refer(entry.value) else frozenset()
    except (ValueError, RecursionError):
        return frozenset()


def _json_object(value: bytes) -> dict[str, Any]:
    decoded = json.loads(value)
    if not isinstance(decoded, dict):
        raise ValueError(f"expected a JSON object, got {type(decoded).__name__}")
    return decoded
