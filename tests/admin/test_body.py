"""A request's body: what is taken, what is refused with which code, and its two bounds, bytes and time."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import anyio
import httpx
import pytest
import trio.testing
from starlette.requests import Request

from admin.body import MAX_DEPTH, BadBody, check_plain, decode_json, read_body
from sniproxy.settings import Settings
from tests.admin.gateway import ADMIN_KEY, NODES, Gateway

pytestmark = pytest.mark.anyio

LIMIT = 100
Message = MutableMapping[str, Any]


class Streamed(httpx.AsyncByteStream):
    """A body of unknown length. (Not a generator: nobody would close it when it is not read to its end.)"""

    def __init__(self, raw: bytes) -> None:
        self._rest = iter([raw[at : at + 65_536] for at in range(0, len(raw), 65_536)])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = next(self._rest, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


async def silence() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


def request_of(
    chunks: Iterable[bytes],
    *,
    headers: dict[str, str] | None = None,
    end: Callable[[], Awaitable[Message]] | None = None,
    pause: float = 0,
) -> Request:
    """A request whose body comes in these chunks, then is complete, or whatever `end` brings."""
    rest = iter(chunks)

    async def receive() -> Message:
        await anyio.sleep(pause)
        chunk = next(rest, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        return await end() if end else {"type": "http.request", "body": b"", "more_body": False}

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "PUT", "path": "/", "query_string": b"", "headers": pairs}
    return Request(scope, receive)


async def read(*chunks: bytes, max_bytes: int = 10**6, **headers: str) -> Any:
    request = request_of(chunks, headers=headers)
    return decode_json(await read_body(request, max_bytes=max_bytes, seconds=10))


async def refused(*chunks: bytes, **limits: Any) -> tuple[int, str]:
    with pytest.raises(BadBody) as caught:
        await read(*chunks, **limits)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b' \r\n\t{"a": [1, 2.5, -3e2, true, false, null, "x"]}\n',
         {"a": [1, 2.5, -300.0, True, False, None, "x"]}),
        (b'{"pem": "-----BEGIN\nAB\tCD\r\n-----END"}', {"pem": "-----BEGIN\nAB\tCD\r\n-----END"}),
        (b'{"n": "\\ud83c\\udfae"}', {"n": "\U0001f3ae"}),
        ('{"имя": "日本"}'.encode(), {"имя": "日本"}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": 1, "a": 2}', {"a": 2}),  # as in APISIX, the last one counts
        (b'{"a": 9007199254740993}', {"a": 9007199254740993}),
        (b'{"a": ' + b"9" * 4000 + b"}", {"a": int("9" * 4000)}),
        (b'{"a": 1e308, "b": -0.0, "c": 1e-999}', {"a": 1e308, "b": -0.0, "c": 0.0}),
        (b'{"nul": "\\u0000"}', {"nul": "\0"}),
        (b"[]", []), (b'"x"', "x"), (b"1", 1), (b"null", None), (b"true", True),
    ],
)  # fmt: skip
async def test_json_is_taken_whole_and_byte_by_byte(raw: bytes, value: Any) -> None:
    assert await read(raw) == value
    assert await read(*(raw[i : i + 1] for i in range(len(raw)))) == value


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "missing configurations"),
        (b" \r\n\t", "missing configurations"),
        (b"{", "Expecting property name enclosed in double quotes at line 1, column 2"),
        (b'{"a": 1,}', ""),  # the words depend on Python's version
        (b'{"a": 1} {}', "Extra data at line 1, column 10"),
        (b"{'a': 1}", "Expecting property name enclosed in double quotes at line 1, column 2"),
        (b"key=value", "Expecting value at line 1, column 1"),
        (b"\n\n  nope", "Expecting value at line 3, column 3"),
        (b'{"a": 01}', "Expecting ',' delimiter at line 1, column 8"),
        (b'{"a": "\\x"}', "Invalid \\escape at line 1, column 8"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": [Infinity]}', "Infinity is no JSON number"),
        (b"-Infinity", "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is no JSON number"),
        (b'{"a": -1e999}', "-1e999 is no JSON number"),
        (b"1" + b"0" * 400 + b".0", "1000000000000000000000000000000000000000 is no JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit (4300 digits) for integer string"),
        (b"\xff\xfe\xfd", "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xc3"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),  # half a pair, as UTF-8 would write it
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b'{"a": "\\udc00\\ud800"}', "not UTF-8"),
        (b'{"\\udfff": 1}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[" * 500 + b"]" * 500, "nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)  # fmt: skip
async def test_anything_else_is_a_400(raw: bytes, why: str) -> None:
    code, message = await refused(raw)
    assert code == 400
    if why != "missing configurations":
        message = message.removeprefix("invalid request body: ")
    assert message.startswith(why)


async def test_nesting_at_exactly_the_bound() -> None:
    raw = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(await read(raw)).encode() == raw


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {"\ud800": 1}, [["\udfff"]]])
def test_what_cannot_be_given_back(value: Any) -> None:
    with pytest.raises(ValueError, match=r"compliant|surrogates"):
        check_plain(value)


# -- bytes


@pytest.mark.parametrize("cut", [1, 7, LIMIT, 2 * LIMIT])
@pytest.mark.parametrize(("size", "code"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)])
async def test_the_limit_counts_what_was_sent(size: int, code: int, cut: int) -> None:
    raw = json.dumps("x" * (size - 2)).encode()
    chunks = [raw[at : at + cut] for at in range(0, size, cut)]
    if code == 200:
        assert await read(*chunks, max_bytes=LIMIT) == "x" * (size - 2)
    else:
        assert await refused(*chunks, max_bytes=LIMIT) == (
            413,
            "the request body is larger than 100 bytes",
        )


@pytest.mark.parametrize("announced", ["101", "99999999999999999999", "9" * 5000])
async def test_the_limit_counts_what_is_announced(announced: str) -> None:
    request = request_of([], headers={"content-length": announced}, end=silence)
    with pytest.raises(BadBody, match="larger than 100 bytes") as caught, anyio.fail_after(5):
        await read_body(request, max_bytes=LIMIT, seconds=60)
    assert caught.value.code == 413


@pytest.mark.parametrize("announced", ["", "0", "1", "-1", "x", "1e9", "\u00b2", "+5"])
async def test_a_false_announcement_does_not_lift_the_limit(announced: str) -> None:
    request = request_of([b" " * 60, b" " * 60], headers={"content-length": announced})
    with pytest.raises(BadBody, match="larger than 100 bytes"):
        await read_body(request, max_bytes=LIMIT, seconds=10)


async def test_a_stream_without_end_is_not_read_on() -> None:
    taken = 0

    def endless() -> Iterable[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 10

    with pytest.raises(BadBody):
        await read_body(request_of(endless()), max_bytes=LIMIT, seconds=10)
    assert taken == LIMIT // 10 + 1


# -- time


async def test_a_body_that_does_not_come() -> None:
    request = request_of([b'{"a"'], end=silence)
    with pytest.raises(BadBody, match=r"did not arrive within 0\.01 s") as caught:
        await read_body(request, max_bytes=LIMIT, seconds=0.01)
    assert caught.value.code == 408


@pytest.mark.parametrize(("seconds", "code"), [(29, 200), (31, 408)])
def test_time_is_counted_for_the_whole_body(seconds: int, code: int) -> None:
    async def main() -> int:
        request = request_of([b" "] * (seconds - 2) + [b"{}"], pause=1)
        try:
            await read_body(request, max_bytes=LIMIT, seconds=30)
        except BadBody as error:
            return error.code
        return 200

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == code


async def test_a_client_that_leaves() -> None:
    async def leave() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(BadBody, match="the client left") as caught:
        await read_body(request_of([b'{"a"'], end=leave), max_bytes=LIMIT, seconds=10)
    assert caught.value.code == 400


# -- through the API


async def test_the_content_type_is_not_looked_at(gateway: Gateway) -> None:
    body = '{"nodes": {"10.0.0.5:7777": 1}, "desc": "two\nlines"}'
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "", "?"):
        async with gateway.client() as client:
            answer = await client.put("/upstreams/1", content=body, headers={"Content-Type": kind})
        assert answer.status_code in (200, 201)
        assert answer.json()["value"]["desc"] == "two\nlines"


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("over", "code"), [(0, 201), (1, 413)])
async def test_413_at_the_limit_of_the_settings(
    gateway: Gateway, settings: Settings, over: int, code: int, announced: bool
) -> None:
    raw = json.dumps({"nodes": NODES}).encode()
    raw += b" " * (settings.admin.max_body - len(raw) + over)

    request = httpx.Request(
        "PUT",
        "http://admin/admin/upstreams/1",
        headers={"X-API-KEY": ADMIN_KEY},
        **({"content": raw} if announced else {"stream": Streamed(raw)}),
    )
    assert ("content-length" in request.headers) is announced
    async with gateway.client() as client:
        answer = await client.send(request)
    assert answer.status_code == code
    if code == 413:
        assert answer.json() == {"error_msg": "the request body is larger than 1572864 bytes"}
        assert await gateway.keys() == []


async def test_a_slow_body_is_a_408_and_a_lost_one_a_400(gateway: Gateway) -> None:
    for end, code in ((silence, 408), (None, 400)):
        settings = gateway.settings.model_copy(
            update={"admin": gateway.settings.admin.model_copy(update={"body_timeout": 0.02})}
        )
        hasty = Gateway(settings, gateway.store)
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        async def leave() -> Message:
            return {"type": "http.disconnect"}

        request = request_of([b'{"nodes": '], headers={"x-api-key": ADMIN_KEY}, end=end or leave)
        scope = dict(request.scope) | {"path": "/admin/upstreams/1", "root_path": ""}
        await hasty.app(scope, request.receive, send)
        assert sent[0]["status"] == code
        assert await gateway.keys() == []
