"""A violation of a schema, in the words that APISIX's users know: those of its schema library, then, where they do not
say what is wrong, ours after a colon.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

QUOTED_MAX = 100  # characters of a value or a name that are repeated in a message
HUGE = 1e308  # a number beyond it is told as this one
SECRET = frozenset({"key", "keys", "client_key", "cert", "certs", "client_cert"})
PRIVATE = "PRIVATE KEY"  # in whatever holds a private key in PEM, wherever it was put

WANTED = {
    "string_type": "string",
    "int_type": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
}
LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "smaller than"),
}
LENGTHS = {
    "string_too_short": "string too short, expected at least {min_length}, got {got}",
    "string_too_long": "string too long, expected at most {max_length}, got {got}",
    "too_short": "expect array to have at least {min_length} items",
    "too_long": "expect array to have at most {max_length} items",
}
# Texts that APISIX gives without any words before them.
ALONE = (
    "failed to check the configuration of stream plugin [",
    "unknown plugin [",
    "unknown protocol [",
)
ARMS = frozenset({"constrained-str", "constrained-int"})  # pydantic's names for the arms of Id

Path = tuple[int | str, ...]


def none_of(why: str) -> str:
    """For a value that may be of several forms, and is of none."""
    return f"object matches none of the required: {why}"


def not_one_of(why: str, both: bool = False) -> str:
    """For a value that must be of exactly one of two forms."""
    how_many = "both schemas 1 and 2" if both else "none"
    return f"value should match only one schema, but matches {how_many}: {why}"


def not_with(member: str, why: str) -> str:
    """For an object that has a member without what goes with it, or with what does not."""
    return f'failed to validate dependent schema for "{member}": {why}'


def shown(text: str) -> str:
    """What an operator gave, as a message may repeat it: not all of it, and no private key."""
    return "..." if PRIVATE in text else text[:QUOTED_MAX]


def describe(error: ValidationError) -> str:
    """The first violation in one line, nested from the outside in, e.g.

    `property "upstream" validation failed: property "tls" validation failed: wrong type: expected object, got string`
    """
    first = _first(error.errors(include_url=False))
    path: Path = first["loc"]
    text = _text(first, path)
    if text.startswith(ALONE):
        return text
    if first["type"] in ("missing", "extra_forbidden"):
        path = path[:-1]
    for depth in range(len(path), 0, -1):
        text = _within(path[:depth], text)
    return text


def refusal(text: str) -> str:
    """What is wrong with an object, as the Admin API answers it."""
    return text if text.startswith(ALONE) else f"invalid configuration: {text}"


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first one; of an id, that of the arm whose type it has."""
    place = errors[0]["loc"][:-1]
    if not _is_arm(errors[0]["loc"]):
        return errors[0]
    arms = [one for one in errors if one["loc"][:-1] == place and _is_arm(one["loc"])]
    return next((one for one in arms if one["type"] not in WANTED), errors[0])


def _text(details: ErrorDetails, path: Path) -> str:
    kind, given, limits = details["type"], details["input"], details.get("ctx", {})
    if kind == "float_type" and isinstance(given, int) and not isinstance(given, bool):
        return "expected a finite number"  # it is larger than any
    if kind in WANTED:
        return f"wrong type: expected {WANTED[kind]}, got {_lua_type(given)}"
    if kind in LIMITS:
        name, words = LIMITS[kind]
        return f"expected {_number(given)} to be {words} {_number(limits[name])}"
    if kind in LENGTHS:
        return LENGTHS[kind].format(**limits, got=len(given))
    match kind:
        case "missing" if path[-2:] == ("checks", "active"):
            return none_of('["active"] or ["active","passive"]')
        case "missing":
            return f'property "{path[-1]}" is required'
        case "extra_forbidden":
            return f"additional properties forbidden, found {shown(str(path[-1]))}"
        case "literal_error":
            return "matches none of the enum values"
        case "string_pattern_mismatch":
            pattern = _quoted(limits["pattern"])
            return f"failed to match pattern {pattern} with {_given(given, path)}"
        case "finite_number":
            return "expected a finite number"
    return details["msg"].removeprefix("Value error, ")


def _within(path: Path, text: str) -> str:
    """That the violation is one of the last step of a path."""
    step, parent = path[-1], path[-2] if len(path) > 1 else None
    if parent == "labels":
        return f'failed to validate {shown(str(step))} (matching ".*"): {text}'
    if isinstance(step, int):
        return f"failed to validate item {step + 1}: {text}"
    if _is_arm(path):
        return none_of(text)
    if step == "nodes":
        text = none_of(text)
    return f'property "{shown(step)}" validation failed: {text}'


def _is_arm(path: Path) -> bool:
    return len(path) > 1 and path[-1] in ARMS and path[-2] != "labels"


def _lua_type(value: Any) -> str:
    """The name that Lua has for the type of a JSON value."""
    match value:
        case None:
            return "userdata"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "table"


def _number(value: float) -> str:
    return f"{max(-HUGE, min(value, HUGE)):.16g}"


def _given(value: str, path: Path) -> str:
    return '"..."' if SECRET.intersection(path) else _quoted(shown(value))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
