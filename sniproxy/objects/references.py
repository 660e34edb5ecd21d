"""Texts of an ssl object that stand elsewhere: `$env://NAME`, `$env://NAME/member`, `$file:///path`, `$secret://manager/id/key`.

The first and the last are APISIX's. A reference is no secret: it is stored and shown as it is.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

MAX_LENGTH = 4096  # characters, of a whole reference: as long as a path may be

_SHAPE = re.compile(r"\$(?P<kind>env|file|secret)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference names: a variable and perhaps a member of the JSON object in it, an absolute path, or a secret."""

    kind: Literal["env", "file", "secret"]
    name: str
    member: str | None = None  # of env only


def parse(text: str) -> Reference | None:
    """The reference that a text is; None for any other text. ValueError, without the text, for one that is malformed.

    What could be a private key behind a few characters, by mistake or on purpose, is malformed: it would be shown.
    """
    found = _SHAPE.fullmatch(text)
    if found is None:
        return None
    kind = cast("Literal['env', 'file', 'secret']", found["kind"].lower())
    name, member = found["rest"], None
    if len(text) > MAX_LENGTH or not name.isprintable() or " " in name:
        most = f"{MAX_LENGTH} printable characters without spaces"
        raise ValueError(f"a reference ${kind}:// has at most {most}")
    if kind == "env" and "/" in name:
        name, _, member = name.partition("/")
    if not name or member == "":
        raise ValueError(f"a reference ${kind}:// needs a name")
    if kind == "file" and not name.startswith("/"):
        raise ValueError("a reference $file:// needs an absolute path, as in $file:///etc/tls.crt")
    return Reference(kind, name, member)


def is_reference(text: str) -> bool:
    """Whether a text is a sound reference."""
    try:
        return parse(text) is not None
    except ValueError:
        return False


def may_refer(stored: bytes) -> bool:
    """False for an object without any reference, told from its JSON alone: that writes a dollar sign in two ways only."""
    return b"$" in stored or b"\\u0024" in stored


def map_texts(value: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy of an ssl object in which each text that may be a reference is `change(text)`."""
    result = copy.deepcopy(value)
    for holder, place in _texts(result):
        holder[place] = change(holder[place])
    return result


def files(value: dict[str, Any]) -> frozenset[str]:
    """The paths that an ssl object names."""
    texts = [holder[place] for holder, place in _texts(value)]
    found = [parse(text) for text in texts if is_reference(text)]
    return frozenset(one.name for one in found if one is not None and one.kind == "file")


def _texts(value: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(holder, place) of every certificate, key and authority."""
    for member in ("cert", "key"):
        if isinstance(value.get(member), str):
            yield value, member
    for member in ("certs", "keys"):
        items = value.get(member)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, str):
                yield items, index
    client = value.get("client")
    if isinstance(client, dict) and isinstance(client.get("ca"), str):
        yield client, "ca"
