"""A whole configuration as text, and the objects in it: lists by collection, in YAML or JSON.

    upstreams: [{id: lobby, nodes: {"10.0.0.5:7777": 1}}]
    stream_routes: [{id: lobby, sni: lobby.example.com, upstream_id: lobby}]

Nothing that is said of a text quotes it: it may hold private keys.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import yaml

from admin.body import check_plain
from sniproxy.errors import ObjectRefused
from sniproxy.objects import KINDS, Kind

MAX_ALIASED = (
    16 * 2**20
)  # characters that aliases (`*name`) may add to a text once they are written out
MAX_DIGITS = 1000  # of a whole number; in hexadecimal YAML has no limit, and Python cannot print it


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a configuration and where it stands there, such as "stream_routes[2]"."""

    kind: Kind
    object_id: str
    value: dict[str, Any]
    index: int

    @property
    def place(self) -> str:
        return f"{self.kind.collection}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an object, or with the whole collection when `index` (from 0) is None."""

    collection: str
    index: int | None
    object_id: str | None
    text: str

    def __str__(self) -> str:
        place = self.collection if self.index is None else f"{self.collection}[{self.index}]"
        return f"{place}: {self.text}"


class _Loader(yaml.SafeLoader):
    """Plain types, and whole numbers that can be printed."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, "a number has too many digits", node.start_mark
            )
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """The value of a text in YAML, and so of JSON too; ObjectRefused."""
    stream = io.StringIO(text)  # of a stream YAML's errors quote nothing, so no key
    try:
        value = yaml.load(stream, _Loader)
        size = _written_out(value, {})
    except (yaml.YAMLError, RecursionError) as error:
        raise ObjectRefused(f"neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except (ValueError, LookupError, AttributeError, ArithmeticError):
        # Whatever comes of a scalar that its tag does not fit, such as `!!bool x`: these texts do quote.
        raise ObjectRefused("neither YAML nor JSON: a value is not of the type it claims") from None
    if size > len(text) + MAX_ALIASED:
        raise ObjectRefused("far larger once its aliases are written out")
    return value


def _written_out(value: Any, known: dict[int, int]) -> int:
    """About how many characters a value has without aliases, which make the same object stand in many places."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, dict | list | tuple):  # YAML's `!!pairs` are tuples
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # for a loop, which is refused where it stands
        members = chain(value, value.values()) if isinstance(value, dict) else iter(value)
        known[id(value)] = 1 + sum(_written_out(member, known) for member in members)
    return known[id(value)]


def sort_out(data: Mapping[Any, Any]) -> tuple[list[Item], list[Problem]]:
    """The objects in the order in which they can be written, and all that keeps others from being objects."""
    problems = [
        Problem(str(collection), None, None, f"unknown; expected {', '.join(KINDS)}")
        for collection in data
        if collection not in KINDS
    ]
    items: list[Item] = []
    for kind in KINDS.values():
        _sort_out_kind(kind, data.get(kind.collection) or [], items, problems)
    return items, problems


def _sort_out_kind(kind: Kind, values: Any, items: list[Item], problems: list[Problem]) -> None:
    if not isinstance(values, list):
        problems.append(Problem(kind.collection, None, None, "expected a list"))
        return
    seen: set[str] = set()
    for index, value in enumerate(values):
        object_id = None
        try:
            object_id = _id_of(kind, value)
            if object_id in seen:
                raise ObjectRefused(f"the id {object_id} stands there twice")
            seen.add(object_id)
            items.append(Item(kind, object_id, _as_json(value), index))
        except ObjectRefused as refused:
            problems.append(Problem(kind.collection, index, object_id, str(refused)))


def _id_of(kind: Kind, value: Any) -> str:
    if not isinstance(value, dict):
        raise ObjectRefused("expected an object")
    if value.get("id") is None:
        raise ObjectRefused(f"missing {kind.title} id")
    return str(value["id"])


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """The object as it would have come through the API; YAML knows more than JSON, such as dates and loops."""
    try:
        as_json: dict[str, Any] = json.loads(json.dumps(value))
        check_plain(as_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise ObjectRefused(f"cannot be written as JSON: {error}") from None
    return as_json
