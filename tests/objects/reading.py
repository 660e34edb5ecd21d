"""What the tables of this directory ask: is this object accepted, and if not, in which words?"""

from typing import Any

from pydantic import ValidationError

from sniproxy.objects import describe, read
from sniproxy.objects.fields import HOST_PATTERN

ACCEPTED = ""

# pydantic's words, once
NOT_A_STRING = "Input should be a valid string"
NOT_AN_INTEGER = "Input should be a valid integer"
NOT_A_HOST = f"String should match pattern '{HOST_PATTERN}'"


def at_least(limit: int) -> str:
    """The message for a number below its limit."""
    return f"Input should be greater than or equal to {limit}"


def at_most(limit: int) -> str:
    """The message for a number above its limit."""
    return f"Input should be less than or equal to {limit}"


def shorter(limit: int) -> str:
    """The message for a text that is too long."""
    return f"String should have at most {limit} characters"


def longer(limit: int) -> str:
    """The message for a text that is too short."""
    return f"String should have at least {limit} character{'s' if limit > 1 else ''}"


def within(*steps: str | int, text: str) -> str:
    """The message for a member of a member; counts list items from 1, as the messages do."""
    for step in reversed(steps):
        where = f'property "{step}" validation failed'
        text = f"{f'failed to validate item {step}' if isinstance(step, int) else where}: {text}"
    return text


def verdict(collection: str, value: dict[str, Any]) -> str:
    """ACCEPTED, or why not."""
    try:
        read(collection, value)
    except ValidationError as error:
        return describe(error)
    return ACCEPTED
