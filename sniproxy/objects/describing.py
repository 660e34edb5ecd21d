"""A violation of a schema, in the words that APISIX's users know."""

from pydantic import ValidationError


def describe(error: ValidationError) -> str:
    """The first violation in one line, nested from the outside in, e.g.

    `property "upstream" validation failed: property "nodes" validation failed: ...`
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = list(first["loc"])
    if first["type"] == "missing":
        text = f'property "{path.pop()}" is required'
    elif first["type"] == "extra_forbidden":
        text = f"additional properties forbidden, found {path.pop()}"
    else:
        text = first["msg"].removeprefix("Value error, ")
    for step in reversed(path):
        text = _within(step, text)
    return text


def _within(step: int | str, text: str) -> str:
    if isinstance(step, int):
        return f"failed to validate item {step + 1}: {text}"
    if step in {"constrained-str", "constrained-int"}:
        return text  # pydantic's names for the arms of Id, not members
    return f'property "{step}" validation failed: {text}'
