"""A request's body: bounded in bytes and time; and JSON.

The Content-Type is not looked at (curl says form-urlencoded), and raw newlines inside strings are taken: a shell that
pastes a PEM file into a JSON string makes them. Numbers that JSON cannot carry back (NaN, 1e999) are refused.
"""

import json
import math
from contextlib import aclosing
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request

MAX_DEPTH = 64  # objects and lists inside each other: they are copied and merged by recursion


class BadBody(Exception):
    """A body that cannot be used, with the status code of the answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def read_body(request: Request, *, max_bytes: int, seconds: float) -> bytes:
    """The body as it came; BadBody 408 when it takes too long, 413 when it is too large."""
    try:
        with anyio.fail_after(seconds):
            return await _read(request, max_bytes)
    except TimeoutError:
        raise BadBody(408, f"the request body did not arrive within {seconds:g} s") from None
    except ClientDisconnect:
        raise BadBody(400, "the client left before its request was complete") from None


def decode_json(raw: bytes, absent: str = "missing configurations") -> Any:
    """The value of a body; BadBody 400 when it is no JSON, with `absent` as its text when there is none."""
    if not raw.strip():
        raise BadBody(400, absent)
    try:
        value = json.loads(raw, strict=False, parse_constant=_refuse, parse_float=_finite)
        check_plain(value)
    except RecursionError:
        raise BadBody(400, "invalid request body: nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, a number with too many digits
        # The body is not repeated in the answer, as APISIX does: it may hold a private key.
        raise BadBody(400, f"invalid request body: {_cause(error)}") from None
    return value


def check_plain(value: Any) -> None:
    """ValueError for what could not be stored and given back: half a surrogate pair, NaN, deep nesting."""
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    _check_depth(value, MAX_DEPTH)


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise ValueError("nested too deeply")
        for member in value.values() if isinstance(value, dict) else value:
            _check_depth(member, left - 1)


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = BadBody(413, f"the request body is larger than {max_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    raw = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            raw += chunk
            if len(raw) > max_bytes:
                raise too_large
    return bytes(raw)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:40])


def _cause(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return str(error)
