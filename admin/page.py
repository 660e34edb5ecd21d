"""An OpenAPI document as one HTML page that needs nothing but itself: no script, no style or image from elsewhere."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-bottom: 1px solid; margin-top: 3rem }
code, .path { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
.method { display: inline-block; min-width: 4.5rem; font-weight: bold }
table { border-collapse: collapse; width: 100% }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: left; vertical-align: top }
details { margin: .5rem 0 } summary { cursor: pointer }
:root { color-scheme: light dark }
"""
# Limits of a schema: member -> words before its value.
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "minLength": "characters from",
    "maxLength": "characters up to",
    "minItems": "items from",
    "maxItems": "items up to",
    "pattern": "pattern",
}


def render(document: Json) -> str:
    """The page. Whatever stands in the document is text there, never markup."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    schemas = document["components"]["schemas"]
    body = [
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>",
        _keys(document["components"]["securitySchemes"]),
        *_operations(document),
        "<h2>Schemas</h2>",
        *(_schema(name, schema) for name, schema in sorted(schemas.items())),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'


def _keys(schemes: Json) -> str:
    places = " or ".join(
        f"the {escape(one['in'])} {_code(one['name'])}" for one in schemes.values()
    )
    return f"<p>Every request carries an API key, in {places}.</p>"


def _operations(document: Json) -> Iterable[str]:
    base = document["servers"][0]["url"]
    heading = None
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] != heading:
                heading = operation["tags"][0]
                yield f"<h2>{escape(heading)}</h2>"
            yield _operation(f"{base}{path}", method, operation, document["components"])


def _operation(path: str, method: str, operation: Json, components: Json) -> str:
    parameters = [
        (
            _code(one["name"]),
            f"{escape(one['in'])}, {_type(one['schema'])}",
            escape(one["description"]),
        )
        for one in operation.get("parameters", ())
    ]
    bodies = operation.get("requestBody", {}).get("content", {})
    sent = [
        (_code("body"), f"{_code(media)}, {_type(one['schema'])}", "")
        for media, one in bodies.items()
    ]
    answers = [_answer(code, one, components) for code, one in operation["responses"].items()]
    return (
        f'<details><summary><span class="method">{escape(method.upper())}</span> '
        f'<span class="path">{escape(path)}</span> {escape(operation["summary"])}</summary>'
        f"{_table(('Parameter', 'Type', ''), parameters + sent)}"
        f"{_table(('Code', 'Body', 'Meaning'), answers)}</details>"
    )


def _answer(code: str, answer: Json, components: Json) -> tuple[str, str, str]:
    if "$ref" in answer:
        answer = components["responses"][_name(answer)]
    bodies = [_type(one["schema"]) for one in answer.get("content", {}).values()]
    return escape(code), " or ".join(bodies), escape(answer["description"])


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        (
            _code(member) + (" required" if member in required else ""),
            _type(one),
            escape(one.get("description", "")),
        )
        for member, one in schema.get("properties", {}).items()
    ]
    return (
        f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        + _table(("Member", "Type", ""), rows)
    )


def _type(schema: Json) -> str:
    """A schema in words, as HTML."""
    if "$ref" in schema:
        name = escape(_name(schema))
        return f'<a href="#{name}">{name}</a>'
    for joined, word in (("anyOf", " or "), ("allOf", " and ")):
        if joined in schema:
            return word.join(_type(one) for one in schema[joined])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(_code(value) for value in values)
    kind = schema.get("type", "object" if "required" in schema else "anything")
    words = escape(kind if isinstance(kind, str) else " or ".join(kind)) + _inside(schema)
    limits = [f"{word} {_code(schema[limit])}" for limit, word in LIMITS.items() if limit in schema]
    return f"{words} ({', '.join(limits)})" if limits else words


def _inside(schema: Json) -> str:
    """What an array or object holds."""
    if "items" in schema:
        return f" of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f" of {_type(schema['additionalProperties'])}"
    members = schema.get("properties", {})
    if members:
        told = ", ".join(f"{_code(name)}: {_type(one)}" for name, one in members.items())
        return f" {{{told}}}"
    return f" with {', '.join(map(_code, schema['required']))}" if "required" in schema else ""


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """`rows` are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _code(value: Any) -> str:
    return f"<code>{escape(str(value))}</code>"
