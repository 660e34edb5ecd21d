"""The section of whole configurations: would all of it be taken? Nothing is written."""

import re
from collections.abc import Mapping
from typing import Any

import anyio.to_thread

from admin.asking import Answer, Ask, NotOffered
from admin.body import BadBody, decode_json
from admin.foreign import COLLECTIONS, not_ours
from admin.reading import Problem, read_yaml, sort_out
from admin.rules import INVALID, prepare
from sniproxy.errors import ObjectRefused
from sniproxy.forbidden import Forbidden
from sniproxy.keyring import Keyring
from sniproxy.objects.fields import ID_PATTERN
from sniproxy.objects.secrets import PRIVATE

MAX_TOLD = (
    1000  # errors in an answer: a body has room for half a million objects, each of them wrong
)
YAML = frozenset({"application/yaml", "application/x-yaml"})


class ConfigsSection:
    """POST /configs/validate. Implements `admin.asking.Section`."""

    def __init__(self, keyring: Keyring, forbidden: Forbidden) -> None:
        """keyring: opens the private keys of a dump. forbidden: where nodes must not be."""
        self._keyring = keyring
        self._forbidden = forbidden

    async def __call__(self, ask: Ask) -> Answer:
        if (ask.method, ask.object_id, ask.path) != ("POST", "validate", ""):
            raise NotOffered
        media = ask.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # In a thread: a mebibyte of YAML takes PyYAML many seconds, and others ask meanwhile.
        problems = await anyio.to_thread.run_sync(self._problems, await ask.raw(), media in YAML)
        if not problems:
            return Answer(200, {})
        errors = [_told(one) for one in problems[:MAX_TOLD]]
        return Answer(400, {"error_msg": "Configuration validation failed", "errors": errors})

    def _problems(self, raw: bytes, is_yaml: bool) -> list[Problem]:
        """All that keeps the configuration from being taken; what it refers to is not looked up. BadBody, ObjectRefused."""
        data = _yaml(raw) if is_yaml else decode_json(raw)
        if not isinstance(data, dict):
            raise ObjectRefused("invalid request body: expected an object of lists")
        ours = {name: values for name, values in data.items() if name not in COLLECTIONS}
        items, problems = sort_out(ours)
        for item in items:
            try:
                keyring, forbidden = self._keyring, self._forbidden
                prepare(item.kind.collection, item.object_id, item.value, keyring, forbidden)
            except ObjectRefused as refused:
                text = str(refused).removeprefix(INVALID)
                problems.append(Problem(item.kind.collection, item.index, item.object_id, text))
        problems += _foreign_problems(data)
        return sorted(problems, key=lambda one: (one.collection, one.index or 0))


def _yaml(raw: bytes) -> Any:
    if not raw.strip():
        raise BadBody(400, "missing configurations")
    try:
        return read_yaml(raw.decode())
    except UnicodeDecodeError:
        raise BadBody(400, "invalid request body: not UTF-8") from None


def _foreign_problems(data: Mapping[Any, Any]) -> list[Problem]:
    """Empty lists are as good as none: whatever manages an APISIX sends them."""
    return [Problem(name, None, None, not_ours(name)) for name in COLLECTIONS if data.get(name)]


def _told(problem: Problem) -> dict[str, Any]:
    """As APISIX tells it. Whatever is no name is left out: it may be anything, a private key too."""
    text = problem.text if PRIVATE not in problem.text else "a private key stands where it is shown"
    return {
        "resource_type": _name(problem.collection),
        "resource_id": _name(problem.object_id),
        "index": problem.index,
        "error": text,
    }


def _name(text: str | None) -> str | None:
    return text if text is not None and re.fullmatch(ID_PATTERN, text) else None
