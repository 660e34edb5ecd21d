"""What the API answers, for its description: envelopes, errors, headers."""

from typing import Any

from sniproxy.objects import Kind, Ssl

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer", "minimum": 0}
HEADERS: dict[str, Schema] = {
    "X-Revision": {"description": "The store's revision of the write.", "schema": NUMBER},
    "X-In-Force-On": {
        "description": "With wait=all: how many data planes have the write in force.",
        "schema": NUMBER,
    },
}


def ref(name: str, where: str = "schemas") -> Schema:
    """A reference into the document's components."""
    return {"$ref": f"#/components/{where}/{name}"}


def shape(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    """An object with these members, all there but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def listing(entry: Schema) -> Schema:
    """What a list is answered as."""
    return shape({"list": {"type": "array", "items": entry}, "total": NUMBER})


CERTIFICATE: Schema = {
    "anyOf": [
        shape(
            {
                **dict.fromkeys(("subject", "issuer", "serial", "fingerprint"), TEXT),
                "names": {"type": "array", "items": TEXT},
                **dict.fromkeys(("not_before", "not_after"), {"format": "date-time"} | TEXT),
                "days_left": {"type": "integer"},
            }
        ),
        shape({"reference": TEXT}),
        shape({"broken": TEXT}),
    ]
}
DETAIL = shape(
    {
        "certificates": {"type": "array", "items": CERTIFICATE},
        "stream_routes": {"type": "array", "items": TEXT},
    }
)


def envelope(kind: Kind) -> Schema:
    """What one object is answered as."""
    value = ref(f"{kind.model.__name__}Read")
    members = {"key": TEXT, "value": value, "createdIndex": NUMBER, "modifiedIndex": NUMBER}
    if kind.model is not Ssl:
        return shape(members)
    return shape(members | {"detail": DETAIL}, optional=("detail",))


def written(kind: Kind) -> Schema:
    """What a write answers."""
    return shape({"key": TEXT, "value": ref(f"{kind.model.__name__}Read")})


DELETED = shape({"deleted": {"const": "1"}, "key": TEXT})
ERROR = shape({"error_msg": TEXT})
ROW = dict.fromkeys(
    ("sessions", "bytes_to_upstream", "bytes_to_client", "peak_rate", "peak_sessions"), NUMBER
)
TRAFFIC = shape(
    {
        **dict.fromkeys(("by", "from", "to"), TEXT),
        "total": shape(ROW),
        "list": {"type": "array", "items": shape({"time": TEXT} | ROW)},
        "routes": {"type": "array", "items": shape({"route": TEXT} | ROW)},
        "other": shape(ROW),
    }
)
RATES = shape(
    {"sessions": {"type": "number", "minimum": 0}, **dict.fromkeys(list(ROW)[1:3], NUMBER)}
)
TRAFFIC_NOW = shape(
    {
        "sessions": NUMBER,
        "rates": RATES,
        "list": {
            "type": "array",
            "items": shape(
                {"id": TEXT, "sessions": NUMBER, "rates": {"anyOf": [RATES, {"type": "null"}]}}
            ),
        },
    }
)
CONFIGURATION_ERRORS = shape(
    {
        "error_msg": TEXT,
        "errors": {
            "type": "array",
            "items": shape(
                {
                    "resource_type": {"type": ["string", "null"]},
                    "resource_id": {"type": ["string", "null"]},
                    "index": {"type": ["integer", "null"], "description": "From 0."},
                    "error": TEXT,
                }
            ),
        },
    },
    optional=("errors",),  # when it cannot be read at all
)

# code -> (name in the components, what it means, schema)
ERRORS: dict[int, tuple[str, str, Schema]] = {
    400: ("Refused", "The request breaks a rule; nothing was written.", ERROR),
    401: (
        "Unauthorized",
        "The API key is absent, wrong, or may not do this.",
        shape({"error_msg": TEXT, "description": TEXT}),
    ),
    404: (
        "NotFound",
        "There is no such object (`message`) or nothing of that name (`error_msg`).",
        {"anyOf": [shape({"message": TEXT}), ERROR]},
    ),
    408: ("TooLate", "The body did not arrive in time.", ERROR),
    413: ("TooLarge", "The body is too large.", ERROR),
    503: (
        "Away",
        "The store did not answer, or others kept writing the object; "
        "a write may or may not have happened.",
        ERROR,
    ),
}


def error_responses() -> dict[str, Schema]:
    """The components that `answers` refers to."""
    return {name: as_json(schema, meaning) for name, meaning, schema in ERRORS.values()}


def as_json(schema: Schema, meaning: str = "Done.", headers: bool = False) -> Schema:
    """One response. `headers`: with those of a write."""
    response: Schema = {
        "description": meaning,
        "content": {"application/json": {"schema": schema}},
    }
    if headers:
        response["headers"] = {name: ref(name, "headers") for name in HEADERS}
    return response


# A page that cannot be is refused in plain text, as in APISIX.
BAD_LIST: Schema = as_json(ERROR, "A filter or a page that cannot be.")
BAD_LIST["content"]["text/plain"] = {"schema": TEXT}


def answers(good: dict[int, Schema], *errors: int) -> dict[str, Schema]:
    """All responses of an operation: its own ones, the usual ones to those errors, and 401."""
    codes = sorted({401, *errors})
    refused = {str(code): ref(ERRORS[code][0], "responses") for code in codes}
    return {str(code): response for code, response in good.items()} | refused


def write_answers(schema: Schema, *codes: int) -> dict[int, Schema]:
    """The good responses of a write: those codes, and 202 when not all data planes were in time."""
    late = {"revision": NUMBER, "stragglers": {"type": "array", "items": ref("NodeRecordRead")}}
    meanings = {200: "Written.", 201: "Created."}
    return {code: as_json(schema, meanings[code], headers=True) for code in codes} | {
        202: as_json(
            {"allOf": [schema, shape(late)]},
            "Written, but not in force on all data planes within the time of wait=all.",
            headers=True,
        )
    }
