"""What the tables of this directory ask: is this object accepted, and if not, in which words?"""

import json
from typing import Any

from pydantic import ValidationError

from sniproxy.objects import describe, read
from sniproxy.objects.fields import HOST_PATTERN

ACCEPTED = ""

EMPTY = "expect array to have at least 1 items"
NO_ENUM = "matches none of the enum values"
NONE_OF = "object matches none of the required: "
ONE_OF = "value should match only one schema, but matches none: "
BOTH = "value should match only one schema, but matches both schemas 1 and 2: "


def wrong(expected: str, got: str) -> str:
    """The message for a value of another type, by the name that Lua has for it."""
    return f"wrong type: expected {expected}, got {got}"


def at_least(limit: int, given: object) -> str:
    """The message for a number below its limit."""
    return f"expected {given} to be at least {limit}"


def at_most(limit: int, given: object) -> str:
    """The message for a number above its limit."""
    return f"expected {given} to be at most {limit}"


def shorter(limit: int, got: int) -> str:
    """The message for a text that is too long."""
    return f"string too long, expected at most {limit}, got {got}"


def longer(limit: int, got: int = 0) -> str:
    """The message for a text that is too short."""
    return f"string too short, expected at least {limit}, got {got}"


def no_match(pattern: str, given: str) -> str:
    """The message for a text that a pattern does not match."""
    quoted = [json.dumps(text, ensure_ascii=False) for text in (pattern, given)]
    return "failed to match pattern {} with {}".format(*quoted)


def not_a_host(given: str) -> str:
    """The message for a text that is no host name, address or wildcard."""
    return no_match(HOST_PATTERN, given)


def nameless(given: str) -> str:
    """The message for a server name that is only a dot, or a star and a dot."""
    return f'no name is left of "{given}" without its final dot'


def within(*steps: str | int, text: str) -> str:
    """The message for a member of a member; counts list items from 1, as the messages do."""
    for step in reversed(steps):
        where = f'property "{step}" validation failed'
        text = f"{f'failed to validate item {step}' if isinstance(step, int) else where}: {text}"
    return text


def within_label(name: str, text: str) -> str:
    """The message for a label's value."""
    return within("labels", text=f'failed to validate {name} (matching ".*"): {text}')


def verdict(collection: str, value: dict[str, Any]) -> str:
    """ACCEPTED, or why not."""
    try:
        read(collection, value)
    except ValidationError as error:
        return describe(error)
    return ACCEPTED
